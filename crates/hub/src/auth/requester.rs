//! Who sends a request, how they proved it, and what they may do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Uri, header};
use chrono::NaiveDateTime;
use orrery_core::scopes::roles::RoleSpec;
use orrery_core::scopes::{
    Client, Denied, Memberships, NoGroups, Owner, Scope, ScopeSet, Share, Target,
};
use orrery_core::{Secret, UserName};
use orrery_store::api_tokens::ApiToken;
use orrery_store::services::Service;
use orrery_store::sessions::Session;
use orrery_store::users::User;
use orrery_store::{
    ConnectionTrait, StoreError, Version, api_tokens, groups, oauth_clients, roles, services,
    shares, spawners, stamps, token_hash, users,
};
use sha2::{Digest as _, Sha256};

use super::answers::{self, Answers};
use super::sessions::{self, LoginCookie, Sighting, Standing};
use super::{session, token_bounds, xsrf};
use crate::audit::{Event, Outcome};
use crate::error::{Error, Result};
use crate::state::AppState;

/// Somebody that the hub knows.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A person.
    User(Arc<User>),
    /// A service.
    Service(Arc<Service>),
}

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

/// The sender of a request. Extracted by handlers as `Arc<Requester>`.
pub struct Requester {
    hub: AppState,
    /// Who it is; `None` for strangers.
    pub identity: Option<Identity>,
    /// The token that was used; `None` for cookies.
    pub token: Option<Arc<ApiToken>>,
    /// The session of the cookie that was used; `None` for tokens.
    pub session: Option<Arc<Session>>,
    /// What the requester may do.
    pub scopes: ScopeSet,
    /// The answer to `GET /api/user`, kept along with what is known of the credentials.
    pub self_answer: Arc<OnceLock<Bytes>>,
    /// Answers to lists, kept in the same way.
    pub answers: Arc<Answers>,
    /// The browser and how it addressed us.
    pub browser: Browser,
    session_id: Mutex<Option<String>>,
    xsrf_token: OnceLock<String>,
    cookies: Mutex<Vec<HeaderValue>>,
    /// Whether what was refused is in the audit log already.
    denial_told: AtomicBool,
    headers: HeaderMap,
}

/// How the browser addressed us, through the proxies before us.
#[derive(Clone, Debug)]
pub struct Browser {
    /// `http` or `https`.
    pub scheme: String,
    /// The `Host` header.
    pub host: String,
    /// The client's address.
    pub address: String,
}

impl Requester {
    pub(super) fn new(
        hub: AppState,
        known: Option<Known>,
        browser: Browser,
        headers: HeaderMap,
    ) -> Self {
        let session_id = session::session_id(&headers).map(str::to_owned);
        let (identity, token, session, scopes, self_answer, answers) = match known {
            Some(known) => (
                Some(known.identity),
                known.token,
                known.session,
                known.scopes,
                known.self_answer,
                known.answers,
            ),
            None => (
                None,
                None,
                None,
                ScopeSet::new(),
                Arc::default(),
                Arc::default(),
            ),
        };
        let requester = Self {
            hub,
            identity,
            token,
            session,
            scopes,
            self_answer,
            answers,
            browser,
            session_id: Mutex::new(session_id),
            xsrf_token: OnceLock::new(),
            cookies: Mutex::default(),
            denial_told: AtomicBool::new(false),
            headers,
        };
        if let Some(session) = requester.session.clone() {
            // The cookie may be lost or changed; tokens of this session are to end with it all the same.
            if requester.session_id().as_deref() != Some(&session.session_id) {
                requester.take_session(session.session_id.clone());
            }
        } else if requester.user().is_some()
            && requester.token.is_none()
            && requester.session_id().is_none()
        {
            requester.start_session();
        }
        requester
    }

    /// The user who asks, if it is one.
    pub fn user(&self) -> Option<&Arc<User>> {
        match &self.identity {
            Some(Identity::User(user)) => Some(user),
            _ => None,
        }
    }

    /// The user who asks, where the route has made sure of one.
    pub fn logged_in(&self) -> Result<&Arc<User>> {
        self.user()
            .ok_or_else(|| Error::forbidden("Missing or invalid credentials."))
    }

    /// The name to show in logs.
    pub fn name(&self) -> &str {
        match &self.identity {
            Some(Identity::User(user)) => &user.name,
            Some(Identity::Service(service)) => &service.fields.name,
            None => "nobody",
        }
    }

    /// Whether a token, and not a cookie, was used.
    pub fn used_token(&self) -> bool {
        self.token.is_some()
    }

    /// Passes if one of the scopes reaches the target; says how to refuse otherwise. Looks up the
    /// target's groups only where they decide.
    pub async fn require(
        &self,
        any_of: &[Scope],
        target: Option<Target<'_>>,
    ) -> Result<Result<(), Denied>> {
        if let Some(target) = target
            && let Some(member) = self.scopes.member_in_question(any_of, target)
        {
            let groups = memberships(self.hub.store.read(), [member]).await?;
            return Ok(self.scopes.require(any_of, Some(target), &groups));
        }
        Ok(self.scopes.require(any_of, target, &NoGroups))
    }

    /// Whether `scope` reaches `target`.
    pub async fn may(&self, scope: Scope, target: Target<'_>) -> Result<bool> {
        Ok(self.require(&[scope], Some(target)).await?.is_ok())
    }

    /// Whether `scope` reaches `target` by what is known now of the credentials, for answers that take long.
    pub async fn still_may(&self, scope: Scope, target: Target<'_>) -> Result<bool> {
        let Some(known) = super::again(&self.hub, self).await? else {
            return Ok(false);
        };
        let (hub, browser, headers) = (&self.hub, &self.browser, &self.headers);
        Self::new(
            Arc::clone(hub),
            Some(known),
            browser.clone(),
            headers.clone(),
        )
        .may(scope, target)
        .await
    }

    /// The browser session's id.
    pub fn session_id(&self) -> Option<String> {
        self.session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The browser session's id, a new one if there was none.
    pub fn session_id_or_new(&self) -> String {
        self.session_id().unwrap_or_else(|| self.start_session())
    }

    /// Gives the browser a new session id.
    pub(super) fn start_session(&self) -> String {
        self.take_session(orrery_core::random::hex::<16>())
    }

    fn take_session(&self, id: String) -> String {
        let options = self.hub.session_cookie_options(&self.browser);
        self.set_cookie(session::SESSION_COOKIE, &id, &options);
        *self
            .session_id
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        id
    }

    /// The XSRF token for this requester's forms. Sets its cookie when the browser has none that
    /// fits and came here by navigation.
    pub fn xsrf_token(&self) -> &str {
        self.xsrf_token.get_or_init(|| {
            let cookie_id = self.user().map(|user| user.cookie_id.clone());
            let id = xsrf::expected_id(
                self.session_id().as_deref(),
                cookie_id.as_deref(),
                &self.headers,
            );
            let now = self.hub.unix_time();
            xsrf::token_in_cookies(&self.hub.signer, &self.headers, &id, now).unwrap_or_else(|| {
                let token = xsrf::new_token(&self.hub.signer, &id, now);
                if xsrf::is_navigation(&self.headers) {
                    self.set_xsrf_cookie(&token, cookie_id.is_some());
                }
                token
            })
        })
    }

    /// Sets the XSRF cookie for a user who has just logged in.
    pub(super) fn renew_xsrf(&self, user: &User) {
        let id = xsrf::expected_id(
            self.session_id().as_deref(),
            Some(&user.cookie_id),
            &self.headers,
        );
        let token = xsrf::new_token(&self.hub.signer, &id, self.hub.unix_time());
        self.set_xsrf_cookie(&token, true);
    }

    /// Sets the XSRF cookie again, so that a login form just shown is good for the whole hour.
    pub(super) fn refresh_xsrf(&self) {
        if xsrf::is_navigation(&self.headers) {
            let token = self.xsrf_token().to_owned();
            self.set_xsrf_cookie(&token, false);
        }
    }

    fn set_xsrf_cookie(&self, token: &str, logged_in: bool) {
        let mut options = self.hub.cookie_options(&self.browser, &self.hub.urls.hub);
        // Scripts read it to send it as a header.
        options.http_only = false;
        options.max_age = (!logged_in).then_some(3600);
        self.cookies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|cookie| !cookie.as_bytes().starts_with(b"_xsrf="));
        self.set_cookie(xsrf::NAME, token, &options);
    }

    /// Adds a `Set-Cookie` to the answer.
    pub fn set_cookie(&self, name: &str, value: &str, options: &session::CookieOptions) {
        if let Some(header) = session::set_cookie(name, value, options) {
            self.cookies
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(header);
        }
    }

    /// Deletes a cookie with the answer.
    pub fn clear_cookie(&self, name: &str, path: &str, domain: Option<&str>) {
        if let Some(header) = session::clear_cookie(name, path, domain) {
            self.cookies
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(header);
        }
    }

    pub(super) fn take_cookies(&self) -> Vec<HeaderValue> {
        std::mem::take(&mut *self.cookies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps the router's guard from recording a refusal that its handler has recorded.
    pub fn tell_denial(&self) {
        self.denial_told.store(true, Ordering::Relaxed);
    }

    /// Records that the request was refused, unless its handler has. `route` is the path's pattern, for
    /// the path itself may hold a token.
    pub(crate) fn note_denial(&self, event: Event, method: &Method, route: &str, why: &str) {
        if self.denial_told.swap(true, Ordering::Relaxed) {
            return;
        }
        let event = event
            .by(self)
            .outcome(Outcome::Denied)
            .detail("method", method.as_str())
            .detail("route", route)
            .detail("answer", why);
        self.hub.audit.note(event);
    }

    /// How far activity has come that answers show; see [`Answers`].
    pub(super) fn activity_generation(&self) -> u64 {
        self.hub.servers.activity_generation()
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Where to log in, with the way back to this very address.
    pub fn login_url(&self, uri: &Uri, extensions: &Extensions) -> String {
        let original = extensions
            .get::<axum::extract::OriginalUri>()
            .map_or(uri, |original| &original.0);
        let path = original.path_and_query().map_or("/", |path| path.as_str());
        self.hub.urls.login(path)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts
            .extensions
            .get::<Arc<Requester>>()
            .cloned()
            .map(Self)
            .ok_or_else(|| {
                Error::Internal("a route stands outside the identifying layer".to_owned())
            })
    }
}

/// Extracts the [`Requester`].
pub struct Asking(pub Arc<Requester>);

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
    let Some((identity, owner_scopes)) =
        owner(hub, connection, found.user_id, found.service_id).await?
    else {
        return Ok(None);
    };
    let id = found.id;
    let (scopes, by_groups) =
        token_scopes_and_why(hub, connection, &found, &identity, &owner_scopes.scopes).await?;
    let known = Known {
        identity,
        good_until: earlier(found.expires_at, owner_scopes.good_until),
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

fn digest(stamp: String) -> [u8; 32] {
    Sha256::digest(stamp).into()
}

fn earlier(one: Option<NaiveDateTime>, other: Option<NaiveDateTime>) -> Option<NaiveDateTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
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
    let of_user = scopes_of_user(hub, connection, &user).await?;
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

async fn owner(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user_id: Option<i32>,
    service_id: Option<i32>,
) -> Result<Option<(Identity, OwnerScopes)>> {
    if let Some(id) = user_id {
        let Some(user) = users::find_by_id(connection, id).await? else {
            return Ok(None);
        };
        let scopes = scopes_of_user(hub, connection, &user).await?;
        return Ok(Some((Identity::User(Arc::new(user)), scopes)));
    }
    let Some(id) = service_id else {
        return Ok(None);
    };
    let Some(service) = services::find_by_id(connection, id).await? else {
        return Ok(None);
    };
    let scopes = OwnerScopes {
        scopes: service_scopes(hub, connection, &service).await?,
        good_until: None,
    };
    Ok(Some((Identity::Service(Arc::new(service)), scopes)))
}

/// All that a user may do: by their roles, their groups' roles and what is shared with them.
pub async fn user_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<ScopeSet> {
    Ok(scopes_of_user(hub, connection, user).await?.scopes)
}

/// All that the owner of a token may do.
struct OwnerScopes {
    scopes: ScopeSet,
    /// When some of it ends by itself.
    good_until: Option<NaiveDateTime>,
}

async fn scopes_of_user(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<OwnerScopes> {
    let roles = roles::of_user_and_groups(connection, user.id).await?;
    let (shares, good_until) = shared_with(connection, user.id, hub.clock.now()).await?;
    let scopes = hub.scopes.of_owner(
        Owner::User(&user.name),
        roles
            .iter()
            .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes)),
        &shares,
    );
    Ok(OwnerScopes { scopes, good_until })
}

/// What is shared with a user, by the names of owners and servers.
async fn shared_with(
    connection: &impl ConnectionTrait,
    user_id: i32,
    now: NaiveDateTime,
) -> Result<(Vec<Share>, Option<NaiveDateTime>), StoreError> {
    let mut shares = Vec::new();
    let mut good_until = None;
    for share in shares::with_user(connection, user_id).await? {
        if share.expires_at.is_some_and(|end| end <= now) {
            continue;
        }
        good_until = earlier(good_until, share.expires_at);
        let (Some(owner_id), Some(spawner_id)) = (share.owner_id, share.spawner_id) else {
            continue;
        };
        let owner = users::find_by_id(connection, owner_id).await?;
        let spawner = spawners::find_by_id(connection, spawner_id).await?;
        if let (Some(owner), Some(spawner)) = (owner, spawner) {
            // The owner or the server may have been renamed since.
            let filter = format!("server={}/{}", owner.name, spawner.name);
            shares.push(Share {
                scopes: shares::filtered(&share.scopes, &filter)
                    .into_iter()
                    .collect(),
                user: owner.name,
                server: spawner.name,
            });
        }
    }
    Ok((shares, good_until))
}

/// The raw scopes of a user's roles, not expanded.
pub async fn raw_user_scopes(
    connection: &impl ConnectionTrait,
    user: &User,
) -> Result<Vec<String>, StoreError> {
    let roles = roles::of_user_and_groups(connection, user.id).await?;
    Ok(roles
        .iter()
        .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes))
        .map(str::to_owned)
        .collect())
}

/// All that a service may do by its roles.
pub async fn service_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    service: &Service,
) -> Result<ScopeSet> {
    let roles = roles::of(connection, roles::Holder::Service(service.id)).await?;
    let none: [Share; 0] = [];
    Ok(hub.scopes.of_owner(
        Owner::Service(&service.fields.name),
        roles
            .iter()
            .flat_map(|role| RoleSpec::effective_scopes(&role.name, &role.scopes)),
        &none,
    ))
}

/// What a token allows, given what its owner may do.
pub async fn token_scopes(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    token: &ApiToken,
    identity: &Identity,
    owner_scopes: &ScopeSet,
) -> Result<ScopeSet> {
    let (scopes, _) = token_scopes_and_why(hub, connection, token, identity, owner_scopes).await?;
    Ok(scopes)
}

/// The same, and whether anybody's groups were asked for to know.
async fn token_scopes_and_why(
    hub: &AppState,
    connection: &impl ConnectionTrait,
    token: &ApiToken,
    identity: &Identity,
    owner_scopes: &ScopeSet,
) -> Result<(ScopeSet, bool)> {
    let client = client_of(connection, token.client_id.as_deref()).await?;
    let owner = match identity {
        Identity::User(user) => Owner::User(&user.name),
        Identity::Service(service) => Owner::Service(&service.fields.name),
    };
    let members = hub
        .scopes
        .token_members_in_question(&token.scopes, owner, owner_scopes, &client);
    let groups = memberships(connection, members.iter().map(String::as_str)).await?;
    let effective = hub
        .scopes
        .of_token(&token.scopes, owner, owner_scopes, &client, &groups);
    if !effective.discarded.is_empty() {
        tracing::debug!(token = token.id, discarded = ?effective.discarded.to_strings(), "a token lists more than its owner may do");
    }
    let by_groups = !members.is_empty();
    match identity {
        Identity::User(user) if client == Client::Hub => {
            let (scopes, more) =
                token_bounds::narrow(hub, connection, token, user, effective.scopes).await?;
            Ok((scopes, by_groups || more))
        }
        _ => Ok((effective.scopes, by_groups)),
    }
}

/// What stands behind an OAuth client id.
pub async fn client_of(
    connection: &impl ConnectionTrait,
    client_id: Option<&str>,
) -> Result<Client, StoreError> {
    let Some(client_id) = client_id.filter(|id| *id != "jupyterhub") else {
        return Ok(Client::Hub);
    };
    if oauth_clients::find(connection, client_id).await?.is_none() {
        return Ok(Client::Orphan);
    }
    if let Some(spawner) = spawners::find_by_client(connection, client_id).await?
        && let Some(user_id) = spawner.user_id
        && let Some(user) = users::find_by_id(connection, user_id).await?
    {
        return Ok(Client::Server {
            user: user.name,
            server: spawner.name,
        });
    }
    if let Some(service) = services::find_by_client(connection, client_id).await? {
        return Ok(Client::Service(service.fields.name));
    }
    Ok(Client::Orphan)
}

/// The groups of some users, by name.
pub async fn memberships<'a>(
    connection: &impl ConnectionTrait,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<Memberships, StoreError> {
    let mut all = Memberships::new();
    for name in names {
        if let Some(user) = users::find(connection, name).await? {
            let groups = groups::of_users(connection, &[user.id]).await?;
            all = all.with(name, groups.into_iter().map(|group| group.name));
        }
    }
    Ok(all)
}

/// A user's name as the type that routes and servers take.
pub fn user_name(user: &User) -> Result<UserName> {
    UserName::parse(&user.name)
        .map_err(|error| Error::Internal(format!("user {} in the database: {error}", user.id)))
}
