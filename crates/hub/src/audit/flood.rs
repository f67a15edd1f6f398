//! Keeps many equal events from becoming many rows.
//!
//! The first of equal events is recorded at once; those that follow within a window are counted, and
//! one row says how many when the window ends. What differs is bounded too: each user and service, and
//! all strangers together, have so many different rows in a window. What is beyond that is counted by
//! action alone, so that nothing goes unsaid and nobody can fill the disk.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use orrery_store::audit::Row;

use super::Event;

/// How long equal events share a row.
pub(super) const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Different events of all strangers together within a window that get rows of their own.
const OF_STRANGERS: usize = 100;
/// Different events of one known requester within a window that get rows of their own.
const OF_ONE: usize = 50;
/// Events remembered in one window at most.
const MAX_KEYS: usize = 20_000;

/// What happened in this window so far.
#[derive(Default)]
pub(super) struct Flood {
    since: Option<NaiveDateTime>,
    seen: HashMap<String, Counted>,
    /// Different events of each actor.
    different: HashMap<String, usize>,
    /// Beyond what gets rows of its own; the number of keys is that of actions and actors.
    beyond: BTreeMap<String, Counted>,
}

struct Counted {
    event: Event,
    first: NaiveDateTime,
    last: NaiveDateTime,
    more: i32,
}

impl Flood {
    /// The event, if it is to be recorded now; otherwise it was counted.
    pub(super) fn pass(&mut self, event: Event, now: NaiveDateTime) -> Option<Event> {
        self.since.get_or_insert(now);
        let key = event.key();
        if let Some(counted) = self.seen.get_mut(&key) {
            counted.add(now);
            return None;
        }
        let (actor, limit) = if event.is_of_stranger() {
            (String::new(), OF_STRANGERS)
        } else {
            (event.actor_key(), OF_ONE)
        };
        let different = self.different.entry(actor).or_default();
        if *different >= limit || self.seen.len() >= MAX_KEYS {
            let blurred = event.blurred();
            let blurred_key = blurred.key();
            if let Some(counted) = self.beyond.get_mut(&blurred_key) {
                counted.add(now);
            } else {
                let mut counted = Counted::new(blurred, now);
                counted.more = 1;
                self.beyond.insert(blurred_key, counted);
            }
            return None;
        }
        *different += 1;
        self.seen.insert(key, Counted::new(event.clone(), now));
        Some(event)
    }

    /// The rows of what was counted, if the window has ended, or in any case when `all` is wanted.
    /// What goes on goes on being counted.
    pub(super) fn rows(&mut self, now: NaiveDateTime, all: bool) -> Vec<Row> {
        let window = TimeDelta::from_std(WINDOW).unwrap_or(TimeDelta::MAX);
        let ended = self.since.is_some_and(|since| now - since >= window);
        if !ended && !all {
            return Vec::new();
        }
        self.since = None;
        self.different.clear();
        let mut rows = Vec::new();
        let mut seen = std::mem::take(&mut self.seen);
        seen.retain(|_, counted| counted.more > 0);
        for (key, mut counted) in seen {
            rows.push(counted.row());
            // It is likely to go on, and is then not recorded at once again.
            let actor = if counted.event.is_of_stranger() {
                String::new()
            } else {
                counted.event.actor_key()
            };
            *self.different.entry(actor).or_default() += 1;
            counted.first = now;
            counted.more = 0;
            self.seen.insert(key, counted);
        }
        rows.extend(
            std::mem::take(&mut self.beyond)
                .into_values()
                .map(|counted| counted.row()),
        );
        if !self.seen.is_empty() {
            self.since = Some(now);
        }
        rows.sort_by_key(|row| row.at);
        rows
    }
}

impl Counted {
    fn new(event: Event, now: NaiveDateTime) -> Self {
        Self {
            event,
            first: now,
            last: now,
            more: 0,
        }
    }

    fn add(&mut self, now: NaiveDateTime) {
        if self.more == 0 {
            self.first = now;
        }
        self.more = self.more.saturating_add(1);
        self.last = now;
    }

    fn row(&self) -> Row {
        let last = self
            .last
            .and_utc()
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        self.event
            .clone()
            .detail("last", last)
            .into_row(self.first, self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Action, Outcome};

    fn at(seconds: i64) -> NaiveDateTime {
        NaiveDateTime::default() + TimeDelta::seconds(seconds)
    }

    fn refused(path: usize) -> Event {
        Event::new(Action::Denied)
            .outcome(Outcome::Denied)
            .detail("path", path)
    }

    #[test]
    fn equal_events_share_a_row_that_counts_them() {
        let mut flood = Flood::default();
        assert!(flood.pass(refused(1), at(0)).is_some());
        for second in 1..100 {
            assert!(flood.pass(refused(1), at(second)).is_none());
        }
        assert!(flood.rows(at(100), false).is_empty(), "not yet");
        let rows = flood.rows(at(301), false);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].repeats, rows[0].at), (99, at(1)));
        // It goes on: still no row at once, but a count again.
        assert!(flood.pass(refused(1), at(310)).is_none());
        assert_eq!(flood.rows(at(602), false)[0].repeats, 1);
        // A quiet window, and it is news again.
        assert!(flood.rows(at(910), false).is_empty());
        assert!(flood.pass(refused(1), at(1300)).is_some());
    }

    #[test]
    fn strangers_cannot_make_rows_without_end_and_every_event_is_counted() {
        let mut flood = Flood::default();
        let recorded = (0..10_000)
            .filter(|path| flood.pass(refused(*path), at(1)).is_some())
            .count();
        assert_eq!(recorded, OF_STRANGERS);
        let rows = flood.rows(at(400), false);
        let counted: i32 = rows.iter().map(|row| row.repeats).sum();
        assert_eq!((rows.len(), counted), (1, 9900));
        assert_eq!(rows[0].details["various"], true);
    }

    #[test]
    fn one_user_does_not_use_up_what_others_have() {
        let mut flood = Flood::default();
        for path in 0..1000 {
            flood.pass(refused(path), at(1));
        }
        let of_ada = refused(1).actor_of_test("ada");
        assert!(flood.pass(of_ada, at(2)).is_some());
    }
}
