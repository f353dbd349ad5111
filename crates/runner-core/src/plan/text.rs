//! A plan for people: as text, and as a graph in the DOT language.

use std::fmt::Write as _;

use beam_model::coders::Coder;

use super::{
    Collection, CollectionId, ExecutionPlan, Grain, Grouping, Merging, Node, OutputTime, TestStreamEvent,
    TestStreamSource,
};
use crate::backend::Refusal;
use crate::fault::Fault;

/// What each node is called: its kind, and its name if it has one.
fn title(node: &Node) -> (&'static str, &str) {
    match node {
        Node::Impulse { .. } => ("impulse", ""),
        Node::TestStream(stream) => ("test stream", &stream.name),
        Node::Stage(stage) => ("stage", stage.spec.name.strip_prefix("stage ").unwrap_or(&stage.spec.name)),
        Node::GroupByKey { name, .. } => ("group by key", name),
        Node::Flatten { .. } => ("flatten", ""),
        Node::Redistribute { .. } => ("redistribute", ""),
        Node::AwaitSideInputs { name, .. } => ("await side inputs of", name),
    }
}

/// The plan, a node a paragraph: what it reads, what it holds, what it makes. Then what passes between
/// the nodes, with the coders of elements and windows as they travel.
pub fn plan_text(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    for node in &plan.nodes {
        let (kind, name) = title(node);
        let _ = writeln!(text, "{}", format!("{kind} {name}").trim_end());
        for input in node.inputs() {
            let _ = writeln!(text, "  reads  {}", name_of(plan, input));
        }
        details(&mut text, plan, node);
        let mut outputs = node.outputs();
        outputs.sort();
        for output in outputs {
            let _ = writeln!(text, "  makes  {}", name_of(plan, output));
        }
        text.push('\n');
    }
    text.push_str("collections\n");
    for collection in &plan.collections {
        let _ = writeln!(text, "  {}", describe(collection));
    }
    text
}

fn name_of(plan: &ExecutionPlan, id: CollectionId) -> &str {
    plan.collections.get(id.0).map_or("?", |collection| collection.id.as_str())
}

fn details(text: &mut String, plan: &ExecutionPlan, node: &Node) {
    match node {
        Node::Stage(stage) => {
            for side in &stage.side_inputs {
                let asker = plan.transform_names.get(&side.transform).unwrap_or(&side.transform);
                let collection = name_of(plan, side.collection);
                let pattern = format!("{:?}", side.pattern).to_lowercase();
                let _ =
                    writeln!(text, "  asks   {collection} as {pattern} (side input {} of {asker})", side.tag);
            }
            let _ = writeln!(text, "  in     environment {}", stage.spec.environment_id);
            for id in &stage.transforms {
                let _ = writeln!(text, "  runs   {}", plan.transform_names.get(id).unwrap_or(id));
            }
        }
        Node::GroupByKey { grouping, .. } => {
            let _ = writeln!(text, "  groups {}", grouping_text(grouping));
        }
        Node::TestStream(stream) => {
            let _ = writeln!(text, "  plays  {}", events_text(&stream.events));
            for (tag, output) in stream.outputs.iter().filter(|_| stream.outputs.len() > 1) {
                let _ = writeln!(text, "  tags   {} as {tag}", name_of(plan, *output));
            }
        }
        Node::AwaitSideInputs { side_inputs, .. } => {
            for side in side_inputs {
                let _ = writeln!(text, "  awaits {}", name_of(plan, side.collection));
            }
        }
        Node::Impulse { .. } | Node::Flatten { .. } | Node::Redistribute { .. } => {}
    }
}

fn events_text(source: &TestStreamSource) -> String {
    match source {
        TestStreamSource::Endpoint(url) => format!("the events of {url}"),
        TestStreamSource::Listed(events) => {
            let elements = events.iter().map(|event| match event {
                TestStreamEvent::Elements { elements, .. } => elements.len(),
                TestStreamEvent::Watermark { .. } | TestStreamEvent::ProcessingTime { .. } => 0,
            });
            format!("{} events with {} elements", events.len(), elements.sum::<usize>())
        }
    }
}

fn grouping_text(grouping: &Grouping) -> String {
    let merging = match &grouping.merging {
        Merging::Never => "by window".to_owned(),
        Merging::Sessions => "by session".to_owned(),
        Merging::BySdk(stage) => {
            format!("by windows that environment {} merges", stage.spec.environment_id)
        }
    };
    let time = match grouping.output_time {
        OutputTime::EndOfWindow => "the window's end",
        OutputTime::Earliest => "the earliest element's time",
        OutputTime::Latest => "the latest element's time",
    };
    format!("{merging}, at {time}")
}

fn describe(collection: &Collection) -> String {
    let Collection { id, element_coder, window_coder, grain, .. } = collection;
    let cut = match grain {
        Grain::Block => "",
        Grain::Element => ", cut between elements",
    };
    format!("{id}: {} in {}{cut}", coder_text(element_coder), coder_text(window_coder))
}

/// The coder by the names of its URNs, e.g. `kv<bytes, length_prefix<my:coder>>`.
fn coder_text(coder: &Coder) -> String {
    let name = coder.urn().trim_start_matches("beam:coder:").trim_end_matches(":v1");
    let parts: Vec<&Coder> = match coder {
        Coder::Kv(first, second)
        | Coder::Timer { key: first, window: second }
        | Coder::WindowedValue { value: first, window: second }
        | Coder::ParamWindowedValue { value: first, window: second, .. } => vec![first, second],
        Coder::Iterable(part)
        | Coder::StateBackedIterable(part)
        | Coder::CustomWindow(part)
        | Coder::LengthPrefix(part)
        | Coder::ShardedKey(part)
        | Coder::Nullable(part) => vec![part],
        Coder::Bytes
        | Coder::StringUtf8
        | Coder::Bool
        | Coder::VarInt
        | Coder::Double
        | Coder::IntervalWindow
        | Coder::GlobalWindow
        | Coder::Row(_)
        | Coder::Opaque { .. } => return name.to_owned(),
    };
    let parts: Vec<_> = parts.into_iter().map(coder_text).collect();
    format!("{name}<{}>", parts.join(", "))
}

/// The plan as a directed graph for Graphviz.
pub fn plan_dot(plan: &ExecutionPlan) -> String {
    let mut text = String::from("digraph plan {\n  node [shape=box];\n");
    let escape = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    for (index, node) in plan.nodes.iter().enumerate() {
        let (kind, name) = title(node);
        let _ = writeln!(text, "  n{index} [label=\"{}\"];", escape(format!("{kind} {name}").trim_end()));
    }
    let maker = |id: CollectionId| plan.nodes.iter().position(|node| node.outputs().contains(&id));
    for (index, node) in plan.nodes.iter().enumerate() {
        let mut edge = |id: CollectionId, style: &str| {
            if let Some(from) = maker(id) {
                let _ =
                    writeln!(text, "  n{from} -> n{index} [label=\"{}\"{style}];", escape(name_of(plan, id)));
            }
        };
        for input in node.inputs() {
            edge(input, "");
        }
        if let Node::Stage(stage) = node {
            for side in &stage.side_inputs {
                edge(side.collection, ", style=dashed");
            }
        }
    }
    text.push_str("}\n");
    text
}

/// Why a pipeline could not be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("{0}")]
    Fault(#[from] Fault),
}
