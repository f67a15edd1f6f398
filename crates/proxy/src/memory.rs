//! Memory goes back to the system when many connections have ended.

use std::{sync::Arc, time::Duration};

use crate::server::Shared;

/// How often the connections are counted.
const PAUSE: Duration = Duration::from_secs(2);

/// How often memory is given back after a crowd has left: its last connections take their time, and so
/// do the answers to those whose servers have gone.
const ROUNDS: u32 = 10;

/// Fewer connections than these are not worth the walk through the heap.
const MANY: usize = 64;

/// Calls `give_back` some times whenever a quarter of the connections has ended, until the proxy stops.
pub(crate) async fn give_back_after_crowds(shared: Arc<Shared>, give_back: fn()) {
    let (mut most, mut rounds) = (0, 0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shared.closed() => return,
        }
        let open = shared.metrics.open_connections();
        if has_left(most, open) {
            most = open;
            rounds = ROUNDS;
        }
        if rounds > 0 {
            rounds -= 1;
            // It may take milliseconds, in which the API need not wait.
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
        most = most.max(open);
    }
}

/// Whether so many of `most` connections have ended that their memory is worth giving back.
fn has_left(most: usize, open: usize) -> bool {
    let ended = most.saturating_sub(open);
    ended >= MANY && ended >= most / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_leaves_and_a_few_do_not() {
        assert!(has_left(8000, 0));
        assert!(has_left(8000, 6000));
        assert!(!has_left(8000, 6001));
        assert!(has_left(64, 0));
        assert!(!has_left(63, 0));
        assert!(!has_left(10, 20));
    }
}
