//! The one task that writes: first to the file, then to the table, in the order in which events came.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_core::Clock;
use orrery_store::audit::{self, Row};
use orrery_store::{Store, StoreError};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::event::json_of;
use super::file::LineFile;
use super::flood::Flood;
use super::{Action, Event};

/// How long rows that nobody waits for wait for others to share a transaction with.
const LINGER: Duration = Duration::from_secs(1);
/// Rows that are written together at most, unless they came together.
const BATCH: usize = 500;
/// How often what was counted is looked at.
const TICK: Duration = Duration::from_secs(10);
/// The pauses between attempts to write, while the database is away; the last one is repeated.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Rows on their way, and who waits for them to be in the table.
pub(super) struct Item {
    pub(super) rows: Vec<Row>,
    pub(super) done: Option<oneshot::Sender<()>>,
}

/// What the task works with.
pub(super) struct Writer {
    pub(super) store: Store,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether the table is written.
    pub(super) table: bool,
    pub(super) file: Option<LineFile>,
    pub(super) path: PathBuf,
    pub(super) queue: mpsc::Receiver<Item>,
    pub(super) flood: Arc<Mutex<Flood>>,
    pub(super) lost: Arc<Lost>,
    /// Asked to write what there is, and to end.
    pub(super) closing: CancellationToken,
}

/// Counts what could not be kept in the table.
pub(super) struct Lost {
    /// Since a row of the table last said so.
    unsaid: AtomicU64,
    metrics: Arc<crate::metrics::Metrics>,
}

impl Lost {
    pub(super) fn new(metrics: Arc<crate::metrics::Metrics>) -> Self {
        Self {
            unsaid: AtomicU64::new(0),
            metrics,
        }
    }

    /// Tells the log of rows that the table will not have.
    pub(super) fn tell(&self, rows: &[Row], why: &str) {
        for row in rows {
            let event = Value::Object(json_of(row)).to_string();
            tracing::error!(event, why, "an audit event is not in the table");
        }
        let count = rows.len() as u64;
        self.unsaid.fetch_add(count, Ordering::SeqCst);
        self.metrics.audit_lost(count);
    }
}

impl Writer {
    /// Writes until everybody who could record something is gone, or until closed.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => break,
                item = self.queue.recv() => match item {
                    Some(item) => self.gather_and_write(item).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    let rows = self.counted(false);
                    self.keep(vec![Item { rows, done: None }]).await;
                }
            }
        }
        self.queue.close();
        let mut items = Vec::new();
        while let Ok(item) = self.queue.try_recv() {
            items.push(item);
        }
        let rows = self.counted(true);
        items.push(Item { rows, done: None });
        self.keep(items).await;
    }

    fn counted(&self, all: bool) -> Vec<Row> {
        let mut flood = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
        flood.rows(self.clock.now(), all)
    }

    /// Takes what else comes within a moment, unless somebody waits.
    async fn gather_and_write(&mut self, first: Item) {
        let mut urgent = first.done.is_some();
        let mut count = first.rows.len();
        let mut items = vec![first];
        self.append(&items[0].rows).await;
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        while count < BATCH {
            let next = if urgent {
                self.queue.try_recv().ok()
            } else {
                tokio::select! {
                    biased;
                    () = self.closing.cancelled() => None,
                    item = self.queue.recv() => item,
                    () = &mut linger => None,
                }
            };
            let Some(item) = next else { break };
            urgent |= item.done.is_some();
            count += item.rows.len();
            self.append(&item.rows).await;
            items.push(item);
        }
        self.insert(items).await;
    }

    async fn keep(&mut self, items: Vec<Item>) {
        for item in &items {
            self.append(&item.rows).await;
        }
        self.insert(items).await;
    }

    /// Appends to the file. Its failure is told; the table goes on.
    async fn append(&mut self, rows: &[Row]) {
        if rows.is_empty() {
            return;
        }
        let Some(mut file) = self.file.take() else {
            return;
        };
        let mut lines = String::new();
        for row in rows {
            lines.push_str(&Value::Object(json_of(row)).to_string());
            lines.push('\n');
        }
        let appending = tokio::task::spawn_blocking(move || {
            let outcome = file.append(&lines);
            (file, outcome)
        });
        let (file, outcome) = appending.await.expect("appending to a file does not panic");
        self.file = Some(file);
        if let Err(error) = outcome {
            tracing::error!(path = %self.path.display(), lines = rows.len(), %error, "audit lines were not written to the file");
        }
    }

    async fn insert(&mut self, items: Vec<Item>) {
        let (mut rows, mut waiting) = (Vec::new(), Vec::new());
        for item in items {
            rows.extend(item.rows);
            waiting.extend(item.done);
        }
        if self.table && !rows.is_empty() {
            self.insert_rows(rows).await;
        }
        for done in waiting {
            // Whoever waited too long is gone.
            let _ = done.send(());
        }
    }

    async fn insert_rows(&self, mut rows: Vec<Row>) {
        let unsaid = self.lost.unsaid.load(Ordering::SeqCst);
        if unsaid > 0 {
            let repeats = i32::try_from(unsaid).unwrap_or(i32::MAX);
            rows.push(
                Event::new(Action::Gap)
                    .by_hub()
                    .into_row(self.clock.now(), repeats),
            );
        }
        for attempt in 0.. {
            match self.insert_once(&rows).await {
                Ok(()) => {
                    self.lost.unsaid.fetch_sub(unsaid, Ordering::SeqCst);
                    if attempt > 0 {
                        tracing::info!(events = rows.len(), "the audit log is written again");
                    }
                    return;
                }
                Err(error) if error.is_unavailable() && !self.closing.is_cancelled() => {
                    if attempt == 0 {
                        tracing::error!(%error, "the audit log cannot be written; trying until the database answers");
                    }
                }
                Err(error) if error.is_unavailable() => {
                    return self.lost.tell(&rows, &error.to_string());
                }
                Err(_) => break,
            }
            let pause = PAUSES[attempt.min(PAUSES.len() - 1)];
            tokio::select! {
                () = self.closing.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        // Something about one of them: the others are to be kept all the same.
        for row in rows {
            let is_gap = row.action == Action::Gap.as_str();
            let row = [row];
            match self.insert_once(&row).await {
                Ok(()) if is_gap => {
                    self.lost.unsaid.fetch_sub(unsaid, Ordering::SeqCst);
                }
                Err(error) if !is_gap => self.lost.tell(&row, &error.to_string()),
                // What it counts is said with the next rows.
                Ok(()) | Err(_) => {}
            }
        }
    }

    async fn insert_once(&self, rows: &[Row]) -> Result<(), StoreError> {
        self.store
            .write(|transaction| async move { audit::insert(&transaction, rows).await })
            .await
    }
}
