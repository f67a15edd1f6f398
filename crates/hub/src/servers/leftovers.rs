//! What could not be stopped: tried again, ever more seldom, until it is gone. The failed run's row
//! has the spawner's state of it, so that the next life of the hub goes on trying.

use std::time::Duration;

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::runs::{self, TakeOver};
use orrery_store::{Dialect, StoreError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::view::is_empty;
use super::{Course, Engine, RunId};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How long what a dead server left may take to end politely.
const REMAINS_GRACE: Duration = Duration::from_secs(1);
/// The same of what could not be stopped before, so that force comes soon.
const LEFTOVER_GRACE: Duration = Duration::from_secs(10);
/// How often the spawner is asked for what a run without a state left.
const SEARCHES: u32 = 3;
/// The pause before it is asked again after it could not tell.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);

/// Something that may still run of a run that has ended.
pub(super) struct Leftover {
    server: String,
    /// By which, and as whose, it is found where no state of it is known.
    mark: String,
    user: String,
    failure: Failure,
    /// Empty for whatever has the mark.
    state: Value,
    pause: Duration,
    /// `None` while a try goes on.
    next: Option<Instant>,
}

/// What is noted of a run of which nobody can tell what it left: all that has its mark.
pub(super) fn whatever_has_its_mark() -> Value {
    json!({})
}

impl Engine {
    /// What runs of a run of `user`'s whose state was never kept. An error: nobody can tell, and
    /// something may.
    pub(super) async fn search(&self, mark: &str, user: &str) -> Result<Option<Value>, Failure> {
        let mut attempt = 1;
        loop {
            let search = self.spawner.find(mark, user);
            let trouble = match tokio::time::timeout(self.settings.poll_timeout, search).await {
                Ok(Ok(found)) => return Ok(found.filter(|state| !is_empty(state))),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::new(
                    Cause::Timeout,
                    "The spawner did not tell in time whether the server runs.",
                ),
            };
            tracing::warn!(
                attempt,
                "the spawner cannot tell what runs: {}",
                trouble.message
            );
            if attempt == SEARCHES {
                return Err(trouble);
            }
            attempt += 1;
            tokio::time::sleep(SEARCH_PAUSE).await;
        }
    }

    /// Stops what `state` names; says what stood in the way.
    pub(super) async fn end_server(
        &self,
        state: &Value,
        grace: Option<Duration>,
    ) -> Option<Failure> {
        let limit = self.settings.stop_timeout;
        match tokio::time::timeout(limit, self.spawner.stop(state, grace)).await {
            Ok(Ok(())) => None,
            Ok(Err(failure)) => Some(failure),
            Err(_) => Some(Failure::new(
                Cause::Timeout,
                format!(
                    "The server did not stop within {} seconds.",
                    limit.as_secs_f32()
                ),
            )),
        }
    }

    /// Ends what a server that is gone left behind, if an earlier life of the hub had started it: its
    /// end had nobody to clean up after it, and its spawner may know of its first process alone.
    ///
    /// Gives what may still run all the same, for a failure's `left_running`.
    pub(super) async fn end_remains(&self, course: &Course) -> Option<Value> {
        if !course.is_inherited {
            return None;
        }
        for _ in 0..SEARCHES {
            let trouble = match self.search(&course.mark(), course.user.as_str()).await {
                Ok(None) => return None,
                Ok(Some(state)) => {
                    tracing::info!(server = %course.log_name(), run = %course.run, "ending what a dead server left");
                    self.end_server(&state, Some(REMAINS_GRACE)).await
                }
                Err(trouble) => Some(trouble),
            };
            if let Some(trouble) = trouble {
                tracing::error!(
                    server = %course.log_name(),
                    run = %course.run,
                    "what a dead server left may still run; trying again later: {}",
                    trouble.message
                );
                break;
            }
        }
        // It may also be that there was always more to be found.
        Some(whatever_has_its_mark())
    }

    /// Notes what a failed run left running, if its failure says that it did.
    pub(super) fn note_leftover(
        &self,
        run: RunId,
        server: String,
        (mark, user): (String, String),
        failure: &Failure,
    ) {
        let Some(state) = failure.left_running.clone() else {
            return;
        };
        let pause = self.settings.tick;
        let leftover = Leftover {
            server,
            mark,
            user,
            failure: failure.clone(),
            state,
            pause,
            next: Some(Instant::now() + pause),
        };
        self.leftovers
            .lock()
            .expect("nothing panics under this lock")
            .insert(run.0, leftover);
    }

    /// Which runs this hub may take over when it starts: on SQLite there is one hub, so that whoever
    /// owned a run is gone.
    pub(super) fn may_take_over(&self) -> TakeOver {
        if self.store.dialect() == Dialect::Sqlite {
            TakeOver::All
        } else {
            TakeOver::Expired
        }
    }

    /// Reads what an earlier life of this hub, under whatever name, could not stop.
    pub(super) async fn load_leftovers(&self) -> Result<(), StoreError> {
        let which = self.may_take_over();
        let now = self.clock.now();
        for run in runs::with_leftovers(self.store.read(), which, &self.replica, now).await? {
            if let Some(failure) = &run.failure {
                let server = format!("{}/{}", run.user_name, run.server_name);
                let mark = Course::mark_of(run.id, run.queued_at);
                let whose = (mark, run.user_name.clone());
                self.note_leftover(RunId(run.id), server, whose, failure);
            }
        }
        Ok(())
    }

    /// Tries again what is due.
    pub(super) fn retry_leftovers(&self) {
        let now = Instant::now();
        let due: Vec<i64> = {
            let mut leftovers = self
                .leftovers
                .lock()
                .expect("nothing panics under this lock");
            leftovers
                .iter_mut()
                .filter(|(_, leftover)| leftover.next.is_some_and(|next| next <= now))
                .map(|(run, leftover)| {
                    leftover.next = None;
                    *run
                })
                .collect()
        };
        for run in due {
            let engine = self.clone();
            self.tracker.spawn(async move {
                tokio::select! {
                    () = engine.closing.cancelled() => {}
                    () = engine.retry_leftover(run) => {}
                }
            });
        }
    }

    async fn retry_leftover(&self, run: i64) {
        let known = {
            let leftovers = self
                .leftovers
                .lock()
                .expect("nothing panics under this lock");
            leftovers.get(&run).map(|leftover| {
                (
                    leftover.server.clone(),
                    leftover.mark.clone(),
                    leftover.user.clone(),
                    leftover.state.clone(),
                    leftover.failure.clone(),
                )
            })
        };
        let Some((server, mark, user, state, mut failure)) = known else {
            return;
        };
        let found = if is_empty(&state) {
            self.search(&mark, &user).await
        } else {
            Ok(Some(state))
        };
        let trouble = match found {
            Ok(Some(state)) => self.end_server(&state, Some(LEFTOVER_GRACE)).await,
            Ok(None) => None,
            Err(trouble) => Some(trouble),
        };
        let trouble = match trouble {
            None => {
                failure.left_running = None;
                let failure = &failure;
                let noted = self
                    .store
                    .write(|transaction| async move {
                        runs::set_failure(&transaction, run, failure).await?;
                        runs::set_deadline(&transaction, run, Phase::Failed, None).await
                    })
                    .await;
                match noted {
                    Ok(_) => {
                        tracing::info!(%server, run, "a server that could not be stopped is gone");
                        self.leftovers
                            .lock()
                            .expect("nothing panics under this lock")
                            .remove(&run);
                        return;
                    }
                    Err(error) => error.to_string(),
                }
            }
            Some(trouble) => trouble.message,
        };
        let mut leftovers = self
            .leftovers
            .lock()
            .expect("nothing panics under this lock");
        if let Some(leftover) = leftovers.get_mut(&run) {
            leftover.pause = (leftover.pause * 2).min(LONGEST_PAUSE);
            leftover.next = Some(Instant::now() + leftover.pause);
            tracing::error!(
                %server,
                run,
                again_in_seconds = leftover.pause.as_secs_f32(),
                "a server still cannot be stopped and may still run: {trouble}"
            );
        }
    }
}
