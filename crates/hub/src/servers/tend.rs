//! What the engine sees to all the time: leases, stray and overdue runs, the queue, activity.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use orrery_core::fault;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::runs::{self, Run, TakeOver};
use orrery_store::{StoreError, spawners};
use serde_json::Value;

use super::grant::Grant;
use super::leftovers::whatever_has_its_mark;
use super::queue::Board;
use super::run::Entry;
use super::view::is_empty;
use super::{Course, Engine, QueuePlace};

/// How many past starts the expected time is judged by.
const PAST_STARTS: u32 = 20;

/// How long tasks may take to notice that the hub closes.
const CLOSING: Duration = Duration::from_secs(5);

/// Says what could not be done, unless the store has said why already: a database that is away is no
/// news each second.
fn complain(error: &StoreError, what: &str) {
    if error.is_said() {
        tracing::debug!(%error, "{what}");
    } else {
        tracing::warn!(%error, "{what}");
    }
}

/// What calling a waiting run came to.
enum Turn {
    /// It starts, with these options and this OAuth client.
    Taken(Value, String),
    /// As many start as may.
    Full,
    /// It no longer waits.
    Gone,
}

impl Engine {
    /// Sees to leases, stray and overdue runs, the queue and activity until [`Engine::shutdown`].
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(self.settings.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut harvested = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = self.closing.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let interval = self.settings.last_activity_interval;
            if !interval.is_zero() && harvested.elapsed() >= interval {
                harvested = tokio::time::Instant::now();
                if let Err(error) = self.harvest_activity().await {
                    complain(
                        &error,
                        "the proxy's record of activity could not be taken over",
                    );
                }
            }
            if let Err(error) = self.tend().await {
                complain(&error, "servers could not be seen to; trying again soon");
            }
            self.may_be_queued.store(true, Ordering::Relaxed);
            self.dispatch().await;
            if let Err(error) = self.flush_activity().await {
                complain(&error, "activity could not be written; trying again soon");
            }
        }
    }

    /// One look at all runs that are ours or nobody's.
    pub(super) async fn tend(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let until = now + self.settings.lease;
        // Noted before the rows are read: a run that begins meanwhile is not lost.
        let with_task = self.with_task();
        let began = tokio::time::Instant::now();
        let is_due = self
            .renewed
            .lock()
            .expect("nothing panics under this lock")
            .is_none_or(|renewed| began.duration_since(renewed) >= self.settings.lease / 3);
        // A write makes every reader's cache stale, so there is none without need.
        if is_due || runs::count_free(self.store.read(), now).await? > 0 {
            self.store
                .write(|transaction| async move {
                    runs::extend_leases(&transaction, &self.replica, until).await?;
                    let which = TakeOver::Expired;
                    let taken =
                        runs::take_over(&transaction, which, &self.replica, now, until).await?;
                    for run in taken {
                        self.renew_deadline(&transaction, run.id, run.phase, now)
                            .await?;
                    }
                    Ok::<_, StoreError>(())
                })
                .await?;
            *self.renewed.lock().expect("nothing panics under this lock") = Some(began);
        }
        self.retry_leftovers();
        let standing = runs::standing_owned(self.store.read(), &self.replica).await?;
        // Noted again when all that was begun before the rows were read has its task: what has none then
        // lost it.
        drop(self.launching.write().await);
        let with_task_by_now = self.with_task();
        let mut ours = HashSet::new();
        for run in standing {
            ours.insert(run.id);
            let is_overdue = run.deadline.is_some_and(|deadline| deadline < now);
            if is_overdue || !with_task_by_now.contains(&run.id) {
                // Rare, so the whole row is read only now.
                match runs::find(self.store.read(), run.id).await? {
                    Some(run) if is_overdue => self.end_overdue(&run).await?,
                    Some(run) => self.resume(&run).await?,
                    None => {}
                }
            } else if run.phase == Phase::Stopping {
                // Its task may be waiting for the spawner; one that watches is told by this.
                self.nudge(run.id);
            }
        }
        for lost in with_task.difference(&ours) {
            self.nudge(*lost);
        }
        Ok(())
    }

    fn with_task(&self) -> HashSet<i64> {
        let tasks = self.tasks.lock().expect("nothing panics under this lock");
        tasks.keys().copied().collect()
    }

    /// Gives a run that has no task one, at the place where its row says it stands.
    pub(super) async fn resume(&self, run: &Run) -> Result<(), StoreError> {
        let Some(course) = Course::of(run, self.born) else {
            self.end_orphan(run).await?;
            return Ok(());
        };
        match run.phase {
            Phase::Starting => self.launch(course, Entry::Recover),
            Phase::Ready => self.launch(course, Entry::Watch),
            Phase::Stopping => self.launch(course, Entry::Stop),
            // Those that wait are called by the queue.
            Phase::Queued | Phase::Stopped | Phase::Failed => {}
        }
        Ok(())
    }

    /// Ends a run whose phase took longer than it may, whatever the spawner does.
    async fn end_overdue(&self, run: &Run) -> Result<(), StoreError> {
        let Some(course) = Course::of(run, self.born) else {
            self.end_orphan(run).await?;
            return Ok(());
        };
        let message = match run.phase {
            Phase::Queued => "The start waited too long for its turn. Please try again.",
            Phase::Starting => "The server did not start in time.",
            Phase::Stopping => "The server did not stop in time; it may still run.",
            Phase::Ready | Phase::Stopped | Phase::Failed => return Ok(()),
        };
        let failure = run
            .failure
            .clone()
            .filter(|failure| failure.cause != Cause::Cancelled)
            .unwrap_or_else(|| Failure::new(Cause::Timeout, message));
        tracing::error!(server = %course.log_name(), run = %course.run, "{message}");
        if run.phase == Phase::Starting {
            // Its task goes on from there with stopping what may run.
            if self
                .begin_stop(run.id, Phase::Starting, Some(&failure))
                .await?
                && !self.nudge(run.id)
            {
                self.launch(course, Entry::Stop);
            }
            return Ok(());
        }
        let is_unrouted = self.remove_route(&course).await;
        let mut failure = failure;
        if run.phase == Phase::Stopping {
            let spawner = spawners::find_by_id(self.store.read(), course.spawner_id).await?;
            let state = spawner.map(|spawner| spawner.state);
            // Searched for where nobody waits for it.
            failure.left_running = state
                .filter(|state| !is_empty(state))
                .or_else(|| Some(whatever_has_its_mark()));
        }
        let ended = self
            .finish(&course, run.phase, Phase::Failed, Some(&failure))
            .await?;
        self.see_to_routes(is_unrouted, ended);
        // A task that still waits for the spawner finds the run ended when it looks.
        self.nudge(run.id);
        Ok(())
    }

    /// Calls those whose turn has come, in fair order.
    pub(super) async fn dispatch(&self) {
        if !self.may_be_queued.load(Ordering::Relaxed) || self.closing.is_cancelled() {
            return;
        }
        if let Err(error) = self.call_next().await {
            complain(
                &error,
                "waiting starts could not be called; trying again soon",
            );
        }
    }

    async fn call_next(&self) -> Result<(), StoreError> {
        // One at a time, or two would call the same runs; only the database is awaited under it.
        let _dispatching = self.dispatching.lock().await;
        self.may_be_queued.store(false, Ordering::Relaxed);
        if runs::count_in(self.store.read(), &[Phase::Queued]).await? == 0 {
            return Ok(());
        }
        self.may_be_queued.store(true, Ordering::Relaxed);
        let limit = u64::from(self.settings.concurrent_spawn_limit);
        let starting = runs::count_in(self.store.read(), &[Phase::Starting]).await?;
        let free = if limit == 0 {
            u64::MAX
        } else {
            limit.saturating_sub(starting)
        };
        if free == 0 {
            return Ok(());
        }
        let free = u32::try_from(free).unwrap_or(u32::MAX);
        for run in &runs::queue_front(self.store.read(), free).await? {
            // Those of other replicas are called by these.
            if !self.owns(run) {
                continue;
            }
            let Some(course) = Course::of(run, self.born) else {
                self.end_orphan(run).await?;
                continue;
            };
            let grant = Grant::generate()?;
            let now = self.clock.now();
            let (taken, given) = (&course, &grant);
            let _launching = self.launching.read().await;
            let turn = self
                .store
                .write(|transaction| async move {
                    // Other replicas call theirs, and requests start at once, under the same limit.
                    runs::serialise(&transaction).await?;
                    if limit > 0 && runs::count_in(&transaction, &[Phase::Starting]).await? >= limit
                    {
                        return Ok(Turn::Full);
                    }
                    let old = spawners::find_by_id(&transaction, taken.spawner_id).await?;
                    let (old_address, options) = old.map_or((None, Value::Null), |spawner| {
                        (spawner.server_id, spawner.user_options)
                    });
                    let turned = self
                        .write_turn(&transaction, taken, given, old_address, now)
                        .await?;
                    Ok::<_, StoreError>(match turned {
                        Some(client_id) => Turn::Taken(options, client_id),
                        None => Turn::Gone,
                    })
                })
                .await?;
            let (options, client_id) = match turn {
                Turn::Taken(options, client_id) => (options, client_id),
                Turn::Full => return Ok(()),
                Turn::Gone => continue,
            };
            fault::point("start-called");
            self.hints.wake(run.id);
            self.launch(
                course,
                Entry::Start {
                    token: grant.token,
                    options: match options {
                        Value::Null => Value::Object(serde_json::Map::new()),
                        options => options,
                    },
                    client_id,
                },
            );
        }
        Ok(())
    }

    /// A run's place in the queue, as of half a second ago at most.
    pub(super) async fn queue_place(&self, run: i64) -> Result<Option<QueuePlace>, StoreError> {
        let mut board = self.board.lock().await;
        let limit = self.settings.concurrent_spawn_limit;
        if !board.is_fresh() {
            let queue = runs::queue(self.store.read()).await?;
            let took = runs::recent_start_times(self.store.read(), PAST_STARTS).await?;
            *board = Board::new(queue.iter().map(|run| run.id), &took);
        }
        Ok(board.place(run, limit))
    }

    /// How long [`Engine::shutdown`] may take.
    pub fn shutdown_limit(&self) -> Duration {
        self.settings.stop_timeout + self.settings.grace + CLOSING * 2
    }

    /// Ends all tasks. With `cleanup_servers` every server is stopped first; without, they run on and
    /// the hub's next life finds them.
    pub async fn shutdown(&self, cleanup_servers: bool) {
        if cleanup_servers {
            let limit = self.settings.stop_timeout + self.settings.grace;
            let stopped = match runs::list_owned(self.store.read(), &self.replica).await {
                Ok(active) => {
                    tracing::info!(servers = active.len(), "stopping all servers");
                    self.stop_and_wait(active, limit)
                        .await
                        .map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = stopped {
                tracing::error!(%error, "not all servers could be stopped");
            }
        }
        self.closing.cancel();
        self.tracker.close();
        if tokio::time::timeout(CLOSING, self.tracker.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks of servers did not end in time");
        }
        if let Err(error) = self.flush_activity().await {
            tracing::warn!(%error, "the last activity could not be written");
        }
    }
}
