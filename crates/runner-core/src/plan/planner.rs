//! From a fused pipeline to its plan.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use beam_model::pipeline::{Components, is_bounded};

use super::coders::WireCoders;
use super::{
    Collection, CollectionId, EnvironmentIndex, ExecutionPlan, Grain, LiveView, Node, PlanError, Stage,
    StageSideInput, TestStream, TestStreamElements, TestStreamReader, TestStreamSource, access_pattern,
    combining_state, counts, descriptor, drain, is_live, keyed, side_inputs, windows,
};
use crate::fault::Fault;
use crate::fusion::{ExecutableStage, FusedPipeline};
use crate::graph::{PrimitiveKind, QueryablePipeline, kind_of, test_stream_payload, test_stream_url};

/// How finely the plan is to cut what passes through the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanGrain {
    /// As coarse as may be: for jobs whose bundles run one by one.
    Coarse,
    /// Single elements only where bundles must be cut between them.
    Default,
    /// Single keys: the output of every GroupByKey element by element.
    Key,
    /// Every collection element by element.
    Element,
}

/// Plans a fused pipeline.
pub fn plan(
    pipeline: &QueryablePipeline,
    fused: &FusedPipeline,
    grain: PlanGrain,
) -> Result<ExecutionPlan, Fault> {
    let streaming = is_streaming(&pipeline.components);
    let mut planner = Planner {
        pipeline,
        streaming,
        wire: WireCoders::new(&pipeline.components.coders),
        grain,
        collections: Vec::new(),
        by_id: HashMap::new(),
        environments: Vec::new(),
        transform_names: names(&pipeline.components),
    };
    let mut nodes = Vec::new();
    for id in &fused.runner_transforms {
        nodes.push(planner.runner_transform(id)?);
    }
    for (index, stage) in fused.stages.iter().enumerate() {
        nodes.push(planner.stage(index, stage)?);
    }
    let Planner { mut collections, environments, transform_names, .. } = planner;
    let mut nodes = in_order(nodes, collections.len());
    counts::count_once(&mut nodes, &collections);
    let nodes = side_inputs::await_live_side_inputs(nodes, &mut collections);
    cut_before_handing_on(&nodes, &mut collections);
    Ok(ExecutionPlan { nodes, collections, environments, streaming, transform_names })
}

struct Planner<'a> {
    pipeline: &'a QueryablePipeline,
    streaming: bool,
    wire: WireCoders,
    grain: PlanGrain,
    collections: Vec<Collection>,
    by_id: HashMap<String, CollectionId>,
    environments: Vec<String>,
    transform_names: BTreeMap<String, String>,
}

impl Planner<'_> {
    /// The collection of a PCollection, planned on first use.
    fn collection(&mut self, id: &str) -> Result<CollectionId, Fault> {
        if let Some(known) = self.by_id.get(id) {
            return Ok(*known);
        }
        let element = self.wire.wire(&self.pipeline.pcollection(id)?.coder_id)?;
        let window = self.wire.wire(&self.pipeline.windowing_strategy(id)?.window_coder_id)?;
        let collection = Collection {
            id: id.to_owned(),
            element_coder: Arc::new(self.wire.resolve(&element)?),
            window_coder: Arc::new(self.wire.resolve(&window)?),
            grain: if self.grain == PlanGrain::Element { Grain::Element } else { Grain::Block },
            by_key: false,
            timed: self.streaming,
            side_input_patterns: Vec::new(),
            live: None,
        };
        self.collections.push(collection);
        let index = CollectionId(self.collections.len() - 1);
        self.by_id.insert(id.to_owned(), index);
        Ok(index)
    }

    fn cut_between_elements(&mut self, id: CollectionId) {
        if let Some(collection) = self.collections.get_mut(id.0) {
            collection.grain = Grain::Element;
        }
    }

    fn runner_transform(&mut self, id: &str) -> Result<Node, Fault> {
        if self.pipeline.kind(id)? == PrimitiveKind::TestStream {
            return self.test_stream(id);
        }
        let transform = self.pipeline.transform(id)?.clone();
        let output = transform.outputs.values().next();
        let output = output.ok_or_else(|| Fault::runner(format!("transform {id} makes nothing")))?;
        let output = self.collection(output)?;
        let mut inputs = Vec::new();
        for input in transform.inputs.values() {
            inputs.push(self.collection(input)?);
        }
        let first =
            || inputs.first().copied().ok_or_else(|| Fault::runner(format!("transform {id} reads nothing")));
        Ok(match self.pipeline.kind(id)? {
            PrimitiveKind::Impulse => Node::Impulse { output },
            PrimitiveKind::Flatten => Node::Flatten { inputs, output },
            PrimitiveKind::Redistribute => Node::Redistribute { input: first()?, output },
            PrimitiveKind::GroupByKey => {
                if self.grain == PlanGrain::Key {
                    self.cut_between_elements(output);
                }
                let input_id = transform.inputs.values().next().cloned().unwrap_or_default();
                let grouping = windows::grouping(self.pipeline, &mut self.wire, id, &input_id)?;
                let name = self.pipeline.name(id);
                Node::GroupByKey { input: first()?, output, grouping: Box::new(grouping), name }
            }
            PrimitiveKind::TestStream | PrimitiveKind::CombinePerKey | PrimitiveKind::Sdk => {
                return Err(Fault::runner(format!("transform {id} is not the runner's to execute")));
            }
        })
    }

    fn test_stream(&mut self, id: &str) -> Result<Node, Fault> {
        let transform = self.pipeline.transform(id)?;
        let name = self.pipeline.name(id);
        let fault = |reason: &dyn fmt::Display| Fault::runner(format!("{name}: {reason}"));
        let payload = test_stream_payload(transform).map_err(|error| fault(&error))?;
        let elements = TestStreamElements::of(&payload.coder_id, &self.pipeline.components.coders);
        let mut outputs = BTreeMap::new();
        for (tag, output) in &transform.outputs {
            outputs.insert(tag.clone(), self.collection(output)?);
        }
        let events = match test_stream_url(&payload) {
            Some(url) => TestStreamSource::Endpoint(url.to_owned()),
            None => {
                let mut reader = TestStreamReader::new(outputs.clone(), elements.clone());
                let events = payload.events.iter().map(|event| reader.read(event));
                TestStreamSource::Listed(events.collect::<Result<_, _>>().map_err(|bad| fault(&bad))?)
            }
        };
        Ok(Node::TestStream(Box::new(TestStream { name, outputs, events, elements })))
    }

    fn environment(&mut self, id: &str) -> EnvironmentIndex {
        let known = self.environments.iter().position(|known| known == id);
        EnvironmentIndex(known.unwrap_or_else(|| {
            self.environments.push(id.to_owned());
            self.environments.len() - 1
        }))
    }

    fn side_inputs(&mut self, stage: &ExecutableStage) -> Result<Vec<StageSideInput>, Fault> {
        let mut side_inputs = Vec::new();
        for side in &stage.side_inputs {
            let pattern = access_pattern(&side.access_pattern).ok_or_else(|| {
                let name = self.pipeline.name(&side.transform);
                Fault::runner(format!("{name}: side input access {:?} is not known", side.access_pattern))
            })?;
            let collection = self.collection(&side.pcollection)?;
            let live = self.live_view(&side.pcollection)?;
            if let Some(known) = self.collections.get_mut(collection.0) {
                known.live = live;
                if !known.side_input_patterns.contains(&pattern) {
                    known.side_input_patterns.push(pattern);
                }
            }
            let map_windows = windows::map_stage(self.pipeline, &mut self.wire, &side.transform, &side.tag)?;
            side_inputs.push(StageSideInput {
                transform: side.transform.clone(),
                tag: side.tag.clone(),
                collection,
                pattern,
                map_windows: map_windows.map(Arc::new),
            });
        }
        Ok(side_inputs)
    }

    /// `None`: all of the PCollection will be there, and is waited for.
    fn live_view(&self, pcollection: &str) -> Result<Option<LiveView>, Fault> {
        if !is_live(self.pipeline, pcollection) {
            return Ok(None);
        }
        let view = LiveView::of(self.pipeline.windowing_strategy(pcollection)?);
        let view = view.map_err(|unfit| Fault::runner(format!("side input {pcollection}: {unfit}")))?;
        Ok(Some(view))
    }

    fn stage(&mut self, index: usize, stage: &ExecutableStage) -> Result<Node, Fault> {
        let input = self.collection(&stage.input)?;
        let restriction_reader = descriptor::restriction_reader(self.pipeline, stage);
        if restriction_reader.is_some() {
            self.cut_between_elements(input);
        }
        let keyed = keyed::keyed_stage(self.pipeline, &mut self.wire, stage)?;
        if let Some(collection) = self.collections.get_mut(input.0).filter(|_| keyed.is_some()) {
            collection.by_key = true;
            let one_by_one = keyed.as_ref().is_some_and(|keyed| keyed.time_sorted) && self.streaming;
            if self.grain == PlanGrain::Key || one_by_one {
                collection.grain = Grain::Element;
            }
        }
        let combines = combining_state::combine_stages(self.pipeline, &mut self.wire, stage)?;
        let mut side_inputs = self.side_inputs(stage)?;
        let environment = self.environment(&stage.environment_id);
        let built = descriptor::build(self.pipeline, &mut self.wire, index, stage)?;
        let mut sinks = HashMap::new();
        for (sink, pcollection) in built.sinks {
            sinks.insert(sink, self.collection(&pcollection)?);
        }
        let process = restriction_reader.as_deref();
        let drain = process.and_then(|it| drain::drain(self.pipeline, &built.spec, &stage.input, it));
        if let Some(drain) = &drain {
            side_inputs.extend(drain.side_inputs(&side_inputs));
            self.transform_names.insert(drain.truncate.clone(), drain.name.clone());
        }
        Ok(Node::Stage(Box::new(Stage {
            spec: Arc::new(built.spec),
            transforms: stage.transforms.clone(),
            environment,
            input,
            source: built.source,
            sinks,
            side_inputs,
            restriction_reader,
            drain: drain.map(|drain| Arc::new(drain.spec)),
            keyed,
            combines,
            counted_elsewhere: None,
        })))
    }
}

/// Orders nodes so that each comes after those that make its inputs and side inputs.
pub(super) fn in_order(nodes: Vec<Node>, collections: usize) -> Vec<Node> {
    let mut made = vec![false; collections];
    let mut waiting = nodes;
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let before = ordered.len();
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|node| {
            let side = node.side_inputs().iter().map(|side| side.collection);
            node.inputs().into_iter().chain(side).all(|input| made[input.0])
        });
        for node in &ready {
            for output in node.outputs() {
                made[output.0] = true;
            }
        }
        ordered.extend(ready);
        waiting = rest;
        if ordered.len() == before {
            // Only a cycle gets here, which fusion does not make; the engine then says who waits for whom.
            ordered.append(&mut waiting);
        }
    }
    ordered
}

/// Flatten and Redistribute hand blocks on as they are, so that elements which are to be single after
/// them must be single before them.
fn cut_before_handing_on(nodes: &[Node], collections: &mut [Collection]) {
    for node in nodes.iter().rev() {
        match node {
            Node::Flatten { output, .. } | Node::Redistribute { output, .. } => {
                let (grain, by_key) = (collections[output.0].grain, collections[output.0].by_key);
                for input in node.inputs() {
                    let input = &mut collections[input.0];
                    input.by_key |= by_key;
                    if grain == Grain::Element {
                        input.grain = Grain::Element;
                    }
                }
            }
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::Stage(_)
            | Node::GroupByKey { .. }
            // It cuts anew what it has held back.
            | Node::AwaitSideInputs { .. } => {}
        }
    }
}

/// Whether some PCollection is unbounded, or made by a TestStream, which says itself when what arrives.
pub(crate) fn is_streaming(components: &Components) -> bool {
    let unbounded = is_bounded::Enum::Unbounded;
    let mut pcollections = components.pcollections.values();
    pcollections.any(|pcollection| pcollection.is_bounded() == unbounded)
        || components.transforms.values().any(|transform| {
            transform.spec.as_ref().is_some_and(|spec| kind_of(&spec.urn) == Some(PrimitiveKind::TestStream))
        })
}

/// The names that the user, or a rewrite after the user's, has given.
fn names(components: &Components) -> BTreeMap<String, String> {
    let named = components.transforms.iter().filter(|(_, transform)| !transform.unique_name.is_empty());
    named.map(|(id, transform)| (id.clone(), transform.unique_name.clone())).collect()
}

/// The whole way from a submitted pipeline to its plan.
pub fn plan_pipeline(
    pipeline: &beam_model::pipeline::Pipeline,
    grain: PlanGrain,
) -> Result<ExecutionPlan, PlanError> {
    let mut graph = QueryablePipeline::new(pipeline).map_err(PlanError::Refused)?;
    crate::graph::unsupported(&graph).into_result().map_err(PlanError::Refused)?;
    crate::rewrite::spread_no_more_than(grain, &mut graph)?;
    crate::rewrite::rewrite(&mut graph)?;
    let fused = crate::fusion::fuse(&graph)?;
    Ok(plan(&graph, &fused, grain)?)
}
