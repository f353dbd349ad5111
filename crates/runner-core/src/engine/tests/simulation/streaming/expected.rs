//! The plain computation: what every collection has in the end, one after another.

use std::collections::BTreeMap;

use super::super::super::super::*;
use super::groups::Groups;
use super::plan::Case;
use super::work::{at_output, child_time, children, kept, outputs, record, record_time};
use crate::plan::Stage;

/// How much of a collection does not depend on the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sure {
    Nothing,
    Values,
    /// And their event times.
    Times,
    /// And that they come one by one.
    Singly,
}

type Values = Vec<(u64, EventTime)>;

/// What is not a matter of computation.
pub(super) struct Given<'a> {
    pub(super) case: &'a Case,
    /// What has been in each collection.
    pub(super) delivered: &'a [Values],
    pub(super) groups: &'a BTreeMap<NodeId, Groups>,
    /// What keyed stages have dropped because it was too late.
    pub(super) dropped: &'a BTreeMap<NodeId, Values>,
    /// How many records of restrictions without end have been read.
    pub(super) read: &'a BTreeMap<(NodeId, u64), u64>,
}

/// Compares everything.
pub(super) fn check(given: &Given<'_>) {
    let plan = &given.case.plan;
    let mut expected: Vec<(Values, Sure)> = vec![(Vec::new(), Sure::Nothing); plan.collections.len()];
    for (index, node) in plan.nodes.iter().enumerate() {
        let id = NodeId(index);
        match node {
            Node::Impulse { output } => expected[output.0] = (vec![(0, EventTime::MIN)], Sure::Singly),
            Node::TestStream(stream) => {
                for output in stream.outputs.values() {
                    expected[output.0] = (given.delivered[output.0].clone(), Sure::Singly);
                }
            }
            Node::Flatten { inputs, output } => {
                let values = inputs.iter().flat_map(|input| expected[input.0].0.clone()).collect();
                let sure = inputs.iter().map(|input| expected[input.0].1).min().unwrap();
                expected[output.0] = (values, sure);
            }
            Node::AwaitSideInputs { input, output, .. } | Node::Redistribute { input, output } => {
                expected[output.0] = expected[input.0].clone();
            }
            Node::GroupByKey { input, output, .. } => {
                expected[output.0] = grouped(&given.groups[&id], &expected[input.0]);
            }
            Node::Stage(stage) => {
                let input = expected[stage.input.0].clone();
                for (n, output) in outputs(stage) {
                    expected[output.0] = processed(given, id, stage, n, &input);
                }
            }
        }
        for output in node.outputs() {
            compare(given, output, &mut expected[output.0]);
        }
    }
}

fn compare(given: &Given<'_>, collection: CollectionId, expected: &mut (Values, Sure)) {
    let mut arrived = given.delivered[collection.0].clone();
    let (values, sure) = expected;
    arrived.sort();
    values.sort();
    let name = &given.case.plan.collections[collection.0].id;
    match sure {
        Sure::Nothing => {
            // Whoever reads it is to make the right things of what there was.
            *values = arrived;
            *sure = Sure::Values;
        }
        Sure::Values => {
            let only = |values: &Values| values.iter().map(|(value, _)| *value).collect::<Vec<_>>();
            assert_eq!(only(&arrived), only(values), "values of {name}");
        }
        Sure::Times | Sure::Singly => assert_eq!(arrived, *values, "values and times of {name}"),
    }
}

fn without(values: &Values, dropped: &Values) -> Values {
    let mut left = values.clone();
    for gone in dropped {
        // Its time may not be sure.
        let exact = left.iter().position(|value| value == gone);
        let found = exact.or_else(|| left.iter().position(|value| value.0 == gone.0));
        left.swap_remove(found.unwrap_or_else(|| panic!("{gone:?} was dropped, and was not there")));
    }
    left
}

fn grouped(groups: &Groups, (values, sure): &(Values, Sure)) -> (Values, Sure) {
    if !groups.is_plain() {
        return (Vec::new(), Sure::Nothing);
    }
    let timed = |(value, time): &(u64, EventTime)| groups.time_of_group(*time).map(|time| (*value, time));
    let values = without(values, &groups.dropped);
    match values.iter().map(timed).collect::<Option<Values>>() {
        Some(timed) => (timed, (*sure).min(Sure::Times)),
        None => (values, Sure::Values),
    }
}

fn processed(
    given: &Given<'_>,
    node: NodeId,
    stage: &Stage,
    output: u64,
    (values, sure): &(Values, Sure),
) -> (Values, Sure) {
    let case = given.case;
    if stage.keyed.is_some() {
        let dropped = given.dropped.get(&node).cloned().unwrap_or_default();
        let kept = |(value, time): (u64, EventTime)| (at_output(kept(node, value), output), time);
        return (without(values, &dropped).into_iter().map(kept).collect(), Sure::Values);
    }
    let mut made = Vec::new();
    if let Some(records) = case.records.get(&node) {
        for (value, time) in values {
            let end = records.unwrap_or_else(|| given.read.get(&(node, *value)).copied().unwrap_or(0));
            for position in 0..end {
                let record = record(node, *value, position);
                made.push((at_output(record, output), record_time(case, *time, position, record)));
            }
        }
        return (made, if *sure == Sure::Singly { Sure::Singly } else { Sure::Values });
    }
    for (value, time) in values {
        let children = children(node, output, *value);
        made.extend(children.map(|child| (child, child_time(case, *time, child))));
    }
    (made, if *sure >= Sure::Times { Sure::Singly } else { Sure::Values })
}
