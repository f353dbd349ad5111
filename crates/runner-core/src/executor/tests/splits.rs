//! Bundles that give back a part while they run.

use super::streaming::at_time;
use super::*;
use crate::engine::Block;
use crate::executor::splits::{Input, Split};
use crate::ports::{BundleSplit, ChannelSplit, SplitTaken};

/// What is split: a stage that reads the output of another.
fn plan(change: impl FnOnce(&mut PlanBuilder)) -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse();
    let read = builder.stage(start, &[], 1)[0]; // node 1
    builder.stage(read, &[], 0); // node 2
    change(&mut builder);
    builder.build()
}

fn reader() -> Arc<ExecutionPlan> {
    plan(|builder| builder.last_stage().restriction_reader = Some("transform".to_owned()))
}

/// Blocks of elements of one letter each.
fn input(plan: &Arc<ExecutionPlan>, blocks: &[&str]) -> Input {
    let block = |letters: &&str| elements::block(StoredBlock::in_memory(pairs(letters)));
    Input::new(plan.clone(), NodeId(2), blocks.iter().map(block).collect(), SpillingStorage::new())
}

fn pairs(letters: &str) -> Bytes {
    letters.chars().flat_map(|letter| pair(&letter.to_string(), 1)).collect::<Vec<u8>>().into()
}

fn letters_of(plan: &ExecutionPlan, data: &Bytes) -> String {
    let Node::Stage(stage) = &plan.nodes[2] else { panic!("node 2 is a stage") };
    let elements = elements::Elements::new(&plan.collections[stage.input.0], data.clone());
    elements
        .map(|element| {
            let element = element.unwrap();
            str::from_utf8(&element.key().unwrap()[1..]).unwrap().to_owned()
        })
        .collect()
}

fn letters<'a>(plan: &ExecutionPlan, blocks: impl Iterator<Item = &'a Block<StoredBlock>>) -> String {
    let blocks: Vec<_> = blocks.map(|block| letters_of(plan, &block.data.read().unwrap())).collect();
    blocks.join("|")
}

fn cut(last_primary_element: i64, first_residual_element: i64) -> BundleSplit {
    let transform_id = "source".to_owned();
    let channels = vec![ChannelSplit { transform_id, last_primary_element, first_residual_element }];
    BundleSplit { channels, ..Default::default() }
}

/// Cuts an element itself, of which `kept` is kept and `left` is not.
fn cut_within(last_primary_element: i64, first_residual_element: i64, kept: &str, left: &str) -> BundleSplit {
    let part = |letters: &str| Residual {
        transform_id: "transform".to_owned(),
        input_id: "in".to_owned(),
        element: pairs(letters),
        delay: Duration::ZERO,
        output_watermarks: BTreeMap::new(),
    };
    let parts = |letters: &str| letters.chars().map(|letter| part(&letter.to_string())).collect();
    BundleSplit {
        primaries: parts(kept),
        residuals: parts(left),
        ..cut(last_primary_element, first_residual_element)
    }
}

/// "kept < given back" of each split that takes effect at once; what becomes of others.
fn outcome(plan: &ExecutionPlan, result: Result<(SplitTaken, Option<Split>), Fault>) -> String {
    match result {
        Ok((SplitTaken::AtOnce, Some(Split { kept, given_back }))) => {
            let given_back = given_back.iter().map(|(block, _)| block);
            format!("{} < {}", letters(plan, kept.iter()), letters(plan, given_back))
        }
        Ok((SplitTaken::AtOnce, None)) => "nothing".to_owned(),
        Ok((SplitTaken::WithTheBundle, split)) => {
            assert!(split.is_none());
            "with the bundle".to_owned()
        }
        Err(fault) => {
            assert!(fault.message.contains("a worker says that it keeps"), "{fault}");
            "cannot be".to_owned()
        }
    }
}

#[test]
fn what_is_kept_and_what_is_given_back_are_all_there_was() {
    let cases = [
        (vec![(cut(0, 1), "a < bc|d|ef")]),
        (vec![(cut(2, 3), "abc < d|ef")]),
        (vec![(cut(4, 5), "abc|d|e < f"), (cut(3, 4), "abc|d < e"), (cut(0, 1), "a < bc|d")]),
        (vec![(cut(2, 3), "abc < d|ef"), (cut(2, 3), "nothing"), (cut(5, 6), "nothing")]),
        (vec![(cut(5, 6), "nothing"), (cut(99, 100), "nothing"), (cut(4, 5), "abc|d|e < f")]),
        (vec![(cut_within(1, 3, "x", "y"), "ab|x < y|d|ef")]),
        (vec![(cut_within(-1, 1, "xy", "z"), "x|y < z|bc|d|ef")]),
        (vec![(cut_within(4, 6, "x", "y"), "abc|d|e|x < y"), (cut_within(4, 6, "v", "w"), "abc|d|e|v < w")]),
        (vec![(cut(3, 4), "abc|d < ef"), (cut_within(2, 4, "x", "y"), "abc|x < y")]),
        // That nothing is left to it is no work of others before the commit, nor is what comes after that.
        (vec![(cut(-1, 0), "with the bundle"), (cut(0, 1), "with the bundle")]),
        // Nobody says what of.
        (vec![(BundleSplit { channels: Vec::new(), ..cut_within(0, 1, "x", "y") }, "with the bundle")]),
        (vec![(cut_within(1, 3, "", "y"), "with the bundle"), (cut(0, 1), "with the bundle")]),
        (vec![(cut_within(1, 2, "", "y"), "with the bundle")]),
        (vec![(cut_within(6, 8, "x", "y"), "cannot be")]),
        (vec![(cut_within(3, 5, "x", "y"), "abc|d|x < y|f"), (cut(1, 2), "cannot be")]),
    ];
    let plan = reader();
    for (number, case) in cases.into_iter().enumerate() {
        let input = input(&plan, &["abc", "d", "ef"]);
        for (split, expected) in case {
            assert_eq!(outcome(&plan, input.split(&split)), expected, "case {number}, {split:?}");
        }
    }
}

#[test]
fn what_is_part_of_the_transaction_begins_where_others_work_ends() {
    let plan = reader();
    let input = input(&plan, &["abc", "d", "ef"]);
    assert_eq!(letters(&plan, input.rest(4).unwrap().iter()), "ef");
    assert_eq!(outcome(&plan, input.split(&cut(3, 4))), "abc|d < ef");
    assert_eq!(letters(&plan, input.rest(1).unwrap().iter()), "bc|d");
    assert_eq!(letters(&plan, input.rest(9).unwrap().iter()), "");
    assert_eq!(input.elements.get(), Some(6));
}

#[test]
fn not_every_stage_gives_away_work_before_its_commit() {
    let unbounded = |builder: &mut PlanBuilder| {
        builder.plan.streaming = true;
        builder.last_stage().restriction_reader = Some("transform".to_owned());
    };
    let ordinary = |builder: &mut PlanBuilder| builder.plan.streaming = true;
    for (plan, expected) in [(plan(unbounded), "with the bundle"), (plan(ordinary), "a < b")] {
        assert_eq!(outcome(&plan, input(&plan, &["ab"]).split(&cut(0, 1))), expected);
    }
    let plan = plan(|_| {});
    let fault = input(&plan, &["ab"]).split(&cut_within(-1, 1, "x", "y")).err().unwrap();
    assert!(fault.message.contains("not the splittable transform"), "{fault}");
}

#[test]
fn each_part_of_a_block_holds_at_its_own_time() {
    let plan = plan(|builder| {
        builder.plan.collections.iter_mut().for_each(|collection| collection.timed = true);
        builder.last_stage().restriction_reader = Some("transform".to_owned());
    });
    let data: Vec<u8> = [(5, "a"), (3, "b"), (4, "c")].map(|(time, key)| at_time(time, key, 1)).concat();
    let block = Block { hold: EventTime(3), ..elements::block(StoredBlock::in_memory(data.into())) };
    let input = |blocks| Input::new(plan.clone(), NodeId(2), blocks, SpillingStorage::new());
    let holds = |split: Split| {
        let given_back = split.given_back.iter().map(|(block, _)| block);
        let hold = |block: &Block<StoredBlock>| block.hold.millis();
        (split.kept.iter().map(hold).collect::<Vec<_>>(), given_back.map(hold).collect::<Vec<_>>())
    };
    let split = input(vec![block.clone()]).split(&cut(0, 1)).unwrap().1.unwrap();
    assert_eq!(holds(split), (vec![5], vec![3]));
    // What is kept of an element may give out what all of it may have.
    let mut within = cut_within(0, 2, "x", "y");
    within.residuals[0].output_watermarks = BTreeMap::from([("out".to_owned(), EventTime(7))]);
    let split = input(vec![block]).split(&within).unwrap().1.unwrap();
    assert_eq!(holds(split), (vec![5, 3], vec![7, 4]));
}

/// Splits its first bundle, which then waits until what it gave back is done, and fails.
struct Splitting {
    plan: Arc<ExecutionPlan>,
    log: Mutex<Vec<(String, String)>>,
    done: watch::Sender<bool>,
}

#[async_trait]
impl StageBundleFactory for Splitting {
    async fn process(&self, mut bundle: RemoteBundle) -> Result<BundleResult, Fault> {
        let all = Bytes::from(input_of(&mut bundle));
        if bundle.instruction == "bundle-1-attempt-1" {
            bundle.outputs.receive("sink0", pairs("abcdef"))?;
            return Ok(BundleResult::default());
        }
        let letters = letters_of(&self.plan, &all);
        self.log.lock().unwrap().push((bundle.instruction.clone(), letters));
        match bundle.instruction.as_str() {
            "bundle-2-attempt-1" => {
                assert_eq!(bundle.outputs.receive_split(&cut(2, 3))?, SplitTaken::AtOnce);
                let mut done = self.done.subscribe();
                tokio::time::timeout(LIMIT / 2, done.wait_for(|done| *done)).await.unwrap().unwrap();
                return Err(Fault::environment("lost"));
            }
            "bundle-3-attempt-1" => drop(self.done.send_replace(true)),
            _ => {}
        }
        Ok(BundleResult::default())
    }
}

fn input_of(bundle: &mut RemoteBundle) -> Vec<u8> {
    super::input(bundle)
}

struct SplittingWorkers(Arc<Splitting>);

#[async_trait]
impl JobBundleFactory for SplittingWorkers {
    fn parallelism(&self, _: &str) -> usize {
        2
    }

    fn stage(&self, _: Arc<StageSpec>) -> Arc<dyn StageBundleFactory> {
        self.0.clone()
    }

    async fn worker_metrics(&self) -> Vec<(String, Vec<MonitoringInfo>)> {
        let info = MonitoringInfo { urn: "of the worker".to_owned(), ..Default::default() };
        vec![("worker".to_owned(), vec![info])]
    }

    async fn close(&self) {}
}

#[tokio::test]
async fn what_is_given_back_is_done_while_the_bundle_runs_and_not_again_if_it_fails() {
    let plan = plan(|_| {});
    let splitting =
        Arc::new(Splitting { plan: plan.clone(), log: Mutex::default(), done: watch::channel(false).0 });
    let workers = Arc::new(SplittingWorkers(splitting.clone()));
    let (_keep, wish) = watch::channel(Wish::GoOn);
    let job = execute_on(plan, workers, BundlePolicy::DEFAULT, FaultInjection::None, wish).await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
    let log = splitting.log.lock().unwrap();
    let log: Vec<_> = log.iter().map(|(bundle, letters)| (bundle.as_str(), letters.as_str())).collect();
    let expected =
        [("bundle-2-attempt-1", "abcdef"), ("bundle-3-attempt-1", "def"), ("bundle-2-attempt-2", "abc")];
    assert_eq!(log, expected);
    assert_eq!((job.committed(), job.failed()), (3, 1));
    let metrics = job.progress.metrics().results();
    assert_eq!((metrics.attempted.len(), metrics.committed.len()), (1, 0), "those of the worker");
}
