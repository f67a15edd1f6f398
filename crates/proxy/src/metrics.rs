//! Prometheus metrics: configurable-http-proxy's names, and a few of our own with `orrery_proxy_`.
//!
//! Each worker counts for itself; the numbers are added when somebody asks.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use http::StatusCode;

use crate::routes::RouteClass;

pub(crate) struct Metrics {
    pub(crate) workers: Box<[WorkerCounters]>,
    pub(crate) api_get: AtomicU64,
    pub(crate) api_add: AtomicU64,
    pub(crate) api_delete: AtomicU64,
    api_statuses: Statuses,
}

/// Aligned so that two workers do not write to one cache line.
#[repr(align(128))]
#[derive(Default)]
pub(crate) struct WorkerCounters {
    /// Open client connections. Also read to find the worker with the fewest.
    pub(crate) connections: AtomicUsize,
    pub(crate) websockets: AtomicU64,
    pub(crate) web: AtomicU64,
    pub(crate) ws: AtomicU64,
    /// Open connections to servers, idle ones too.
    pub(crate) upstream_connections: AtomicU64,
    /// Requests that were answered from the cache of the hub's answers.
    pub(crate) edge_cache_hits: AtomicU64,
    /// Connections that were closed at once, because there were too many.
    pub(crate) shed_connections: AtomicU64,
    latencies: [Histogram; 4],
    activity: AtomicU64,
    lookups: AtomicU64,
    lookup_nanoseconds: AtomicU64,
    statuses: Statuses,
}

/// Requests by how long they took.
#[derive(Default)]
struct Histogram {
    /// Not cumulative; the last is for what is above all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// The upper bounds of the latency buckets in microseconds, and as they are shown.
const BOUNDS: [(u64, &str); 15] = [
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
];

/// Counts what only one thread counts, which is cheaper than an atomic addition.
fn add(counter: &AtomicU64, number: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(number);
    counter.store(sum, Ordering::Relaxed);
}

impl Histogram {
    fn count(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|(bound, _)| *bound < microseconds);
        add(&self.buckets[bucket], 1);
        add(&self.microseconds, microseconds);
    }
}

/// One counter for each status from 100 to 599.
struct Statuses(Box<[AtomicU64]>);

impl Default for Statuses {
    fn default() -> Self {
        Self((0..500).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Statuses {
    fn count(&self, status: StatusCode) {
        let index = usize::from(status.as_u16()).saturating_sub(100);
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl WorkerCounters {
    /// Counts a request by the time from its head to the end of its answer. Only the worker's own
    /// thread may call this.
    pub(crate) fn count_latency(&self, class: RouteClass, time: Duration) {
        self.latencies[class as usize].count(time);
    }

    /// Counts that a route's last activity was set. Only the worker's own thread may call this.
    pub(crate) fn count_activity(&self) {
        add(&self.activity, 1);
    }

    pub(crate) fn count_status(&self, status: StatusCode) {
        self.statuses.count(status);
    }

    pub(crate) fn count_lookup(&self, time: Duration) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.lookup_nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerCounters::default()).collect(),
            api_get: AtomicU64::new(0),
            api_add: AtomicU64::new(0),
            api_delete: AtomicU64::new(0),
            api_statuses: Statuses::default(),
        }
    }

    pub(crate) fn count_api_status(&self, status: StatusCode) {
        self.api_statuses.count(status);
    }

    /// In Prometheus' text format 0.0.4.
    pub(crate) fn render(&self, routes: usize) -> String {
        let mut page = Page(String::new());
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |read: fn(&WorkerCounters) -> &AtomicU64| {
            self.workers
                .iter()
                .map(|worker| load(read(worker)))
                .sum::<u64>()
        };
        page.one(
            "api_route_get",
            "counter",
            "API requests that listed routes",
            load(&self.api_get),
        );
        page.one(
            "api_route_add",
            "counter",
            "API requests that added a route",
            load(&self.api_add),
        );
        page.one(
            "api_route_delete",
            "counter",
            "API requests that deleted a route",
            load(&self.api_delete),
        );
        page.head(
            "find_target_for_req",
            "summary",
            "Seconds spent looking up routes",
        );
        let seconds = Duration::from_nanos(sum(|worker| &worker.lookup_nanoseconds)).as_secs_f64();
        page.line("find_target_for_req_sum", seconds);
        page.line("find_target_for_req_count", sum(|worker| &worker.lookups));
        page.one(
            "requests_ws",
            "counter",
            "Websocket requests",
            sum(|worker| &worker.ws),
        );
        page.one(
            "requests_web",
            "counter",
            "Requests other than websockets",
            sum(|worker| &worker.web),
        );
        page.head("requests_proxy", "counter", "Answers to proxied requests");
        page.statuses(
            "requests_proxy",
            self.workers.iter().map(|worker| &worker.statuses),
        );
        page.head("requests_api", "counter", "Answers of the REST API");
        page.statuses("requests_api", std::iter::once(&self.api_statuses));
        page.one(
            "orrery_proxy_routes",
            "gauge",
            "Routes in the table",
            routes as u64,
        );
        let connections: usize = self
            .workers
            .iter()
            .map(|worker| worker.connections.load(Ordering::Relaxed))
            .sum();
        page.one(
            "orrery_proxy_connections",
            "gauge",
            "Open client connections, without websockets",
            connections as u64,
        );
        page.one(
            "orrery_proxy_websockets",
            "gauge",
            "Open websockets",
            sum(|worker| &worker.websockets),
        );
        page.process();
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, value);
    }

    fn statuses<'a>(&mut self, name: &str, all: impl Iterator<Item = &'a Statuses>) {
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

    /// What Prometheus' clients tell of their process, as far as `/proc` has it at hand.
    fn process(&mut self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status")
            && let Some(kilobytes) = status.lines().find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
        {
            self.one(
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory in bytes",
                kilobytes * 1024,
            );
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            self.one(
                "process_open_fds",
                "gauge",
                "Open file descriptors",
                files.count() as u64,
            );
        }
    }
}
