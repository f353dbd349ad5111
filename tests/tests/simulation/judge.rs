//! Holds what has come of a case against what was to come.

use std::collections::BTreeMap;

use beam_model::coders::varint;
use beam_model::pipeline::MonitoringInfo;

use super::case::*;
use super::plain::Outcome;
use super::words;

/// How many elements the job says it has dropped.
pub fn dropped(metrics: &[MonitoringInfo]) -> u64 {
    let is_dropped =
        |info: &&MonitoringInfo| info.labels.get("NAME").is_some_and(|name| name.starts_with("droppedDueTo"));
    metrics.iter().filter(is_dropped).map(|info| varint::read(&info.payload).unwrap().0).sum()
}

#[track_caller]
pub fn judge(case: &Case, expected: &Outcome, written: &BTreeMap<usize, Vec<Row>>, dropped: u64) {
    for step in &case.steps {
        let Kind::Sink(sink) = step.kind else { continue };
        let col = step.inputs[0];
        let sure = case.collections[col].sure;
        let rows = |from: &BTreeMap<usize, Vec<Row>>| {
            let mut rows: Vec<Row> = from.get(&sink).cloned().unwrap_or_default();
            if sure == Sure::AllButBeside {
                rows.iter_mut().for_each(|row| row.value = words::without_all(&row.value).0);
            }
            if sure == Sure::Values {
                rows.iter_mut().for_each(|row| (row.window, row.time) = (Window::Global, 0));
            }
            rows.sort();
            rows
        };
        let (wanted, got) = (rows(&expected.sinks), rows(written));
        if wanted != got {
            let (missing, surplus) = differences(&wanted, &got);
            panic!(
                "{} is not what it should be\nmissing: {missing:#?}\nsurplus: {surplus:#?}\n{}",
                super::proto::name(col),
                describe(case)
            );
        }
        if sure == Sure::AllButBeside {
            written.get(&sink).into_iter().flatten().for_each(|row| judge_beside(case, expected, col, row));
        }
    }
    // A combine that is lifted drops what it has combined.
    let combines = case.steps.iter().any(|step| matches!(step.kind, Kind::Combine(_)));
    if combines && case.late {
        assert!(dropped <= expected.dropped, "{dropped} instead of {} were dropped", expected.dropped);
    } else {
        assert_eq!(dropped, expected.dropped, "so many were dropped\n{}", describe(case));
    }
}

/// What was seen beside a row was to be seen.
#[track_caller]
fn judge_beside(case: &Case, expected: &Outcome, col: Col, row: &Row) {
    let step = case.steps.iter().find(|step| step.outputs.contains(&col)).unwrap();
    let (value, seen) = words::without_all(&row.value);
    let row = Row { value, ..row.clone() };
    let (least, most) = expected.permitted(case, step, &row);
    let is_part = |part: &[String], of: &[String]| {
        let count = |all: &[String], text: &String| all.iter().filter(|other| *other == text).count();
        part.iter().all(|text| count(part, text) <= count(of, text))
    };
    assert!(
        is_part(&least, &seen) && is_part(&seen, &most),
        "{row:?} has seen {seen:?}, but is to see {least:?} at least, and {most:?} at most\n{}",
        describe(case)
    );
}

fn differences(wanted: &[Row], got: &[Row]) -> (Vec<Row>, Vec<Row>) {
    let mut surplus = got.to_vec();
    let mut missing = Vec::new();
    for row in wanted {
        match surplus.iter().position(|other| other == row) {
            Some(index) => drop(surplus.remove(index)),
            None => missing.push(row.clone()),
        }
    }
    (missing, surplus)
}

/// The case, a line for each step.
fn describe(case: &Case) -> String {
    let mut lines = vec![format!("late: {}", case.late)];
    for step in &case.steps {
        lines.push(format!("{:?} -> {:?}: {:?}", step.inputs, step.outputs, step.kind));
        for col in &step.outputs {
            lines.push(format!("    {col}: {:?}", case.collections[*col]));
        }
    }
    lines.join("\n")
}
