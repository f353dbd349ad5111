//! What the server does and costs, metric by metric.

use job_service::{JobService, JobState};
use runner_core::meters::Meters;
use runner_core::ports::MemoryBudget;
use rustix::time::{ClockId, clock_gettime};

use super::Told;
use super::exposition::Exposition;

pub(super) fn text(told: &Told) -> String {
    let mut out = Exposition::default();
    let meters = told.bridge.meters();
    jobs(&mut out, &told.jobs);
    let workers = told.bridge.connected_workers();
    out.gauge("beamline_workers", "SDK workers that are connected.", workers);
    bundles(&mut out, meters);
    data_plane(&mut out, meters);
    memory(&mut out, &told.memory);
    process(&mut out);
    out.into_text()
}

fn jobs(out: &mut Exposition, jobs: &JobService) {
    let jobs = jobs.jobs();
    let in_state = |state: JobState| jobs.iter().filter(|job| job.state == state).count();
    out.gauges(
        "beamline_jobs",
        "Jobs that the server knows, by state; ended ones are forgotten after a while.",
        "state",
        JobState::ALL.map(|state| (state.to_string(), in_state(state))),
    );
}

fn bundles(out: &mut Exposition, meters: &Meters) {
    let bundles = &meters.bundles;
    for (name, help, counter) in [
        ("started", "Attempts of bundles that were begun.", &bundles.started),
        ("committed", "Bundles whose effects have become final.", &bundles.committed),
        ("failed", "Attempts of bundles that failed.", &bundles.failed),
    ] {
        out.counter(&format!("beamline_bundles_{name}_total"), help, counter.get());
    }
    out.histogram(
        "beamline_bundle_seconds",
        "How long workers had bundles, from the bundle's request to the end of its output.",
        &meters.bundle_time,
    );
    out.histogram(
        "beamline_worker_wait_seconds",
        "How long workers waited for the runner between two bundles, while it had something to do.",
        &meters.worker_wait,
    );
    let waiting = &meters.waiting;
    for (name, help, gauge) in [
        ("bundles_running", "Bundles that workers have.", &waiting.running),
        ("waiting_blocks", "Blocks of elements before stages.", &waiting.blocks),
        ("waiting_bytes", "Encoded elements before stages, in bytes.", &waiting.bytes),
        ("waiting_timers", "Timers that are set and have not fired.", &waiting.timers),
        (
            "collecting_bytes",
            "Encoded elements that GroupByKeys and side inputs have not taken in yet, in bytes.",
            &meters.collecting,
        ),
    ] {
        out.gauge(&format!("beamline_{name}"), help, gauge.get());
    }
}

/// What of `--memory-limit` is in use, and what did not fit.
fn memory(out: &mut Exposition, memory: &MemoryBudget) {
    for (name, help, value) in [
        ("memory_limit_bytes", "Data of jobs may take so much memory, in bytes.", memory.limit()),
        ("memory_used_bytes", "Memory that data of jobs take, in bytes.", memory.used()),
        ("memory_peak_bytes", "The most that they ever took, in bytes.", memory.peak()),
        ("spill_disk_bytes", "What is on disk for want of memory, compressed, in bytes.", memory.on_disk()),
    ] {
        out.gauge(&format!("beamline_{name}"), help, value);
    }
    for (name, help, value) in [
        (
            "spill_written_bytes",
            "Data that did not fit in memory, before they were compressed, in bytes.",
            memory.spilled(),
        ),
        ("spill_writes", "How often such data were written to disk.", memory.writes()),
        ("spill_read_bytes", "Such data that were read back, in bytes.", memory.read_back()),
        ("spill_reads", "How often such data were read back.", memory.reads()),
    ] {
        out.counter(&format!("beamline_{name}_total"), help, value);
    }
}

fn data_plane(out: &mut Exposition, meters: &Meters) {
    let flows = [("to_worker", &meters.to_workers), ("from_worker", &meters.from_workers)];
    out.counters(
        "beamline_data_bytes_total",
        "Encoded elements and timers of bundles, in bytes.",
        "direction",
        flows.map(|(direction, flow)| (direction.to_owned(), flow.bytes.get())),
    );
    out.counters(
        "beamline_data_elements_total",
        "Elements of bundles that went well, as workers count them.",
        "direction",
        flows.map(|(direction, flow)| (direction.to_owned(), flow.elements.get())),
    );
}

/// By the names that every Prometheus client gives them.
fn process(out: &mut Exposition) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    // Both parts are far below where a float gets coarse.
    let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    out.counter("process_cpu_seconds_total", "CPU time of the server, without that of workers.", seconds);
    if let Some(bytes) = resident_bytes() {
        out.gauge("process_resident_memory_bytes", "Resident memory of the server, in bytes.", bytes);
    }
}

/// Nothing where the system does not tell it so.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use runner_core::meters::{Collecting, Load, WaitingShare};

    use super::*;

    /// Everything that is told without a server.
    fn all(meters: &Meters, budget: &MemoryBudget) -> String {
        let mut out = Exposition::default();
        bundles(&mut out, meters);
        data_plane(&mut out, meters);
        memory(&mut out, budget);
        process(&mut out);
        out.into_text()
    }

    /// Samples by their name and labels; each stands below the head of its metric.
    fn samples(text: &str) -> BTreeMap<String, f64> {
        let (mut samples, mut name, mut kind) = (BTreeMap::new(), "", "");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                let help;
                (name, help) = head.split_once(' ').unwrap();
                assert!(help.ends_with('.') && help.len() > 10, "{line}");
                let type_ = lines.next().unwrap();
                kind = type_.strip_prefix(&format!("# TYPE {name} ")).unwrap();
                assert_eq!(kind == "counter", name.ends_with("_total"), "{type_}");
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (sample_name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            assert!(labels.is_empty() || labels.ends_with("\"}"), "{line}");
            let suffix = sample_name.strip_prefix(name).unwrap_or_else(|| panic!("{line} is below {name}"));
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            let before = samples.insert(sample.to_owned(), value.parse().unwrap());
            assert_eq!(before, None, "{line} is there twice");
        }
        samples
    }

    #[test]
    fn everything_has_a_head_and_a_name_that_says_what_it_is() {
        let samples = samples(&all(&Meters::default(), &MemoryBudget::new(1 << 20)));
        assert!(samples.len() > 50, "{samples:?}");
        assert_eq!(samples["beamline_memory_limit_bytes"], 1_048_576.0);
    }

    #[test]
    fn memory_and_queues_are_as_they_are_now() {
        let (meters, budget) = (Arc::new(Meters::default()), MemoryBudget::new(1_000));
        let mut share = WaitingShare::new(meters.clone());
        share.set(Load { blocks: 2, bytes: 300, timers: 4, running: 5 });
        let collecting = Collecting::new(&meters, 60);
        meters.bundle_time.observe(Duration::from_millis(3));
        meters.worker_wait.observe(Duration::from_secs(2));
        drop(budget.reserve(900));
        let _used = budget.reserve(70);
        budget.count_spilled(800);
        budget.grow_on_disk(500);
        budget.shrink_on_disk(100);
        (0..3).for_each(|_| budget.count_read(400));
        let found = samples(&all(&meters, &budget));
        for (name, value) in [
            ("beamline_waiting_blocks", 2.0),
            ("beamline_waiting_bytes", 300.0),
            ("beamline_waiting_timers", 4.0),
            ("beamline_bundles_running", 5.0),
            ("beamline_collecting_bytes", 60.0),
            ("beamline_bundle_seconds_bucket{le=\"0.005\"}", 1.0),
            ("beamline_bundle_seconds_sum", 0.003),
            ("beamline_worker_wait_seconds_sum", 2.0),
            ("beamline_memory_limit_bytes", 1_000.0),
            ("beamline_memory_used_bytes", 70.0),
            ("beamline_memory_peak_bytes", 900.0),
            ("beamline_spill_written_bytes_total", 800.0),
            ("beamline_spill_writes_total", 1.0),
            ("beamline_spill_disk_bytes", 400.0),
            ("beamline_spill_read_bytes_total", 1_200.0),
            ("beamline_spill_reads_total", 3.0),
        ] {
            assert_eq!(found.get(name), Some(&value), "{name}");
        }
        drop((share, collecting));
        let found = samples(&all(&meters, &budget));
        for name in ["waiting_blocks", "waiting_timers", "bundles_running", "collecting_bytes"] {
            assert_eq!(found.get(&format!("beamline_{name}")), Some(&0.0), "{name}");
        }
    }
}
