//! The page of the metrics, in Prometheus' text format 0.0.4.

use std::{fmt::Write, sync::atomic::Ordering, time::Duration};

use super::{BOUNDS, Histogram, Spread, Statuses};

/// The page as far as it is written.
#[derive(Default)]
pub(super) struct Page(String);

/// In thousandths, and as CHP shows them.
pub(super) const QUANTILES: [(u64, &str); 7] = [
    (10, "0.01"),
    (50, "0.05"),
    (500, "0.5"),
    (900, "0.9"),
    (950, "0.95"),
    (990, "0.99"),
    (999, "0.999"),
];

impl Page {
    pub(super) fn into_text(self) -> String {
        self.0
    }

    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    pub(super) fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "counter", help);
        self.line(name, value);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }

    pub(super) fn statuses<'a>(&mut self, name: &str, all: impl Iterator<Item = &'a Statuses>) {
        let mut sums = [0u64; 500];
        for statuses in all {
            for (sum, counter) in sums.iter_mut().zip(&statuses.0) {
                *sum += counter.load(Ordering::Relaxed);
            }
        }
        for (index, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0) {
            let _ = writeln!(self.0, "{name}{{status=\"{}\"}} {sum}", index + 100);
        }
    }

    pub(super) fn quantiles<'a>(&mut self, name: &str, all: impl Iterator<Item = &'a Spread>) {
        let mut steps = [0u64; 80];
        let mut nanoseconds = 0;
        for spread in all {
            for (sum, counter) in steps.iter_mut().zip(&spread.steps) {
                *sum += counter.load(Ordering::Relaxed);
            }
            nanoseconds += spread.nanoseconds.load(Ordering::Relaxed);
        }
        let count: u64 = steps.iter().sum();
        for (thousandths, quantile) in QUANTILES {
            let rank = (count * thousandths).div_ceil(1000).max(1);
            let mut seen = 0;
            let step = steps.iter().position(|number| {
                seen += number;
                seen >= rank
            });
            let bound = Duration::from_nanos(step.map_or(0, Spread::bound));
            let name = format!("{name}{{quantile=\"{quantile}\"}}");
            self.line(&name, bound.as_secs_f64());
        }
        let sum = Duration::from_nanos(nanoseconds).as_secs_f64();
        self.line(&format!("{name}_sum"), sum);
        self.line(&format!("{name}_count"), count);
    }

    pub(super) fn latencies<'a>(&mut self, class: &str, all: impl Iterator<Item = &'a Histogram>) {
        let mut buckets = [0u64; BOUNDS.len() + 1];
        let mut microseconds = 0;
        for histogram in all {
            for (sum, counter) in buckets.iter_mut().zip(&histogram.buckets) {
                *sum += counter.load(Ordering::Relaxed);
            }
            microseconds += histogram.microseconds.load(Ordering::Relaxed);
        }
        let name = "orrery_proxy_request_duration_seconds";
        let bounds = BOUNDS.iter().map(|(_, bound)| *bound).chain(["+Inf"]);
        let mut count = 0;
        for (bound, number) in bounds.zip(buckets) {
            count += number;
            self.line(
                &format!("{name}_bucket{{class=\"{class}\",le=\"{bound}\"}}"),
                count,
            );
        }
        let sum = Duration::from_micros(microseconds).as_secs_f64();
        self.line(&format!("{name}_sum{{class=\"{class}\"}}"), sum);
        self.line(&format!("{name}_count{{class=\"{class}\"}}"), count);
    }
}
