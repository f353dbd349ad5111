use std::time::Duration;

use super::*;

#[test]
fn a_duration_counts_in_its_bucket_and_all_above() {
    let histogram = Histogram::default();
    for duration in [BOUNDS[0], BOUNDS[0] + Duration::from_nanos(1), Duration::from_secs(3600)] {
        histogram.observe(duration);
    }
    let (counts, all) = histogram.counts();
    assert_eq!((counts[0], counts[1], counts[BOUNDS.len() - 1], all), (1, 2, 2, 3));
    assert_eq!(histogram.sum(), BOUNDS[0] * 2 + Duration::from_nanos(1) + Duration::from_secs(3600));
    assert!(BOUNDS.is_sorted());
}

#[test]
fn what_waits_is_the_sum_of_all_jobs_and_goes_with_them() {
    let meters = Arc::new(Meters::default());
    let waiting = || (meters.waiting.blocks.get(), meters.waiting.bytes.get());
    let mut one = WaitingShare::new(meters.clone());
    let mut other = WaitingShare::new(meters.clone());
    one.set(Load { blocks: 3, bytes: 300, timers: 7, running: 1 });
    other.set(Load { blocks: 2, bytes: 1_000, timers: 0, running: 2 });
    assert_eq!(waiting(), (5, 1_300));
    assert_eq!((meters.waiting.timers.get(), meters.waiting.running.get()), (7, 3));
    one.set(Load { blocks: 1, bytes: 50, ..Load::default() });
    assert_eq!(waiting(), (3, 1_050));
    assert_eq!((meters.waiting.timers.get(), meters.waiting.running.get()), (0, 2));
    drop(other);
    assert_eq!(waiting(), (1, 50));
    drop(one);
    assert_eq!(waiting(), (0, 0));
    assert_eq!((meters.waiting.timers.get(), meters.waiting.running.get()), (0, 0));
}

#[test]
fn what_is_collected_counts_until_it_is_taken_in() {
    let meters = Arc::new(Meters::default());
    let (one, other) = (Collecting::new(&meters, 100), Collecting::new(&meters, 20));
    assert_eq!(meters.collecting.get(), 120);
    drop(one);
    assert_eq!(meters.collecting.get(), 20);
    drop(other);
    assert_eq!(meters.collecting.get(), 0);
}
