//! What the hub counts and measures, for Prometheus, under upstream's names and labels.
//!
//! Gauges are read from the database when somebody looks. So are the durations of starts and stops: the
//! ledger of runs has them, whichever way a server was started.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use chrono::{NaiveDateTime, TimeDelta};
use orrery_core::phase::{Cause, Phase};
use orrery_core::scopes::Scope;
use orrery_store::runs::Run;
use orrery_store::users::UserQuery;
use orrery_store::{runs, users};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::auth::Asking;
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Tag};
use crate::router::{ApiRoutes, Needs, Routes};
use crate::state::AppState;

/// Runs are looked at this long after something happened to them, so that none is missed whose
/// transaction ends a little later than it says.
const LAG: TimeDelta = TimeDelta::seconds(2);

/// How far the ledger of runs was counted.
#[derive(Clone, Copy)]
struct Counted {
    /// Everything until then.
    until: NaiveDateTime,
    /// Nothing new can be said of runs before this id.
    first: i64,
}

/// All metrics of one hub.
pub struct Metrics {
    registry: Registry,
    request_duration: HistogramVec,
    login_duration: HistogramVec,
    logout_duration: Histogram,
    spawn_duration: HistogramVec,
    stop_duration: HistogramVec,
    running_servers: IntGauge,
    pending_servers: IntGaugeVec,
    total_users: IntGauge,
    active_users: IntGaugeVec,
    csp_reports: IntCounter,
    audit_lost: IntCounter,
    /// How far the ledger of runs was counted; nothing before the first look.
    counted: tokio::sync::Mutex<Option<Counted>>,
}

impl Metrics {
    /// Metrics at nought.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let spawn_buckets = vec![
            0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0,
        ];
        let stop_buckets = vec![
            0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
        ];
        let metrics = Self {
            request_duration: register(
                &registry,
                HistogramVec::new(
                    options("request_duration_seconds", "Time for an HTTP request"),
                    &["method", "handler", "code"],
                ),
            )?,
            login_duration: register(
                &registry,
                HistogramVec::new(
                    options(
                        "login_duration_seconds",
                        "Time for a login, by whether it succeeded",
                    ),
                    &["status"],
                ),
            )?,
            logout_duration: register(
                &registry,
                Histogram::with_opts(options("logout_duration_seconds", "Time for a logout")),
            )?,
            spawn_duration: register(
                &registry,
                HistogramVec::new(
                    options(
                        "server_spawn_duration_seconds",
                        "Time from the request for a server to its end or readiness",
                    )
                    .buckets(spawn_buckets),
                    &["status", "reason"],
                ),
            )?,
            stop_duration: register(
                &registry,
                HistogramVec::new(
                    options("server_stop_seconds", "Time for a server to stop")
                        .buckets(stop_buckets),
                    &["status"],
                ),
            )?,
            running_servers: register(
                &registry,
                IntGauge::new(
                    "jupyterhub_running_servers",
                    "Servers that are active: starting, running or stopping",
                ),
            )?,
            pending_servers: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("orrery_servers", "Servers by where they stand"),
                    &["phase"],
                ),
            )?,
            total_users: register(
                &registry,
                IntGauge::new("jupyterhub_total_users", "Users in the database"),
            )?,
            active_users: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "jupyterhub_active_users",
                        "Users that were active within a period",
                    ),
                    &["period"],
                ),
            )?,
            csp_reports: register(
                &registry,
                IntCounter::new(
                    "jupyterhub_csp_reports_total",
                    "Reported violations of the content security policy",
                ),
            )?,
            audit_lost: register(
                &registry,
                IntCounter::new(
                    "orrery_audit_lost_total",
                    "Audit events that are in the hub's log but not in the table",
                ),
            )?,
            counted: tokio::sync::Mutex::default(),
            registry,
        };
        // Series exist before their first event, so that dashboards and alerts can rely on them.
        for status in ["success", "failure", "error"] {
            metrics.spawn_duration.with_label_values(&[status, ""]);
        }
        for reason in ["throttled", "too-many-users", "already-pending"] {
            metrics
                .spawn_duration
                .with_label_values(&["failure", reason]);
        }
        for status in ["success", "failure"] {
            metrics.stop_duration.with_label_values(&[status]);
            metrics.login_duration.with_label_values(&[status]);
        }
        Ok(metrics)
    }

    /// Where the metrics are gathered from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a login and how long it took.
    pub fn login(&self, succeeded: bool, took: Duration) {
        let status = if succeeded { "success" } else { "failure" };
        self.login_duration
            .with_label_values(&[status])
            .observe(took.as_secs_f64());
    }

    /// Counts a logout and how long it took.
    pub fn logout(&self, took: Duration) {
        self.logout_duration.observe(took.as_secs_f64());
    }

    /// Counts a report on the content security policy.
    pub fn csp_report(&self) {
        self.csp_reports.inc();
    }

    /// Counts audit events that the table does not have.
    pub fn audit_lost(&self, events: u64) {
        self.audit_lost.inc_by(events);
    }

    /// Counts what happened to a run after `after` and until `until`.
    fn count_run(&self, run: &Run, after: NaiveDateTime, until: NaiveDateTime) {
        let within =
            |time: Option<NaiveDateTime>| time.filter(|time| *time > after && *time <= until);
        let seconds = |from: NaiveDateTime, to: NaiveDateTime| {
            (to - from).to_std().unwrap_or_default().as_secs_f64()
        };
        if let Some(ready) = within(run.ready_at) {
            self.spawn_duration
                .with_label_values(&["success", ""])
                .observe(seconds(run.queued_at, ready));
        }
        let Some(ended) = within(run.ended_at) else {
            return;
        };
        if run.ready_at.is_none()
            && let Some(failure) = &run.failure
        {
            let (status, reason) = spawn_status(failure.cause);
            self.spawn_duration
                .with_label_values(&[status, reason])
                .observe(seconds(run.queued_at, ended));
        }
        if let Some(stopping) = run.stopping_at {
            let status = if run.phase == Phase::Stopped {
                "success"
            } else {
                "failure"
            };
            self.stop_duration
                .with_label_values(&[status])
                .observe(seconds(stopping, ended));
        }
    }
}

fn options(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(format!("jupyterhub_{name}"), help)
}

fn register<C>(
    registry: &Registry,
    metric: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error>
where
    C: Collector + Clone + 'static,
{
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// Upstream's `status` and `reason` of a start that came to nothing: refusals are failures, the rest are
/// errors.
fn spawn_status(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::Cancelled => ("failure", "cancelled"),
        Cause::Options => ("failure", "options"),
        Cause::Quota => ("failure", "quota"),
        Cause::Timeout => ("error", "timeout"),
        Cause::Exited => ("error", "exited"),
        Cause::Command => ("error", "command"),
        Cause::Image => ("error", "image"),
        Cause::OutOfMemory => ("error", "out-of-memory"),
        Cause::Unreachable => ("error", "unreachable"),
        Cause::Spawner | Cause::Internal => ("error", "error"),
    }
}

/// `/metrics`, where Prometheus looks.
pub fn routes() -> Routes {
    Routes::default().get("/metrics", Needs::Nothing, show)
}

/// The same below `/api`.
pub fn api_routes() -> ApiRoutes {
    ApiRoutes::default().get("/api/metrics", Needs::Nothing, &SHOW, show)
}

const SHOW: Operation = Operation::new("get-metrics", Tag::Hub, "Show the metrics")
    .about(
        "As Prometheus reads them. Whoever asks gets them where `authenticate_prometheus` is off.",
    )
    .checks(Needs::Scopes(&[Scope::ReadMetrics]))
    .answers(&[Answer::text(200, "The metrics.", "text/plain")]);

/// `GET /metrics`: everything, as Prometheus reads it.
async fn show(State(hub): State<AppState>, Asking(requester): Asking) -> Result<Response> {
    if hub.config.hub.authenticate_prometheus && !requester.scopes.has(Scope::ReadMetrics) {
        return Err(Error::forbidden(
            "Access to metrics requires scope 'read:metrics'",
        ));
    }
    refresh(&hub).await?;
    let text = TextEncoder::new()
        .encode_to_string(&hub.metrics.registry.gather())
        .map_err(|error| Error::Internal(format!("the metrics could not be written: {error}")))?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

async fn refresh(hub: &AppState) -> Result<()> {
    let metrics = &hub.metrics;
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counts = hub.servers.counts().await?;
    metrics.running_servers.set(number(counts.active()));
    for (phase, count) in [
        ("queued", counts.queued),
        ("starting", counts.starting),
        ("ready", counts.ready),
        ("stopping", counts.stopping),
    ] {
        metrics
            .pending_servers
            .with_label_values(&[phase])
            .set(number(count));
    }
    let connection = hub.store.read();
    metrics.total_users.set(number(
        users::count(connection, &UserQuery::default()).await?,
    ));
    let now = hub.clock.now();
    for (period, hours) in [("24h", 24), ("7d", 7 * 24), ("30d", 30 * 24)] {
        let count = users::count_active_since(connection, now - TimeDelta::hours(hours)).await?;
        metrics
            .active_users
            .with_label_values(&[period])
            .set(number(count));
    }
    // Two looks at once must not count a run twice.
    let mut counted = metrics.counted.lock().await;
    let before = counted.unwrap_or(Counted {
        until: hub.started,
        first: 0,
    });
    let until = (now - LAG).max(before.until);
    let changed = runs::changed_between(connection, before.first, before.until, until).await?;
    let first = runs::first_open(connection, before.first, until).await?;
    for run in changed {
        metrics.count_run(&run, before.until, until);
    }
    *counted = Some(Counted { until, first });
    Ok(())
}

/// Measures each request; a layer around all routes.
pub async fn measure(State(hub): State<AppState>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let handler = path.as_ref().map_or("", |path| {
        path.as_str()
            .strip_prefix(hub.urls.hub.as_str())
            .unwrap_or_default()
    });
    hub.metrics
        .request_duration
        .with_label_values(&[
            method.as_str(),
            handler_name(handler),
            response.status().as_str(),
        ])
        .observe(began.elapsed().as_secs_f64());
    response
}

/// The label that upstream gives a route: the name of its handler's class. `route` is without the hub's
/// prefix.
fn handler_name(route: &str) -> &'static str {
    match route {
        "api" | "api/" => "jupyterhub.apihandlers.hub.RootAPIHandler",
        "api/info" => "jupyterhub.apihandlers.hub.InfoAPIHandler",
        "api/shutdown" => "jupyterhub.apihandlers.hub.ShutdownAPIHandler",
        "api/proxy" => "jupyterhub.apihandlers.proxy.ProxyAPIHandler",
        "api/user" => "jupyterhub.apihandlers.users.SelfAPIHandler",
        "api/users" => "jupyterhub.apihandlers.users.UserListAPIHandler",
        "api/users/{user}" => "jupyterhub.apihandlers.users.UserAPIHandler",
        "api/users/{user}/activity" => "jupyterhub.apihandlers.users.ActivityAPIHandler",
        "api/users/{user}/tokens" => "jupyterhub.apihandlers.users.UserTokenListAPIHandler",
        "api/users/{user}/tokens/{token_id}" => "jupyterhub.apihandlers.users.UserTokenAPIHandler",
        "api/users/{user}/server"
        | "api/users/{user}/servers/"
        | "api/users/{user}/servers/{server}" => {
            "jupyterhub.apihandlers.users.UserServerAPIHandler"
        }
        "api/groups" => "jupyterhub.apihandlers.groups.GroupListAPIHandler",
        "api/groups/{group}" => "jupyterhub.apihandlers.groups.GroupAPIHandler",
        "api/groups/{group}/users" => "jupyterhub.apihandlers.groups.GroupUsersAPIHandler",
        "api/groups/{group}/properties" => {
            "jupyterhub.apihandlers.groups.GroupPropertiesAPIHandler"
        }
        "api/services" => "jupyterhub.apihandlers.services.ServiceListAPIHandler",
        "api/services/{service}" => "jupyterhub.apihandlers.services.ServiceAPIHandler",
        "api/oauth2/authorize" => "jupyterhub.apihandlers.auth.OAuthAuthorizeHandler",
        "api/oauth2/token" => "jupyterhub.apihandlers.auth.OAuthTokenHandler",
        "login" => "jupyterhub.handlers.login.LoginHandler",
        "logout" => "jupyterhub.handlers.login.LogoutHandler",
        "home" => "jupyterhub.handlers.pages.HomeHandler",
        "token" => "jupyterhub.handlers.pages.TokenPageHandler",
        "admin" => "jupyterhub.handlers.pages.AdminHandler",
        "health" | "api/health" => "jupyterhub.handlers.pages.HealthCheckHandler",
        "metrics" | "api/metrics" => "jupyterhub.handlers.metrics.MetricsHandler",
        "security/csp-report" => "jupyterhub.handlers.base.CSPReportHandler",
        other => {
            // Families of paths, most telling part first.
            for (part, name) in [
                (
                    "/progress",
                    "jupyterhub.apihandlers.users.SpawnProgressAPIHandler",
                ),
                (
                    "api/authorizations/token",
                    "jupyterhub.apihandlers.auth.TokenAPIHandler",
                ),
                (
                    "api/authorizations/cookie",
                    "jupyterhub.apihandlers.auth.CookieAPIHandler",
                ),
                (
                    "api/share-codes/",
                    "jupyterhub.apihandlers.shares.ServerShareCodeAPIHandler",
                ),
                (
                    "/shared",
                    "jupyterhub.apihandlers.shares.UserShareAPIHandler",
                ),
                (
                    "api/shares/",
                    "jupyterhub.apihandlers.shares.ServerShareAPIHandler",
                ),
                (
                    "spawn-pending",
                    "jupyterhub.handlers.pages.SpawnPendingHandler",
                ),
                ("spawn", "jupyterhub.handlers.pages.SpawnHandler"),
                (
                    "user-redirect",
                    "jupyterhub.handlers.base.UserRedirectHandler",
                ),
                ("user/", "jupyterhub.handlers.base.UserUrlHandler"),
                (
                    "static",
                    "jupyterhub.handlers.static.CacheControlStaticFilesHandler",
                ),
                ("logo", "jupyterhub.handlers.static.LogoHandler"),
            ] {
                if other.contains(part) {
                    return name;
                }
            }
            "jupyterhub.handlers.base.Template404"
        }
    }
}

#[cfg(test)]
mod tests {
    use orrery_core::phase::Failure;

    use super::*;

    fn at(second: u32) -> NaiveDateTime {
        chrono::NaiveDate::from_ymd_opt(2026, 1, 2)
            .and_then(|day| day.and_hms_opt(3, 4, second))
            .expect("a time")
    }

    fn run(phase: Phase) -> Run {
        Run {
            id: 1,
            user_id: Some(1),
            spawner_id: Some(1),
            user_name: "ada".to_owned(),
            server_name: String::new(),
            phase,
            owner: None,
            lease_until: None,
            deadline: None,
            events: Vec::new(),
            failure: None,
            cancel_requested: false,
            queued_at: at(0),
            started_at: None,
            ready_at: None,
            stopping_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn each_part_of_a_run_is_counted_once() {
        let metrics = Metrics::new().expect("names differ");
        let run = Run {
            ready_at: Some(at(4)),
            stopping_at: Some(at(10)),
            ended_at: Some(at(11)),
            ..run(Phase::Stopped)
        };
        for (after, until) in [(0, 5), (5, 10), (10, 20), (20, 30)] {
            metrics.count_run(&run, at(after), at(until));
        }
        let spawned = metrics.spawn_duration.with_label_values(&["success", ""]);
        assert_eq!(
            (spawned.get_sample_count(), spawned.get_sample_sum()),
            (1, 4.0)
        );
        let stopped = metrics.stop_duration.with_label_values(&["success"]);
        assert_eq!(
            (stopped.get_sample_count(), stopped.get_sample_sum()),
            (1, 1.0)
        );
    }

    #[test]
    fn a_failed_start_is_counted_under_its_cause() {
        let metrics = Metrics::new().expect("names differ");
        let failure = Failure::new(Cause::Timeout, "It did not answer.");
        let run = Run {
            ended_at: Some(at(30)),
            failure: Some(failure),
            ..run(Phase::Failed)
        };
        metrics.count_run(&run, at(0), at(40));
        assert_eq!(
            metrics
                .spawn_duration
                .with_label_values(&["error", "timeout"])
                .get_sample_count(),
            1
        );
        assert_eq!(
            metrics
                .spawn_duration
                .with_label_values(&["success", ""])
                .get_sample_count(),
            0
        );
    }

    #[test]
    fn routes_have_upstreams_labels() {
        for (route, name) in [
            (
                "api/users/{user}/servers/{server}/progress",
                "jupyterhub.apihandlers.users.SpawnProgressAPIHandler",
            ),
            (
                "spawn-pending/{user}/{server}",
                "jupyterhub.handlers.pages.SpawnPendingHandler",
            ),
            ("spawn/{user}", "jupyterhub.handlers.pages.SpawnHandler"),
            ("api/user", "jupyterhub.apihandlers.users.SelfAPIHandler"),
            ("nothing", "jupyterhub.handlers.base.Template404"),
        ] {
            assert_eq!(handler_name(route), name, "{route}");
        }
    }
}
