//! Side inputs that go on changing while they are read.

use super::*;
use crate::plan::{Contents, LiveView, Ready};

/// A stage that makes the side input in as many bundles as it wants, and one that reads it.
fn plan(view: LiveView) -> Arc<ExecutionPlan> {
    let mut builder = PlanBuilder::new();
    let source = builder.impulse();
    let side = builder.stage(source, &[], 1)[0]; // stage 1
    builder.last_stage().restriction_reader = Some("transform".to_owned());
    let main = builder.impulse();
    builder.stage(main, &[side], 0); // stage 3
    builder.live(side, view);
    builder.build()
}

fn to_be_continued() -> BundleResult {
    let residual = Residual {
        transform_id: "transform".to_owned(),
        input_id: "in".to_owned(),
        element: impulse_element(),
        delay: Duration::from_millis(1),
        output_watermarks: BTreeMap::new(),
    };
    BundleResult { residuals: vec![residual], ..Default::default() }
}

fn side_input(bundle: &RemoteBundle) -> Result<Bytes, Fault> {
    let key = StateKey::IterableSideInput {
        transform_id: "transform".to_owned(),
        side_input_id: "side0".to_owned(),
        window: Bytes::new(),
    };
    Ok(bundle.state.get(&key, &Bytes::new())?.data)
}

#[tokio::test]
async fn main_input_does_not_wait_for_the_end_of_what_is_ready_before() {
    let view = LiveView { ready: Ready::WithFirstElements, contents: Contents::NewestFiring };
    let seen = Arc::new(AtomicBool::new(false));
    let bundles = AtomicU32::new(0);
    let read = seen.clone();
    let job = execute(plan(view), BundlePolicy::DEFAULT, FaultInjection::None, move |stage, mut bundle| {
        if stage == "stage 1" {
            let n = bundles.fetch_add(1, Ordering::Relaxed);
            bundle.outputs.receive("sink0", pair("x", u64::from(n % 100)))?;
            // It ends only after it has been read.
            return Ok(if read.load(Ordering::Relaxed) {
                BundleResult::default()
            } else {
                to_be_continued()
            });
        }
        assert_eq!(input(&mut bundle), impulse_element());
        let side = side_input(&bundle)?;
        assert_eq!((&side[..2], side.len()), (b"\x01x".as_slice(), 3), "one firing, the newest");
        assert!(bundle.side_inputs_version.is_some_and(|version| version > 0));
        read.store(true, Ordering::Relaxed);
        Ok(BundleResult::default())
    })
    .await;
    assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
    assert!(seen.load(Ordering::Relaxed));
}

#[tokio::test]
async fn main_input_waits_for_the_end_of_its_window() {
    let view = LiveView { ready: Ready::AtEndOfWindow, contents: Contents::All };
    for inject in [FaultInjection::None, FaultInjection::FirstAttempts] {
        let seen = Arc::new(AtomicBool::new(false));
        let read = seen.clone();
        let job = execute(plan(view), BundlePolicy::DEFAULT, inject, move |stage, bundle| {
            if stage == "stage 1" {
                let n = bundle.instruction.strip_prefix("bundle-").and_then(|rest| rest.split('-').next());
                let n: u64 = n.unwrap().parse().unwrap();
                bundle.outputs.receive("sink0", pair("x", n))?;
                return Ok(if n < 3 { to_be_continued() } else { BundleResult::default() });
            }
            assert_eq!(side_input(&bundle)?, b"\x01x\x01\x01x\x02\x01x\x03".as_slice());
            read.store(true, Ordering::Relaxed);
            Ok(BundleResult::default())
        })
        .await;
        assert!(matches!(job.outcome, Outcome::Done), "{:?}", job.outcome);
        assert!(seen.load(Ordering::Relaxed));
    }
}

#[tokio::test]
async fn main_input_that_cannot_be_taken_apart_fails_the_job() {
    let view = LiveView { ready: Ready::WithFirstElements, contents: Contents::All };
    let mut builder = PlanBuilder::new();
    let source = builder.impulse();
    let made = builder.stage(source, &[], 2); // stage 1
    builder.stage(made[0], &[made[1]], 0);
    builder.live(made[1], view);
    let job = execute(builder.build(), BundlePolicy::DEFAULT, FaultInjection::None, |_, bundle| {
        bundle.outputs.receive("sink0", Bytes::from_static(b"nonsense"))?;
        Ok(BundleResult::default())
    })
    .await;
    assert_eq!(job.fault().blame, Blame::Environment);
}
