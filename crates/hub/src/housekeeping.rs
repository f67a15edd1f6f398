//! What is thrown away when nobody can use it any more: at the start and then every hour.

use std::time::Duration;

use chrono::TimeDelta;
use orrery_store::{NaiveDateTime, Store, StoreError, Transaction};
use orrery_store::{api_tokens, oauth_codes, runs, share_codes, shares};
use tokio_util::sync::CancellationToken;

use crate::state::AppState;

/// As often as upstream: what has expired is of no use to anybody, so there is no hurry.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The pause after it could not be done.
const RETRY: Duration = Duration::from_secs(60);

/// For how long the ledger keeps runs that have ended.
const LEDGER: TimeDelta = TimeDelta::days(90);

/// How many runs one transaction deletes, so that none is long.
const BATCH: u32 = 500;

/// How many such transactions there are each time.
const BATCHES: usize = 10;

/// What was thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Expired API tokens.
    pub tokens: u64,
    /// Expired OAuth codes.
    pub oauth_codes: u64,
    /// Expired shares.
    pub shares: u64,
    /// Expired share codes.
    pub share_codes: u64,
    /// Runs that ended long ago.
    pub runs: u64,
}

/// Throws away until `closing` is cancelled.
pub(crate) async fn run(hub: AppState, closing: CancellationToken) {
    let mut hours = tokio::time::interval(INTERVAL);
    hours.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = hours.tick() => {}
        }
        match discard(&hub.store, hub.clock.now()).await {
            Ok(done) if done == Discarded::default() => {}
            Ok(done) => tracing::info!(?done, "threw away what has expired"),
            Err(error) => {
                tracing::warn!(%error, "what has expired was not thrown away; trying again in a minute");
                hours.reset_after(RETRY);
            }
        }
    }
}

/// Throws away what has expired at `now`.
pub async fn discard(store: &Store, now: NaiveDateTime) -> Result<Discarded, StoreError> {
    let seconds = now.and_utc().timestamp();
    let mut done = store
        .write(|transaction| async move { expired(&transaction, now, seconds).await })
        .await?;
    for _ in 0..BATCHES {
        let deleted = store
            .write(
                |transaction| async move { runs::prune(&transaction, now - LEDGER, BATCH).await },
            )
            .await?;
        done.runs += deleted;
        if deleted < u64::from(BATCH) {
            break;
        }
    }
    Ok(done)
}

async fn expired(
    transaction: &Transaction,
    now: NaiveDateTime,
    seconds: i64,
) -> Result<Discarded, StoreError> {
    Ok(Discarded {
        tokens: api_tokens::purge_expired(transaction, now).await?,
        oauth_codes: oauth_codes::purge_expired(transaction, seconds).await?,
        shares: shares::purge_expired(transaction, now).await?,
        share_codes: share_codes::purge_expired(transaction, now).await?,
        runs: 0,
    })
}
