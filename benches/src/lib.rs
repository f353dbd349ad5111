//! Benchmarks: `benches/micro.rs` for parts of the runner (`cargo bench -p beamline-benches`), `run.py` for
//! whole jobs beside peers (`make bench`), and [`floor`], what those jobs take with no runner at all.

pub mod floor;
