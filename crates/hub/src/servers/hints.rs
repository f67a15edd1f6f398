//! Wake-ups inside this process when a run's row changes. The row is the truth: whoever waits also
//! looks at it from time to time, for what other replicas write.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// Who waits for which run.
#[derive(Default)]
pub(super) struct Hints(Mutex<HashMap<i64, watch::Sender<()>>>);

/// One waiter for one run.
pub(super) struct Hint(watch::Receiver<()>);

impl Hints {
    /// Begins to listen. Read the row after this, not before, so that no change is missed.
    pub(super) fn listen(&self, run: i64) -> Hint {
        let mut senders = self.senders();
        senders.retain(|_, sender| sender.receiver_count() > 0);
        let sender = senders.entry(run).or_insert_with(|| watch::channel(()).0);
        Hint(sender.subscribe())
    }

    /// Says that a run's row changed.
    pub(super) fn wake(&self, run: i64) {
        if let Some(sender) = self.senders().get(&run) {
            sender.send_replace(());
        }
    }

    fn senders(&self) -> std::sync::MutexGuard<'_, HashMap<i64, watch::Sender<()>>> {
        self.0.lock().expect("nothing panics under this lock")
    }
}

impl Hint {
    /// Returns at the next wake-up, or after `at_most`.
    pub(super) async fn changed(&mut self, at_most: Duration) {
        // The sender lives as long as this receiver; should it not, waiting out the time is right.
        let woken = async {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(at_most, woken).await;
    }
}
