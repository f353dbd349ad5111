//! Benchmarks: `benches/micro.rs` for parts of the runner (`make bench-micro`), `run.py` for whole jobs beside
//! peers (`make bench`), and [`floor`], what those jobs take with no runner at all. [`scripted`] are jobs on workers
//! in Rust that cost next to nothing (`make bench-scripted`), which show the runner's own limit; [`loopback`] is the
//! limit of what is below it.

pub mod floor;
pub mod loopback;
pub mod scripted;
