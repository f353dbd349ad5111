//! Backends: each turns a prepared pipeline into a running job behind `PortablePipelineRunner`.
//!
//! [`native`] runs it here, on runner-core's engine and the Fn API; [`flink`] has a Flink cluster run it.
//! [`BackendChoice`] is all that a server has, as one. The job service cannot tell one backend from another.

mod choice;
pub mod flink;
pub mod native;

pub use choice::BackendChoice;
