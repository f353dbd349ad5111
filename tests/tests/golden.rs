//! Pipeline in, plan out: what real Python pipelines become, as text that people check.
//!
//! `UPDATE=1` writes the text anew; `tests/golden/make_pipelines.py` writes the pipelines.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use beam_model::pipeline::Pipeline;
use prost::Message;
use runner_core::fusion::fuse;
use runner_core::graph::QueryablePipeline;
use runner_core::plan::{self, ExecutionPlan, Node, PlanGrain, plan_dot, plan_text};
use runner_core::rewrite::{rewrite, spread_no_more_than};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn names_of(extension: &str) -> BTreeSet<String> {
    fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect()
}

fn plan(name: &str) -> ExecutionPlan {
    plan_of(name, PlanGrain::Default)
}

fn plan_of(name: &str, grain: PlanGrain) -> ExecutionPlan {
    let encoded = fs::read(folder().join(format!("{name}.pb"))).unwrap();
    let pipeline = Pipeline::decode(encoded.as_slice()).unwrap();
    // Not by way of `plan_pipeline`: what the engine cannot run yet has a plan all the same.
    let mut graph = QueryablePipeline::new(&pipeline).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    spread_no_more_than(grain, &mut graph).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    rewrite(&mut graph).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    let fused = fuse(&graph).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    plan::plan(&graph, &fused, grain).unwrap_or_else(|fault| panic!("{name}: {fault}"))
}

#[test]
fn plans_are_as_written() {
    let pipelines = names_of("pb");
    assert!(pipelines.len() > 30, "the golden pipelines are missing");
    let update = std::env::var_os("UPDATE").is_some();
    let mut different = Vec::new();
    for name in &pipelines {
        let text = plan_text(&plan(name));
        let path = folder().join(format!("{name}.txt"));
        if update {
            fs::write(path, text).unwrap();
        } else if fs::read_to_string(path).unwrap_or_default() != text {
            different.push(format!("{name}:\n{text}"));
        }
    }
    assert!(different.is_empty(), "other plans than tests/golden says:\n{}", different.join("\n"));
    assert_eq!(names_of("txt"), pipelines, "texts without a pipeline");
}

/// What must hold of any plan, whatever the text says.
#[test]
fn plans_are_sound() {
    let grains = [PlanGrain::Default, PlanGrain::Coarse];
    for (name, grain) in names_of("pb").into_iter().flat_map(|name| grains.map(|grain| (name.clone(), grain)))
    {
        let plan = plan_of(&name, grain);
        let mut made = BTreeSet::new();
        let mut transforms = BTreeSet::new();
        for node in &plan.nodes {
            let mut needs = node.inputs();
            if let Node::Stage(stage) = node {
                needs.extend(stage.side_inputs.iter().map(|side| side.collection));
                for transform in &stage.transforms {
                    assert!(transforms.insert(transform.clone()), "{name}: {transform} is in two stages");
                }
            }
            for need in needs {
                let id = &plan.collections[need.0].id;
                assert!(made.contains(&need), "{name}: {id} is read before it is made");
            }
            for output in node.outputs() {
                assert!(made.insert(output), "{name}: {} is made twice", plan.collections[output.0].id);
            }
        }
        assert_eq!(made.len(), plan.collections.len(), "{name}: a collection that nobody makes");
    }
}

/// Stages, Impulses and Redistributes.
fn counts(plan: &ExecutionPlan) -> [usize; 3] {
    let count = |is: fn(&Node) -> bool| plan.nodes.iter().filter(|node| is(node)).count();
    [
        count(|node| matches!(node, Node::Stage(_))),
        count(|node| matches!(node, Node::Impulse { .. })),
        count(|node| matches!(node, Node::Redistribute { .. })),
    ]
}

/// The same pipelines in fewer bundles: what belongs to Create is left out, what is the user's own stays.
#[test]
fn one_worker_has_fewer_bundles() {
    let mut fewer = 0;
    for name in names_of("pb") {
        let (many, one) = (plan_of(&name, PlanGrain::Default), plan_of(&name, PlanGrain::Coarse));
        if many.streaming {
            // A bundle that goes on and on must not hold up its siblings.
            assert_eq!(plan_text(&many), plan_text(&one), "{name}");
            continue;
        }
        let (many, one) = (counts(&many), counts(&one));
        assert!(one.iter().zip(many).all(|(one, many)| *one <= many), "{name}: {many:?} to {one:?}");
        assert!(one[1] <= 1, "{name}: {one:?}");
        fewer += usize::from(one[0] < many[0]);
    }
    assert!(fewer > 10, "{fewer} have fewer stages");
    let both =
        |name: &str| [PlanGrain::Default, PlanGrain::Coarse].map(|grain| counts(&plan_of(name, grain)));
    // A Create of several values, and one that is looked into.
    assert_eq!(both("side_inputs"), [[4, 2, 1], [2, 1, 0]]);
    // A Create, and a Reshuffle of the user's.
    assert_eq!(both("reshuffle_unlike_coders"), [[3, 1, 2], [2, 1, 1]]);
    // A Create straight before a Reshuffle of the user's, which spreads what is made anyway.
    assert_eq!(both("side_input_cycle"), [[4, 1, 1], [4, 1, 1]]);
}

#[test]
fn plans_can_be_drawn() {
    for name in names_of("pb") {
        let plan = plan(&name);
        let dot = plan_dot(&plan);
        assert!(dot.starts_with("digraph plan {\n") && dot.ends_with("}\n"), "{dot}");
        let boxes = dot.lines().filter(|line| line.contains("[label=") && !line.contains("->")).count();
        assert_eq!(boxes, plan.nodes.len(), "{dot}");
        let edges: usize = plan.nodes.iter().map(|node| node.inputs().len() + side_inputs(node)).sum();
        assert_eq!(dot.matches(" -> ").count(), edges, "{dot}");
        for line in dot.lines() {
            let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            assert!(quotes % 2 == 0, "an open quote: {line}");
        }
    }
}

fn side_inputs(node: &Node) -> usize {
    match node {
        Node::Stage(stage) => stage.side_inputs.len(),
        Node::Impulse { .. }
        | Node::TestStream(_)
        | Node::GroupByKey { .. }
        | Node::Flatten { .. }
        | Node::Redistribute { .. }
        // The stage that it stands before has them.
        | Node::AwaitSideInputs { .. } => 0,
    }
}
