//! The task that drives one run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Uri;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::spawner::{Event, Events, RUN_VARIABLE, ServerTls, Started, Status};
use orrery_core::{Secret, fault};
use orrery_store::runs::{self, Run};
use orrery_store::spawners::{self, SpawnerChanges};
use orrery_store::{StoreError, servers};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::view::is_empty;
use super::{Course, Engine, environment, events, grant, stop};
use crate::JUPYTERHUB_VERSION;

/// The variable by which a server knows itself as an OAuth client.
const CLIENT_ID: &str = "JUPYTERHUB_CLIENT_ID";
/// How many lines of a server's log a failure carries.
const LOG_TAIL: usize = 100;
/// The first pause between two looks whether a starting server still lives.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// How long to wait before trying again what the database did not take.
const RETRY: Duration = Duration::from_secs(1);

/// Where a task enters a run's life.
pub(super) enum Entry {
    /// From the start; the only one who knows the token.
    Start {
        /// The server's API token.
        token: Secret,
        /// What the user chose.
        options: Value,
        /// The server as an OAuth client.
        client_id: String,
    },
    /// The run was starting when an earlier life of the hub ended.
    Recover,
    /// The server is ready, as far as the database knows. Whether it runs is asked at once.
    Watch,
    /// The run is stopping.
    Stop,
}

/// How a part of a run's life came out.
enum Next {
    /// The server is ready.
    Watch,
    /// The row is no longer what this part expected: read it.
    Look,
    /// Nothing is left to do.
    Done,
}

/// Removes a run from the list of those with a task, whatever ends the task.
struct Registered {
    engine: Engine,
    run: i64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.engine
            .tasks
            .lock()
            .expect("nothing panics under this lock")
            .remove(&self.run);
    }
}

impl Engine {
    /// Gives a run its task, unless it has one.
    pub(super) fn launch(&self, course: Course, entry: Entry) {
        let look = CancellationToken::new();
        {
            let mut tasks = self.tasks.lock().expect("nothing panics under this lock");
            if self.closing.is_cancelled() || tasks.contains_key(&course.run.0) {
                return;
            }
            tasks.insert(course.run.0, look.clone());
        }
        let registered = Registered {
            engine: self.clone(),
            run: course.run.0,
        };
        let engine = self.clone();
        self.tracker.spawn(async move {
            let _registered = registered;
            tokio::select! {
                // What a closing hub leaves, its next life finds in the rows.
                () = engine.closing.cancelled() => {}
                () = engine.drive(&course, entry, &look) => {}
            }
        });
    }

    /// Tells a run's task, if this process has one, that its row was changed.
    pub(super) fn nudge(&self, run: i64) -> bool {
        let tasks = self.tasks.lock().expect("nothing panics under this lock");
        let task = tasks.get(&run);
        if let Some(look) = task {
            look.cancel();
        }
        task.is_some()
    }

    async fn drive(&self, course: &Course, entry: Entry, look: &CancellationToken) {
        let next = match entry {
            Entry::Start {
                token,
                options,
                client_id,
            } => {
                let work = self.bring_up(course, token, options, &client_id);
                self.until_ready(course, look, work).await
            }
            Entry::Recover => self.until_ready(course, look, self.recover(course)).await,
            Entry::Watch => self.look_at(course, look).await,
            Entry::Stop => Next::Look,
        };
        let next = match next {
            Next::Watch => self.watch(course, look).await,
            other => other,
        };
        if matches!(next, Next::Look) {
            self.see_to_the_row(course).await;
        }
    }

    /// Drives a start until the server is ready, has failed, or somebody wants something else.
    async fn until_ready(
        &self,
        course: &Course,
        look: &CancellationToken,
        work: impl Future<Output = Result<bool, Failure>>,
    ) -> Next {
        // Leaving this drops the spawner's future: a start that never returns cannot hold anything.
        let outcome = tokio::select! {
            biased;
            () = look.cancelled() => return Next::Look,
            outcome = work => outcome,
        };
        match outcome {
            Ok(true) => {
                fault::point("start-ready");
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                self.hints.wake(course.run.0);
                self.dispatch().await;
                Next::Watch
            }
            Ok(false) => Next::Look,
            Err(failure) => {
                fault::point("start-failed");
                self.count_failure(&failure);
                self.give_up(course, failure).await;
                Next::Done
            }
        }
    }

    /// Starts the server and sees it through to ready. `false`: the row was moved by somebody else.
    async fn bring_up(
        &self,
        course: &Course,
        token: Secret,
        options: Value,
        client_id: &str,
    ) -> Result<bool, Failure> {
        let mut spec = environment::spec(
            &self.settings,
            &self.urls,
            course.run,
            &course.user,
            &course.server,
            options,
            &token,
        )?;
        // The id that the row has, which is the usual one but where two servers would share it.
        if !self.settings.environment.contains_key(CLIENT_ID) {
            spec.environment
                .insert(CLIENT_ID.to_owned(), Secret::new(client_id));
        }
        spec.environment
            .insert(RUN_VARIABLE.to_owned(), Secret::new(course.mark()));
        spec.tls = self.certificate(course).await?;
        let base_url = spec.base_url.clone();
        let begun = tokio::time::Instant::now();
        let (reporter, mut reports) = Events::channel();
        fault::point("start-begins");
        let limit = self.settings.start_timeout;
        let start = tokio::time::timeout(limit, self.spawner.start(spec, reporter));
        let mut start = std::pin::pin!(start);
        let mut told = Vec::new();
        let started = loop {
            tokio::select! {
                // The start first: when it has returned, its own state is the newest.
                biased;
                outcome = &mut start => break outcome,
                Some(report) = reports.recv() => match report {
                    Event::State(state) => self.keep_state(course, &state).await?,
                    Event::Progress { percent, message } => {
                        let event = events::from_spawner(percent, &message);
                        self.keep_events(course, &[event.to_row()]).await?;
                    }
                },
            }
        };
        let started = started.map_err(|_| {
            Failure::new(
                Cause::Timeout,
                format!(
                    "The server could not be started within {} seconds.",
                    limit.as_secs_f32()
                ),
            )
        })??;
        fault::point("start-returned");
        while let Ok(report) = reports.try_recv() {
            if let Event::Progress { percent, message } = report {
                told.push(events::from_spawner(percent, &message).to_row());
            }
        }
        self.keep_address(course, &started, &base_url, &told)
            .await?;
        fault::point("start-address-kept");
        let is_ready = self.wait_for_it(course, &started).await?;
        if is_ready {
            tracing::info!(
                server = %course.log_name(),
                run = %course.run,
                seconds = begun.elapsed().as_secs_f32(),
                "the server is ready"
            );
        }
        Ok(is_ready)
    }

    /// A key and certificate for the server, with `internal_ssl`.
    async fn certificate(&self, course: &Course) -> Result<Option<ServerTls>, Failure> {
        let Some(internal) = &self.internal else {
            return Ok(None);
        };
        let certificates = std::sync::Arc::clone(&internal.certificates);
        let (user, server, now) = (course.user.clone(), course.server.clone(), self.clock.now());
        let made =
            tokio::task::spawn_blocking(move || certificates.for_server(&user, &server, now))
                .await
                .expect("making a certificate does not panic");
        made.map(Some).map_err(|error| {
            tracing::error!(server = %course.log_name(), %error, "no certificate for a server");
            Failure::new(
                Cause::Internal,
                "The hub could not make a certificate for the server.",
            )
        })
    }

    /// Goes on with a start that an earlier life of the hub began: the server may well run.
    async fn recover(&self, course: &Course) -> Result<bool, Failure> {
        let lost = || {
            Failure::new(
                Cause::Internal,
                "The hub was restarted while the server was starting. Please start it again.",
            )
        };
        let Some(spawner) = self
            .trying("read the server's state", || {
                spawners::find_by_id(self.store.read(), course.spawner_id)
            })
            .await?
        else {
            return Ok(false);
        };
        if is_empty(&spawner.state) {
            return Err(lost());
        }
        let address = match spawner.server_id {
            Some(id) => {
                self.trying("read the server's address", || {
                    servers::find(self.store.read(), id)
                })
                .await?
            }
            None => None,
        };
        // Without an address its start had not returned. Nobody can tell where it listens.
        let Some(address) = address.filter(|address| address.port > 0) else {
            return Err(lost());
        };
        let started = Started {
            url: url_of(&address),
            state: spawner.state,
        };
        match self.poll(&started.state).await {
            Some(Status::Exited(code)) => Err(self.exited(&started.state, code).await),
            Some(Status::Running) | None => self.wait_for_it(course, &started).await,
        }
    }

    /// Waits until the server answers, then gives it its route and says that it is ready.
    async fn wait_for_it(&self, course: &Course, started: &Started) -> Result<bool, Failure> {
        let base_url = self.urls.server(&course.user, &course.server);
        let url = format!("{}{base_url}api", started.url.trim_end_matches('/'));
        let url: Uri = url.parse().map_err(|_| {
            Failure::new(
                Cause::Spawner,
                format!("The spawner gave an address that is none: {}", started.url),
            )
        })?;
        let limit = self.settings.http_timeout;
        let mut trouble = String::new();
        let answer = tokio::select! {
            answer = tokio::time::timeout(limit, self.prober.until_it_answers(&url, &mut trouble)) => answer.ok(),
            failure = self.until_it_ends(&started.state) => return Err(failure),
        };
        let Some(answer) = answer else {
            let trouble = if trouble.is_empty() {
                String::new()
            } else {
                format!(" ({trouble})")
            };
            return Err(Failure::new(
                Cause::Unreachable,
                format!(
                    "The server was started but did not answer at {} within {} seconds{trouble}.",
                    started.url,
                    limit.as_secs_f32()
                ),
            ));
        };
        fault::point("start-answered");
        self.compare_versions(course, answer.version.as_deref());
        // Should the proxy be away, its route comes with the next check; the server is ready all the same.
        let routed = self
            .routes
            .add_server(&course.user, &course.server, &started.url)
            .await;
        if let Err(error) = &routed {
            tracing::warn!(server = %course.log_name(), %error, "the server's route must wait for the proxy");
        }
        fault::point("start-routed");
        let now = self.clock.now();
        let is_ready = self
            .trying("note that the server is ready", || {
                self.store.write(|transaction| async move {
                    runs::transition(
                        &transaction,
                        course.run.0,
                        Phase::Starting,
                        Phase::Ready,
                        now,
                        None,
                    )
                    .await
                })
            })
            .await?;
        if routed.is_err() {
            // The proxy may have come back, and been looked at, while the server was not ready yet.
            self.routes.wake();
        }
        Ok(is_ready)
    }

    /// Watches a ready server until it is gone or somebody wants something else.
    async fn watch(&self, course: &Course, look: &CancellationToken) -> Next {
        loop {
            let interval = self.settings.poll_interval;
            let pause = async {
                if interval.is_zero() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(jittered(interval, self.settings.poll_jitter)).await;
            };
            tokio::select! {
                () = look.cancelled() => return Next::Look,
                () = pause => {}
            }
            match self.look_at(course, look).await {
                Next::Watch => {}
                other => return other,
            }
        }
    }

    /// Asks once whether a ready server runs, unless somebody wants something else meanwhile: who
    /// stops a server does not wait for a spawner that does not answer.
    async fn look_at(&self, course: &Course, look: &CancellationToken) -> Next {
        tokio::select! {
            biased;
            () = look.cancelled() => Next::Look,
            next = self.ask_once(course) => next,
        }
    }

    async fn ask_once(&self, course: &Course) -> Next {
        // Many servers share the bound; a slow spawner delays looks, nothing else.
        let Ok(_permit) = self.polls.acquire().await else {
            return Next::Done;
        };
        let asked = match runs::find(self.store.read(), course.run.0).await {
            Ok(Some(run)) if run.phase == Phase::Ready && self.owns(&run) => {
                self.ask_whether_it_runs(&run).await
            }
            Ok(_) => return Next::Look,
            Err(error) => Err(error),
        };
        match asked {
            Ok(true) => Next::Watch,
            Ok(false) => Next::Done,
            Err(error) => {
                tracing::warn!(server = %course.log_name(), %error, "a server could not be looked at");
                Next::Watch
            }
        }
    }

    /// Whether a run is this replica's to move.
    pub(super) fn owns(&self, run: &Run) -> bool {
        run.owner.as_deref() == Some(self.replica.as_str())
    }

    /// Asks the spawner whether a ready server runs; ends its run if it does not. An answer that
    /// nobody can give changes nothing.
    pub(super) async fn ask_whether_it_runs(&self, run: &Run) -> Result<bool, StoreError> {
        let Some(course) = Course::of(run, self.born) else {
            return Ok(false);
        };
        let Some(spawner) = spawners::find_by_id(self.store.read(), course.spawner_id).await?
        else {
            return Ok(false);
        };
        let Some(Status::Exited(code)) = self.poll(&spawner.state).await else {
            return Ok(true);
        };
        tracing::warn!(server = %course.log_name(), run = %course.run, exit_code = ?code, "the server has ended by itself");
        let crashed = code.is_some_and(|code| code != 0);
        let mut failure = if crashed {
            Some(self.exited(&spawner.state, code).await)
        } else {
            None
        };
        fault::point("death-noticed");
        if let Some(left) = self.end_remains(&course).await {
            let failure = failure.get_or_insert_with(stop::remains_failure);
            failure.left_running = Some(left);
        }
        // Others look too. Who was faster has taken the route away, and it may be the next run's by now.
        match runs::find(self.store.read(), run.id).await? {
            Some(now) if now.phase == Phase::Ready => {}
            _ => return Ok(false),
        }
        let is_unrouted = self.remove_route(&course).await;
        let to = if failure.is_some() {
            Phase::Failed
        } else {
            Phase::Stopped
        };
        let ended = self
            .finish(&course, Phase::Ready, to, failure.as_ref())
            .await?;
        self.see_to_routes(is_unrouted, ended);
        self.nudge(course.run.0);
        Ok(false)
    }

    /// Ends a start that failed. The user sees why at once; what may still run is stopped first.
    async fn give_up(&self, course: &Course, mut failure: Failure) {
        let state = self.state_of(course).await;
        if let Ok(state) = &state
            && failure.log_tail.is_empty()
            && !is_empty(state)
        {
            failure.log_tail = self.log_lines(state, LOG_TAIL).await;
        }
        tracing::warn!(
            server = %course.log_name(),
            run = %course.run,
            cause = ?failure.cause,
            exit_code = ?failure.exit_code,
            "the server did not start: {}",
            failure.message
        );
        let nothing_runs = match &state {
            Ok(state) => {
                is_empty(state)
                    || matches!(failure.cause, Cause::Exited | Cause::OutOfMemory)
                    || matches!(self.poll(state).await, Some(Status::Exited(_)))
            }
            // Nobody can tell; its stop asks again, and goes on asking.
            Err(_) => false,
        };
        let ended = if nothing_runs {
            failure.left_running = self.end_remains(course).await;
            let is_unrouted = self.remove_route(course).await;
            let ended = self
                .finish(course, Phase::Starting, Phase::Failed, Some(&failure))
                .await;
            self.see_to_routes(is_unrouted, matches!(ended, Ok(true)));
            ended
        } else {
            match self
                .begin_stop(course.run.0, Phase::Starting, Some(&failure))
                .await
            {
                Ok(_) => return self.see_to_the_row(course).await,
                Err(error) => Err(error),
            }
        };
        if let Err(error) = ended {
            // The sweeper ends it when its deadline has passed.
            tracing::error!(server = %course.log_name(), %error, "a failed start could not be noted");
        }
    }

    /// What the spawner knows of a run that did not come about; empty if nothing runs. An error: nobody
    /// can tell.
    async fn state_of(&self, course: &Course) -> Result<Value, Failure> {
        let state = self
            .trying("read the server's state", || {
                spawners::find_by_id(self.store.read(), course.spawner_id)
            })
            .await?
            .map(|spawner| spawner.state)
            .unwrap_or_default();
        if !is_empty(&state) {
            return Ok(state);
        }
        // Something may run all the same: whoever started it was cut off before its state was kept.
        let Some(found) = self.search(&course.mark(), course.user.as_str()).await? else {
            return Ok(state);
        };
        tracing::warn!(server = %course.log_name(), run = %course.run, "found a server that a start had left");
        if let Err(failure) = self.keep_state(course, &found).await {
            tracing::warn!(server = %course.log_name(), "its state is not kept: {}", failure.message);
        }
        Ok(found)
    }

    fn count_failure(&self, failure: &Failure) {
        if matches!(
            failure.cause,
            Cause::Cancelled | Cause::Options | Cause::Quota
        ) {
            return;
        }
        let count = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let limit = self.settings.consecutive_failure_limit;
        if limit > 0 && count >= limit {
            tracing::error!(
                count,
                limit,
                "starts fail one after another; something is wrong with the spawner"
            );
        }
    }

    /// How many starts failed since the last that came about.
    pub fn consecutive_failures(&self) -> u32 {
        self.failures_in_a_row.load(Ordering::Relaxed)
    }

    /// Returns when the server of `state` has ended.
    async fn until_it_ends(&self, state: &Value) -> Failure {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            if let Some(Status::Exited(code)) = self.poll(state).await {
                return self.exited(state, code).await;
            }
            pause = pause.mul_f64(1.5).min(LONGEST_LOOK);
        }
    }

    async fn exited(&self, state: &Value, code: Option<i32>) -> Failure {
        let known = tokio::time::timeout(self.settings.poll_timeout, self.spawner.why_ended(state));
        if let Ok(Some(failure)) = known.await {
            let log_tail = match failure.log_tail.as_slice() {
                [] => self.log_lines(state, LOG_TAIL).await,
                lines => lines.to_vec(),
            };
            return Failure {
                exit_code: failure.exit_code.or(code),
                log_tail,
                ..failure
            };
        }
        let how = match code {
            Some(code @ 129..=192) => format!(" (killed by signal {})", code - 128),
            Some(code) => format!(" (exit code {code})"),
            None => String::new(),
        };
        Failure {
            exit_code: code,
            log_tail: self.log_lines(state, LOG_TAIL).await,
            ..Failure::new(Cause::Exited, format!("The server ended by itself{how}."))
        }
    }

    /// `None`: nobody knows.
    pub(super) async fn poll(&self, state: &Value) -> Option<Status> {
        match tokio::time::timeout(self.settings.poll_timeout, self.spawner.poll(state)).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(failure)) => {
                tracing::warn!(
                    "the spawner cannot tell whether a server runs: {}",
                    failure.message
                );
                None
            }
            Err(_) => {
                tracing::warn!("the spawner did not tell in time whether a server runs");
                None
            }
        }
    }

    pub(super) async fn log_lines(&self, state: &Value, lines: usize) -> Vec<String> {
        tokio::time::timeout(self.settings.poll_timeout, self.spawner.logs(state, lines))
            .await
            .unwrap_or_default()
    }

    async fn keep_state(&self, course: &Course, state: &Value) -> Result<(), Failure> {
        let state = grant::as_state(state);
        let changes = &SpawnerChanges {
            state: Some(state),
            ..SpawnerChanges::default()
        };
        self.trying("keep the server's state", || {
            self.store.write(|transaction| async move {
                spawners::update(&transaction, course.spawner_id, changes).await
            })
        })
        .await?;
        Ok(())
    }

    async fn keep_events(&self, course: &Course, told: &[Value]) -> Result<(), Failure> {
        self.trying("keep the server's progress", || {
            self.store.write(|transaction| async move {
                for event in told {
                    runs::append_event(&transaction, course.run.0, event, events::KEPT).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
        self.hints.wake(course.run.0);
        Ok(())
    }

    /// Keeps where the server listens: all that the hub's next life needs to find it.
    async fn keep_address(
        &self,
        course: &Course,
        started: &Started,
        base_url: &str,
        told: &[Value],
    ) -> Result<(), Failure> {
        let address = grant::address(&started.url, base_url).ok_or_else(|| {
            Failure::new(
                Cause::Spawner,
                format!("The spawner gave an address that is none: {}", started.url),
            )
        });
        let changes = &SpawnerChanges {
            state: Some(grant::as_state(&started.state)),
            ..SpawnerChanges::default()
        };
        // The state first, also when the address is bad: what was started must be found to be stopped.
        let row = address.as_ref().ok();
        self.trying("keep the server's address", || {
            self.store.write(|transaction| async move {
                spawners::update(&transaction, course.spawner_id, changes).await?;
                if let Some(address) = row
                    && let Some(spawner) =
                        spawners::find_by_id(&transaction, course.spawner_id).await?
                    && let Some(id) = spawner.server_id
                {
                    servers::update(&transaction, id, address).await?;
                }
                for event in told {
                    runs::append_event(&transaction, course.run.0, event, events::KEPT).await?;
                }
                Ok::<_, StoreError>(())
            })
        })
        .await?;
        address.map(|_| ())
    }

    /// Tries again while the database is away: a start must not fail because of a restart of the
    /// database. The phase's deadline bounds it.
    async fn trying<T, F>(&self, what: &str, work: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match work().await {
                Ok(value) => return Ok(value),
                Err(error) if error.is_unavailable() => {
                    if error.is_said() {
                        tracing::debug!(%error, "cannot {what} now; trying again");
                    } else {
                        tracing::warn!(%error, "cannot {what} now; trying again");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot {what}");
                    return Err(Failure::new(
                        Cause::Internal,
                        "The hub could not write to its database.",
                    ));
                }
            }
        }
    }

    /// A server of another major version may not understand the hub; said once.
    fn compare_versions(&self, course: &Course, version: Option<&str>) {
        let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
        match version {
            Some(version) if major(version) == major(JUPYTERHUB_VERSION) => {}
            _ if self.warned_of_version.swap(true, Ordering::Relaxed) => {}
            Some(version) => tracing::warn!(
                server = %course.log_name(),
                version,
                "the server has another major version of jupyterhub than the {JUPYTERHUB_VERSION} that this hub \
                 speaks; logging in to it may fail"
            ),
            None => tracing::warn!(
                server = %course.log_name(),
                "the server does not tell its version of jupyterhub; is it jupyterhub-singleuser?"
            ),
        }
    }
}

/// `http://ip:port` of an address' row.
pub(crate) fn url_of(address: &servers::Server) -> String {
    let host = match address.ip.as_str() {
        "" | "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "[::1]".to_owned(),
        ip if ip.contains(':') => format!("[{ip}]"),
        ip => ip.to_owned(),
    };
    let proto = if address.proto.is_empty() {
        "http"
    } else {
        &address.proto
    };
    format!("{proto}://{host}:{}", address.port)
}

fn jittered(interval: Duration, jitter: f64) -> Duration {
    let [byte] = orrery_core::random::bytes::<1>();
    let side = f64::from(byte) / 127.5 - 1.0;
    interval.mul_f64((1.0 + side * jitter.clamp(0.0, 1.0)).max(0.0))
}
