//! Unbounded input: watermarks, timers, triggers, delays, late elements and drain.
//!
//! A [`world::World`] of workers, GroupByKeys and clocks does what the engine says and holds every step of it
//! against a [`model::Model`], which reckons all watermarks anew. In the end all collections are what
//! [`expected`] computes without any schedule.

mod awaits;
mod expected;
mod groups;
mod judge;
mod model;
mod plan;
mod splits;
mod work;
mod world;

use std::collections::BTreeSet;

use super::super::super::*;
use super::{Random, run};
use world::{Seen, World};

const CASES: u64 = 300;
/// A case that takes more events does not end.
const MOST_EVENTS: usize = 200_000;

fn random_policy(random: &mut Random) -> BundlePolicy {
    match random.below(4) {
        0 => BundlePolicy::EachBlock,
        1 => BundlePolicy::Whole,
        2 => BundlePolicy::Bytes(random.below(64) as u64),
        _ => BundlePolicy::DEFAULT,
    }
}

/// Returns what has come about.
fn simulate(seed: u64) -> BTreeSet<Seen> {
    let mut random = Random::new(seed ^ 0x5EED);
    let case = plan::random_case(&mut random);
    let slots: Vec<_> = (0..plan::ENVIRONMENTS).map(|_| 1 + random.below(3)).collect();
    let policy = random_policy(&mut random);
    let mut engine = Engine::new(case.plan.clone(), slots.clone(), policy);
    let mut world = World::new(&case, random, slots);
    while !world.is_over() {
        world.step(&mut engine);
        assert!(world.events < MOST_EVENTS, "the job does not end");
    }
    world.check_end(engine.bundles_in_flight());
    world.seen
}

#[test]
fn streaming_results_do_not_depend_on_the_schedule() {
    let seen = run(CASES, simulate);
    // Few cases show little.
    if seen.len() as u64 >= CASES {
        for wanted in Seen::ALL {
            let cases = seen.iter().filter(|seen| seen.contains(&wanted)).count();
            assert!(cases > 2, "{wanted:?} has come about in {cases} of {} cases", seen.len());
        }
    }
}
