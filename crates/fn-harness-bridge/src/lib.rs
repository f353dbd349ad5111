//! Everything that speaks the Fn API to an SDK harness.
//!
//! [`FnHarnessBridge`] adds the Fn API's services to a server and hands out, for each job, a
//! [`runner_core::ports::JobBundleFactory`]. The path of a bundle: [`bundle`] leases a worker from
//! [`worker`], which has [`environment`] start one if none is idle; the request goes out through
//! [`control`], elements go through [`data`], questions come in through [`state`]; the bundle is over
//! when the answer and all its output are there. [`provision`], [`artifact_retrieval`], [`logging`] and
//! [`worker_status`] serve what a worker needs besides.
//!
//! [`test_stream`] asks whoever tells the events of a TestStream for them.
//!
//! What is not here: what a bundle means, when it is cut, what is done with its output. This crate
//! never looks into an element.

mod server;

mod bundle;
mod worker;

mod environment;
mod test_stream;

mod control;
mod data;
mod state;

mod artifact_retrieval;
mod dial;
mod error;
mod logging;
mod provision;
mod worker_status;

pub use environment::{Containers, Pull};
pub use error::BridgeError;
pub use server::{BridgeConfig, FnHarnessBridge, JobWorkers};
