//! Keeps many equal events from becoming many rows.
//!
//! The first of equal events is recorded at once; those that follow within a window are counted, and
//! one row says how many when the window ends. What differs is bounded too: each user and service, and
//! all strangers together, have so many different rows in a window, of logins and of all else apart; of
//! the strangers' an address has a part. What is beyond that is counted by action alone, failed logins by
//! address too, so that nothing goes unsaid and nobody can fill the disk.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use orrery_store::audit::Row;

use super::{Action, Event};

/// How long equal events share a row.
pub(super) const WINDOW: Duration = Duration::from_secs(5 * 60);
/// Different events of all strangers together within a window that get rows of their own.
const OF_STRANGERS: usize = 100;
/// Different events of the strangers at one address within a window that get rows of their own.
const OF_ADDRESS: usize = 25;
/// Addresses within a window by which failed logins are counted that get no rows of their own.
const COUNTED_ADDRESSES: usize = 500;
/// Different events of one known requester within a window that get rows of their own.
const OF_ONE: usize = 50;
/// Events remembered in one window at most.
const MAX_KEYS: usize = 20_000;

/// What happened in this window so far.
#[derive(Default)]
pub(super) struct Flood {
    since: Option<NaiveDateTime>,
    seen: HashMap<String, Counted>,
    /// Different events of each actor or address, logins and all else apart.
    different: HashMap<String, usize>,
    /// Beyond what gets rows of its own; the number of keys is that of actions and actors, and of some
    /// addresses.
    beyond: BTreeMap<String, Counted>,
    /// How many addresses those are.
    addresses: usize,
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
        let budgets = budgets(&event);
        let is_spent = budgets
            .iter()
            .any(|(whose, most)| self.different.get(whose).is_some_and(|used| used >= most));
        if is_spent || self.seen.len() >= MAX_KEYS {
            self.count_beyond(&event, now);
            return None;
        }
        self.charge(budgets);
        self.seen.insert(key, Counted::new(event.clone(), now));
        Some(event)
    }

    fn charge(&mut self, budgets: Vec<(String, usize)>) {
        for (whose, _) in budgets {
            *self.different.entry(whose).or_default() += 1;
        }
    }

    fn count_beyond(&mut self, event: &Event, now: NaiveDateTime) {
        let mut blurred = event.blurred();
        if event.action == Action::LoginFailed {
            // Where guesses come from is what one wants to know of them.
            let placed = blurred.clone().sent_from(&network(event.address()));
            if self.beyond.contains_key(&placed.key()) {
                blurred = placed;
            } else if self.addresses < COUNTED_ADDRESSES {
                self.addresses += 1;
                blurred = placed;
            }
        }
        let key = blurred.key();
        if let Some(counted) = self.beyond.get_mut(&key) {
            counted.add(now);
        } else {
            let mut counted = Counted::new(blurred, now);
            counted.more = 1;
            self.beyond.insert(key, counted);
        }
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
            self.charge(budgets(&counted.event));
            counted.first = now;
            counted.more = 0;
            self.seen.insert(key, counted);
        }
        self.addresses = 0;
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

/// What an event is charged to, and how much there is of each.
fn budgets(event: &Event) -> Vec<(String, usize)> {
    let family = match event.action {
        Action::Login | Action::LoginFailed => "login",
        _ => "other",
    };
    if event.is_of_stranger() {
        let network = network(event.address());
        vec![
            (format!("{family} of strangers"), OF_STRANGERS),
            (format!("{family} at {network}"), OF_ADDRESS),
        ]
    } else {
        vec![(format!("{family} of {}", event.actor_key()), OF_ONE)]
    }
}

/// An address; of IPv6, where one machine has as many as it likes, the network of 64 bits.
fn network(address: &str) -> String {
    let Ok(IpAddr::V6(full)) = address.parse() else {
        return address.to_owned();
    };
    if let Some(old) = full.to_ipv4_mapped() {
        return old.to_string();
    }
    let bits = full.to_bits() & !u128::from(u64::MAX);
    format!("{}/64", Ipv6Addr::from_bits(bits))
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
    use crate::audit::Outcome;

    fn at(seconds: i64) -> NaiveDateTime {
        NaiveDateTime::default() + TimeDelta::seconds(seconds)
    }

    fn refused(path: usize) -> Event {
        Event::new(Action::Denied)
            .outcome(Outcome::Denied)
            .sent_from(&format!("198.51.100.{}", path % 200))
            .detail("path", path)
    }

    fn failed(address: &str, name: usize) -> Event {
        Event::new(Action::LoginFailed)
            .outcome(Outcome::Denied)
            .sent_from(address)
            .on_user(&format!("user-{name}"))
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
    fn refusals_do_not_use_up_what_logins_have_and_one_address_not_what_others_have() {
        let mut flood = Flood::default();
        for path in 0..1000 {
            flood.pass(refused(path), at(1));
        }
        let passed = |flood: &mut Flood, address: &str| {
            (0..1000)
                .filter(|name| flood.pass(failed(address, *name), at(2)).is_some())
                .count()
        };
        assert_eq!(passed(&mut flood, "192.0.2.1"), OF_ADDRESS);
        assert_eq!(passed(&mut flood, "192.0.2.2"), OF_ADDRESS);
        // A machine's many addresses are one.
        assert_eq!(passed(&mut flood, "2001:db8:0:1::1"), OF_ADDRESS);
        assert_eq!(passed(&mut flood, "2001:db8:0:1::2"), 0);
        let beyond = flood.rows(at(400), true);
        let mut counted: Vec<_> = beyond
            .iter()
            .filter(|row| row.action == "login.failed")
            .map(|row| (row.address.as_str(), row.repeats))
            .collect();
        counted.sort_unstable();
        assert_eq!(
            counted,
            [
                ("192.0.2.1", 975),
                ("192.0.2.2", 975),
                ("2001:db8:0:1::/64", 1975)
            ]
        );
    }

    #[test]
    fn guesses_from_everywhere_make_a_bounded_number_of_rows_and_are_all_counted() {
        let mut flood = Flood::default();
        let everywhere = (0..5000).map(|number| format!("10.0.{}.{}", number / 250, number % 250));
        let recorded = everywhere
            .filter(|address| flood.pass(failed(address, 1), at(1)).is_some())
            .count();
        assert_eq!(recorded, OF_STRANGERS);
        let rows = flood.rows(at(400), false);
        assert_eq!(rows.len(), COUNTED_ADDRESSES + 1);
        let counted: i32 = rows.iter().map(|row| row.repeats).sum();
        assert_eq!(counted, 4900);
        assert_eq!(rows.iter().filter(|row| row.address.is_empty()).count(), 1);
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
