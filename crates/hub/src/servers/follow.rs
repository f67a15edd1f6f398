//! The stream of progress events of a start, fed from its row.

use std::time::Duration;

use futures_util::Stream;
use orrery_core::ServerName;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::runs::{self, Run};
use orrery_store::users::User;
use orrery_store::{StoreError, spawners};
use tokio::sync::mpsc;

use super::view::is_empty;
use super::{Engine, ProgressEvent, events};

/// How often the row and the server's log are looked at, beside what wakes the stream at once.
const LOOK: Duration = Duration::from_secs(1);
/// How many lines of the server's log are looked at.
const LOG_LINES: usize = 100;
/// How many events may wait for a slow reader.
const BUFFER: usize = 16;

impl Engine {
    /// The progress of a server's newest run: all events so far, then new ones, at last one that is
    /// `ready` or `failed`. Asking again gives all of them again. `None` when the server was never
    /// started or has stopped as asked.
    pub async fn events(
        &self,
        user: &User,
        server: &ServerName,
    ) -> Result<Option<impl Stream<Item = ProgressEvent> + Send + use<>>, StoreError> {
        let Some(spawner) = spawners::find(self.store.read(), user.id, server.as_str()).await?
        else {
            return Ok(None);
        };
        let Some(run) = runs::latest(self.store.read(), spawner.id).await? else {
            return Ok(None);
        };
        if run.phase == Phase::Stopped && run.failure.is_none() {
            return Ok(None);
        }
        let (sender, receiver) = mpsc::channel(BUFFER);
        let engine = self.clone();
        self.tracker.spawn(async move {
            let closing = engine.closing.clone();
            tokio::select! {
                () = closing.cancelled() => {}
                // Nobody reads any more.
                () = sender.closed() => {}
                () = Follower::new(engine, spawner.id, sender.clone()).follow(run.id) => {}
            }
        });
        Ok(Some(futures_util::stream::unfold(
            receiver,
            |mut receiver| async move {
                let event = receiver.recv().await?;
                Some((event, receiver))
            },
        )))
    }
}

struct Follower {
    engine: Engine,
    spawner_id: i32,
    sender: mpsc::Sender<ProgressEvent>,
    last: Option<ProgressEvent>,
    place: Option<ProgressEvent>,
    log: Vec<String>,
}

impl Follower {
    fn new(engine: Engine, spawner_id: i32, sender: mpsc::Sender<ProgressEvent>) -> Self {
        Self {
            engine,
            spawner_id,
            sender,
            last: None,
            place: None,
            log: Vec::new(),
        }
    }

    async fn follow(mut self, run: i64) {
        let mut hint = self.engine.hints.listen(run);
        loop {
            match runs::find(self.engine.store.read(), run).await {
                Ok(Some(row)) => {
                    self.tell_new(&row).await;
                    if let Some(end) = self.end(&row) {
                        let _ = self.sender.send(end).await;
                        return;
                    }
                    self.tell_place_and_log(&row).await;
                }
                Ok(None) => {
                    let failure = Failure::new(Cause::Internal, "The server was removed.");
                    let _ = self.sender.send(ProgressEvent::failed(&failure)).await;
                    return;
                }
                // The database is away for a moment; the reader keeps what it has.
                Err(error) => tracing::debug!(%error, "the progress of a start could not be read"),
            }
            hint.changed(LOOK).await;
        }
    }

    /// Sends the events of the row that were not sent yet.
    async fn tell_new(&mut self, row: &Run) {
        let events = events::so_far(&row.events);
        let known = self
            .last
            .as_ref()
            .and_then(|last| events.iter().rposition(|event| event == last));
        for event in events.into_iter().skip(known.map_or(0, |index| index + 1)) {
            self.last = Some(event.clone());
            let _ = self.sender.send(event).await;
        }
    }

    async fn tell_place_and_log(&mut self, row: &Run) {
        match row.phase {
            Phase::Queued => {
                if let Ok(Some(place)) = self.engine.queue_place(row.id).await {
                    let event = ProgressEvent::queued(place);
                    if self.place.as_ref() != Some(&event) {
                        self.place = Some(event.clone());
                        let _ = self.sender.send(event).await;
                    }
                }
            }
            Phase::Starting => {
                let Ok(Some(spawner)) =
                    spawners::find_by_id(self.engine.store.read(), self.spawner_id).await
                else {
                    return;
                };
                if is_empty(&spawner.state) {
                    return;
                }
                let lines = self.engine.log_lines(&spawner.state, LOG_LINES).await;
                let fresh = fresh_lines(&self.log, &lines).to_vec();
                if !fresh.is_empty() {
                    self.log = lines;
                    let progress = self
                        .last
                        .as_ref()
                        .and_then(|last| last.progress)
                        .unwrap_or_default();
                    let _ = self.sender.send(ProgressEvent::log(progress, fresh)).await;
                }
            }
            _ => {}
        }
    }

    /// The last event, when there is nothing more to come.
    fn end(&self, row: &Run) -> Option<ProgressEvent> {
        match row.phase {
            Phase::Queued | Phase::Starting => None,
            Phase::Ready => {
                let user = orrery_core::UserName::parse(&row.user_name).ok()?;
                let server = ServerName::parse(&row.server_name).ok()?;
                Some(ProgressEvent::ready(
                    &self.engine.urls.server_url(&user, &server),
                ))
            }
            // Also while what may still run is being stopped: the reader need not wait for that.
            Phase::Stopping | Phase::Stopped | Phase::Failed => {
                let failure = row.failure.clone().unwrap_or_else(|| {
                    Failure::new(Cause::Cancelled, "The server is being stopped.")
                });
                Some(ProgressEvent::failed(&failure))
            }
        }
    }
}

/// The lines of `now` that come after those of `before`; both are the last lines of the same log.
fn fresh_lines<'a>(before: &[String], now: &'a [String]) -> &'a [String] {
    let longest = before.len().min(now.len());
    let overlap = (0..=longest)
        .rev()
        .find(|count| before[before.len() - count..] == now[..*count])
        .unwrap_or(0);
    &now[overlap..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_lines_are_told() {
        let lines = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        for (before, now, fresh) in [
            ("", "a b", "a b"),
            ("a b", "a b", ""),
            ("a b", "a b c", "c"),
            ("a b c", "b c d e", "d e"),
            ("a a", "a a a", "a"),
            ("a b", "x y", "x y"),
        ] {
            assert_eq!(
                fresh_lines(&lines(before), &lines(now)),
                lines(fresh),
                "{before:?} {now:?}"
            );
        }
    }
}
