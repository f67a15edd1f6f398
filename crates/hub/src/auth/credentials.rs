//! Tokens and login cookies: whose they are, and what is kept of those that were found right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use chrono::NaiveDateTime;
use orrery_core::Secret;
use orrery_core::scopes::ScopeSet;
use orrery_store::api_tokens::ApiToken;
use orrery_store::sessions::Session;
use orrery_store::{Version, api_tokens, stamps, token_hash, users};
use sha2::{Digest as _, Sha256};

use super::answers::{self, Answers};
use super::requester::Identity;
use super::scopes;
use super::sessions::{self, LoginCookie, Sighting, Standing};
use crate::error::{Error, Result};
use crate::state::AppState;

/// What the database says of whoever sent a token or cookie.
#[derive(Clone, Debug)]
pub struct Known {
    /// Who it is.
    pub identity: Identity,
    /// The token, when there was one.
    pub token: Option<Arc<ApiToken>>,
    /// The cookie's session, when there was a cookie.
    pub session: Option<Arc<Session>>,
    /// What the requester may do.
    pub scopes: ScopeSet,
    /// When something of this ends by itself: the token, or what is shared with its owner.
    pub good_until: Option<NaiveDateTime>,
    /// The answer to `GET /api/user`, once it was made; as good as the rest of this.
    pub self_answer: Arc<OnceLock<Bytes>>,
    /// Answers to lists; as good as the rest of this, too.
    pub answers: Arc<Answers>,
}

/// Who owns `token`, if anybody does and it has not expired.
pub async fn by_token(hub: &AppState, token: &Secret) -> Result<Option<Known>> {
    let key: [u8; 32] = Sha256::digest([b"token:", token.expose().as_bytes()].concat()).into();
    let version = hub.store.freshness().await?;
    let now = hub.clock.now();
    if let Some(version) = version
        && let Some(kept) = hub.known.kept(&key, now)
    {
        if kept.version == version {
            return Ok(Some(kept.known));
        }
        if let Some(known) = still_known(hub, key, version, kept).await? {
            return Ok(Some(known));
        }
    }
    let connection = hub.store.read();
    let candidates =
        api_tokens::find_candidates(connection, token_hash::prefix(token.expose()), now).await?;
    let Some(found) = verified(candidates, token).await? else {
        return Ok(None);
    };
    let Some(identity) = scopes::token_owner(connection, &found).await? else {
        return Ok(None);
    };
    let owner_scopes = scopes::scopes_of(hub, connection, &identity).await?;
    let id = found.id;
    let (scopes, by_groups) =
        scopes::token_scopes_and_why(hub, connection, &found, &identity, &owner_scopes.scopes)
            .await?;
    let known = Known {
        identity,
        good_until: scopes::earlier(found.expires_at, owner_scopes.good_until),
        token: Some(Arc::new(found)),
        session: None,
        scopes,
        self_answer: Arc::default(),
        answers: Arc::default(),
    };
    if let Some(version) = version {
        // Whose groups somebody else's scopes are about is in no stamp. Nor does one say anything of
        // what was read before or after it, if something was committed in between.
        let stamp = if by_groups {
            None
        } else {
            stamps::of_token(connection, id).await?.map(digest)
        };
        let is_one_state = hub.store.freshness().await? == Some(version);
        let kept = Kept {
            version,
            stamp: stamp.filter(|_| is_one_state),
            known,
        };
        return Ok(Some(hub.known.put(key, kept)));
    }
    Ok(Some(known))
}

/// What was known of a token, if all that it came from is the same now that the database has changed.
async fn still_known(
    hub: &AppState,
    key: [u8; 32],
    version: Version,
    kept: Kept,
) -> Result<Option<Known>> {
    let (Some(stamp), Some(token)) = (kept.stamp, &kept.known.token) else {
        return Ok(None);
    };
    let now = stamps::of_token(hub.store.read(), token.id).await?;
    if now.map(digest) != Some(stamp) {
        return Ok(None);
    }
    let known = Known {
        // Of this the stamp says nothing.
        self_answer: Arc::default(),
        answers: Arc::default(),
        ..kept.known
    };
    let kept = Kept {
        version,
        stamp: Some(stamp),
        known,
    };
    Ok(Some(hub.known.put(key, kept)))
}

/// The user whose login cookie it is, unless its session was ended. `sighting` is how their browser shows
/// itself with it.
pub async fn by_cookie(
    hub: &AppState,
    cookie: &LoginCookie,
    sighting: Option<&Sighting<'_>>,
) -> Result<Option<Known>> {
    let key = cookie.digest();
    let version = hub.store.freshness().await?;
    if let Some(version) = version
        && let Some(known) = hub.known.get(&key, version, hub.clock.now())
        // One that a service asked about may have no session yet.
        && (known.session.is_some() || sighting.is_none())
    {
        return Ok(Some(known));
    }
    let connection = hub.store.read();
    let Some(user) = users::find_by_cookie_id(connection, &cookie.cookie_id).await? else {
        return Ok(None);
    };
    let session = match sessions::standing(hub, cookie, &user, sighting).await? {
        Standing::Good(session) => session,
        Standing::Refused => return Ok(None),
    };
    let of_user = scopes::scopes_of_user(hub, connection, &user).await?;
    let known = Known {
        identity: Identity::User(Arc::new(user)),
        token: None,
        session,
        scopes: of_user.scopes,
        good_until: of_user.good_until,
        self_answer: Arc::default(),
        answers: Arc::default(),
    };
    if let Some(version) = version {
        let kept = Kept {
            version,
            stamp: None,
            known,
        };
        return Ok(Some(hub.known.put(key, kept)));
    }
    Ok(Some(known))
}

/// Requesters whose credentials were checked, kept while nothing changes in the database of what decides
/// about them. That is so while nothing at all changes, or when what was read of a token is the same again.
#[derive(Default)]
pub struct KnownCache(Mutex<HashMap<[u8; 32], Kept>>);

#[derive(Clone)]
struct Kept {
    /// The state of the database in which it was found right.
    version: Version,
    /// The digest of the token's stamp in that state; see [`stamps`].
    stamp: Option<[u8; 32]>,
    known: Known,
}

/// Entries kept at most; a full cache starts over.
const MAX_CACHED: usize = 20_000;

impl KnownCache {
    /// What was found right in this state of the database, or is no matter of the database's.
    fn get(&self, key: &[u8; 32], version: Version, now: NaiveDateTime) -> Option<Known> {
        self.kept(key, now)
            .filter(|kept| kept.version == version)
            .map(|kept| kept.known)
    }

    fn kept(&self, key: &[u8; 32], now: NaiveDateTime) -> Option<Kept> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries
            .get(key)
            .filter(|kept| kept.known.good_until.is_none_or(|end| end > now))
            .cloned()
    }

    /// Keeps it, or gives what somebody else has found out of the same state meanwhile: so all share the
    /// answers that are kept with it.
    fn put(&self, key: [u8; 32], kept: Kept) -> Known {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_CACHED && !entries.contains_key(&key) {
            entries.clear();
        }
        if answers::are_many() {
            // Those of other states of the database are worth nothing.
            for old in entries.values_mut() {
                if old.version != kept.version {
                    old.known.answers = Arc::default();
                }
            }
        }
        if let Some(other) = entries.get(&key)
            && other.version == kept.version
            && other.known.session.is_some() == kept.known.session.is_some()
            // What has ended by itself meanwhile was worked out anew in the same state.
            && other.known.good_until == kept.known.good_until
        {
            return other.known.clone();
        }
        let known = kept.known.clone();
        entries.insert(key, kept);
        known
    }
}

/// A token in an `Authorization` header: `token …` or `Bearer …`, in any case.
pub fn token_in(headers: &HeaderMap) -> Option<Secret> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(char::is_whitespace)?;
    let token = token.trim();
    let known_scheme =
        scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
    (known_scheme
        && !token.is_empty()
        && token.len() <= 1024
        && !token.contains(char::is_whitespace))
    .then(|| Secret::new(token))
}

/// Slow hashes (tokens that people chose themselves) are checked on a blocking thread.
async fn verified(candidates: Vec<ApiToken>, token: &Secret) -> Result<Option<ApiToken>> {
    for candidate in candidates {
        let hashed = candidate.hashed.clone();
        let fits = if token_hash::is_expensive(&hashed) {
            let token = token.clone();
            tokio::task::spawn_blocking(move || token_hash::verify_token(&hashed, token.expose()))
                .await
                .map_err(|error| {
                    Error::Internal(format!("a token could not be checked: {error}"))
                })?
        } else {
            token_hash::verify_token(&hashed, token.expose())
        };
        if fits {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

fn digest(stamp: String) -> [u8; 32] {
    Sha256::digest(stamp).into()
}
