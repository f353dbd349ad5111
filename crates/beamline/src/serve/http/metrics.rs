//! What the server does and costs, metric by metric.

use job_service::{JobService, JobState};
use runner_core::meters::Meters;
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
    out.gauge("beamline_waiting_blocks", "Blocks of elements before stages.", waiting.blocks.get());
    out.gauge("beamline_waiting_bytes", "Encoded elements before stages, in bytes.", waiting.bytes.get());
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
