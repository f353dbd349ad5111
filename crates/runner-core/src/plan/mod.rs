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
mod planner;
mod side_inputs;
mod test_stream;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod trigger;
mod windows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use beam_model::coders::Coder;
use beam_model::urns::standard_side_input_types;

pub use combining_state::CombineStage;
pub use keyed::{KeyedStage, TimerFamily, TimerKind, is_keyed};
pub(crate) use planner::is_streaming;
pub use planner::{PlanGrain, plan, plan_pipeline};
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

use crate::ports::StageSpec;

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

/// The access pattern of a URN.
pub fn access_pattern(urn: &str) -> Option<AccessPattern> {
    match urn {
        standard_side_input_types::ITERABLE => Some(AccessPattern::Iterable),
        standard_side_input_types::MULTIMAP => Some(AccessPattern::Multimap),
        _ => None,
    }
}
