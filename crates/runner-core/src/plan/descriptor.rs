//! Writes the `ProcessBundleDescriptor` of a stage: its transforms between a source and sinks.

use std::collections::BTreeMap;

use beam_model::fn_execution::{ProcessBundleDescriptor, RemoteGrpcPort};
use beam_model::pipeline::{FunctionSpec, PCollection, PTransform, WindowingStrategy};
use beam_model::urns::fn_api_transforms::runner;
use beam_model::urns::standard_p_transforms::splittable_par_do_components;
use prost::Message;

use super::coders::WireCoders;
use super::keyed::with_wire_timers;
use crate::fault::Fault;
use crate::fusion::ExecutableStage;
use crate::graph::{QueryablePipeline, pardo_payload};
use crate::ports::StageSpec;

/// How many transforms a stage's name lists.
const NAMED_TRANSFORMS: usize = 4;

pub(super) struct Built {
    pub spec: StageSpec,
    pub source: String,
    /// Sink transform → PCollection.
    pub sinks: Vec<(String, String)>,
}

pub(super) fn build(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    index: usize,
    stage: &ExecutableStage,
) -> Result<Built, Fault> {
    let mut descriptor = ProcessBundleDescriptor { id: format!("stage-{index}"), ..Default::default() };
    for id in &stage.transforms {
        let mut transform = pipeline.transform(id)?.clone();
        transform.subtransforms.clear();
        for pcollection in transform.inputs.values().chain(transform.outputs.values()) {
            let mut proto = pipeline.pcollection(pcollection)?.clone();
            proto.coder_id = wire.within_worker(&proto.coder_id);
            descriptor.pcollections.insert(pcollection.clone(), proto);
        }
        if transform.environment_id.is_empty() {
            transform.environment_id = stage.environment_id.clone();
        }
        if let (Some(spec), Ok(Some(payload))) = (&transform.spec, pardo_payload(&transform))
            && !payload.timer_family_specs.is_empty()
        {
            transform.spec = Some(with_wire_timers(spec, payload, wire)?);
        }
        descriptor.transforms.insert(id.clone(), transform);
    }
    let side = stage.side_inputs.iter().map(|side| &side.pcollection);
    let crossing: Vec<&String> = std::iter::once(&stage.input).chain(&stage.outputs).chain(side).collect();
    for id in crossing {
        let coder = wire.wire(&pipeline.pcollection(id)?.coder_id)?;
        if let Some(pcollection) = descriptor.pcollections.get_mut(id) {
            // Java workers can only make sense of tokens as they read: they refuse a PCollection that has any.
            pcollection.coder_id = wire.without_tokens(&coder);
        }
    }

    let source = format!("fn/read/{}", stage.input);
    let port = port(pipeline, wire, &stage.input, runner::DATA_SOURCE)?;
    descriptor.transforms.insert(
        source.clone(),
        PTransform { outputs: one("out", &stage.input), unique_name: source.clone(), ..port },
    );
    let mut sinks = Vec::new();
    for output in &stage.outputs {
        let sink = format!("fn/write/{output}");
        let port = self::port(pipeline, wire, output, runner::DATA_SINK)?;
        descriptor.transforms.insert(
            sink.clone(),
            PTransform { inputs: one("in", output), unique_name: sink.clone(), ..port },
        );
        sinks.push((sink, output.clone()));
    }
    descriptor.windowing_strategies = wire_strategies(pipeline, wire, &descriptor.pcollections)?;
    descriptor.environments = pipeline.components.environments.clone();
    descriptor.coders = wire.all().clone();
    let environment = pipeline.components.environments.get(&stage.environment_id).cloned();
    let spec = StageSpec {
        name: stage_name(pipeline, index, stage),
        environment_id: stage.environment_id.clone(),
        environment: environment.unwrap_or_default(),
        descriptor,
    };
    Ok(Built { spec, source, sinks })
}

/// The transform of the stage that processes restrictions, if it has one.
pub(super) fn restriction_reader(pipeline: &QueryablePipeline, stage: &ExecutableStage) -> Option<String> {
    let process = splittable_par_do_components::PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS;
    let spec = |id: &String| pipeline.components.transforms.get(id).and_then(|t| t.spec.as_ref());
    stage.transforms.iter().find(|id| spec(id).is_some_and(|spec| spec.urn == process)).cloned()
}

fn port(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    pcollection: &str,
    urn: &str,
) -> Result<PTransform, Fault> {
    let element = wire.wire(&pipeline.pcollection(pcollection)?.coder_id)?;
    let window = wire.wire(&pipeline.windowing_strategy(pcollection)?.window_coder_id)?;
    Ok(port_transform(urn, wire.windowed(&element, &window)))
}

/// A source or sink; who registers the descriptor adds the endpoint.
pub(super) fn port_transform(urn: &str, coder_id: String) -> PTransform {
    let payload = RemoteGrpcPort { api_service_descriptor: None, coder_id }.encode_to_vec().into();
    PTransform { spec: Some(FunctionSpec { urn: urn.to_owned(), payload }), ..Default::default() }
}

/// The strategies of the stage's PCollections. Windows travel in side input requests too, with the
/// coder that the strategy names.
fn wire_strategies(
    pipeline: &QueryablePipeline,
    wire: &mut WireCoders,
    pcollections: &BTreeMap<String, PCollection>,
) -> Result<BTreeMap<String, WindowingStrategy>, Fault> {
    let mut strategies = BTreeMap::new();
    for (id, pcollection) in pcollections {
        let strategy = pipeline.windowing_strategy(id)?;
        let window_coder_id = wire.wire(&strategy.window_coder_id)?;
        let strategy = WindowingStrategy { window_coder_id, ..strategy.clone() };
        strategies.insert(pcollection.windowing_strategy_id.clone(), strategy);
    }
    Ok(strategies)
}

pub(super) fn one(tag: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(tag.to_owned(), value.to_owned())])
}

fn stage_name(pipeline: &QueryablePipeline, index: usize, stage: &ExecutableStage) -> String {
    let mut names: Vec<_> =
        stage.transforms.iter().take(NAMED_TRANSFORMS).map(|id| pipeline.name(id)).collect();
    let more = stage.transforms.len() - names.len();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    format!("stage {index} ({})", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use beam_model::coders::Coder;
    use beam_model::pipeline::Pipeline;
    use prost::Message;

    use super::*;
    use crate::plan::{PlanGrain, plan_pipeline};

    /// Java workers have no coder of tokens but in the port that they read.
    #[test]
    fn only_the_port_has_tokens_for_values() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/co_group_by_key.pb");
        let pipeline = Pipeline::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let plan = plan_pipeline(&pipeline, PlanGrain::Default).unwrap();
        let mut read = 0;
        for (_, stage) in plan.stages() {
            let input = &plan.collections[stage.input.0];
            let descriptor = &stage.spec.descriptor;
            let coder = |id: &str| Coder::from_proto(id, &descriptor.coders).unwrap();
            let port = descriptor.transforms[&stage.source].spec.as_ref().unwrap();
            let port = RemoteGrpcPort::decode(port.payload.clone()).unwrap();
            let Coder::WindowedValue { value: element, .. } = coder(&port.coder_id) else {
                panic!("{port:?}")
            };
            assert_eq!(*element, *input.element_coder);
            if let Coder::Kv(key, values) = &*element
                && let Coder::StateBackedIterable(value) = &**values
            {
                let whole = Coder::Kv(key.clone(), Box::new(Coder::Iterable(value.clone())));
                assert_eq!(coder(&descriptor.pcollections[&input.id].coder_id), whole);
                read += 1;
            }
        }
        assert!(read > 0, "a stage reads groups");
    }
}
