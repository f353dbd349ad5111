//! Plans made by hand, for tests of what executes them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use beam_model::coders::Coder;
use beam_model::fn_execution::ProcessBundleDescriptor;
use beam_model::pipeline::Environment;

use super::test_stream::TestStreamElements;
use super::{
    AccessPattern, Asked, Collection, CollectionId, EnvironmentIndex, ExecutionPlan, Firing, Grain, Grouping,
    LiveView, Merging, Node, OutputTime, Stage, StageSideInput, TestStream, TestStreamEvent,
    TestStreamSource,
};
use crate::ports::StageSpec;

/// Adds nodes to a plan; what each makes is returned, to be read by the next.
pub(crate) struct PlanBuilder {
    pub(crate) plan: ExecutionPlan,
}

impl PlanBuilder {
    pub(crate) fn new() -> Self {
        let plan = ExecutionPlan {
            collections: Vec::new(),
            nodes: Vec::new(),
            environments: vec!["env".to_owned()],
            streaming: false,
            transform_names: BTreeMap::new(),
        };
        Self { plan }
    }

    pub(crate) fn build(self) -> Arc<ExecutionPlan> {
        Arc::new(self.plan)
    }

    fn collection(&mut self, element: Coder) -> CollectionId {
        let id = CollectionId(self.plan.collections.len());
        self.plan.collections.push(Collection {
            id: format!("c{}", id.0),
            element_coder: Arc::new(element),
            window_coder: Arc::new(Coder::GlobalWindow),
            grain: Grain::Block,
            by_key: false,
            timed: false,
            side_input_patterns: Vec::new(),
            live: None,
        });
        id
    }

    pub(crate) fn impulse(&mut self) -> CollectionId {
        let output = self.collection(Coder::Bytes);
        self.plan.nodes.push(Node::Impulse { output });
        output
    }

    /// A TestStream with this many outputs; their tags are `out0`, `out1`, ….
    pub(crate) fn test_stream(&mut self, outputs: usize) -> Vec<CollectionId> {
        let made: Vec<_> = (0..outputs).map(|_| self.collection(key_value())).collect();
        self.plan.nodes.push(Node::TestStream(Box::new(TestStream {
            name: "TestStream".to_owned(),
            outputs: made.iter().enumerate().map(|(n, id)| (format!("out{n}"), *id)).collect(),
            events: TestStreamSource::Listed(Vec::new()),
            elements: TestStreamElements::of("none", &BTreeMap::new()),
        })));
        made
    }

    /// Lists the events of the TestStream that was added last.
    pub(crate) fn play(&mut self, events: Vec<TestStreamEvent>) {
        let stream = self.plan.nodes.iter_mut().rev().find_map(|node| match node {
            Node::TestStream(stream) => Some(stream),
            _ => None,
        });
        stream.expect("the plan has a TestStream").events = TestStreamSource::Listed(events);
    }

    /// A stage with this many outputs. Its sinks are `sink0`, `sink1`, …; its source is `source`.
    pub(crate) fn stage(
        &mut self,
        input: CollectionId,
        side: &[CollectionId],
        outputs: usize,
    ) -> Vec<CollectionId> {
        let made: Vec<_> = (0..outputs).map(|_| self.collection(key_value())).collect();
        let index = self.plan.nodes.len();
        let side_inputs = side.iter().enumerate().map(|(n, collection)| StageSideInput {
            transform: "transform".to_owned(),
            tag: format!("side{n}"),
            collection: *collection,
            pattern: AccessPattern::Iterable,
            map_windows: None,
        });
        let side_inputs: Vec<_> = side_inputs.collect();
        for side in &side_inputs {
            self.plan.collections[side.collection.0].side_input_patterns = vec![side.pattern];
        }
        let spec = StageSpec {
            name: format!("stage {index}"),
            environment_id: "env".to_owned(),
            environment: Environment::default(),
            descriptor: ProcessBundleDescriptor { id: format!("stage-{index}"), ..Default::default() },
        };
        self.plan.nodes.push(Node::Stage(Box::new(Stage {
            spec: Arc::new(spec),
            transforms: vec!["transform".to_owned()],
            environment: EnvironmentIndex(0),
            input,
            source: "source".to_owned(),
            sinks: made
                .iter()
                .enumerate()
                .map(|(n, id)| (format!("sink{n}"), *id))
                .collect::<HashMap<_, _>>(),
            side_inputs,
            restriction_reader: None,
            drain: None,
            keyed: None,
            combines: Vec::new(),
            counted_elsewhere: None,
        })));
        made
    }

    /// The stage that was added last.
    pub(crate) fn last_stage(&mut self) -> &mut Stage {
        match self.plan.nodes.last_mut() {
            Some(Node::Stage(stage)) => stage,
            other => panic!("the last node is no stage but {other:?}"),
        }
    }

    /// How the GroupByKey that was added last groups.
    pub(crate) fn last_grouping(&mut self) -> &mut Grouping {
        match self.plan.nodes.last_mut() {
            Some(Node::GroupByKey { grouping, .. }) => grouping,
            other => panic!("the last node is no GroupByKey but {other:?}"),
        }
    }

    pub(crate) fn group(&mut self, input: CollectionId) -> CollectionId {
        let output = self.collection(Coder::Kv(
            Box::new(Coder::Bytes),
            Box::new(Coder::Iterable(Box::new(Coder::VarInt))),
        ));
        let grouping = Box::new(grouping(Coder::GlobalWindow));
        self.plan.nodes.push(Node::GroupByKey { input, output, grouping, name: "Group".to_owned() });
        output
    }

    /// Has stages read this collection as a side input while it goes on changing, in a job without an end.
    /// Orders the nodes anew.
    pub(crate) fn live(&mut self, side: CollectionId, view: LiveView) {
        self.plan.streaming = true;
        self.plan.collections[side.0].live = Some(view);
        let nodes = std::mem::take(&mut self.plan.nodes);
        self.plan.nodes = super::side_inputs::await_live_side_inputs(nodes, &mut self.plan.collections);
    }

    pub(crate) fn flatten(&mut self, inputs: &[CollectionId]) -> CollectionId {
        let output = self.collection(key_value());
        self.plan.nodes.push(Node::Flatten { inputs: inputs.to_vec(), output });
        output
    }

    pub(crate) fn redistribute(&mut self, input: CollectionId) -> CollectionId {
        let output = self.collection(key_value());
        self.plan.nodes.push(Node::Redistribute { input, output });
        output
    }
}

/// `KV<bytes, varint>`.
fn key_value() -> Coder {
    Coder::Kv(Box::new(Coder::Bytes), Box::new(Coder::VarInt))
}

/// Groups `KV<bytes, varint>` by windows of this coder.
pub(crate) fn grouping(window_coder: Coder) -> Grouping {
    Grouping {
        key_coder: Coder::Bytes,
        value_coder: Coder::VarInt,
        window_coder,
        output_time: OutputTime::EndOfWindow,
        merging: Merging::Never,
        firing: Firing::default(),
        asked: Asked::AfterEachElement,
        bounded: true,
    }
}
