//! How long lists are, kept while the database does not change: for a page of fifty users, counting a
//! hundred thousand is most of the work.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use orrery_store::users::{self, UserQuery};
use orrery_store::{Store, StoreError, Version};

/// Entries kept at most; a full table starts over.
const MOST: usize = 256;

/// The longest description of a list that is kept.
const LONGEST: usize = 2048;

/// Lengths of lists, each with the state of the database that it is of.
#[derive(Default)]
pub struct Counts(Mutex<HashMap<String, (Version, u64)>>);

impl Counts {
    /// How many users `query` has without its offset and limit.
    pub async fn users(&self, store: &Store, query: &UserQuery) -> Result<u64, StoreError> {
        let list = format!(
            "{:?} {:?} {:?}",
            query.name_filter, query.state, query.visible
        );
        // Looked at before counting: what is committed meanwhile makes the number count as old.
        let version = store.freshness().await?;
        if let Some(version) = version
            && let Some((of, count)) = self.entries().get(&list).copied()
            && of == version
        {
            return Ok(count);
        }
        let count = users::count(store.read(), query).await?;
        if let Some(version) = version
            && list.len() <= LONGEST
        {
            let mut entries = self.entries();
            if entries.len() >= MOST {
                entries.clear();
            }
            entries.insert(list, (version, count));
        }
        Ok(count)
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Version, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
