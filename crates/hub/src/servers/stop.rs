//! Stopping, cancelling, ending and removing.

use std::time::Duration;

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::{ServerName, fault};
use orrery_store::runs::{self, Run};
use orrery_store::users::User;
use orrery_store::{StoreError, WriteError, spawners};

use super::leftovers::whatever_has_its_mark;
use super::run::Entry;
use super::view::{is_empty, log_name};
use super::{Course, DeleteError, Engine, RunId, StopError, StopOutcome};

/// How often a stop looks again when the run moves on under it.
const ATTEMPTS: usize = 8;

/// How often whoever waits looks at the row, for what other replicas write.
const LOOK: Duration = Duration::from_secs(1);

impl WriteError for DeleteError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a run has not ended well whose server is gone.
pub(super) fn remains_failure() -> Failure {
    Failure::new(
        Cause::Spawner,
        "The server is gone, but not all that it had started could be ended.",
    )
}

impl Engine {
    /// Asks a server to stop and returns at once; [`Engine::wait`] waits for the end. A start that
    /// waits or goes on is cancelled.
    pub async fn stop(&self, user: &User, server: &ServerName) -> Result<StopOutcome, StopError> {
        for _ in 0..ATTEMPTS {
            let Some(run) = runs::active(self.store.read(), user.id, server.as_str()).await? else {
                let known = server.is_default()
                    || spawners::find(self.store.read(), user.id, server.as_str())
                        .await?
                        .is_some();
                return if known {
                    Ok(StopOutcome::NotRunning)
                } else {
                    Err(StopError::NoSuchServer {
                        user: user.name.clone(),
                        server: server.to_string(),
                    })
                };
            };
            if let Some(outcome) = self.stop_run(&run).await? {
                return Ok(outcome);
            }
        }
        Err(StopError::StillRunning(user.name.clone()))
    }

    /// `None`: the run moved on meanwhile.
    pub(super) async fn stop_run(&self, run: &Run) -> Result<Option<StopOutcome>, StoreError> {
        let id = RunId(run.id);
        let outcome = match run.phase {
            Phase::Stopping => return Ok(Some(StopOutcome::AlreadyStopping(id))),
            Phase::Stopped | Phase::Failed => return Ok(None),
            Phase::Queued => {
                let cancelled = Failure::new(Cause::Cancelled, "The start was cancelled.");
                let ended = match Course::of(run, self.born) {
                    Some(course) => {
                        self.finish(&course, Phase::Queued, Phase::Stopped, Some(&cancelled))
                            .await?
                    }
                    None => self.end_orphan(run).await?,
                };
                return Ok(ended.then_some(StopOutcome::Cancelled(id)));
            }
            Phase::Starting => StopOutcome::Cancelled(id),
            Phase::Ready => StopOutcome::Stopping(id),
        };
        let cancelled = Failure::new(Cause::Cancelled, "The start was cancelled.");
        let failure = (run.phase == Phase::Starting).then_some(&cancelled);
        if !self.begin_stop(run.id, run.phase, failure).await? {
            return Ok(None);
        }
        if !self.nudge(run.id)
            && self.owns(run)
            && let Some(course) = Course::of(run, self.born)
        {
            self.launch(course, Entry::Stop);
        }
        Ok(Some(outcome))
    }

    /// Writes that a run is to end, and why if that is not by wish.
    pub(super) async fn begin_stop(
        &self,
        run: i64,
        from: Phase,
        failure: Option<&Failure>,
    ) -> Result<bool, StoreError> {
        fault::point("stop-asked");
        let now = self.clock.now();
        let deadline = now + self.settings.stop_timeout + self.settings.grace;
        let moved = self
            .store
            .write(|transaction| async move {
                let moved = runs::transition(
                    &transaction,
                    run,
                    from,
                    Phase::Stopping,
                    now,
                    Some(deadline),
                )
                .await?;
                if moved && let Some(failure) = failure {
                    runs::set_failure(&transaction, run, failure).await?;
                }
                fault::point("stop-written");
                Ok::<_, StoreError>(moved)
            })
            .await?;
        fault::point("stop-committed");
        self.hints.wake(run);
        Ok(moved)
    }

    /// Does what a run's row asks for: the end of a run's life.
    pub(super) async fn see_to_the_row(&self, course: &Course) {
        match runs::find(self.store.read(), course.run.0).await {
            Ok(Some(run)) if self.owns(&run) => {
                if run.phase == Phase::Stopping {
                    self.take_down(course, run.failure).await;
                } else if !run.phase.is_active() {
                    self.hints.wake(run.id);
                }
                // Another phase means that it was moved and moved back: the next tick gives it a task.
            }
            Ok(_) => self.routes.wake(),
            Err(error) => {
                tracing::warn!(server = %course.log_name(), %error, "a run's row could not be read");
            }
        }
    }

    /// Stops what runs and ends the run, whatever the spawner says or leaves unsaid.
    async fn take_down(&self, course: &Course, failure: Option<Failure>) {
        let is_unrouted = self.remove_route(course).await;
        fault::point("stop-unrouted");
        let state = match spawners::find_by_id(self.store.read(), course.spawner_id).await {
            Ok(spawner) => spawner.map(|spawner| spawner.state).unwrap_or_default(),
            Err(error) => {
                // The next tick tries again.
                tracing::warn!(server = %course.log_name(), %error, "a server's state could not be read");
                return;
            }
        };
        // Without a state, or without a row, something may run all the same.
        let found = if is_empty(&state) {
            self.search(&course.mark(), course.user.as_str()).await
        } else {
            Ok(Some(state))
        };
        let (mut left_running, mut trouble) = match found {
            Ok(Some(state)) => {
                let trouble = self.end_server(&state, None).await;
                (trouble.is_some().then_some(state), trouble)
            }
            Ok(None) => (None, None),
            Err(trouble) => (Some(whatever_has_its_mark()), Some(trouble)),
        };
        fault::point("stop-returned");
        if trouble.is_none() {
            left_running = self.end_remains(course).await;
            trouble = left_running.is_some().then(remains_failure);
        }
        let has_stopped = trouble.is_none();
        if let Some(trouble) = &mut trouble {
            tracing::error!(
                server = %course.log_name(),
                run = %course.run,
                "the server could not be stopped and may still run: {}",
                trouble.message
            );
            trouble
                .message
                .push_str(" It may still run; the hub goes on trying to stop it.");
        }
        let cancelled = failure
            .as_ref()
            .is_some_and(|failure| failure.cause == Cause::Cancelled);
        let (to, failure) = match (failure, trouble) {
            (Some(failure), None) if cancelled => (Phase::Stopped, Some(failure)),
            (Some(failure), _) if !cancelled => (Phase::Failed, Some(failure)),
            (_, Some(trouble)) => (Phase::Failed, Some(trouble)),
            (_, None) => (Phase::Stopped, None),
        };
        let failure = failure.map(|failure| Failure {
            left_running,
            ..failure
        });
        let ended = match self
            .finish(course, Phase::Stopping, to, failure.as_ref())
            .await
        {
            Ok(ended) => {
                if has_stopped {
                    tracing::info!(server = %course.log_name(), run = %course.run, "the server has stopped");
                }
                ended
            }
            Err(error) => {
                tracing::warn!(server = %course.log_name(), %error, "a server's end could not be noted");
                false
            }
        };
        self.see_to_routes(is_unrouted, ended);
    }

    /// Ends a run and takes back what its server was given, in one transaction. `false`: the run was
    /// no longer in `from`.
    pub(super) async fn finish(
        &self,
        course: &Course,
        from: Phase,
        to: Phase,
        failure: Option<&Failure>,
    ) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let run = course.run.0;
        let ended = self
            .store
            .write(|transaction| async move {
                let moved = if to == Phase::Stopped && from != Phase::Stopping {
                    runs::transition(&transaction, run, from, Phase::Stopping, now, None).await?
                        && runs::transition(&transaction, run, Phase::Stopping, to, now, None)
                            .await?
                } else if let (Phase::Failed, Some(failure)) = (to, failure) {
                    runs::fail(&transaction, run, from, failure, now).await?
                } else {
                    runs::transition(&transaction, run, from, to, now, None).await?
                };
                if moved {
                    if let Some(failure) = failure {
                        runs::set_failure(&transaction, run, failure).await?;
                        if failure.left_running.is_some() {
                            // By this the next life of the hub finds it; see `leftovers`.
                            runs::set_deadline(&transaction, run, to, Some(now)).await?;
                        }
                    }
                    if from != Phase::Queued {
                        self.revoke_grant(&transaction, course, now).await?;
                    }
                }
                fault::point("end-written");
                Ok::<_, StoreError>(moved)
            })
            .await?;
        fault::point("end-committed");
        if ended && let Some(failure) = failure {
            let whose = (course.mark(), course.user.to_string());
            self.note_leftover(course.run, course.log_name(), whose, failure);
        }
        self.hints.wake(run);
        if matches!(from, Phase::Starting | Phase::Stopping) {
            self.dispatch().await;
        }
        Ok(ended)
    }

    /// Ends a run whose user or server is gone: nothing else of it is left but what may run, which is
    /// looked for and stopped without keeping anybody waiting.
    pub(super) async fn end_orphan(&self, run: &Run) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let failure = &Failure {
            left_running: (run.phase != Phase::Queued).then(whatever_has_its_mark),
            ..Failure::new(Cause::Internal, "The user or server was removed.")
        };
        let ended = self
            .store
            .write(|transaction| async move {
                let ended = runs::fail(&transaction, run.id, run.phase, failure, now).await?;
                if ended && failure.left_running.is_some() {
                    runs::set_deadline(&transaction, run.id, Phase::Failed, Some(now)).await?;
                }
                Ok::<_, StoreError>(ended)
            })
            .await?;
        if ended {
            let server = format!("{}/{}", run.user_name, run.server_name);
            let mark = Course::mark_of(run.id, run.queued_at);
            let whose = (mark, run.user_name.clone());
            self.note_leftover(RunId(run.id), server, whose, failure);
        }
        self.routes.wake();
        self.hints.wake(run.id);
        Ok(ended)
    }

    /// `false`: the proxy is away. Whoever ends the run then wakes the keeper, which leaves routes alone
    /// as long as their servers start or stop.
    #[must_use]
    pub(super) async fn remove_route(&self, course: &Course) -> bool {
        if let Err(error) = self
            .routes
            .remove_server(&course.user, &course.server)
            .await
        {
            tracing::warn!(server = %course.log_name(), %error, "the server's route must wait for the proxy");
            return false;
        }
        true
    }

    /// To be called after [`Engine::remove_route`] and [`Engine::finish`]. A run that somebody else has
    /// ended may have had a successor since, whose route it was.
    pub(super) fn see_to_routes(&self, is_unrouted: bool, ended: bool) {
        if !is_unrouted || !ended {
            self.routes.wake();
        }
    }

    /// Waits until a run is neither queued, starting nor stopping, at most `until`, and says where it
    /// stands then.
    pub async fn wait(&self, run: RunId, until: Duration) -> Result<Phase, StoreError> {
        let end = tokio::time::Instant::now() + until;
        let mut hint = self.hints.listen(run.0);
        loop {
            let phase = runs::find(self.store.read(), run.0)
                .await?
                .map_or(Phase::Stopped, |run| run.phase);
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if phase.pending().is_none() || left.is_zero() {
                return Ok(phase);
            }
            hint.changed(left.min(LOOK)).await;
        }
    }

    /// Asks the spawner now whether a server runs; if it does not, its run is ended. False when it is
    /// not ready at all.
    pub async fn poll_now(&self, user: &User, server: &ServerName) -> Result<bool, StoreError> {
        match runs::active(self.store.read(), user.id, server.as_str()).await? {
            Some(run) if run.phase == Phase::Ready => self.ask_whether_it_runs(&run).await,
            _ => Ok(false),
        }
    }

    /// Removes the row of a server that does not run, with its shares.
    pub async fn delete_server(&self, user: &User, server: &ServerName) -> Result<(), DeleteError> {
        self.store
            .write(|transaction| async move {
                if runs::active(&transaction, user.id, server.as_str())
                    .await?
                    .is_some()
                {
                    let user = orrery_core::UserName::parse(&user.name);
                    let name =
                        user.map_or_else(|_| server.to_string(), |user| log_name(&user, server));
                    return Err(DeleteError::Active(name));
                }
                let Some(spawner) = spawners::find(&transaction, user.id, server.as_str()).await?
                else {
                    return Err(DeleteError::NoSuchServer {
                        user: user.name.clone(),
                        server: server.to_string(),
                    });
                };
                spawners::delete(&transaction, spawner.id).await?;
                Ok(())
            })
            .await
    }

    /// Stops a server and removes its row when it has stopped.
    pub async fn stop_and_delete(
        &self,
        user: &User,
        server: &ServerName,
    ) -> Result<StopOutcome, StopError> {
        let outcome = self.stop(user, server).await?;
        let engine = self.clone();
        let (user, server) = (user.clone(), server.clone());
        let limit = self.settings.stop_timeout + self.settings.grace;
        let remove = async move {
            if let Some(run) = outcome.run() {
                engine.wait(run, limit).await?;
            }
            match engine.delete_server(&user, &server).await {
                Ok(()) | Err(DeleteError::NoSuchServer { .. }) => Ok(()),
                Err(DeleteError::Store(error)) => Err(error),
                Err(DeleteError::Active(name)) => {
                    tracing::warn!(server = %name, "the server runs again and was not removed");
                    Ok(())
                }
            }
        };
        if outcome.run().is_none() {
            remove.await?;
        } else {
            self.tracker.spawn(async move {
                if let Err(error) = remove.await {
                    tracing::warn!(%error, "a stopped server could not be removed");
                }
            });
        }
        Ok(outcome)
    }

    /// Stops all servers of a user and waits for it, for instance before the user is deleted.
    pub async fn stop_all_of(&self, user: &User, until: Duration) -> Result<(), StopError> {
        let active = runs::active_of_users(self.store.read(), &[user.id]).await?;
        self.stop_and_wait(active, until).await
    }

    pub(super) async fn stop_and_wait(
        &self,
        active: Vec<Run>,
        until: Duration,
    ) -> Result<(), StopError> {
        let end = tokio::time::Instant::now() + until;
        let mut stopping = Vec::with_capacity(active.len());
        for mut run in active {
            for _ in 0..ATTEMPTS {
                if self.stop_run(&run).await?.is_some() {
                    break;
                }
                match runs::find(self.store.read(), run.id).await? {
                    Some(newer) if newer.phase.is_active() => run = newer,
                    _ => break,
                }
            }
            stopping.push(run);
        }
        for run in stopping {
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if self.wait(RunId(run.id), left).await?.is_active() {
                return Err(StopError::StillRunning(format!(
                    "{}/{}",
                    run.user_name, run.server_name
                )));
            }
        }
        Ok(())
    }
}
