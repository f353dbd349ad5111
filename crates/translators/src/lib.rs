//! Backends: each turns a prepared pipeline into a running job behind `PortablePipelineRunner`.
//!
//! [`native`] runs it here, on runner-core's engine and the Fn API. The job service cannot tell one
//! backend from another.

pub mod native;
