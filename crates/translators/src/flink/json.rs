//! Beam's messages as JSON, the way that protobuf defines, which is what the runner's Java code reads and writes.

use std::io::Write;
use std::sync::OnceLock;

use beam_model::FILE_DESCRIPTOR_SET;
use beam_model::job_management::GetJobMetricsResponse;
use beam_model::pipeline::Pipeline;
use prost::Message;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use prost_types::Struct;

use super::error::FlinkError;

pub(super) fn write_pipeline(pipeline: &Pipeline, out: &mut dyn Write) -> Result<(), FlinkError> {
    write(pipeline, "org.apache.beam.model.pipeline.v1.Pipeline", out)
}

pub(super) fn write_struct(options: &Struct, out: &mut dyn Write) -> Result<(), FlinkError> {
    write(options, "google.protobuf.Struct", out)
}

/// Reads metrics. Fields that are not known here are left out.
pub(super) fn read_metrics(text: &str) -> Result<GetJobMetricsResponse, FlinkError> {
    let descriptor = message("org.apache.beam.model.job_management.v1.GetJobMetricsResponse")?;
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let metrics =
        DynamicMessage::deserialize_with_options(descriptor, &mut json, &options).map_err(failed)?;
    metrics.transcode_to().map_err(failed)
}

fn write(value: &impl Message, name: &str, out: &mut dyn Write) -> Result<(), FlinkError> {
    let mut dynamic = DynamicMessage::new(message(name)?);
    dynamic.merge(value.encode_to_vec().as_slice()).map_err(failed)?;
    serde_json::to_writer(out, &dynamic).map_err(failed)
}

fn message(name: &str) -> Result<MessageDescriptor, FlinkError> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|e| e.to_string()));
    let pool = pool.as_ref().map_err(|error| FlinkError::Json(error.clone()))?;
    pool.get_message_by_name(name).ok_or_else(|| FlinkError::Json(format!("{name} is not described")))
}

fn failed(error: impl std::fmt::Display) -> FlinkError {
    FlinkError::Json(error.to_string())
}
