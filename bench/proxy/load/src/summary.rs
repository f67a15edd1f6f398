//! Times of many answers as a few numbers.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Debug, Default)]
pub(crate) struct Times(Vec<u32>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        // A quarter of an hour fits.
        self.0
            .push(u32::try_from(time.as_nanos() / 256).unwrap_or(u32::MAX));
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Count, count per second and percentiles in microseconds.
    pub(crate) fn summary(mut self, elapsed: Duration) -> Value {
        self.0.sort_unstable();
        json!({
            "count": self.0.len(),
            "seconds": elapsed.as_secs_f64(),
            "per_second": self.per_second(elapsed),
            "p50_us": self.percentile(500),
            "p99_us": self.percentile(990),
            "p999_us": self.percentile(999),
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of answers is small")]
    fn per_second(&self, elapsed: Duration) -> f64 {
        self.0.len() as f64 / elapsed.as_secs_f64()
    }

    fn percentile(&self, thousandths: usize) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        let at = (self.0.len() * thousandths / 1000).min(last);
        Some(f64::from(self.0[at]) * 0.256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times = Times::default();
        for milliseconds in (1..=100).rev() {
            times.add(Duration::from_millis(milliseconds));
        }
        let summary = times.summary(Duration::from_secs(2));
        assert_eq!(summary["count"], 100);
        assert_eq!(summary["per_second"], 50.0);
        let p50 = summary["p50_us"].as_f64().unwrap();
        assert!((p50 - 51_000.0).abs() < 1.0, "{p50}");
        let p99 = summary["p99_us"].as_f64().unwrap();
        assert!((p99 - 100_000.0).abs() < 1.0, "{p99}");
        let nothing = Times::default().summary(Duration::from_secs(1));
        assert!(nothing["p50_us"].is_null());
    }
}
