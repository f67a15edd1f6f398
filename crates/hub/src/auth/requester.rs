//! Who sends a request, how their browser reached us, and what the answer sets in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Uri};
use orrery_core::UserName;
use orrery_core::scopes::{Denied, NoGroups, Owner, Scope, ScopeSet, Target};
use orrery_store::api_tokens::ApiToken;
use orrery_store::services::Service;
use orrery_store::sessions::Session;
use orrery_store::users::User;

use super::answers::Answers;
use super::credentials::Known;
use super::{scopes, session, xsrf};
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

impl Identity {
    /// The user's or service's name.
    pub fn name(&self) -> &str {
        match self {
            Self::User(user) => &user.name,
            Self::Service(service) => &service.fields.name,
        }
    }

    /// As scopes name them.
    pub fn owner(&self) -> Owner<'_> {
        match self {
            Self::User(user) => Owner::User(&user.name),
            Self::Service(service) => Owner::Service(&service.fields.name),
        }
    }
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
        self.identity.as_ref().map_or("nobody", Identity::name)
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
            let groups = scopes::memberships(self.hub.store.read(), [member]).await?;
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

/// A user's name as the type that routes and servers take.
pub fn user_name(user: &User) -> Result<UserName> {
    UserName::parse(&user.name)
        .map_err(|error| Error::Internal(format!("user {} in the database: {error}", user.id)))
}
