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
    one.set(3, 300);
    other.set(2, 1_000);
    assert_eq!(waiting(), (5, 1_300));
    one.set(1, 50);
    assert_eq!(waiting(), (3, 1_050));
    drop(other);
    assert_eq!(waiting(), (1, 50));
    drop(one);
    assert_eq!(waiting(), (0, 0));
}
