//! Looking whether a server runs: from time to time while it is ready, and often while it starts.

use std::time::Duration;

use orrery_core::fault;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::spawner::Status;
use orrery_store::StoreError;
use orrery_store::runs::{self, Run};
use orrery_store::spawners;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::run::Next;
use super::{Course, Engine, stop};

/// How many lines of a server's log a failure carries.
pub(super) const LOG_TAIL: usize = 100;
/// The first pause between two looks whether a starting server still lives.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The longest such pause.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

impl Engine {
    /// Watches a ready server until it is gone or somebody wants something else.
    pub(super) async fn watch(&self, course: &Course, look: &CancellationToken) -> Next {
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
    pub(super) async fn look_at(&self, course: &Course, look: &CancellationToken) -> Next {
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

    /// Returns when the server of `state` has ended.
    pub(super) async fn until_it_ends(&self, state: &Value) -> Failure {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            if let Some(Status::Exited(code)) = self.poll(state).await {
                return self.exited(state, code).await;
            }
            pause = pause.mul_f64(1.5).min(LONGEST_LOOK);
        }
    }

    pub(super) async fn exited(&self, state: &Value, code: Option<i32>) -> Failure {
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
}

fn jittered(interval: Duration, jitter: f64) -> Duration {
    let [byte] = orrery_core::random::bytes::<1>();
    let side = f64::from(byte) / 127.5 - 1.0;
    interval.mul_f64((1.0 + side * jitter.clamp(0.0, 1.0)).max(0.0))
}
