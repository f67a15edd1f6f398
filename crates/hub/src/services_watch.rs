//! Looks from time to time whether services that have an address can be reached
//! (`JupyterHub.service_check_interval`).

use std::collections::BTreeSet;
use std::time::Duration;

use orrery_store::services;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::config::HttpAddress;
use crate::state::AppState;

/// How long one service may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks until `closing` is cancelled, and says when a service is lost or is back.
pub(crate) async fn run(hub: AppState, closing: CancellationToken) {
    let Ok(seconds @ 1..) = u64::try_from(hub.config.hub.service_check_interval) else {
        return;
    };
    let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first look is after one interval: services that the hub's host starts too need a moment.
    ticks.tick().await;
    let mut lost = BTreeSet::new();
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let found = match services::list(hub.store.read()).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the services could not be looked at");
                continue;
            }
        };
        for service in found {
            let name = service.fields.name;
            let Some(url) = service.fields.url.filter(|url| !url.is_empty()) else {
                continue;
            };
            if answers(&url).await {
                if lost.remove(&name) {
                    tracing::info!(service = %name, "a service can be reached again");
                }
            } else if lost.insert(name.clone()) {
                tracing::warn!(service = %name, url, "a service cannot be reached");
            }
        }
    }
}

async fn answers(url: &str) -> bool {
    let Some(address) = HttpAddress::parse(url) else {
        return false;
    };
    let connecting = TcpStream::connect((address.host.as_str(), address.port));
    matches!(tokio::time::timeout(PATIENCE, connecting).await, Ok(Ok(_)))
}
