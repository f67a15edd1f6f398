//! Prometheus metrics: configurable-http-proxy's names, and a few of our own with `orrery_proxy_`.
//!
//! Each worker counts for itself; the numbers are added when somebody asks.

mod page;
mod process;

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use http::StatusCode;

use self::page::{Page, QUANTILES};
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
    lookups: Spread,
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

/// How often the last activity of a route was set, in the whole process. Threads count in places
/// of their own.
static ACTIVITY: [Shard; 64] = [const { Shard(AtomicU64::new(0)) }; 64];

#[repr(align(128))]
struct Shard(AtomicU64);

/// Counts that the last activity of a route was set.
pub(crate) fn count_activity() {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static PLACE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % ACTIVITY.len();
    }
    PLACE.with(|place| ACTIVITY[*place].0.fetch_add(1, Ordering::Relaxed));
}

/// How often the state file could not be written, in the whole process.
static STATE_FILE_FAILURES: AtomicU64 = AtomicU64::new(0);

/// Counts that the state file could not be written.
pub(crate) fn count_state_file_failure() {
    STATE_FILE_FAILURES.fetch_add(1, Ordering::Relaxed);
}

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

/// Times of nanoseconds to seconds, counted in two steps for each power of two: quantiles are right
/// to a third.
struct Spread {
    steps: [AtomicU64; 80],
    nanoseconds: AtomicU64,
}

impl Default for Spread {
    fn default() -> Self {
        Self {
            steps: [const { AtomicU64::new(0) }; 80],
            nanoseconds: AtomicU64::new(0),
        }
    }
}

impl Spread {
    fn count(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(2);
        let power = nanoseconds.ilog2();
        let half = (nanoseconds >> (power - 1)) & 1;
        let step = 2 * power as usize + usize::from(half == 1);
        add(&self.steps[step.min(self.steps.len() - 1)], 1);
        add(&self.nanoseconds, nanoseconds);
    }

    /// The upper bound of a step in nanoseconds.
    fn bound(step: usize) -> u64 {
        let power = 1u64 << (step / 2);
        power + (power / 2) * (step as u64 % 2 + 1)
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

    pub(crate) fn count_status(&self, status: StatusCode) {
        self.statuses.count(status);
    }

    /// Counts a look into the route table. Only the worker's own thread may call this.
    pub(crate) fn count_lookup(&self, time: Duration) {
        self.lookups.count(time);
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

    /// Open connections of users, websockets and streams of HTTP/2 among them.
    pub(crate) fn open_connections(&self) -> usize {
        let of = |worker: &WorkerCounters| {
            let websockets = worker.websockets.load(Ordering::Relaxed);
            let connections = worker.connections.load(Ordering::Relaxed);
            connections.saturating_add(usize::try_from(websockets).unwrap_or(usize::MAX))
        };
        self.workers.iter().map(of).sum()
    }

    pub(crate) fn count_api_status(&self, status: StatusCode) {
        self.api_statuses.count(status);
    }

    /// In Prometheus' text format 0.0.4.
    pub(crate) fn render(&self, routes: usize, access_log_dropped: u64) -> String {
        let mut page = Page::default();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let sum = |read: fn(&WorkerCounters) -> &AtomicU64| {
            self.workers
                .iter()
                .map(|worker| load(read(worker)))
                .sum::<u64>()
        };
        page.counter(
            "api_route_get",
            "API requests that listed routes",
            load(&self.api_get),
        );
        page.counter(
            "api_route_add",
            "API requests that added a route",
            load(&self.api_add),
        );
        page.counter(
            "api_route_delete",
            "API requests that deleted a route",
            load(&self.api_delete),
        );
        page.head(
            "find_target_for_req",
            "summary",
            "Seconds spent looking up routes",
        );
        page.quantiles(
            "find_target_for_req",
            self.workers.iter().map(|worker| &worker.lookups),
        );
        // Setting it takes some nanoseconds, less than looking at a clock; so it is only counted.
        page.head(
            "last_activity_updating",
            "summary",
            "Routes whose last activity was set; the time that takes is not measured",
        );
        for (_, quantile) in QUANTILES {
            let name = format!("last_activity_updating{{quantile=\"{quantile}\"}}");
            page.line(&name, 0);
        }
        page.line("last_activity_updating_sum", 0);
        let activity = ACTIVITY.iter().map(|shard| load(&shard.0)).sum::<u64>();
        page.line("last_activity_updating_count", activity);
        page.counter(
            "requests_ws",
            "Websocket requests",
            sum(|worker| &worker.ws),
        );
        page.counter(
            "requests_web",
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
        page.gauge("orrery_proxy_routes", "Routes in the table", routes as u64);
        let connections: usize = self
            .workers
            .iter()
            .map(|worker| worker.connections.load(Ordering::Relaxed))
            .sum();
        page.gauge(
            "orrery_proxy_connections",
            "Open client connections, without websockets",
            connections as u64,
        );
        page.gauge(
            "orrery_proxy_websockets",
            "Open websockets",
            sum(|worker| &worker.websockets),
        );
        page.gauge(
            "orrery_proxy_upstream_connections",
            "Open connections to servers, with those that wait for a request",
            sum(|worker| &worker.upstream_connections),
        );
        page.counter(
            "orrery_proxy_edge_cache_hits_total",
            "Requests for servers that do not run, answered without asking the hub",
            sum(|worker| &worker.edge_cache_hits),
        );
        page.counter(
            "orrery_proxy_shed_connections_total",
            "Connections that were closed at once because there were too many",
            sum(|worker| &worker.shed_connections),
        );
        page.counter(
            "orrery_proxy_access_log_dropped_total",
            "Lines that the access log was too slow for",
            access_log_dropped,
        );
        page.counter(
            "orrery_proxy_state_file_failures_total",
            "How often the state file could not be written",
            load(&STATE_FILE_FAILURES),
        );
        page.head(
            "orrery_proxy_request_duration_seconds",
            "histogram",
            "Seconds from a request's head to the end of its answer, by whose route it was",
        );
        for class in RouteClass::ALL {
            page.latencies(
                class.name(),
                self.workers
                    .iter()
                    .map(|worker| &worker.latencies[class as usize]),
            );
        }
        process::write(&mut page);
        page.into_text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(page: &str, name: &str) -> f64 {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = line.unwrap_or_else(|| panic!("{name} in\n{page}"));
        value.parse().unwrap()
    }

    #[test]
    fn latencies_are_cumulative_over_all_workers() {
        let metrics = Metrics::new(2);
        for (worker, class, milliseconds) in [
            (0, RouteClass::User, 1),
            (1, RouteClass::User, 2),
            (1, RouteClass::User, 700),
            (0, RouteClass::User, 90_000),
            (1, RouteClass::Hub, 3),
        ] {
            let time = Duration::from_millis(milliseconds);
            metrics.workers[worker].count_latency(class, time);
        }
        let page = metrics.render(0, 0);
        let user = |rest: &str| {
            let name = format!("orrery_proxy_request_duration_seconds_{rest}");
            value(&page, &name)
        };
        for (bound, count) in [
            ("0.0005", 0.0),
            ("0.001", 1.0),
            ("0.0025", 2.0),
            ("0.5", 2.0),
            ("1", 3.0),
            ("60", 3.0),
            ("+Inf", 4.0),
        ] {
            let name = format!("bucket{{class=\"user\",le=\"{bound}\"}}");
            assert!((user(&name) - count).abs() < 0.1, "{bound}");
        }
        assert!((user("count{class=\"user\"}") - 4.0).abs() < 0.1);
        assert!((user("sum{class=\"user\"}") - 90.703).abs() < 0.001);
        assert!((user("count{class=\"hub\"}") - 1.0).abs() < 0.1);
        assert!((user("count{class=\"service\"}") - 0.0).abs() < 0.1);
    }

    #[test]
    fn quantiles_of_lookups() {
        let metrics = Metrics::new(1);
        for nanoseconds in 1..=1000 {
            metrics.workers[0].count_lookup(Duration::from_nanos(nanoseconds));
        }
        let page = metrics.render(0, 0);
        for (quantile, expected) in [("0.01", 10.0), ("0.5", 500.0), ("0.999", 999.0)] {
            let name = format!("find_target_for_req{{quantile=\"{quantile}\"}}");
            let nanoseconds = value(&page, &name) * 1e9;
            assert!(
                (expected * 0.99..expected * 1.6).contains(&nanoseconds),
                "{quantile}: {nanoseconds}"
            );
        }
        assert!((value(&page, "find_target_for_req_count") - 1000.0).abs() < 0.1);
    }

    /// Names and types of CHP 5.3.0's page, without those of Node.js.
    #[test]
    fn names_are_those_of_configurable_http_proxy() {
        let page = Metrics::new(1).render(0, 0);
        for (name, kind) in [
            ("process_cpu_user_seconds_total", "counter"),
            ("process_cpu_system_seconds_total", "counter"),
            ("process_cpu_seconds_total", "counter"),
            ("process_start_time_seconds", "gauge"),
            ("process_resident_memory_bytes", "gauge"),
            ("process_virtual_memory_bytes", "gauge"),
            ("process_heap_bytes", "gauge"),
            ("process_open_fds", "gauge"),
            ("process_max_fds", "gauge"),
            ("api_route_get", "counter"),
            ("api_route_add", "counter"),
            ("api_route_delete", "counter"),
            ("find_target_for_req", "summary"),
            ("last_activity_updating", "summary"),
            ("requests_ws", "counter"),
            ("requests_web", "counter"),
            ("requests_proxy", "counter"),
            ("requests_api", "counter"),
        ] {
            let line = format!("# TYPE {name} {kind}");
            assert!(page.lines().any(|other| other == line), "{line} in\n{page}");
        }
        assert!(value(&page, "process_start_time_seconds") > 1e9);
        assert!(value(&page, "process_open_fds") > 2.0);
        assert!(value(&page, "process_max_fds") > 2.0);
    }
}
