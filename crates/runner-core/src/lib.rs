//! From a `Pipeline` to committed bundles.
//!
//! The path of the data, in order: [`graph`] validates, [`rewrite`] lowers what needs lowering,
//! [`fusion`] cuts executable stages, [`plan`] resolves coders and writes bundle descriptors (protobuf
//! ends there), [`engine`] decides as a pure step, [`executor`] carries its decisions out.
//! [`ports`] is what the executor needs of others; [`backend`] is what the job service sees.
//!
//! There is no gRPC here, no socket, no file. The engine has no clock, lock or thread either.

pub mod backend;
pub mod engine;
pub mod executor;
pub mod fault;
pub mod fusion;
pub mod graph;
pub mod meters;
pub mod metrics;
pub mod options;
pub mod plan;
pub mod ports;
pub mod rewrite;
pub mod runner_transforms;
pub mod state;
