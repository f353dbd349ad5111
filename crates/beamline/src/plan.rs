//! `beamline plan`: what a pipeline is fused into.

use std::io::Read;

use beam_model::pipeline::Pipeline;
use prost::Message;
use runner_core::plan::{PlanGrain, plan_dot, plan_pipeline, plan_text};

use crate::config::{PlanConfig, PlanFormat};
use crate::error::Error;

pub(crate) fn plan(config: &PlanConfig) -> Result<(), Error> {
    let path = config.pipeline.clone();
    let bytes = read(config).map_err(|source| Error::ReadPipeline { path: path.clone(), source })?;
    let pipeline = Pipeline::decode(&*bytes).map_err(|source| Error::NotAPipeline { path, source })?;
    let plan = plan_pipeline(&pipeline, PlanGrain::Default)?;
    match config.format {
        Some(PlanFormat::Text) => print!("{}", plan_text(&plan)),
        Some(PlanFormat::Dot) => print!("{}", plan_dot(&plan)),
        None => print!("{}\n{}", plan_text(&plan), plan_dot(&plan)),
    }
    Ok(())
}

fn read(config: &PlanConfig) -> std::io::Result<Vec<u8>> {
    if config.pipeline.as_os_str() != "-" {
        return std::fs::read(&config.pipeline);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}
