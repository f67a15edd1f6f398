//! What is thrown away when nobody can use it any more: at the start and then every hour.

use std::time::Duration;

use chrono::TimeDelta;
use orrery_store::{NaiveDateTime, Store, StoreError, Transaction};
use orrery_store::{api_tokens, audit, events, oauth_codes, runs, sessions, share_codes, shares};
use tokio_util::sync::CancellationToken;

use crate::state::AppState;

/// As often as upstream: what has expired is of no use to anybody, so there is no hurry.
const INTERVAL: Duration = Duration::from_secs(60 * 60);

/// The pause after it could not be done.
const RETRY: Duration = Duration::from_secs(60);

/// For how long the ledger keeps runs that have ended.
const LEDGER: TimeDelta = TimeDelta::days(90);

/// For how long an expired login is kept, so that clocks that differ do no harm.
const SESSIONS_SLACK: TimeDelta = TimeDelta::days(1);

/// For how long a login is kept that has ended, where its cookie is refused without a row too: an OAuth
/// code that was just being given for it must find it ended, and is good for five minutes.
const ENDED_SESSIONS: TimeDelta = TimeDelta::hours(1);

/// How many runs one transaction deletes, so that none is long.
const BATCH: u32 = 500;

/// How many such transactions there are each time.
const BATCHES: usize = 10;

/// How many such transactions delete audit events each time: as many as may come in an hour.
const AUDIT_BATCHES: usize = 200;

/// For how long what changed can be told to whoever lost the stream of events.
const EVENTS: TimeDelta = TimeDelta::hours(1);

/// How many events one transaction deletes, and how many such transactions there are each time.
const EVENTS_BATCH: u32 = 5000;
const EVENTS_BATCHES: usize = 200;

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
    /// Logins whose cookies have expired, and those that ended.
    pub sessions: u64,
    /// Changes that were told long ago.
    pub events: u64,
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
        if let Err(error) = discard_audit(&hub).await {
            tracing::warn!(%error, "old audit events were not thrown away");
            hours.reset_after(RETRY);
        }
        match discard(&hub.store, hub.clock.now(), hub.sessions_since()).await {
            Ok(done) if done == Discarded::default() => {}
            Ok(done) => tracing::info!(?done, "threw away what has expired"),
            Err(error) => {
                tracing::warn!(%error, "what has expired was not thrown away; trying again in a minute");
                hours.reset_after(RETRY);
            }
        }
    }
}

/// Throws away what has expired at `now`; of logins, those from before `sessions_since`.
pub async fn discard(
    store: &Store,
    now: NaiveDateTime,
    sessions_since: NaiveDateTime,
) -> Result<Discarded, StoreError> {
    let seconds = now.and_utc().timestamp();
    // What has ended must be known for as long as its cookie would be good otherwise, and a little longer.
    let sessions_since = sessions_since - SESSIONS_SLACK;
    let mut done = store
        .write(|transaction| async move {
            let mut done = expired(&transaction, now, seconds).await?;
            done.sessions = sessions::purge(&transaction, sessions_since).await?
                + sessions::purge_ended(&transaction, now - ENDED_SESSIONS).await?;
            Ok::<_, StoreError>(done)
        })
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
    for _ in 0..EVENTS_BATCHES {
        let deleted = store
            .write(|transaction| async move {
                events::prune(&transaction, now - EVENTS, EVENTS_BATCH).await
            })
            .await?;
        done.events += deleted;
        if deleted < u64::from(EVENTS_BATCH) {
            break;
        }
    }
    Ok(done)
}

/// Deletes audit events that are older than `JupyterHub.audit_retention_days`; gives their number.
pub async fn discard_audit(hub: &AppState) -> Result<u64, StoreError> {
    let days = hub.config.hub.audit_retention_days;
    let Some(kept) = TimeDelta::try_days(days).filter(|_| days > 0) else {
        return Ok(0);
    };
    let Some(before) = hub.clock.now().checked_sub_signed(kept) else {
        return Ok(0);
    };
    let mut deleted = 0;
    for _ in 0..AUDIT_BATCHES {
        let batch = hub
            .store
            .write(|transaction| async move { audit::prune(&transaction, before, BATCH).await })
            .await?;
        deleted += batch;
        if batch < u64::from(BATCH) {
            break;
        }
    }
    if deleted > 0 {
        tracing::info!(events = deleted, days, "old audit events were deleted");
    }
    Ok(deleted)
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
        sessions: 0,
        events: 0,
    })
}
