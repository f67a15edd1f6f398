//! Places in the queue behind `concurrent_spawn_limit`, and how long a turn may take to come.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How old the board may get before it is read anew: many watchers look at it at once.
const FRESH: Duration = Duration::from_millis(500);

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePlace {
    /// 1 is next.
    pub position: u32,
    /// Seconds until its turn, once there were starts to judge by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u32>,
}

/// The queue as it was a moment ago.
#[derive(Default)]
pub(super) struct Board {
    read_at: Option<Instant>,
    places: HashMap<i64, u32>,
    mean: Option<Duration>,
}

impl Board {
    /// Notes the queue, next first, and how long the last starts took.
    pub(super) fn new(queue: impl IntoIterator<Item = i64>, took: &[Duration]) -> Self {
        let mean = u32::try_from(took.len())
            .ok()
            .filter(|count| *count > 0)
            .map(|count| took.iter().sum::<Duration>() / count);
        Self {
            read_at: Some(Instant::now()),
            places: queue.into_iter().zip(1..).collect(),
            mean,
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// The place of a run, when `limit` starts go on at once.
    pub(super) fn place(&self, run: i64, limit: u32) -> Option<QueuePlace> {
        let position = *self.places.get(&run)?;
        let eta_seconds = self.mean.map(|mean| {
            let seconds = mean.as_secs_f64() * f64::from(position) / f64::from(limit.max(1));
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "clamped to what fits; an estimate"
            )]
            let seconds = seconds.ceil().clamp(1.0, 86_400.0) as u32;
            seconds
        });
        Some(QueuePlace {
            position,
            eta_seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_place_and_pace() {
        let nothing_known = Board::new([7, 8], &[]);
        assert_eq!(
            nothing_known.place(7, 2),
            Some(QueuePlace {
                position: 1,
                eta_seconds: None
            })
        );
        let board = Board::new(
            [5, 6, 7, 8],
            &[Duration::from_secs(8), Duration::from_secs(12)],
        );
        assert_eq!(
            board.place(8, 2),
            Some(QueuePlace {
                position: 4,
                eta_seconds: Some(20)
            })
        );
        assert_eq!(
            board.place(5, 100),
            Some(QueuePlace {
                position: 1,
                eta_seconds: Some(1)
            })
        );
        assert_eq!(board.place(9, 2), None);
    }
}
