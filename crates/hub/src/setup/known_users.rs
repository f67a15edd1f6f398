//! The users of the database, of whom the authenticator is told when the hub starts.

use orrery_core::access::Rules;
use orrery_core::authenticator::{AddUserError, Authenticator};
use orrery_core::escape;
use orrery_store::{Store, StoreError, users};

use crate::auth::people::add_user;
use crate::config::Config;

/// Tells the authenticator of everybody in the database, who may have come there in other ways than
/// by a login. Those whom it does not take stay, unless the configuration wants them deleted and it is
/// certain that they are nobody's: not while a directory seems to be away.
pub(crate) async fn add_known_users(
    store: &Store,
    config: &Config,
    rules: &Rules,
    authenticator: &dyn Authenticator,
) -> Result<(), StoreError> {
    let everybody = users::list(store.read(), &users::UserQuery::default()).await?;
    let mut refused = Refused::default();
    for user in everybody {
        if rules.blocked_users().contains(&user.name) {
            continue;
        }
        let name = match rules.validate(&user.name) {
            Ok(name) => name,
            Err(error) => {
                refused.invalid.push((user, error.to_string()));
                continue;
            }
        };
        match add_user(authenticator, &name).await {
            Ok(()) => refused.known += 1,
            Err(AddUserError::NoSuchUser(why)) => refused.missing.push((user, why)),
            Err(AddUserError::Failed(why)) => refused.failed.push((user, why)),
        }
    }
    let should_delete = config.authenticator.delete_invalid_users;
    let mut deleted = Vec::new();
    let mut kept = std::mem::take(&mut refused.failed);
    if should_delete {
        match refused.doubt(kept.len()) {
            None => deleted.append(&mut refused.missing),
            Some(doubt) => {
                tracing::error!("nobody without an account is deleted now, for {doubt}");
            }
        }
        deleted.append(&mut refused.invalid);
    }
    kept.append(&mut refused.missing);
    kept.append(&mut refused.invalid);
    for (user, why) in &kept {
        let name = escape::for_log(&user.name, 64);
        tracing::warn!(user = name, error = %escape::for_log(why, 500), "a user in the database is not valid");
    }
    if !kept.is_empty() && !should_delete {
        tracing::warn!(
            users = kept.len(),
            "users who are not valid stay in the database: Authenticator.delete_invalid_users = \
             True deletes them at start"
        );
    }
    for (user, why) in deleted {
        delete_invalid(store, &user, &why).await?;
    }
    Ok(())
}

/// Those of the database whom the authenticator does not take, each with the reason.
#[derive(Default)]
struct Refused {
    /// How many it does take.
    known: usize,
    /// Their names cannot be names of users.
    invalid: Vec<(users::User, String)>,
    /// They certainly have no account.
    missing: Vec<(users::User, String)>,
    /// Nobody could tell, or what they need could not be made.
    failed: Vec<(users::User, String)>,
}

impl Refused {
    /// What speaks against deleting those who are missing, with so many of whom nobody could tell.
    fn doubt(&self, failed: usize) -> Option<&'static str> {
        if self.missing.is_empty() {
            None
        } else if failed > 0 {
            Some("some users could not be looked up")
        } else if self.known == 0 && self.missing.len() > 1 {
            // A directory that is away often says that it knows nobody.
            Some("not a single user of the database has an account, as if a directory were away")
        } else {
            None
        }
    }
}

async fn delete_invalid(store: &Store, user: &users::User, why: &str) -> Result<(), StoreError> {
    let (id, name) = (user.id, escape::for_log(&user.name, 64));
    let error = escape::for_log(why, 500);
    let deleted = store
        .write(|transaction| async move { users::delete(&transaction, id).await })
        .await;
    match deleted {
        Ok(_) => tracing::warn!(user = name, %error, "deleted a user who is not valid"),
        Err(StoreError::StillActive(server)) => {
            tracing::warn!(user = name, %error, %server, "a user who is not valid stays, since a server of theirs runs");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
