//! The pure step by itself: how many events it takes in per second.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::sync::Arc;

use beam_model::pipeline::Environment;
use beam_model::time::{EventTime, ProcessingTime};
use beamline_benches::scripted::Builder;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runner_core::engine::{Block, BundlePolicy, Engine, EngineAction, EngineEvent, Partition};
use runner_core::plan::{ExecutionPlan, PlanGrain, plan_pipeline};

/// Blocks that the first stage makes; each is a bundle of every later stage.
const BLOCKS: usize = 20_000;
const SLOTS: usize = 4;

/// A chain of so many stages.
fn chain(stages: usize) -> Option<Arc<ExecutionPlan>> {
    let mut builder = Builder::new(Environment { urn: "bench:environment".to_owned(), ..Default::default() });
    let mut last = builder.impulse("impulse");
    for stage in 0..stages {
        let made = builder.par_do(&format!("map {stage}"), "bench:dofn:map", &last, Some("pair"))?;
        last = builder.redistribute(&format!("spread {stage}"), &made, "pair");
    }
    builder.par_do("end", "bench:dofn:map", &last, None);
    plan_pipeline(&builder.build(), PlanGrain::Default).ok().map(Arc::new)
}

fn block() -> Block<()> {
    Block { data: (), bytes: 1000, partition: Partition(0), hold: EventTime::MIN, truncated: false }
}

/// Steps that the job took from its beginning to its end.
fn run(plan: &Arc<ExecutionPlan>) -> usize {
    let outputs: BTreeMap<_, Vec<_>> =
        plan.stages().map(|(node, stage)| (node, stage.sinks.values().copied().collect())).collect();
    let first = outputs.keys().next().copied();
    let mut engine = Engine::new(plan.clone(), vec![SLOTS], BundlePolicy::EachBlock);
    let mut running = VecDeque::new();
    let mut steps = 1;
    let mut actions = engine.step(ProcessingTime::from_millis(0), EngineEvent::Started { impulse: block() });
    loop {
        for action in actions {
            match action {
                EngineAction::Run { node, bundle, attempt, .. } => running.push_back((node, bundle, attempt)),
                EngineAction::End(outcome) => {
                    black_box(outcome);
                    return steps;
                }
                other => drop(black_box(other)),
            }
        }
        let Some((node, bundle, attempt)) = running.pop_front() else { return 0 };
        let blocks = vec![block(); if Some(node) == first { BLOCKS } else { 1 }];
        let sinks = outputs.get(&node).into_iter().flatten();
        let outputs = sinks.map(|collection| (*collection, blocks.clone())).collect();
        let (residuals, timers) = (Vec::new(), Vec::new());
        let event = EngineEvent::BundleSucceeded { bundle, attempt, outputs, residuals, timers };
        actions = engine.step(ProcessingTime::from_millis(0), event);
        steps += 1;
    }
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for stages in [2, 20] {
        let plan = chain(stages);
        assert!(plan.is_some(), "the pipeline has no plan");
        let Some(plan) = plan else { return };
        let steps = run(&plan);
        assert_eq!(steps, 2 + stages * BLOCKS);
        group.throughput(Throughput::Elements(steps as u64));
        group.sample_size(10);
        group.bench_function(format!("steps, {} stages", stages + 1), |bencher| bencher.iter(|| run(&plan)));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
