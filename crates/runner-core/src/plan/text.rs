//! A plan for people: as text, and as a graph in the DOT language.

use std::fmt::Write as _;

use super::{CollectionId, ExecutionPlan, Node};
use crate::backend::Refusal;
use crate::fault::Fault;

/// What each node is called, with a short kind before it.
fn title(node: &Node) -> (String, String) {
    match node {
        Node::Impulse { .. } => ("impulse".to_owned(), String::new()),
        Node::Stage(stage) => ("stage".to_owned(), stage.spec.name.clone()),
        Node::GroupByKey { name, .. } => ("group by key".to_owned(), name.clone()),
        Node::Flatten { .. } => ("flatten".to_owned(), String::new()),
        Node::Redistribute { .. } => ("redistribute".to_owned(), String::new()),
    }
}

/// The plan, a node a paragraph: what it reads, what it holds, what it makes.
pub fn plan_text(plan: &ExecutionPlan) -> String {
    let mut text = String::new();
    let list = |ids: &[CollectionId]| {
        let names: Vec<_> =
            ids.iter().filter_map(|id| plan.collections.get(id.0)).map(|c| c.id.as_str()).collect();
        names.join(", ")
    };
    for node in &plan.nodes {
        let (kind, name) = title(node);
        let _ = writeln!(
            text,
            "{}",
            if name.is_empty() || kind == "stage" {
                kind + &name_after(&name)
            } else {
                format!("{kind} {name}")
            }
        );
        if !node.inputs().is_empty() {
            let _ = writeln!(text, "  reads  {}", list(&node.inputs()));
        }
        if let Node::Stage(stage) = node {
            let _ = writeln!(text, "  in     environment {}", stage.spec.environment_id);
            for id in stage.spec.descriptor.transforms.keys().filter(|id| !id.starts_with("fn/")) {
                let _ = writeln!(text, "  runs   {}", plan.transform_names.get(id).unwrap_or(id));
            }
            for side in &stage.side_inputs {
                let _ = writeln!(
                    text,
                    "  asks   {} ({:?}, side input {})",
                    list(&[side.collection]),
                    side.pattern,
                    side.tag
                );
            }
        }
        let mut outputs = node.outputs();
        outputs.sort();
        let _ = writeln!(text, "  makes  {}", list(&outputs));
    }
    text
}

fn name_after(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(": {name}") }
}

/// The plan as a directed graph for Graphviz.
pub fn plan_dot(plan: &ExecutionPlan) -> String {
    let mut text = String::from("digraph plan {\n  node [shape=box];\n");
    let escape = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
    for (index, node) in plan.nodes.iter().enumerate() {
        let (kind, name) = title(node);
        let _ = writeln!(text, "  n{index} [label=\"{kind}\\n{}\"];", escape(&name));
    }
    let maker = |id: CollectionId| plan.nodes.iter().position(|node| node.outputs().contains(&id));
    for (index, node) in plan.nodes.iter().enumerate() {
        let mut edge = |id: CollectionId, style: &str| {
            let name = plan.collections.get(id.0).map_or("", |c| c.id.as_str());
            if let Some(from) = maker(id) {
                let _ = writeln!(text, "  n{from} -> n{index} [label=\"{}\"{style}];", escape(name));
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
