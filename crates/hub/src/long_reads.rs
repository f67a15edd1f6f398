//! Turns for those who read much at once: lists and searches. They hold connections to the database and
//! cores for long, so only a few are let in together and somebody who logs in meanwhile finds both free.

use std::num::NonZero;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// At most so many, for the store has four connections or more.
const MOST: usize = 3;

/// How long to wait for a turn.
const PATIENCE: Duration = Duration::from_secs(15);

/// The turns of one hub.
pub struct LongReads(Semaphore);

impl Default for LongReads {
    /// As many as there are cores, at most three.
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        Self(Semaphore::new(cores.min(MOST)))
    }
}

impl LongReads {
    /// A turn, in the order of asking. Give it back before asking for another.
    ///
    /// # Errors
    ///
    /// 503 when those before take too long.
    pub async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.turn_within(PATIENCE).await
    }

    async fn turn_within(&self, limit: Duration) -> Result<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(limit, self.0.acquire()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            let many = "Too many lists are asked for at once. Try again.";
            Error::new(StatusCode::SERVICE_UNAVAILABLE, many)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_so_many_have_a_turn_and_nobody_waits_for_ever() {
        let reads = LongReads(Semaphore::new(1));
        let first = reads.turn().await.expect("a turn");
        let limit = Duration::from_millis(10);
        assert!(reads.turn_within(limit).await.is_err());
        drop(first);
        assert!(reads.turn().await.is_ok());
    }
}
