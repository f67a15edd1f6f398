//! Keeps the proxy's table as the database wants it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use orrery_core::routes::{Route, RouteError, RouteTable};
use orrery_core::{ServerName, UserName};
use orrery_store::{NaiveDateTime, Store, StoreError};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::wanted::{self, Wanted};
use crate::urls::Urls;

/// The pause after a check that failed: the proxy may be back soon.
const RETRY: Duration = Duration::from_millis(500);
/// How often everything is compared though nothing is known to have changed.
const COMPARE: Duration = Duration::from_mins(1);
/// Checks that are asked for follow each other no faster than this.
const CALM: Duration = Duration::from_millis(50);
/// How many changes of the table are under way at once; the table has its own bound too.
const AT_ONCE: usize = 16;
/// More changes than this are made in one step, by a proxy that can do that.
const HANDFUL: usize = 8;

/// Keeps the proxy's routes as they should be. Cloning gives another handle.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

/// What a keeper is made of.
pub struct KeeperParts {
    /// The database.
    pub store: Store,
    /// The proxy.
    pub table: Arc<dyn RouteTable>,
    /// Where servers and services are.
    pub urls: Urls,
    /// `JupyterHub.hub_routespec`.
    pub hub_routespec: String,
    /// Where the proxy reaches the hub: `http://127.0.0.1:8081`.
    pub hub_target: String,
    /// `Proxy.extra_routes`.
    pub extra_routes: BTreeMap<String, String>,
    /// How often to look whether the proxy is there and still has its routes.
    pub check_interval: Duration,
}

/// What all handles share.
pub struct Inner {
    parts: KeeperParts,
    wake: Notify,
    closing: CancellationToken,
    is_up: AtomicBool,
    checking: tokio::sync::Mutex<()>,
    /// A route that the proxy has as long as it has not lost its table.
    sample: Mutex<Option<String>>,
}

impl Deref for Keeper {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// What a check changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Routes that were missing or led elsewhere.
    pub added: Vec<String>,
    /// Routes that nobody wants any more.
    pub deleted: Vec<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.deleted.is_empty()
    }
}

/// A check that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The proxy failed.
    #[error(transparent)]
    Route(#[from] RouteError),
}

/// When the proxy last saw somebody use a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// Whose server.
    pub(crate) user: String,
    /// Its name.
    pub(crate) server: String,
    /// When.
    pub(crate) at: NaiveDateTime,
}

impl Keeper {
    /// A keeper that does nothing yet: spawn [`Keeper::run`].
    pub fn new(parts: KeeperParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            wake: Notify::new(),
            closing: CancellationToken::new(),
            is_up: AtomicBool::new(false),
            checking: tokio::sync::Mutex::default(),
            sample: Mutex::default(),
        }))
    }

    /// Checks at once, when woken, soon after a check that failed, and every minute, until
    /// [`Keeper::close`]. In between it looks every `check_interval` whether the proxy is there, and
    /// checks if that has lost its table.
    pub async fn run(&self) {
        let mut was_up = true;
        // When everything was compared, unless it is to be compared at once.
        let mut compared: Option<Instant> = None;
        loop {
            let is_due = !was_up || compared.is_none_or(|at| at.elapsed() >= COMPARE);
            let outcome = if is_due {
                compared = Some(Instant::now());
                self.check().await
            } else {
                match self.look().await {
                    Ok(true) => Ok(Changes::default()),
                    Ok(false) => {
                        compared = Some(Instant::now());
                        self.check().await
                    }
                    Err(error) => Err(error.into()),
                }
            };
            let pause = match outcome {
                Ok(changes) => {
                    if !was_up {
                        tracing::info!("the proxy answers again");
                    }
                    was_up = true;
                    for spec in &changes.added {
                        tracing::info!(spec, "added a route");
                    }
                    for spec in &changes.deleted {
                        tracing::warn!(spec, "deleted a stale route");
                    }
                    self.parts.check_interval.clamp(CALM, COMPARE)
                }
                Err(error) => {
                    // Said once for each time that it is away.
                    if was_up {
                        tracing::error!(%error, "the routes could not be checked; trying until it works");
                    }
                    was_up = false;
                    RETRY
                }
            };
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {
                    compared = None;
                    tokio::time::sleep(CALM).await;
                }
            }
        }
    }

    /// Whether the proxy answers and has a route that it should have.
    async fn look(&self) -> Result<bool, RouteError> {
        if let Some(spec) = self.sample() {
            return self.noting(self.parts.table.has(&spec).await);
        }
        // Nothing but the hub's own route, or the sample was removed.
        let routes = self.routes().await?;
        self.choose_sample(routes.keys());
        Ok(routes.contains_key(&self.parts.hub_routespec))
    }

    /// Routes of servers come and go; others stay.
    fn choose_sample<'a>(&self, specs: impl Iterator<Item = &'a String>) {
        let of_users = format!("{}user/", self.parts.urls.base);
        let sample = specs
            .filter(|spec| **spec != self.parts.hub_routespec)
            .min_by_key(|spec| spec.contains(&of_users))
            .cloned();
        *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    fn sample(&self) -> Option<String> {
        self.sample
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says that something changed, or that the proxy is back: [`Keeper::run`] checks soon.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Ends [`Keeper::run`]. The routes stay.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Whether the proxy answered last time.
    pub fn proxy_is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// All routes that the proxy has from us, as it tells them.
    pub async fn routes(&self) -> Result<BTreeMap<String, Route>, RouteError> {
        self.noting(self.parts.table.routes().await)
    }

    /// Compares all routes with what the database wants and makes the difference good.
    pub async fn check(&self) -> Result<Changes, KeeperError> {
        let _checking = self.checking.lock().await;
        let wanted = self.wanted().await?;
        let present = self.routes().await?;
        let missing: Vec<(&String, &Route)> = wanted
            .routes
            .iter()
            .filter(|(spec, route)| {
                present
                    .get(*spec)
                    .is_none_or(|there| there.target != route.target)
            })
            .collect();
        let mut stale: Vec<&String> = present
            .keys()
            .filter(|spec| wanted.is_stale(spec))
            .collect();
        // The proxy may have taken its time: a server that was routed since must keep its route.
        if !stale.is_empty() {
            let now = self.wanted().await?;
            stale.retain(|spec| now.is_stale(spec));
        }
        self.apply(&missing, &stale).await?;
        self.choose_sample(wanted.routes.keys());
        let mut changes = Changes {
            added: missing.iter().map(|(spec, _)| (*spec).clone()).collect(),
            deleted: stale.into_iter().cloned().collect(),
        };
        // A server that stopped while its route was being added must not keep it, and one that became
        // ready while an old route of its was being deleted must get it.
        if !changes.is_empty() {
            let now = self.wanted().await?;
            let gone: Vec<&String> = changes
                .added
                .iter()
                .filter(|spec| !now.routes.contains_key(*spec))
                .collect();
            let back: Vec<(&String, &Route)> = changes
                .deleted
                .iter()
                .filter_map(|spec| now.routes.get_key_value(spec))
                .collect();
            self.apply(&back, &gone).await?;
            let gone: BTreeSet<String> = gone.into_iter().cloned().collect();
            changes.added.retain(|spec| !gone.contains(spec));
            changes
                .deleted
                .retain(|spec| !now.routes.contains_key(spec));
        }
        Ok(changes)
    }

    async fn apply(&self, add: &[(&String, &Route)], delete: &[&String]) -> Result<(), RouteError> {
        let table = &self.parts.table;
        if add.len() + delete.len() > HANDFUL {
            match self.noting(table.change(add, delete).await) {
                Ok(false) => {}
                done => return done.map(drop),
            }
        }
        let adding: Vec<_> = add
            .iter()
            .map(|(spec, route)| table.add(spec, route))
            .collect();
        let added: Vec<_> = stream::iter(adding)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let deleting: Vec<_> = delete.iter().map(|spec| table.delete(spec)).collect();
        let deleted: Vec<_> = stream::iter(deleting)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        // All are tried, then the first that failed is told.
        self.noting(added.into_iter().chain(deleted).collect())
    }

    async fn wanted(&self) -> Result<Wanted, StoreError> {
        let mut wanted = wanted::of_database(self.parts.store.read(), &self.parts.urls).await?;
        for (spec, target) in &self.parts.extra_routes {
            let route = Route {
                target: target.clone(),
                data: json!({ "extra": true }),
            };
            wanted.routes.insert(spec.clone(), route);
        }
        let hub = Route {
            target: self.parts.hub_target.clone(),
            data: json!({ "hub": true }),
        };
        wanted.routes.insert(self.parts.hub_routespec.clone(), hub);
        Ok(wanted)
    }

    /// Routes a server that answers, just before it is called ready.
    pub(crate) async fn add_server(
        &self,
        user: &UserName,
        server: &ServerName,
        target: &str,
    ) -> Result<(), RouteError> {
        let spec = self.parts.urls.server_spec(user, server);
        let target = target.trim_end_matches('/');
        self.noting(
            self.parts
                .table
                .add(&spec, &wanted::server_route(user, server, target))
                .await,
        )
    }

    /// Takes a server's route away.
    pub(crate) async fn remove_server(
        &self,
        user: &UserName,
        server: &ServerName,
    ) -> Result<(), RouteError> {
        let spec = self.parts.urls.server_spec(user, server);
        self.sample
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|sample| *sample == spec);
        self.noting(self.parts.table.delete(&spec).await)
    }

    /// When each server was last used, as far as the proxy tells.
    pub(crate) async fn used(&self) -> Result<Vec<Used>, RouteError> {
        let routes = self.routes().await?;
        Ok(routes
            .values()
            .filter_map(|route| {
                let text = |key: &str| route.data.get(key)?.as_str();
                let at = chrono::DateTime::parse_from_rfc3339(text("last_activity")?).ok()?;
                Some(Used {
                    user: text("user")?.to_owned(),
                    server: text("server_name")?.to_owned(),
                    at: at.naive_utc(),
                })
            })
            .collect())
    }

    fn noting<T>(&self, result: Result<T, RouteError>) -> Result<T, RouteError> {
        let is_up = result.is_ok();
        if self.is_up.swap(is_up, Ordering::Relaxed) && !is_up {
            self.wake();
        }
        result
    }
}
