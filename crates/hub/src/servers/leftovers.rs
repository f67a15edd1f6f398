//! What could not be stopped: tried again, ever more seldom, until it is gone. The failed run's row
//! has the spawner's state of it, so that the next life of the hub goes on trying.

use std::time::Duration;

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::StoreError;
use orrery_store::runs::{self, Run};
use serde_json::Value;
use tokio::time::Instant;

use super::view::is_empty;
use super::{Course, Engine, RunId};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);
/// How long what a dead server left may take to end politely.
const REMAINS_GRACE: Duration = Duration::from_secs(1);
/// How often the spawner is asked for what a run without a state left.
const SEARCHES: u32 = 3;

/// Something that may still run of a run that has ended.
pub(super) struct Leftover {
    server: String,
    failure: Failure,
    state: Value,
    pause: Duration,
    /// `None` while a try goes on.
    next: Option<Instant>,
}

impl Engine {
    /// What runs of a run of `user`'s whose state was never kept, as far as the spawner can find it.
    pub(super) async fn search(&self, mark: &str, user: &str) -> Option<Value> {
        for attempt in 1..=SEARCHES {
            let search = self.spawner.find(mark, user);
            match tokio::time::timeout(self.settings.poll_timeout, search).await {
                Ok(Ok(found)) => return found.filter(|state| !is_empty(state)),
                Ok(Err(failure)) => tracing::warn!(
                    attempt,
                    "the spawner cannot tell what runs: {}",
                    failure.message
                ),
                Err(_) => tracing::warn!(attempt, "the spawner did not tell in time what runs"),
            }
        }
        None
    }

    /// Stops what `state` names; says what stood in the way.
    pub(super) async fn end_server(&self, state: &Value) -> Option<Failure> {
        let limit = self.settings.stop_timeout;
        match tokio::time::timeout(limit, self.spawner.stop(state, None)).await {
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
    pub(super) async fn end_remains(&self, course: &Course) {
        if !course.is_inherited {
            return;
        }
        for _ in 0..SEARCHES {
            let Some(state) = self.search(&course.mark(), course.user.as_str()).await else {
                return;
            };
            tracing::info!(server = %course.log_name(), run = %course.run, "ending what a dead server left");
            let limit = self.settings.stop_timeout;
            let stop = self.spawner.stop(&state, Some(REMAINS_GRACE));
            let trouble = match tokio::time::timeout(limit, stop).await {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure.message,
                Err(_) => "the spawner did not end it in time".to_owned(),
            };
            tracing::error!(
                server = %course.log_name(),
                run = %course.run,
                "what a dead server left could not be ended: {trouble}"
            );
            return;
        }
    }

    /// Notes what a failed run left running, if its failure says that it did.
    pub(super) fn note_leftover(&self, run: RunId, server: String, failure: &Failure) {
        let Some(state) = failure.left_running.clone() else {
            return;
        };
        let pause = self.settings.tick;
        let leftover = Leftover {
            server,
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

    /// Reads what an earlier life of this hub could not stop.
    pub(super) async fn load_leftovers(&self) -> Result<(), StoreError> {
        for run in runs::with_leftovers(self.store.read(), &self.replica).await? {
            if let Some(failure) = &run.failure {
                let server = format!("{}/{}", run.user_name, run.server_name);
                self.note_leftover(RunId(run.id), server, failure);
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
                    leftover.state.clone(),
                    leftover.failure.clone(),
                )
            })
        };
        let Some((server, state, mut failure)) = known else {
            return;
        };
        let trouble = match self.end_server(&state).await {
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

    /// Stops what runs of a run whose user or server is gone, without keeping anybody waiting.
    pub(super) fn stop_unowned(&self, run: &Run) {
        let mark = Course::mark_of(run.id, run.queued_at);
        let (engine, run, user) = (self.clone(), run.id, run.user_name.clone());
        self.tracker.spawn(async move {
            let work = async {
                if let Some(state) = engine.search(&mark, &user).await
                    && let Some(trouble) = engine.end_server(&state).await
                {
                    tracing::error!(
                        run,
                        "a server without a user could not be stopped: {}",
                        trouble.message
                    );
                }
            };
            tokio::select! {
                () = engine.closing.cancelled() => {}
                () = work => {}
            }
        });
    }
}
