//! What all handlers share. Nothing in it is truth: that stands in the database.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use orrery_core::access::{InvalidName, Rules};
use orrery_core::authenticator::Authenticator;
use orrery_core::scopes::Definitions;
use orrery_core::{Clock, Secret, UserName};
use orrery_store::Store;

use crate::auth::auth_state::AuthStates;
use crate::auth::cookies::Signer;
use crate::auth::redirects;
use crate::auth::session::CookieOptions;
use crate::auth::throttle::Throttle;
use crate::auth::{Browser, KnownCache};
use crate::config::Config;
use crate::counts::Counts;
use crate::long_reads::LongReads;
use crate::pages::Templates;
use crate::routes::Keeper;
use crate::servers::Engine;
use crate::urls::{Hosts, Urls};

/// The shared state, as handlers get it.
pub type AppState = Arc<HubState>;

/// One hub.
pub struct HubState {
    /// All options.
    pub config: Config,
    /// Where things are.
    pub urls: Urls,
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Signs cookies and XSRF tokens.
    pub signer: Signer,
    /// Says who people are.
    pub authenticator: Arc<dyn Authenticator>,
    /// Encrypts what logins leave.
    pub auth_states: Arc<AuthStates>,
    /// Says who may come in.
    pub rules: Rules,
    /// All scopes, the site's own included.
    pub scopes: Definitions,
    /// Moves servers through their lives.
    pub servers: Engine,
    /// Keeps the proxy's routes as they should be.
    pub routes: Keeper,
    /// Renders pages.
    pub templates: Templates,
    /// Slows failed logins down.
    pub throttle: Arc<Throttle>,
    /// Requesters whose credentials were checked.
    pub known: KnownCache,
    /// How long lists are.
    pub counts: Arc<Counts>,
    /// Turns for reading lists.
    pub long_reads: Arc<LongReads>,
    /// The token for the proxy's API.
    pub proxy_token: Secret,
    /// Asked to stop: by a signal or by the API.
    pub stop: tokio_util::sync::CancellationToken,
    /// What a request to shut down wants stopped along with the hub.
    pub cleanup: Arc<crate::api::Cleanup>,
    /// When this hub was built.
    pub started: orrery_store::NaiveDateTime,
    /// Certificates for the site's own connections, with `JupyterHub.internal_ssl`.
    pub internal: Option<crate::certs::Internal>,
    /// Records who did what.
    pub audit: crate::audit::Audit,
    /// What changes of users and servers.
    pub changes: Arc<crate::changes::Feed>,
    /// Metrics, as `/hub/metrics` shows them.
    pub metrics: Arc<crate::metrics::Metrics>,
    /// Cancelled when a changed configuration has taken this one's place: answers without end are ended.
    pub replaced: tokio_util::sync::CancellationToken,
}

/// What a changed configuration changes while the hub runs.
pub struct Changed {
    /// All options: those that need a restart as they were.
    pub config: Config,
    /// Says who people are.
    pub authenticator: Arc<dyn Authenticator>,
    /// Says who may come in.
    pub rules: Rules,
    /// Renders pages.
    pub templates: Templates,
}

impl HubState {
    /// The same hub with a changed configuration. What it remembers of credentials starts anew.
    #[must_use]
    pub fn changed(&self, to: Changed) -> Self {
        Self {
            config: to.config,
            authenticator: to.authenticator,
            rules: to.rules,
            templates: to.templates,
            known: KnownCache::default(),
            counts: Arc::clone(&self.counts),
            long_reads: Arc::clone(&self.long_reads),
            urls: self.urls.clone(),
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            signer: self.signer.clone(),
            auth_states: Arc::clone(&self.auth_states),
            scopes: self.scopes.clone(),
            servers: self.servers.clone(),
            routes: self.routes.clone(),
            throttle: Arc::clone(&self.throttle),
            proxy_token: self.proxy_token.clone(),
            stop: self.stop.clone(),
            cleanup: Arc::clone(&self.cleanup),
            started: self.started,
            internal: self.internal.clone(),
            audit: self.audit.clone(),
            changes: Arc::clone(&self.changes),
            metrics: Arc::clone(&self.metrics),
            replaced: tokio_util::sync::CancellationToken::new(),
        }
    }

    /// Seconds since 1970.
    pub fn unix_time(&self) -> i64 {
        self.clock.now().and_utc().timestamp()
    }

    /// [`Rules::user_name`] without keeping other requests waiting, should the system ask a directory.
    pub async fn user_name(&self, typed: &str) -> Result<UserName, InvalidName> {
        self.rules.validate(&self.normalize(typed).await)
    }

    /// How a typed name is written; see [`HubState::user_name`].
    pub async fn normalize(&self, typed: &str) -> String {
        let normalizer = self.rules.normalizer().clone();
        if !normalizer.may_block() {
            return normalizer.normalize(typed);
        }
        let typed = typed.to_owned();
        tokio::task::spawn_blocking(move || normalizer.normalize(&typed))
            .await
            .expect("looking a name up does not panic")
    }

    /// How long a login lasts.
    pub fn cookie_max_age(&self) -> Duration {
        Duration::try_from_secs_f64(self.config.hub.cookie_max_age_days * 86_400.0)
            .unwrap_or(Duration::MAX)
    }

    /// Sessions that were begun before this have expired.
    pub fn sessions_since(&self) -> orrery_store::NaiveDateTime {
        let longest = chrono::TimeDelta::days(366 * 1000);
        let age = chrono::TimeDelta::from_std(self.cookie_max_age()).unwrap_or(longest);
        self.clock.now() - age.min(longest)
    }

    /// Activity newer than the known one by less than this is not written.
    pub fn activity_resolution(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.config.hub.activity_resolution).unwrap_or_default())
    }

    /// The name of the cookie that logs in to the hub, as upstream's.
    pub fn login_cookie(&self) -> &'static str {
        if self.config.hub.cookie_host_prefix_enabled {
            "__Host-jupyterhub-hub-login"
        } else {
            crate::auth::LOGIN_COOKIE
        }
    }

    /// Options for the browser session's cookie, which the hosts of users and services share.
    pub fn session_cookie_options(&self, browser: &Browser) -> CookieOptions {
        CookieOptions {
            domain: self.session_cookie_domain().map(str::to_owned),
            ..self.cookie_options(browser, &self.urls.base)
        }
    }

    /// The domain of the browser session's cookie, where it is not just the host that set it.
    pub fn session_cookie_domain(&self) -> Option<&str> {
        self.urls.hosts().map(Hosts::cookie_domain)
    }

    /// Options for a cookie on `path`: only over TLS where the browser came by TLS.
    pub fn cookie_options(&self, browser: &Browser, path: &str) -> CookieOptions {
        let public = self.config.hub.public_url.as_str();
        let is_tls = if public.is_empty() {
            browser.scheme == "https"
        } else {
            public.starts_with("https:")
        };
        CookieOptions {
            secure: is_tls,
            ..CookieOptions::session(path)
        }
    }

    /// Whether `address` is a proxy before ours, whose word on whom it was called by is believed.
    pub fn is_trusted_proxy(&self, address: &str) -> bool {
        self.config
            .hub
            .trusted_downstream_ips
            .iter()
            .any(|trusted| trusted == address)
    }

    /// The scheme and host that browsers address the hub by.
    pub fn public_origin(&self, browser: &Browser) -> (String, String) {
        match self
            .urls
            .public_origin()
            .and_then(|origin| origin.split_once("://"))
        {
            Some((scheme, host)) => (scheme.to_owned(), host.to_owned()),
            None => (browser.scheme.clone(), browser.host.clone()),
        }
    }

    /// The part of `next` that is safe to redirect to: a path of ours.
    pub fn safe_next(&self, next: &str, browser: &Browser) -> Option<String> {
        let (scheme, host) = self.public_origin(browser);
        redirects::safe_next(next, &scheme, &host, self.urls.hosts())
    }

    /// Whether a browser addressed a user's or service's host rather than the hub's own.
    pub fn is_foreign_host(&self, browser: &Browser) -> bool {
        self.urls
            .hosts()
            .is_some_and(|hosts| hosts.is_below(&browser.host))
    }

    /// Who may frame us: nobody.
    pub fn content_security_policy(&self, is_api: bool) -> HeaderValue {
        let report = self.urls.hub_path("security/csp-report");
        let default = if is_api { "; default-src 'none'" } else { "" };
        HeaderValue::from_str(&format!(
            "frame-ancestors 'none'; report-uri {report}{default}"
        ))
        .unwrap_or(HeaderValue::from_static("frame-ancestors 'none'"))
    }
}
