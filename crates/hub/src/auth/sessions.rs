//! Logins as rows of a table: which browsers somebody is logged in with, and how one of them is ended.
//!
//! Our cookies are JupyterHub's, each with a mark of its own, which it overlooks. A cookie with a mark
//! has a row, or is refused. One without was signed by JupyterHub, and gets a row when it is first seen.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use chrono::{DateTime, NaiveDateTime, TimeDelta};
use orrery_core::random;
use orrery_store::sessions::{self, NewSession, Renewal, Session};
use orrery_store::users::{self, User};
use orrery_store::{StoreError, Transaction};
use sha2::{Digest as _, Sha256};

use super::{Browser, Requester, session};
use crate::error::{Error, Result};
use crate::state::{AppState, HubState};

/// How many sessions one user has at most; beyond, those that were not used for longest are ended. A
/// script that logs in again and again has as many as this.
const MOST: usize = 200;

/// Uses that are closer together than this are not written.
pub const RESOLUTION: TimeDelta = TimeDelta::seconds(60);

/// The mark of cookies that JupyterHub signs: none.
const UNMARKED: u64 = 0;

/// A login cookie that was signed with our key and has not expired.
pub struct LoginCookie {
    /// What it says: whose it is, as long as that user has it.
    pub cookie_id: String,
    key: String,
    is_marked: bool,
    signed_at: NaiveDateTime,
}

impl LoginCookie {
    /// Reads a cookie called `name`.
    pub fn read(hub: &HubState, name: &str, value: &str) -> Option<Self> {
        let opened = hub
            .signer
            .open(name, value, hub.cookie_max_age(), hub.unix_time())?;
        let is_marked = opened.mark != "0";
        // An unmarked one has nothing of its own but what was signed. All else, the signature's spelling
        // included, could be changed by whoever has a copy of a cookie that was ended.
        let key = if is_marked {
            key(opened.mark)
        } else {
            let mut key = random::to_hex(&Sha256::digest(
                [b"cookie:", opened.body.as_bytes()].concat(),
            ));
            key.replace_range(..1, sessions::UNMARKED);
            key
        };
        Some(Self {
            is_marked,
            key,
            signed_at: DateTime::from_timestamp(opened.time, 0)?.naive_utc(),
            cookie_id: String::from_utf8(opened.value).ok()?,
        })
    }

    /// What it is remembered by.
    pub fn digest(&self) -> [u8; 32] {
        let all = [
            b"cookie:",
            self.key.as_bytes(),
            b":",
            self.cookie_id.as_bytes(),
        ];
        Sha256::digest(all.concat()).into()
    }
}

fn key(mark: &str) -> String {
    random::to_hex(&Sha256::digest([b"mark:", mark.as_bytes()].concat()))
}

/// How a browser shows itself with its cookie.
pub struct Sighting<'a> {
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The browser.
    pub browser: &'a Browser,
}

/// Whether a cookie counts, and its session.
pub enum Standing {
    /// It was ended, or is nobody's.
    Refused,
    /// It counts.
    Good(Option<Arc<Session>>),
}

/// Looks up the session of a user's cookie; makes it, if JupyterHub signed the cookie and a browser shows
/// it for the first time.
pub async fn standing(
    hub: &AppState,
    cookie: &LoginCookie,
    user: &User,
    sighting: Option<&Sighting<'_>>,
) -> Result<Standing> {
    let found = sessions::find_by_key(hub.store.read(), &cookie.key).await?;
    match (found, sighting) {
        (None, _) if cookie.is_marked => Ok(Standing::Refused),
        (None, Some(sighting)) => Box::pin(first_seen(hub, cookie, user, sighting)).await,
        (None, None) => Ok(Standing::Good(None)),
        (Some(session), _) => Ok(Standing::of(session, user)),
    }
}

impl Standing {
    fn of(session: Session, user: &User) -> Self {
        if session.user_id != user.id || session.ended_at.is_some() {
            return Self::Refused;
        }
        Self::Good(Some(Arc::new(session)))
    }
}

async fn first_seen(
    hub: &AppState,
    cookie: &LoginCookie,
    user: &User,
    sighting: &Sighting<'_>,
) -> Result<Standing> {
    let new = NewSession {
        user_id: user.id,
        cookie_key: cookie.key.clone(),
        session_id: session::session_id(sighting.headers)
            .map_or_else(random::hex::<16>, str::to_owned),
        created: cookie.signed_at,
        last_seen: hub.clock.now(),
        address: Some(sighting.browser.address.clone()),
        user_agent: user_agent(sighting.headers),
    };
    let new = &new;
    let (now, since) = (new.last_seen, hub.sessions_since());
    let made = hub
        .store
        .write(|transaction| async move {
            let Some(made) = sessions::admit(&transaction, new, &cookie.cookie_id).await? else {
                return Ok(None);
            };
            end_the_oldest(&transaction, user.id, since, now).await?;
            Ok::<_, StoreError>(Some(made))
        })
        .await;
    match made {
        Ok(Some(session)) => {
            tracing::debug!(user = %user.name, session = session.id, "a login by JupyterHub is now known here");
            Ok(Standing::of(session, user))
        }
        // All logins were ended since the user was read.
        Ok(None) => Ok(Standing::Refused),
        // Another request of the same browser was faster.
        Err(error) if error.is_duplicate() => {
            let found = sessions::find_by_key(hub.store.read(), &cookie.key).await?;
            Ok(found.map_or(Standing::Refused, |session| Standing::of(session, user)))
        }
        // The cookie is good all the same; a database that cannot be written for now keeps nobody out.
        Err(error) => {
            tracing::warn!(%error, user = %user.name, "a session could not be noted");
            Ok(Standing::Good(None))
        }
    }
}

/// Begins a session for whoever has just logged in, in place of the browser's former one, and sets its
/// cookies. While the database takes nothing new, the login has no row until it does: people reach their
/// servers all the same.
pub async fn begin(hub: &AppState, requester: &Requester, user: &User) -> Result<()> {
    let former = requester.session.as_deref();
    let is_another = former.is_some_and(|former| former.user_id != user.id);
    let session_id = if is_another {
        // What the one before was given in this browser ends with the session, and is not the next one's.
        requester.start_session()
    } else {
        requester.session_id_or_new()
    };
    let mark = mark();
    let now = hub.clock.now();
    let since = hub.sessions_since();
    let new = NewSession {
        user_id: user.id,
        cookie_key: key(&mark.to_string()),
        session_id,
        created: now,
        last_seen: now,
        address: Some(requester.browser.address.clone()),
        user_agent: user_agent(requester.headers()),
    };
    let new = &new;
    let begun = hub
        .store
        .write(|transaction| async move {
            match former {
                Some(former) if is_another => {
                    sessions::log_out(&transaction, former, now).await?;
                }
                Some(former) => {
                    sessions::end(&transaction, former.id, now).await?;
                }
                None => {}
            }
            // All sessions may have been ended since the password was looked at: what was read of the
            // user before would make a cookie that is worthless already, or one that should be.
            let Some(user) = users::find_and_lock(&transaction, user.id).await? else {
                return Ok::<_, StoreError>(None);
            };
            let begun = sessions::insert(&transaction, new).await?;
            end_the_oldest(&transaction, user.id, since, now).await?;
            Ok(Some((begun, user)))
        })
        .await;
    let begun = match begun {
        // A cookie without a mark gets its row when it is seen again.
        Err(StoreError::Full { .. } | StoreError::ReadOnly { .. }) => {
            set_cookies(hub, requester, user, &user.cookie_id, UNMARKED);
            return Ok(());
        }
        begun => begun?,
    };
    let (_, user) = begun
        .ok_or_else(|| Error::forbidden("You were deleted from this hub while you logged in."))?;
    set_cookies(hub, requester, &user, &user.cookie_id, mark);
    Ok(())
}

async fn end_the_oldest(
    transaction: &Transaction,
    user_id: i32,
    since: NaiveDateTime,
    now: NaiveDateTime,
) -> Result<(), StoreError> {
    let live = sessions::of_user(transaction, user_id, since).await?;
    for surplus in live.iter().skip(MOST) {
        sessions::log_out(transaction, surplus, now).await?;
    }
    Ok(())
}

/// Ends one session, as logging out does: its cookie and every token that servers and services got in it.
/// Says how many tokens those were; `None` if it had ended before.
pub async fn end(hub: &AppState, session: &Session) -> Result<Option<u64>> {
    let now = hub.clock.now();
    Ok(hub
        .store
        .write(|transaction| async move { sessions::log_out(&transaction, session, now).await })
        .await?)
}

/// Ends all sessions of a user, and makes cookies worthless that were never seen here.
pub async fn end_all(hub: &AppState, user: &User) -> Result<u64> {
    let now = hub.clock.now();
    let cookie_id = new_cookie_id()?;
    let cookie_id = cookie_id.as_str();
    Ok(hub
        .store
        .write(|transaction| async move {
            sessions::end_all(&transaction, user.id, None, Some(cookie_id), now).await
        })
        .await?)
}

/// Ends all sessions of whoever asks but the one they ask by. Where they ask by the session's own cookie
/// they get a new one, and every other cookie becomes worthless. 403 if theirs ended meanwhile.
pub async fn end_others(
    hub: &AppState,
    requester: &Requester,
    user: &User,
    current: &Session,
) -> Result<u64> {
    let now = hub.clock.now();
    let mark = mark();
    let cookie_id = new_cookie_id()?;
    let new = NewSession {
        user_id: user.id,
        cookie_key: key(&mark.to_string()),
        session_id: current.session_id.clone(),
        created: now,
        last_seen: now,
        address: Some(requester.browser.address.clone()),
        user_agent: user_agent(requester.headers()),
    };
    let is_by_cookie = requester.session.is_some();
    let renewal = is_by_cookie.then_some(Renewal {
        session: &new,
        cookie_id: &cookie_id,
    });
    let ended = hub
        .store
        .write(|transaction| async move {
            sessions::end_others(&transaction, current, &user.cookie_id, renewal, now).await
        })
        .await?
        .ok_or_else(|| Error::forbidden("This session was ended in the meantime."))?;
    if is_by_cookie {
        set_cookies(hub, requester, user, &cookie_id, mark);
    }
    Ok(ended)
}

/// The session by which somebody asks: their cookie's, or the one that their token was made in.
pub async fn current(hub: &AppState, requester: &Requester) -> Result<Option<Session>> {
    if let Some(session) = &requester.session {
        return Ok(Some(Session::clone(session)));
    }
    let Some((user_id, session_id)) = requester
        .token
        .as_ref()
        .and_then(|token| Some((token.user_id?, token.session_id.as_deref()?)))
    else {
        return Ok(None);
    };
    let live = sessions::of_user(hub.store.read(), user_id, hub.sessions_since()).await?;
    Ok(live
        .into_iter()
        .find(|session| session.session_id == session_id))
}

fn set_cookies(hub: &AppState, requester: &Requester, user: &User, cookie_id: &str, mark: u64) {
    let value = hub.signer.sign_marked(
        hub.login_cookie(),
        cookie_id.as_bytes(),
        hub.unix_time(),
        mark,
    );
    let mut options = hub.cookie_options(&requester.browser, &hub.urls.hub);
    options.max_age = i64::try_from(hub.cookie_max_age().as_secs()).ok();
    requester.set_cookie(hub.login_cookie(), &value, &options);
    requester.renew_xsrf(&User {
        cookie_id: cookie_id.to_owned(),
        ..user.clone()
    });
}

/// What tells a cookie from all others; never 0, which JupyterHub writes.
fn mark() -> u64 {
    (u64::from_le_bytes(random::bytes()) >> 1).max(1)
}

/// As upstream's: as random as a token.
fn new_cookie_id() -> Result<String> {
    let token = orrery_store::token_hash::generate_token().map_err(Error::from)?;
    Ok(token.expose().to_owned())
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    (!text.is_empty()).then(|| text.chars().take(sessions::MAX_USER_AGENT).collect())
}
