//! 4 · Dense ids, resolved coders, bundle descriptors. Protobuf ends here.
//!
//! An [`ExecutionPlan`] is a network of [`Node`]s joined by [`Collection`]s, both named by index. Only
//! PCollections that cross between workers and runner are collections; those within a stage are the
//! worker's own business.

mod coders;
mod combining_state;
mod counts;
mod descriptor;
mod drain;
mod keyed;
mod side_inputs;
mod test_stream;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod trigger;
mod windows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use beam_model::coders::Coder;
use beam_model::pipeline::{Components, is_bounded};
use beam_model::urns::standard_side_input_types;

pub use combining_state::CombineStage;
pub use keyed::{KeyedStage, TimerFamily, TimerKind, is_keyed};
pub(crate) use side_inputs::is_live;
pub use side_inputs::{Contents, LiveView, Ready};
pub(crate) use test_stream::TestStreamElements;
pub use test_stream::{
    BadTestStreamElement, BadTestStreamEvent, TestStream, TestStreamEvent, TestStreamReader, TestStreamSource,
};
pub use text::{PlanError, plan_dot, plan_text};
pub use trigger::{
    AccumulationMode, ClosingBehavior, Firing, OnTimeBehavior, TimestampTransform, Trigger, Unfit,
};
pub(crate) use windows::runs_python;
pub use windows::{Asked, Grouping, MapStage, MergeStage, Merging, OutputTime};

use crate::fault::Fault;
use crate::fusion::{ExecutableStage, FusedPipeline};
use crate::graph::{PrimitiveKind, QueryablePipeline, kind_of, test_stream_payload, test_stream_url};
use crate::ports::StageSpec;
use coders::WireCoders;

/// Index of a [`Collection`] in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollectionId(pub usize);

/// Index of a [`Node`] in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub usize);

/// Index of an environment in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentIndex(pub usize);

/// A pipeline, ready to run.
#[derive(Clone, Debug)]
pub struct ExecutionPlan {
    pub collections: Vec<Collection>,
    /// Producers before consumers.
    pub nodes: Vec<Node>,
    /// Ids of the environments that stages run in.
    pub environments: Vec<String>,
    /// Whether some input is unbounded: then watermarks are followed, and nothing waits for all of its input.
    pub streaming: bool,
    /// What the user calls each transform that may be named in metrics, logs and errors.
    pub transform_names: BTreeMap<String, String>,
}

impl ExecutionPlan {
    /// The stages, producers before consumers.
    pub fn stages(&self) -> impl Iterator<Item = (NodeId, &Stage)> {
        self.nodes.iter().enumerate().filter_map(|(index, node)| match node {
            Node::Stage(stage) => Some((NodeId(index), stage.as_ref())),
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::GroupByKey { .. }
            | Node::Flatten { .. }
            | Node::Redistribute { .. }
            | Node::AwaitSideInputs { .. } => None,
        })
    }

    /// What a Redistribute (Reshuffle) reads or makes: whoever asks for one wants all workers to work on that, however
    /// little it is.
    pub fn redistributed(&self) -> BTreeSet<CollectionId> {
        let of = |node: &Node| match node {
            Node::Redistribute { input, output } => vec![*input, *output],
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::Stage(_)
            | Node::GroupByKey { .. }
            | Node::Flatten { .. }
            | Node::AwaitSideInputs { .. } => Vec::new(),
        };
        self.nodes.iter().flat_map(of).collect()
    }
}

/// A PCollection that passes through the runner.
#[derive(Clone, Debug)]
pub struct Collection {
    /// Its id in the pipeline.
    pub id: String,
    /// Of its elements as they travel: windowed values, unknown coders length-prefixed.
    pub element_coder: Arc<Coder>,
    pub window_coder: Arc<Coder>,
    pub grain: Grain,
    /// Whether a stage reads it by key: then no block holds keys of two partitions.
    pub by_key: bool,
    /// Whether its blocks say the event time of their earliest element.
    pub timed: bool,
    /// How it is read as a side input; empty if it is not.
    pub side_input_patterns: Vec<AccessPattern>,
    /// There if stages that read it as a side input do so while it goes on changing.
    pub live: Option<LiveView>,
}

impl Collection {
    /// Its elements are `KV<K, Iterable<V>>` of which the values may stay with the runner until workers ask for them.
    pub fn has_state_backed_values(&self) -> bool {
        matches!(&*self.element_coder, Coder::Kv(_, values) if matches!(**values, Coder::StateBackedIterable(_)))
    }
}

/// Whether blocks of a collection may hold several elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// As the workers wrote them.
    Block,
    /// One by one, so that bundles can be cut anywhere.
    Element,
}

/// `SideInput.access_pattern`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessPattern {
    Iterable,
    Multimap,
}

/// Something that makes collections of collections.
#[derive(Clone, Debug)]
pub enum Node {
    Impulse {
        output: CollectionId,
    },
    TestStream(Box<TestStream>),
    Stage(Box<Stage>),
    GroupByKey {
        input: CollectionId,
        output: CollectionId,
        grouping: Box<Grouping>,
        name: String,
    },
    Flatten {
        inputs: Vec<CollectionId>,
        output: CollectionId,
    },
    /// Hands its input on; a barrier to fusion only.
    Redistribute {
        input: CollectionId,
        output: CollectionId,
    },
    /// Hands each element on when its windows of live side inputs are ready.
    AwaitSideInputs {
        input: CollectionId,
        output: CollectionId,
        side_inputs: Vec<StageSideInput>,
        /// Of the stage that reads them.
        name: String,
    },
}

/// A fused stage.
#[derive(Clone, Debug)]
pub struct Stage {
    pub spec: Arc<StageSpec>,
    /// Ids of the transforms that it runs; producers before consumers.
    pub transforms: Vec<String>,
    pub environment: EnvironmentIndex,
    pub input: CollectionId,
    /// The transform in the descriptor that reads `input`.
    pub source: String,
    /// Which collection each sink transform of the descriptor writes.
    pub sinks: HashMap<String, CollectionId>,
    pub side_inputs: Vec<StageSideInput>,
    /// What reads the input if residuals may come back to it: the transform that processes restrictions.
    pub restriction_reader: Option<String>,
    /// The same stage, but restrictions are truncated before they are processed
    /// (`beam:transform:sdf_truncate_sized_restrictions:v1`), so that what would never end does. There if the
    /// stage processes restrictions without end. What its bundles leave undone has been truncated and is for
    /// `spec`: truncated time and again, it might never end. Elements that they never began have not.
    pub drain: Option<Arc<StageSpec>>,
    /// There if it processes elements by key.
    pub keyed: Option<KeyedStage>,
    /// Those of its states whose accumulators the runner has merged when windows merge.
    pub combines: Vec<CombineStage>,
    /// The PCollection that it reads, if that is not counted here.
    pub counted_elsewhere: Option<String>,
}

impl Stage {
    /// Whether what a running bundle gives back may be processed before the bundle is committed, and what it keeps
    /// be processed again by itself. See `engine::splits` for why not.
    pub fn splits_at_once(&self, streaming: bool) -> bool {
        self.keyed.is_none() && !(streaming && self.restriction_reader.is_some())
    }
}

/// A side input as a worker asks for it.
#[derive(Clone, Debug)]
pub struct StageSideInput {
    pub transform: String,
    pub tag: String,
    pub collection: CollectionId,
    pub pattern: AccessPattern,
    /// Says into which of its windows an element looks. `None`: it is in the global window.
    pub map_windows: Option<Arc<MapStage>>,
}

impl Node {
    pub fn outputs(&self) -> Vec<CollectionId> {
        match self {
            Node::Impulse { output }
            | Node::GroupByKey { output, .. }
            | Node::Flatten { output, .. }
            | Node::Redistribute { output, .. }
            | Node::AwaitSideInputs { output, .. } => vec![*output],
            Node::TestStream(stream) => stream.outputs.values().copied().collect(),
            Node::Stage(stage) => stage.sinks.values().copied().collect(),
        }
    }

    /// Main inputs; a Flatten may read one collection several times.
    pub fn inputs(&self) -> Vec<CollectionId> {
        match self {
            Node::Impulse { .. } | Node::TestStream(_) => Vec::new(),
            Node::Stage(stage) => vec![stage.input],
            Node::GroupByKey { input, .. }
            | Node::Redistribute { input, .. }
            | Node::AwaitSideInputs { input, .. } => vec![*input],
            Node::Flatten { inputs, .. } => inputs.clone(),
        }
    }

    fn side_inputs(&self) -> &[StageSideInput] {
        match self {
            Node::Stage(stage) => &stage.side_inputs,
            Node::AwaitSideInputs { side_inputs, .. } => side_inputs,
            Node::Impulse { .. }
            | Node::TestStream(_)
            | Node::GroupByKey { .. }
            | Node::Flatten { .. }
            | Node::Redistribute { .. } => &[],
        }
    }
}

/// How finely the plan is to cut what passes through the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanGrain {
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

/// The access pattern of a URN.
pub fn access_pattern(urn: &str) -> Option<AccessPattern> {
    match urn {
        standard_side_input_types::ITERABLE => Some(AccessPattern::Iterable),
        standard_side_input_types::MULTIMAP => Some(AccessPattern::Multimap),
        _ => None,
    }
}

/// Orders nodes so that each comes after those that make its inputs and side inputs.
fn in_order(nodes: Vec<Node>, collections: usize) -> Vec<Node> {
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
fn is_streaming(components: &Components) -> bool {
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
    crate::rewrite::rewrite(&mut graph)?;
    let fused = crate::fusion::fuse(&graph)?;
    Ok(plan(&graph, &fused, grain)?)
}
