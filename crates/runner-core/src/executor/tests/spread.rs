//! A few elements after a Reshuffle.

use super::*;

/// A stage that writes so many pairs at once, a Reshuffle, and a stage that counts what its bundles read.
async fn read_after_a_reshuffle(pairs: u64, policy: BundlePolicy) -> Vec<u64> {
    let mut builder = PlanBuilder::new();
    let start = builder.impulse(); // node 0
    let made = builder.stage(start, &[], 1)[0]; // node 1
    let shuffled = builder.redistribute(made); // node 2
    builder.stage(shuffled, &[], 0); // node 3
    let read = Arc::new(Mutex::new(Vec::new()));
    let seen = read.clone();
    let job = execute(builder.build(), policy, FaultInjection::None, move |stage, mut bundle| {
        if stage == "stage 1" {
            let all: Vec<_> = (0..pairs).map(|n| pair("key", n)).collect();
            bundle.outputs.receive("sink0", all.concat().into())?;
        } else {
            let each = pair("key", 0).len();
            seen.lock().unwrap().push((input(&mut bundle).len() / each) as u64);
        }
        Ok(BundleResult::default())
    });
    let job = job.await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
    let mut read = read.lock().unwrap().clone();
    read.sort();
    read
}

#[tokio::test]
async fn a_few_elements_of_one_block_go_to_all_workers() {
    assert_eq!(read_after_a_reshuffle(1, BundlePolicy::DEFAULT).await, [1]);
    assert_eq!(read_after_a_reshuffle(10, BundlePolicy::DEFAULT).await, [3, 3, 4]);
    assert_eq!(read_after_a_reshuffle(10, BundlePolicy::Whole).await, [10]);
    // Of 120 elements two are a block.
    assert_eq!(read_after_a_reshuffle(120, BundlePolicy::DEFAULT).await, [40, 40, 40]);
}
