//! The life of servers: the engine that moves each run from request to stop.
//!
//! Every step of a run is a compare-and-set on its row in `orrery_runs`, in one transaction with
//! JupyterHub's own rows. A task for each run drives it; a task that dies, or a hub that is killed,
//! loses nothing that the rows do not say: [`Engine::run`] starts it again from there.

mod activity;
mod environment;
mod errors;
mod events;
mod follow;
mod give_up;
mod grant;
mod hints;
mod leftovers;
mod names;
mod queue;
mod readiness;
mod reconcile;
mod request;
mod run;
mod settings;
mod start;
mod stop;
mod tend;
mod view;
mod watch;

pub(crate) use start::url_of;

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orrery_core::scopes::Definitions;
use orrery_core::spawner::Spawner;
use orrery_core::{Clock, ServerName, UserName};
use orrery_store::runs::Run;
use orrery_store::{NaiveDateTime, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certs::Internal;
use crate::routes::Keeper;
use crate::urls::Urls;

pub use errors::{CreateError, DeleteError, NamedServerError, StartError, StopError, StopOutcome};
pub use events::ProgressEvent;
pub use names::{is_valid_display_name, is_valid_name};
pub use queue::QueuePlace;
pub use reconcile::Reconciled;
pub use request::StartRequest;
pub use settings::Settings;
pub use view::{Counts, ServerView};

/// How many spawners are polled at once.
const POLLS: usize = 16;

/// The longest that a spawner may ask for: later times could not be counted.
const LONGEST_STOP: Duration = Duration::from_hours(365 * 24);

/// Moves servers through their lives. Cloning gives another handle to the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// What an engine is made of.
pub struct EngineParts {
    /// The database.
    pub store: Store,
    /// What starts servers.
    pub spawner: Arc<dyn Spawner>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Settings from the configuration.
    pub settings: Settings,
    /// Where things are.
    pub urls: Urls,
    /// All scopes, the site's own included.
    pub definitions: Definitions,
    /// Keeps the proxy's routes.
    pub routes: Keeper,
    /// This hub's name among the replicas; the same after a restart.
    pub replica: String,
    /// Certificates for servers, with `JupyterHub.internal_ssl`.
    pub internal: Option<Internal>,
}

/// What all handles of an engine share. Nothing in it is truth.
pub struct Inner {
    store: Store,
    spawner: Arc<dyn Spawner>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    urls: Urls,
    definitions: Definitions,
    routes: Keeper,
    replica: String,
    prober: readiness::Prober,
    internal: Option<Internal>,
    hints: hints::Hints,
    /// The runs that tasks of this process drive, each with the way to tell its task to look at the row.
    tasks: Mutex<HashMap<i64, CancellationToken>>,
    /// Held for reading from before a row says that a run starts until the run has its task, so that
    /// nobody takes it for one whose task was lost.
    launching: tokio::sync::RwLock<()>,
    tracker: TaskTracker,
    closing: CancellationToken,
    polls: Semaphore,
    dispatching: tokio::sync::Mutex<()>,
    board: tokio::sync::Mutex<queue::Board>,
    /// Whether somebody may wait in the queue; spares a query after each start.
    may_be_queued: AtomicBool,
    activity: activity::Buffer,
    /// When this life of the hub began.
    born: NaiveDateTime,
    /// What could not be stopped; derived from the rows of failed runs.
    leftovers: Mutex<HashMap<i64, leftovers::Leftover>>,
    /// When leases were last renewed.
    renewed: Mutex<Option<tokio::time::Instant>>,
    failures_in_a_row: AtomicU32,
    warned_of_version: AtomicBool,
}

impl Deref for Engine {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Engine {
    /// An engine that does nothing yet: call [`Engine::reconcile`], then spawn [`Engine::run`].
    pub fn new(parts: EngineParts) -> Self {
        let born = parts.clock.now();
        let mut settings = parts.settings;
        // Cut off earlier, a stop would never come to its last means.
        let patience = parts.spawner.stop_patience().min(LONGEST_STOP);
        settings.stop_timeout = settings.stop_timeout.max(patience);
        Self(Arc::new(Inner {
            born,
            store: parts.store,
            spawner: parts.spawner,
            clock: parts.clock,
            settings,
            urls: parts.urls,
            definitions: parts.definitions,
            routes: parts.routes,
            replica: parts.replica,
            prober: readiness::Prober::new(
                parts
                    .internal
                    .as_ref()
                    .map(|internal| Arc::clone(&internal.tls.client)),
            ),
            internal: parts.internal,
            hints: hints::Hints::default(),
            tasks: Mutex::default(),
            launching: tokio::sync::RwLock::default(),
            tracker: TaskTracker::new(),
            closing: CancellationToken::new(),
            polls: Semaphore::new(POLLS),
            dispatching: tokio::sync::Mutex::default(),
            board: tokio::sync::Mutex::default(),
            may_be_queued: AtomicBool::new(true),
            activity: activity::Buffer::default(),
            leftovers: Mutex::default(),
            renewed: Mutex::default(),
            failures_in_a_row: AtomicU32::new(0),
            warned_of_version: AtomicBool::new(false),
        }))
    }

    /// The engine's settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }
}

/// The id of a run; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub i64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which run a task drives, and whose.
#[derive(Clone, Debug)]
struct Course {
    run: RunId,
    spawner_id: i32,
    user_id: i32,
    user: UserName,
    server: ServerName,
    queued_at: NaiveDateTime,
    /// Whether the run began under another hub, or another life of this one.
    is_inherited: bool,
}

impl Course {
    /// From a row; `born` is when this life of the hub began. `None` when its user or server is gone or has a name that cannot be served.
    fn of(run: &Run, born: NaiveDateTime) -> Option<Self> {
        Some(Self {
            run: RunId(run.id),
            spawner_id: run.spawner_id?,
            user_id: run.user_id?,
            user: UserName::parse(&run.user_name).ok()?,
            server: ServerName::parse(&run.server_name).ok()?,
            queued_at: run.queued_at,
            is_inherited: run.queued_at < born,
        })
    }

    /// What the server is told by [`RUN_VARIABLE`](orrery_core::spawner::RUN_VARIABLE): made of what
    /// the row says, and no other database's runs have it.
    fn mark(&self) -> String {
        Self::mark_of(self.run.0, self.queued_at)
    }

    fn mark_of(run: i64, queued_at: NaiveDateTime) -> String {
        format!("{run}-{}", queued_at.and_utc().timestamp_micros())
    }

    fn log_name(&self) -> String {
        view::log_name(&self.user, &self.server)
    }
}
