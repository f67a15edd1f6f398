//! The line between a proxy and its successor: the old one tells its routes and who uses them, the
//! new one what the REST API changes from then on. It lasts until the old one has ended, so that
//! both send requests the same way while the old one still serves connections.
//!
//! Each message is one line of JSON.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    path,
    routes::{Route, RouteTable},
    server::Shared,
    trie::Trie,
};

/// What one proxy tells the other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// A route that is new or has changed.
    Route {
        path: String,
        data: Map<String, Value>,
    },
    /// A route that is no more.
    Removed { path: String },
    /// A route was used at this time, in milliseconds since 1970.
    Used { path: String, at: i64 },
    /// From old to new: all routes have been told.
    Complete,
    /// From new to old: it serves.
    Ready,
    /// From old to new: the sockets' files, the pid file and the state file are the new one's.
    Released,
    /// From new to old: the site stops.
    Stop,
}

/// How often the old proxy tells which routes are used.
const USE: Duration = Duration::from_secs(2);

/// How often either looks whether its routes have changed. A look is one comparison.
const LOOK: Duration = Duration::from_millis(10);

/// After a look that found changes, so many times as long as it took passes until the next.
const REST: u32 = 10;

/// How long the other end may take to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// The line, while both ends take turns.
pub(crate) struct Line {
    reader: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    known: Known,
}

/// The routes as the other end knows them.
#[derive(Clone, Default)]
struct Known(Arc<Mutex<Trie<Arc<Route>>>>);

/// Which end of the line this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Old,
    New,
}

impl Line {
    pub(crate) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        Ok(Self {
            reader: BufReader::new(reader).lines(),
            writer,
            known: Known::default(),
        })
    }

    pub(crate) async fn send(&mut self, message: &Message) -> io::Result<()> {
        write(&mut self.writer, &line(message)).await
    }

    /// Tells what has changed since the last time; at first that is everything.
    pub(crate) async fn send_changes(&mut self, routes: &RouteTable) -> io::Result<()> {
        let changes = self.known.changes(routes);
        write(&mut self.writer, &changes).await
    }

    /// The next message that is not about routes; those are heeded on the way. `None` when the
    /// other end is gone. May be dropped at any time.
    pub(crate) async fn next(&mut self, routes: &RouteTable) -> io::Result<Option<Message>> {
        next(&mut self.reader, &self.known, routes).await
    }

    /// Takes over all routes that the old proxy tells, in one step.
    pub(crate) async fn take_table(&mut self, routes: &RouteTable) -> io::Result<()> {
        let mut table = HashMap::new();
        while let Some(line) = self.reader.next_line().await? {
            match serde_json::from_str(&line) {
                Ok(Message::Route { path, data }) => {
                    table.insert(path, data);
                }
                Ok(Message::Removed { path }) => {
                    table.remove(&path);
                }
                Ok(Message::Complete) => {
                    let mut known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
                    routes
                        .replace(table.into_iter().collect(), None)
                        .map_err(io::Error::other)?;
                    *known = routes.all();
                    return Ok(());
                }
                // Another version may have more to say.
                Ok(_) | Err(_) => {}
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// From now on both ends speak whenever they have something to say, until `done`, or until
    /// the other end is gone.
    pub(crate) fn keep(self, shared: &Arc<Shared>, end: End, done: CancellationToken) {
        let (known, reader, writer) = (self.known, self.reader, self.writer);
        let tasks = match end {
            End::Old => &shared.lines,
            End::New => &shared.predecessors,
        };
        tasks.spawn(tell(
            Arc::clone(shared),
            known.clone(),
            writer,
            end,
            done.clone(),
        ));
        tasks.spawn(hear(Arc::clone(shared), known, reader, end, done));
    }
}

impl Known {
    /// As lines, what has changed.
    fn changes(&self, routes: &RouteTable) -> String {
        let mut lines = String::new();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = routes.all();
        current.for_each(|route| {
            let old = known.get(path::segments(route.path.as_bytes()));
            if old.is_some_and(|old| Arc::ptr_eq(old, route)) {
                return;
            }
            // As `Message::Route`, without taking the stored JSON apart.
            lines.push_str("{\"route\":{\"path\":");
            lines.push_str(&Value::from(&*route.path).to_string());
            lines.push_str(",\"data\":");
            route.write_json(&mut lines);
            lines.push_str("}}\n");
        });
        known.for_each(|route| {
            if current.get(path::segments(route.path.as_bytes())).is_none() {
                let path = route.path.to_string();
                lines.push_str(&line(&Message::Removed { path }));
            }
        });
        *known = current;
        lines
    }

    fn heed(&self, message: Message, routes: &RouteTable) -> Option<Message> {
        // Held, so that what was heard is not told back.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Route { path, data } => match routes.add(&path, data) {
                Ok(route) => {
                    let path = route.path.clone();
                    known.insert(path::segments(path.as_bytes()), route);
                }
                Err(error) => tracing::warn!("internal: a route was not handed over: {error}"),
            },
            Message::Removed { path } => {
                routes.remove(&path);
                known.remove(path::segments(path.as_bytes()));
            }
            Message::Used { path, at } => {
                if let Some(route) = routes.get(&path) {
                    route.used_at(at);
                }
            }
            other => return Some(other),
        }
        None
    }
}

fn line(message: &Message) -> String {
    let mut line = serde_json::to_string(message).expect("maps with texts as keys are JSON");
    line.push('\n');
    line
}

async fn write(writer: &mut OwnedWriteHalf, lines: &str) -> io::Result<()> {
    // In pieces, so that a long table needs no long patience.
    for piece in lines.as_bytes().chunks(64 * 1024) {
        timeout(PATIENCE, writer.write_all(piece)).await??;
    }
    Ok(())
}

async fn next(
    reader: &mut Lines<BufReader<OwnedReadHalf>>,
    known: &Known,
    routes: &RouteTable,
) -> io::Result<Option<Message>> {
    while let Some(line) = reader.next_line().await? {
        let message = match serde_json::from_str::<Message>(&line) {
            Ok(message) => message,
            // Another version may have more to say.
            Err(error) => {
                tracing::debug!("internal: a message from the other proxy is left out: {error}");
                continue;
            }
        };
        if let Some(message) = known.heed(message, routes) {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

/// Tells the other end what changes.
async fn tell(
    shared: Arc<Shared>,
    known: Known,
    mut writer: OwnedWriteHalf,
    end: End,
    done: CancellationToken,
) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut uses = interval(USE);
    uses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    let mut told_uses_at = 0;
    let mut told_stop = false;
    loop {
        let mut lines = String::new();
        let is_last = tokio::select! {
            _ = looks.tick() => false,
            _ = uses.tick(), if end == End::Old => {
                add_uses(&shared.routes, &mut told_uses_at, &mut lines);
                false
            }
            () = shared.site_stops.cancelled(), if end == End::New && !told_stop => {
                lines.push_str(&line(&Message::Stop));
                told_stop = true;
                false
            }
            () = done.cancelled() => {
                if end == End::Old {
                    add_uses(&shared.routes, &mut told_uses_at, &mut lines);
                }
                true
            }
        };
        let version = shared.routes.version();
        if told != Some(version) {
            let begun = Instant::now();
            lines.insert_str(0, &known.changes(&shared.routes));
            told = Some(version);
            // A long table that changes all the time must not keep a processor busy.
            looks.reset_after(LOOK.max(REST * begun.elapsed()));
        }
        if !lines.is_empty()
            && let Err(error) = write(&mut writer, &lines).await
        {
            tracing::debug!("internal: the other proxy does not listen: {error}");
            done.cancel();
            return;
        }
        if is_last {
            return;
        }
    }
}

/// Adds who was used since the last time.
fn add_uses(routes: &RouteTable, since: &mut i64, lines: &mut String) {
    let now = crate::routes::now();
    routes.all().for_each(|route| {
        let at = route.last_activity();
        if at >= *since {
            let path = route.path.to_string();
            lines.push_str(&line(&Message::Used { path, at }));
        }
    });
    *since = now;
}

/// Heeds what the other end tells.
async fn hear(
    shared: Arc<Shared>,
    known: Known,
    mut reader: Lines<BufReader<OwnedReadHalf>>,
    end: End,
    done: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = next(&mut reader, &known, &shared.routes) => message,
            () = done.cancelled() => return,
        };
        match message {
            Ok(Some(Message::Stop)) if end == End::Old => {
                tracing::warn!("The new proxy stops, and this one with it");
                shared.site_stops.cancel();
                shared.stop.cancel();
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::debug!("The other proxy has ended");
                break;
            }
            Err(error) => {
                tracing::debug!("internal: the other proxy cannot be heard: {error}");
                break;
            }
        }
    }
    done.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &str)]) -> RouteTable {
        let table = RouteTable::new(false);
        for (path, target) in entries {
            let mut data = Map::new();
            data.insert("target".to_owned(), Value::from(*target));
            data.insert("user".to_owned(), Value::from("ada"));
            table.add(path, data).unwrap();
        }
        table
    }

    fn pair() -> (Line, Line) {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        (Line::new(one).unwrap(), Line::new(other).unwrap())
    }

    #[tokio::test]
    async fn routes_their_changes_and_their_use_arrive_and_are_not_told_back() {
        let (mut old, mut new) = pair();
        let ours = table(&[("/", "http://hub:1"), ("/user/ada", "http://ada:1")]);
        let theirs = table(&[]);
        let patience = Duration::from_secs(5);

        ours.get("/user/ada").unwrap().used_at(5_000_000_000_000);
        old.send_changes(&ours).await.unwrap();
        old.send(&Message::Complete).await.unwrap();
        timeout(patience, new.take_table(&theirs))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(theirs.to_json(None).0, ours.to_json(None).0);
        assert_eq!(new.known.changes(&theirs), "");

        ours.remove("/user/ada").unwrap();
        ours.add("/", ours_target("http://hub:2")).unwrap();
        old.send_changes(&ours).await.unwrap();
        old.send(&Message::Released).await.unwrap();
        let heard = timeout(patience, new.next(&theirs)).await.unwrap().unwrap();
        assert!(matches!(heard, Some(Message::Released)), "{heard:?}");
        assert_eq!(theirs.to_json(None).0, ours.to_json(None).0);

        // The other way round, as after the handover.
        theirs
            .add("/user/bob", ours_target("http://bob:1"))
            .unwrap();
        new.send_changes(&theirs).await.unwrap();
        new.send(&Message::Stop).await.unwrap();
        let heard = timeout(patience, old.next(&ours)).await.unwrap().unwrap();
        assert!(matches!(heard, Some(Message::Stop)), "{heard:?}");
        assert_eq!(theirs.to_json(None).0, ours.to_json(None).0);
    }

    fn ours_target(target: &str) -> Map<String, Value> {
        Map::from_iter([("target".to_owned(), Value::from(target))])
    }
}
