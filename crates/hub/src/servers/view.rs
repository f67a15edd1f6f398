//! Servers as the API and the pages show them, for one or many users in a few queries.

use chrono::NaiveDateTime;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::{ServerName, UserName};
use orrery_store::StoreError;
use orrery_store::runs::{self, Run};
use orrery_store::spawners;
use orrery_store::user_pages::{ListedRun, ListedServer};
use orrery_store::users::User;
use serde_json::Value;

use super::{Engine, ProgressEvent, QueuePlace, RunId, events};

/// A user's server, running or not.
#[derive(Clone, Debug)]
pub struct ServerView {
    /// Its name; empty for the default server.
    pub name: ServerName,
    /// Its name as the user wrote it.
    pub display_name: String,
    /// Whose it is.
    pub user_name: UserName,
    /// Whose it is.
    pub user_id: i32,
    /// The row of `spawners`.
    pub spawner_id: i32,
    /// Its active run, or, when one server was asked for, its newest.
    pub run: Option<RunId>,
    /// Where that run stands; [`Phase::Stopped`] when there is none.
    pub phase: Phase,
    /// The path under which people reach it.
    pub url: String,
    /// The path of its stream of progress events.
    pub progress_url: String,
    /// When it was last started, while it is active.
    pub started: Option<NaiveDateTime>,
    /// When it was last used.
    pub last_activity: Option<NaiveDateTime>,
    /// What the user chose at its last start; an object.
    pub user_options: Value,
    /// What the spawner knows of it; an object. To be shown only with `admin:server_state`.
    pub state: Value,
    /// Why its newest run failed. Known when one user's servers were asked for, not in long lists.
    pub failure: Option<Failure>,
    /// What was told of its start so far.
    pub progress: Vec<ProgressEvent>,
    /// Its place, while it waits for its turn.
    pub queue: Option<QueuePlace>,
}

impl ServerView {
    /// Upstream's `pending`: `spawn`, `stop` or nothing.
    pub fn pending(&self) -> Option<&'static str> {
        self.phase.pending()
    }

    /// Whether it answers and has its route.
    pub fn ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether its start failed and what may still run of it is being stopped: to its user it has
    /// failed.
    pub fn failing(&self) -> bool {
        // Only a start that fails notes a failure before the server has stopped.
        self.phase == Phase::Stopping && self.failure.is_some()
    }

    /// Whether it neither runs, starts nor stops.
    pub fn stopped(&self) -> bool {
        !self.phase.is_active()
    }

    /// Upstream's `full_name`: `ada/lab`, and `ada/` for the default server.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.user_name, self.name)
    }

    /// The name in logs and error texts: `ada:lab`, and `ada` for the default server.
    pub fn log_name(&self) -> String {
        log_name(&self.user_name, &self.name)
    }
}

/// A server's name in logs and error texts.
pub(super) fn log_name(user: &UserName, server: &ServerName) -> String {
    if server.is_default() {
        user.to_string()
    } else {
        format!("{user}:{server}")
    }
}

/// How many servers stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for their turn.
    pub queued: u64,
    /// Starting.
    pub starting: u64,
    /// Running.
    pub ready: u64,
    /// Stopping.
    pub stopping: u64,
}

impl Counts {
    /// All that are not stopped.
    pub fn active(&self) -> u64 {
        self.queued + self.starting + self.ready + self.stopping
    }
}

impl Engine {
    /// One server of a user, if it has a row.
    pub async fn view(
        &self,
        user: &User,
        server: &ServerName,
    ) -> Result<Option<ServerView>, StoreError> {
        let Some(spawner) = spawners::find(self.store.read(), user.id, server.as_str()).await?
        else {
            return Ok(None);
        };
        self.view_of(user, spawner.id).await
    }

    /// All servers of a user that have a row: the default one first, then by name.
    pub async fn views(&self, user: &User) -> Result<Vec<ServerView>, StoreError> {
        let mut views = Vec::new();
        for spawner in spawners::list_of_user(self.store.read(), user.id).await? {
            views.extend(self.view_of(user, spawner.id).await?);
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    async fn view_of(
        &self,
        user: &User,
        spawner_id: i32,
    ) -> Result<Option<ServerView>, StoreError> {
        // The run first, as for many users: who is told that a server is ready is told what it has from
        // then on.
        let run = runs::latest(self.store.read(), spawner_id).await?;
        let Some(spawner) = spawners::find_by_id(self.store.read(), spawner_id).await? else {
            return Ok(None);
        };
        let server = ListedServer::new(spawner, run);
        self.view_of_listed(user.id, &user.name, server).await
    }

    /// The servers of a user, as they were read along with them: the default one first, then by name.
    pub async fn views_of_listed(
        &self,
        user_id: i32,
        user_name: &str,
        servers: Vec<ListedServer>,
    ) -> Result<Vec<ServerView>, StoreError> {
        let mut views = Vec::with_capacity(servers.len());
        for server in servers {
            views.extend(self.view_of_listed(user_id, user_name, server).await?);
        }
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    /// How many servers stand where.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        let mut counts = Counts::default();
        for (phase, count) in runs::counts(self.store.read()).await? {
            match phase {
                Phase::Queued => counts.queued = count,
                Phase::Starting => counts.starting = count,
                Phase::Ready => counts.ready = count,
                Phase::Stopping => counts.stopping = count,
                Phase::Stopped | Phase::Failed => {}
            }
        }
        Ok(counts)
    }

    /// The last lines that a server wrote, also after its end while its state is known.
    pub async fn logs(
        &self,
        user: &User,
        server: &ServerName,
        lines: usize,
    ) -> Result<Vec<String>, StoreError> {
        let Some(spawner) = spawners::find(self.store.read(), user.id, server.as_str()).await?
        else {
            return Ok(Vec::new());
        };
        if is_empty(&spawner.state) {
            let run = runs::latest(self.store.read(), spawner.id).await?;
            return Ok(run
                .and_then(|run| run.failure)
                .map(|failure| failure.log_tail)
                .unwrap_or_default());
        }
        Ok(self.log_lines(&spawner.state, lines).await)
    }

    async fn view_of_listed(
        &self,
        user_id: i32,
        user_name: &str,
        server: ListedServer,
    ) -> Result<Option<ServerView>, StoreError> {
        let ListedServer {
            id: spawner_id,
            run,
            ..
        } = server;
        // Names that no route can carry cannot be served; upstream would not make them either.
        let (Ok(user_name), Ok(name)) =
            (UserName::parse(user_name), ServerName::parse(&server.name))
        else {
            return Ok(None);
        };
        let phase = run.as_ref().map_or(Phase::Stopped, |run| run.phase);
        let queue = match &run {
            Some(run) if phase == Phase::Queued => self.queue_place(run.id).await?,
            _ => None,
        };
        let failure = run
            .as_ref()
            // A failed start shows why while what may still run of it is being stopped.
            .filter(|run| matches!(run.phase, Phase::Failed | Phase::Stopping))
            .and_then(|run| run.failure.clone())
            .filter(|failure| failure.cause != Cause::Cancelled);
        let progress = run
            .as_ref()
            .filter(|run| matches!(run.phase, Phase::Queued | Phase::Starting | Phase::Failed))
            .map(|run: &ListedRun| events::so_far(&run.events))
            .unwrap_or_default();
        let object = |value: Value| {
            if value.is_object() {
                value
            } else {
                Value::Object(serde_json::Map::new())
            }
        };
        Ok(Some(ServerView {
            url: self.urls.server_url(&user_name, &name),
            progress_url: self.urls.progress(&user_name, &name),
            display_name: server.display_name.unwrap_or_default(),
            user_id,
            spawner_id,
            run: run.map(|run| RunId(run.id)),
            phase,
            started: server.started,
            last_activity: self.server_activity(user_id, &name, server.last_activity),
            user_options: object(server.user_options),
            state: object(server.state),
            failure,
            progress,
            queue,
            name,
            user_name,
        }))
    }
}

/// Whether a run is one whose start failed and of which something may still be coming down.
pub(super) fn is_failing(run: &Run) -> bool {
    run.phase == Phase::Stopping
        && run.ready_at.is_none()
        && run
            .failure
            .as_ref()
            .is_some_and(|failure| failure.cause != Cause::Cancelled)
}

/// Whether a spawner's state says nothing.
pub(super) fn is_empty(state: &Value) -> bool {
    match state {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}
