//! Whole jobs on a real server, with scripted workers in Rust that cost next to nothing: what is left is the
//! runner's own time.
//!
//! [`workload`] says what the jobs are and what the workers do, [`submit`] hands a job to the server and waits for
//! its end. Each job counts its elements where they end, so that one that loses some does not pass.

mod pipeline;
mod submit;
mod workload;

pub use pipeline::Builder;
pub use submit::{Jobs, Submitted};
pub use workload::{ELEMENT_BYTES, Workload, script};
