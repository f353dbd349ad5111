//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use runner_core::meters::{BOUNDS, Histogram};

/// The metrics written so far.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "counter");
        self.sample(name, "", value);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        self.sample(name, "", value);
    }

    /// One metric with a value for each value of a label.
    pub(super) fn gauges<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, help, "gauge");
        self.labelled(name, label, values);
    }

    /// The same for what only grows.
    pub(super) fn counters<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        self.head(name, help, "counter");
        self.labelled(name, label, values);
    }

    /// In seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let (counts, all) = histogram.counts();
        for (bound, count) in BOUNDS.iter().zip(counts) {
            self.sample(&format!("{name}_bucket"), &format!("{{le=\"{}\"}}", bound.as_secs_f64()), count);
        }
        self.sample(&format!("{name}_bucket"), "{le=\"+Inf\"}", all);
        self.sample(&format!("{name}_sum"), "", histogram.sum().as_secs_f64());
        self.sample(&format!("{name}_count"), "", all);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn labelled<V: Display>(
        &mut self,
        name: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        for (label_value, value) in values {
            let label_value = label_value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            self.sample(name, &format!("{{{label}=\"{label_value}\"}}"), value);
        }
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_metric_is_its_help_its_type_and_its_samples() {
        let mut exposition = Exposition::default();
        exposition.counter("made_total", "What was made.", 7);
        exposition.gauges("jobs", "Jobs.", "name", [("a \"b\"\\\nc".to_owned(), 1.5)]);
        assert_eq!(
            exposition.into_text(),
            "# HELP made_total What was made.\n# TYPE made_total counter\nmade_total 7\n\
             # HELP jobs Jobs.\n# TYPE jobs gauge\njobs{name=\"a \\\"b\\\"\\\\\\nc\"} 1.5\n"
        );
    }

    #[test]
    fn a_histogram_has_cumulative_buckets_in_seconds() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(2));
        histogram.observe(Duration::from_secs(600));
        let mut exposition = Exposition::default();
        exposition.histogram("wait_seconds", "Waits.", &histogram);
        let text = exposition.into_text();
        for line in [
            "# TYPE wait_seconds histogram",
            "wait_seconds_bucket{le=\"0.001\"} 0",
            "wait_seconds_bucket{le=\"0.0025\"} 1",
            "wait_seconds_bucket{le=\"60\"} 1",
            "wait_seconds_bucket{le=\"+Inf\"} 2",
            "wait_seconds_sum 600.002",
            "wait_seconds_count 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
