//! What the hub counts, under upstream's names, for Prometheus.

use prometheus::{HistogramOpts, HistogramVec, Registry};

/// All metrics of one hub.
pub struct Metrics {
    registry: Registry,
    login_duration: HistogramVec,
}

impl Metrics {
    /// Metrics at nought.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let login_duration = HistogramVec::new(
            HistogramOpts::new("jupyterhub_login_duration_seconds", "Time for a login, by whether it succeeded"),
            &["status"],
        )?;
        registry.register(Box::new(login_duration.clone()))?;
        Ok(Self { registry, login_duration })
    }

    /// Where the metrics are gathered from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a login.
    pub fn login(&self, succeeded: bool) {
        let status = if succeeded { "success" } else { "failure" };
        self.login_duration.with_label_values(&[status]).observe(0.0);
    }
}
