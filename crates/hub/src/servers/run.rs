//! The task that drives one run.

use std::sync::atomic::Ordering;
use std::time::Duration;

use orrery_core::phase::{Cause, Failure};
use orrery_core::{Secret, fault};
use orrery_store::StoreError;
use orrery_store::spawners::{self, SpawnerChanges};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Course, Engine, grant};

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
pub(super) enum Next {
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

    pub(super) async fn keep_state(&self, course: &Course, state: &Value) -> Result<(), Failure> {
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

    /// Tries again while the database is away: a start must not fail because of a restart of the
    /// database. The phase's deadline bounds it.
    pub(super) async fn trying<T, F>(&self, what: &str, work: impl Fn() -> F) -> Result<T, Failure>
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
}
