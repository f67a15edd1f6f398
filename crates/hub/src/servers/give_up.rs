//! Ending a start that failed.

use std::sync::atomic::Ordering;

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::spawner::Status;
use orrery_store::spawners;
use serde_json::Value;

use super::view::is_empty;
use super::watch::LOG_TAIL;
use super::{Course, Engine};

impl Engine {
    /// Ends a start that failed. The user sees why at once; what may still run is stopped first.
    pub(super) async fn give_up(&self, course: &Course, mut failure: Failure) {
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

    pub(super) fn count_failure(&self, failure: &Failure) {
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
}
