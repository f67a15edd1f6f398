//! What changed of users and servers, read from the database for all who watch on this hub.
//!
//! The truth is the table of events; here is only what saves each watcher from asking for itself: while
//! anybody watches, one task looks for new events and keeps the last ones. While nobody does, nothing runs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use orrery_store::events::{self, Event};
use orrery_store::{NaiveDateTime, Store, StoreError, Version, spawners};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many may watch on one hub, if there may be twice as many open files.
const MOST: usize = 2048;
/// The part of these places that is kept for those who see all users or all servers: one in so many.
const RESERVED: usize = 4;
/// How many streams one requester may have.
const MOST_OF_ONE: usize = 16;
/// How many streams a user may have who sees nobody else: tabs of a browser.
const MOST_OF_OWN: usize = 4;
/// How many events are kept for those who are nearly up to date.
const TAIL: usize = 2048;
/// How many events are read at once.
pub(crate) const PAGE: u32 = 500;
/// How many rounds of activity may wait for a slow watcher.
const ROUNDS: usize = 16;

/// How often what is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Between two looks for events. On SQLite a look that finds nothing costs next to nothing.
    pub look: Duration,
    /// Between two looks at when servers were last used.
    pub activity: Duration,
    /// How long a watcher may take to read what was sent.
    pub write: Duration,
    /// How long a watcher is told nothing at most.
    pub silence: Duration,
    /// Between two looks whether a watcher still has the right to watch.
    pub rights: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(250),
            activity: Duration::from_secs(10),
            write: Duration::from_secs(30),
            silence: Duration::from_secs(15),
            rights: Duration::from_secs(1),
        }
    }
}

/// The changes of users and servers.
pub struct Feed {
    store: Store,
    pauses: Pauses,
    places: usize,
    shared: Mutex<Shared>,
    /// The position of the last event seen.
    head: watch::Sender<i64>,
    rounds: broadcast::Sender<Arc<Vec<Used>>>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Shared {
    watchers: HashMap<(String, Reach), usize>,
    /// How many those are altogether.
    count: usize,
    /// Those among them who do not see all.
    narrow: usize,
    is_looking: bool,
    /// All events after `tail_after`, up to the head.
    tail: VecDeque<Arc<Event>>,
    tail_after: i64,
}

/// A server that was used since the round before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Whose it is.
    pub user: String,
    /// Its name; empty for the default server.
    pub server: String,
    /// When it was last used.
    pub last_activity: NaiveDateTime,
}

/// How much of the hub a watcher sees, which decides how many places there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// A user's own changes and nobody else's.
    Own,
    /// Those of some users or servers.
    Some,
    /// Those of all users or of all servers.
    All,
}

/// Why nobody else may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// This hub has as many watchers as it takes.
    Hub,
    /// The requester has as many streams as one may have.
    Requester,
}

/// The right to watch, until it is dropped.
pub struct Watcher {
    feed: Arc<Feed>,
    who: (String, Reach),
    /// The position of the last event seen, as it moves on.
    pub(crate) head: watch::Receiver<i64>,
    /// Servers that were used. Only those who watch now are told.
    pub(crate) rounds: broadcast::Receiver<Arc<Vec<Used>>>,
}

impl Feed {
    /// The changes in a database.
    pub fn new(store: Store, pauses: Pauses) -> Arc<Self> {
        Arc::new(Self {
            store,
            pauses,
            places: places(),
            shared: Mutex::default(),
            head: watch::Sender::new(0),
            rounds: broadcast::Sender::new(ROUNDS),
            closing: CancellationToken::new(),
        })
    }

    /// Ends all watching: the hub stops.
    pub fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(crate) fn pauses(&self) -> Pauses {
        self.pauses
    }

    /// How many may watch.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Whether the database is looked at just now.
    pub fn is_looking(&self) -> bool {
        self.lock().is_looking
    }

    /// Lets somebody watch.
    pub fn watch(self: &Arc<Self>, who: &str, reach: Reach) -> Result<Watcher, Busy> {
        let who = (who.to_owned(), reach);
        let mut shared = self.lock();
        let is_narrow = reach != Reach::All;
        let for_narrow = self.places - self.places / RESERVED;
        if shared.count >= self.places || (is_narrow && shared.narrow >= for_narrow) {
            return Err(Busy::Hub);
        }
        let most = match reach {
            Reach::Own => MOST_OF_OWN,
            Reach::Some | Reach::All => MOST_OF_ONE,
        };
        if shared.watchers.get(&who).copied().unwrap_or_default() >= most {
            return Err(Busy::Requester);
        }
        *shared.watchers.entry(who.clone()).or_default() += 1;
        shared.count += 1;
        shared.narrow += usize::from(is_narrow);
        if !shared.is_looking {
            shared.is_looking = true;
            tokio::spawn(Arc::clone(self).look());
        }
        drop(shared);
        Ok(Watcher {
            feed: Arc::clone(self),
            who,
            head: self.head.subscribe(),
            rounds: self.rounds.subscribe(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(self: Arc<Self>) {
        let mut looking = Looking::default();
        loop {
            if let Err(error) = self.look_once(&mut looking).await {
                if !looking.has_failed {
                    tracing::warn!(%error, "the changes of users and servers cannot be read; trying on");
                }
                looking.has_failed = true;
            } else {
                looking.has_failed = false;
            }
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(self.pauses.look) => {}
            }
            let mut shared = self.lock();
            if shared.watchers.is_empty() {
                shared.is_looking = false;
                shared.tail.clear();
                shared.tail_after = i64::MAX;
                return;
            }
        }
    }

    async fn look_once(&self, looking: &mut Looking) -> Result<(), StoreError> {
        let version = self.store.freshness().await?;
        let is_news = |seen: Option<Version>| version.is_none() || version != seen;
        if is_news(looking.seen) {
            self.look_at_events(looking).await?;
            looking.seen = version;
        }
        let is_due = looking
            .activity_at
            .is_none_or(|at| at.elapsed() >= self.pauses.activity);
        if is_due && is_news(looking.activity_seen) {
            self.look_at_activity(looking).await?;
            looking.activity_at = Some(Instant::now());
            looking.activity_seen = version;
        }
        Ok(())
    }

    async fn look_at_events(&self, looking: &mut Looking) -> Result<(), StoreError> {
        let mut last = if let Some(last) = looking.last {
            last
        } else {
            let last = events::span(&self.store).await?.last;
            let mut shared = self.lock();
            shared.tail.clear();
            shared.tail_after = last;
            last
        };
        loop {
            let page = events::after(&self.store, last, PAGE).await?;
            let is_last = page.events.len() < PAGE as usize;
            self.keep(page.events, page.has_gap, &mut last);
            looking.last = Some(last);
            self.head.send_if_modified(|head| {
                let has_moved = *head != last;
                *head = last;
                has_moved
            });
            if is_last {
                return Ok(());
            }
        }
    }

    fn keep(&self, events: Vec<Event>, has_gap: bool, last: &mut i64) {
        let mut shared = self.lock();
        if has_gap {
            // Whoever is behind the gap finds it in the database.
            shared.tail.clear();
            shared.tail_after = events.first().map_or(*last, |event| event.position - 1);
        }
        for event in events {
            *last = event.position;
            shared.tail.push_back(Arc::new(event));
        }
        while shared.tail.len() > TAIL {
            if let Some(oldest) = shared.tail.pop_front() {
                shared.tail_after = oldest.position;
            }
        }
    }

    /// Tells which servers were used since the last time. The first time there is nothing to compare with.
    async fn look_at_activity(&self, looking: &mut Looking) -> Result<(), StoreError> {
        let now = spawners::activity(self.store.read()).await?;
        let before = looking.activity.take();
        let mut after = HashMap::with_capacity(now.len());
        let mut used = Vec::new();
        for server in now {
            let Some(at) = server.last_activity else {
                continue;
            };
            let is_news = before
                .as_ref()
                .is_some_and(|before| before.get(&server.id).is_none_or(|known| *known < at));
            if is_news {
                used.push(Used {
                    user: server.user_name,
                    server: server.name,
                    last_activity: at,
                });
            }
            after.insert(server.id, at);
        }
        looking.activity = Some(after);
        if !used.is_empty() {
            // Nobody listens any more: then nobody misses it.
            let _ = self.rounds.send(Arc::new(used));
        }
        Ok(())
    }
}

/// As many as leave open files for all else.
fn places() -> usize {
    let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(files / 2).unwrap_or(MOST).clamp(16, MOST)
}

/// What the looking task remembers.
#[derive(Default)]
struct Looking {
    /// The database's version when all was seen.
    seen: Option<Version>,
    last: Option<i64>,
    activity: Option<HashMap<i32, NaiveDateTime>>,
    activity_at: Option<Instant>,
    /// The database's version when the activity was looked at.
    activity_seen: Option<Version>,
    has_failed: bool,
}

impl Watcher {
    /// The kept events after `position`; `None` if it lies too far back for that.
    pub(crate) fn after(&self, position: i64) -> Option<Vec<Arc<Event>>> {
        let shared = self.feed.lock();
        if position < shared.tail_after {
            return None;
        }
        let start = shared
            .tail
            .partition_point(|event| event.position <= position);
        Some(
            shared
                .tail
                .range(start..)
                .take(PAGE as usize)
                .cloned()
                .collect(),
        )
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut shared = self.feed.lock();
        if let Some(count) = shared.watchers.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                shared.watchers.remove(&self.who);
            }
            shared.count -= 1;
            shared.narrow -= usize::from(self.who.1 != Reach::All);
        }
    }
}
