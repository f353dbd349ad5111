use beam_model::pipeline::MonitoringInfo;

use super::super::Node;
use super::super::testing::PlanBuilder;
use super::{PCOLLECTION, count_once};

#[test]
fn each_collection_is_counted_once() {
    let mut builder = PlanBuilder::new();
    let impulse = builder.impulse();
    let made = builder.stage(impulse, &[], 1)[0];
    builder.stage(impulse, &[], 0);
    builder.stage(made, &[], 0);
    let grouped = builder.group(made);
    builder.stage(grouped, &[], 0);
    let plan = &mut builder.plan;
    count_once(&mut plan.nodes, &plan.collections);
    let elsewhere: Vec<_> =
        plan.nodes.iter().filter_map(super::stage_of).map(|s| &s.counted_elsewhere).collect();
    // The impulse counts where it is read first, what a stage made counts there, the group where it is read.
    let (impulse, made) = (Some("c0".to_owned()), Some("c1".to_owned()));
    assert_eq!(elsewhere, [&None, &impulse, &made, &None]);
}

#[test]
fn only_what_is_said_of_the_input_is_left_out() {
    let mut builder = PlanBuilder::new();
    let impulse = builder.impulse();
    builder.stage(impulse, &[], 1);
    builder.last_stage().counted_elsewhere = Some("c0".to_owned());
    let Some(Node::Stage(stage)) = builder.plan.nodes.last() else { panic!("a stage was added last") };
    let of = |pcollection: &str| MonitoringInfo {
        labels: [(PCOLLECTION.to_owned(), pcollection.to_owned())].into(),
        ..Default::default()
    };
    assert!(!stage.counts(&of("c0")));
    assert!(stage.counts(&of("c1")));
    assert!(stage.counts(&MonitoringInfo::default()), "metrics of transforms have no such label");
}
