//! The words of Apache Beam's portability model.
//!
//! Messages and service stubs ([`pipeline`], [`fn_execution`], [`job_management`], …), the URNs that
//! name everything in them ([`urns`]), the standard coders ([`coders`]) and event time ([`time`]).
//! There is no I/O and no async here, and no opinion on how a pipeline is run.

#[rustfmt::skip]
#[allow(clippy::all, rustdoc::all)]
mod r#gen;

pub mod coders;
pub mod time;

/// URN constants, read from the options of the protocol's enum values.
#[rustfmt::skip]
#[allow(missing_docs)]
#[path = "gen/urns.rs"]
pub mod urns;

/// All messages described, as a serialized `FileDescriptorSet`: for whoever has to write them in another form.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptors.bin");

/// `org.apache.beam.model.expansion.v1`: the expansion service.
pub use r#gen::org::apache::beam::model::expansion::v1 as expansion;
/// `org.apache.beam.model.fn_execution.v1`: what runner and SDK harness say to each other.
pub use r#gen::org::apache::beam::model::fn_execution::v1 as fn_execution;
/// `org.apache.beam.model.interactive.v1`: where a TestStream may get its events from.
pub use r#gen::org::apache::beam::model::interactive::v1 as interactive;
/// `org.apache.beam.model.job_management.v1`: jobs, artifacts, expansion.
pub use r#gen::org::apache::beam::model::job_management::v1 as job_management;
/// `org.apache.beam.model.pipeline.v1`: pipelines, coders, windowing, metrics, schemas, endpoints.
pub use r#gen::org::apache::beam::model::pipeline::v1 as pipeline;
