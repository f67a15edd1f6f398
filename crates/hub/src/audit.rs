//! The audit log: who did what, from where.
//!
//! [`Audit::record`] is for changes and for access to what is somebody else's: it returns when the row
//! is in the table, so that whoever got an answer finds it there. The row is not in the transaction of
//! the change itself: a hub that is killed in the few milliseconds between the two loses it.
//! [`Audit::note`] is for what happens often or is caused by outsiders: it never waits, rows come to the
//! table within a second, and equal events share one (see `flood`).
//!
//! One task writes all rows in their order. While the database is away they wait in a bounded queue;
//! what does not fit goes whole into the hub's own log, and a row of the table says how many those were.

mod action;
mod ask;
mod event;
mod file;
mod flood;
mod held;
mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use orrery_core::Clock;
use orrery_store::Store;
use orrery_store::audit::Row;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use action::Action;
pub use ask::{next_query, question};
pub use event::{Event, Outcome, json_of};
pub use held::held;

use crate::config::Config;
use crate::metrics::Metrics;
use file::LineFile;
use flood::Flood;
use writer::{Item, Lost, Writer};

/// How many calls may wait for the writer.
const QUEUE: usize = 10_000;
/// How long a request waits for its row.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of the hub waits for the last rows.
const LAST: Duration = Duration::from_secs(5);

/// Records events; cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    /// Whether there is anything to write to.
    is_on: bool,
    ignored: BTreeSet<Action>,
    queue: mpsc::Sender<Item>,
    flood: Arc<Mutex<Flood>>,
    lost: Arc<Lost>,
    closing: CancellationToken,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Why the audit log cannot be kept as the configuration wishes.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// An action to leave out that does not exist.
    #[error(
        "JupyterHub.audit_ignore names {0}, which is no action: docs/audit.md lists them, and login.* means all \
         that begin with login."
    )]
    Action(String),
    /// An action without which users would be shown what was done to others.
    #[error(
        "JupyterHub.audit_ignore names {0}, but user.rename cannot be left out: it says whose an access was, which          is shown to its owner alone. Name the other actions one by one."
    )]
    Needed(String),
    /// The file.
    #[error("JupyterHub.audit_log_file: {0} cannot be opened for writing: {1}")]
    File(PathBuf, std::io::Error),
}

impl Audit {
    /// Opens the file, if there is to be one, and starts to write.
    pub fn start(
        config: &Config,
        store: &Store,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, AuditError> {
        let options = &config.hub;
        let ignored = ignored(&options.audit_ignore)?;
        let path = Path::new(&options.audit_log_file);
        let file = if options.audit_log_file.is_empty() {
            None
        } else {
            let opened = LineFile::open(path);
            Some(opened.map_err(|error| AuditError::File(path.to_owned(), error))?)
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (flood, lost) = (Arc::default(), Arc::new(Lost::new(Arc::clone(metrics))));
        let closing = CancellationToken::new();
        let is_on = options.audit_log || file.is_some();
        let writer = Writer {
            store: store.clone(),
            clock: Arc::clone(clock),
            table: options.audit_log,
            file,
            path: path.to_owned(),
            queue: receiver,
            flood: Arc::clone(&flood),
            lost: Arc::clone(&lost),
            closing: closing.clone(),
        };
        Ok(Self(Arc::new(Inner {
            clock: Arc::clone(clock),
            is_on,
            ignored,
            queue: sender,
            flood,
            lost,
            closing,
            writer: Mutex::new(Some(tokio::spawn(writer.run()))),
        })))
    }

    /// Records an event and waits until it is in the table, for two seconds at most: then it is there a
    /// little later.
    pub async fn record(&self, event: Event) {
        self.record_all([event]).await;
    }

    /// Records what somebody did to a user's server, unless it is their own.
    pub async fn record_others(&self, event: Event) {
        if !event.is_on_own() {
            self.record(event).await;
        }
    }

    /// Records several events, and waits for them together.
    pub async fn record_all(&self, events: impl IntoIterator<Item = Event> + Send) {
        let now = self.0.clock.now();
        let rows: Vec<Row> = events
            .into_iter()
            .filter(|event| self.wants(event.action))
            .map(|event| event.into_row(now, 1))
            .collect();
        if rows.is_empty() {
            return;
        }
        let (done, written) = oneshot::channel();
        let item = Item {
            rows,
            done: Some(done),
        };
        match self.0.queue.send_timeout(item, PATIENCE).await {
            Ok(()) => wait_for(written).await,
            Err(error) => self.lose(&error.into_inner()),
        }
    }

    /// Records an event without waiting. Of many equal ones the first is recorded, and then how many
    /// more there were.
    pub fn note(&self, event: Event) {
        if !self.wants(event.action) {
            return;
        }
        let now = self.0.clock.now();
        let passed = self
            .0
            .flood
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pass(event, now);
        let Some(event) = passed else { return };
        let item = Item {
            rows: vec![event.into_row(now, 1)],
            done: None,
        };
        if let Err(error) = self.0.queue.try_send(item) {
            let (mpsc::error::TrySendError::Full(item) | mpsc::error::TrySendError::Closed(item)) =
                error;
            self.lose(&item);
        }
    }

    /// Waits until what was recorded before is in the table, for two seconds at most.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        let item = Item {
            rows: Vec::new(),
            done: Some(done),
        };
        if self.0.queue.try_send(item).is_ok() {
            wait_for(written).await;
        }
    }

    /// Writes what is on its way, what was counted included, and ends. What comes later is in the
    /// hub's own log only.
    pub async fn close(&self) {
        self.0.closing.cancel();
        let writer = self
            .0
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer
            && tokio::time::timeout(LAST, writer).await.is_err()
        {
            tracing::error!("the last audit events were not written in time");
        }
    }

    fn wants(&self, action: Action) -> bool {
        self.0.is_on && !self.0.ignored.contains(&action)
    }

    fn lose(&self, item: &Item) {
        self.0
            .lost
            .tell(&item.rows, "too many wait to be written, or the hub ends");
    }
}

async fn wait_for(written: oneshot::Receiver<()>) {
    if tokio::time::timeout(PATIENCE, written).await.is_err() {
        tracing::warn!("the audit log is slow: a request goes on before its row is written");
    }
}

/// The page of the documentation that lists all actions.
pub fn page() -> String {
    let rows: Vec<String> = Action::ALL
        .iter()
        .map(|action| format!("| `{}` | {} |\n", action.as_str(), action.description()))
        .collect();
    format!(
        "# Actions of the audit log\n\nThis page is generated from the program (`orrery docs --write`). \
        See [The audit log](../audit.md).\n\n| action | |\n|---|---|\n{}",
        rows.concat()
    )
}

/// The actions that are left out.
fn ignored(names: &BTreeSet<String>) -> Result<BTreeSet<Action>, AuditError> {
    let mut ignored = BTreeSet::new();
    for name in names {
        let shown = || orrery_core::escape::for_log(name, 64);
        let found = actions(name).ok_or_else(|| AuditError::Action(shown()))?;
        if found.contains(&Action::UserRename) {
            return Err(AuditError::Needed(shown()));
        }
        ignored.extend(found);
    }
    Ok(ignored)
}

/// The actions of a name: one, or with `.*` all that begin so.
fn actions(name: &str) -> Option<Vec<Action>> {
    if let Some(family) = name.strip_suffix(".*") {
        let found: Vec<_> = Action::ALL
            .iter()
            .copied()
            .filter(|action| {
                action
                    .as_str()
                    .strip_prefix(family)
                    .is_some_and(|rest| rest.starts_with('.'))
            })
            .collect();
        return (!found.is_empty()).then_some(found);
    }
    Action::parse(name).map(|action| vec![action])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_named_alone_or_by_family() {
        assert_eq!(actions("login"), Some(vec![Action::Login]));
        assert_eq!(actions("login.*"), Some(vec![Action::LoginFailed]));
        assert_eq!(actions("token.*").map(|found| found.len()), Some(2));
        assert_eq!(actions("tok.*"), None);
        assert_eq!(actions("logn"), None);
        for action in Action::ALL {
            assert_eq!(Action::parse(action.as_str()), Some(*action));
        }
    }

    #[test]
    fn what_tells_whose_an_access_was_cannot_be_left_out() {
        let left_out = |name: &str| ignored(&BTreeSet::from([name.to_owned()]));
        assert!(left_out("login.*").is_ok());
        for name in ["user.rename", "user.*"] {
            let error = left_out(name).expect_err("it is needed").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
