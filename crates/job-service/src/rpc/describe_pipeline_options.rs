//! `DescribePipelineOptions`: what the backend takes. The Python client drops every flag of the user's
//! that it does not know itself and that is not described here.

use beam_model::job_management::{
    DescribePipelineOptionsResponse, PipelineOptionDescriptor, pipeline_option_type,
};
use runner_core::backend::{OptionKind, PipelineOption};

use crate::service::Shared;

pub(super) fn describe_pipeline_options(shared: &Shared) -> DescribePipelineOptionsResponse {
    let group = shared.backend.name();
    let describe = |option: PipelineOption| PipelineOptionDescriptor {
        name: option.name.to_owned(),
        r#type: option_type(option.kind).into(),
        description: option.description.to_owned(),
        default_value: option.default.to_owned(),
        group: group.to_owned(),
    };
    let options = shared.backend.pipeline_options().into_iter().map(describe);
    DescribePipelineOptionsResponse { options: options.collect() }
}

fn option_type(kind: OptionKind) -> pipeline_option_type::Enum {
    match kind {
        OptionKind::String => pipeline_option_type::Enum::String,
        OptionKind::Boolean => pipeline_option_type::Enum::Boolean,
        OptionKind::Integer => pipeline_option_type::Enum::Integer,
    }
}
