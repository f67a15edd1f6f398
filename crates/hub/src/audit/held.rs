//! The names that a user had, which rows of the log are about.
//!
//! Rows have names and not keys, and are never changed. So who somebody was is told by the log itself: a
//! row of a renaming has both names. Whoever gets a name that was another's sees nothing of theirs.

use orrery_store::audit::{self, AuditQuery, Held};
use orrery_store::users::User;
use orrery_store::{Store, StoreError};

use super::Action;

/// How many renamings are gone back.
const MOST: usize = 16;

/// The names of a user since they were made, the present one first.
pub async fn held(store: &Store, user: &User) -> Result<Vec<Held>, StoreError> {
    let mut held = Vec::new();
    let (mut name, mut until) = (user.name.clone(), None);
    while held.len() < MOST {
        let query = AuditQuery {
            actions: vec![Action::UserRename.as_str().to_owned()],
            target: Some(name.clone()),
            since: user.created,
            until,
            limit: 1,
            ..AuditQuery::default()
        };
        let renaming = audit::list(store.read(), &query).await?.pop();
        let since = renaming.as_ref().map_or(user.created, |row| Some(row.at));
        held.push(Held { name, since, until });
        let Some(renaming) = renaming else { break };
        let Some(from) = renaming.details["from"].as_str() else {
            break;
        };
        (name, until) = (from.to_owned(), Some(renaming.at));
    }
    Ok(held)
}
