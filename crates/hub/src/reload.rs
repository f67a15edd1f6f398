//! A changed configuration while the hub runs (SIGHUP).
//!
//! A [`Site`] is the hub as it is now: one [`HubState`](crate::state::HubState) and the routes over it.
//! Each request takes both once, when it comes, so that none sees half of an old and half of a new
//! configuration. Whatever needs a restart keeps its old value, and the log names it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use orrery_core::access::Rules;
use orrery_core::authenticator::Authenticator;
use orrery_store::StoreError;
use tokio::sync::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::audit::{Action, Event, Outcome};
use crate::config::Config;
use crate::service_manager;
use crate::setup::{SetupError, Wishes};
use crate::start::{access_settings, templates};
use crate::state::{AppState, Changed};

/// How long the authenticator may take to say that its options are sound.
const CHECK: Duration = Duration::from_secs(30);
/// How long the database may take to note roles, users and groups. Requests wait meanwhile.
const NOTE: Duration = Duration::from_secs(10);

/// Options that take effect while the hub runs, with the class that declares them. All others need a
/// restart.
pub const RELOADABLE: &[(&str, &str)] = &[
    ("Application", "log_level"),
    ("JupyterHub", "activity_resolution"),
    ("JupyterHub", "api_page_default_limit"),
    ("JupyterHub", "api_page_max_limit"),
    ("JupyterHub", "api_tokens"),
    ("JupyterHub", "authenticate_prometheus"),
    ("JupyterHub", "default_server_name"),
    ("JupyterHub", "default_url"),
    ("JupyterHub", "extra_user_scopes"),
    ("JupyterHub", "implicit_spawn_seconds"),
    ("JupyterHub", "jinja_environment_options"),
    ("JupyterHub", "load_groups"),
    ("JupyterHub", "load_roles"),
    ("JupyterHub", "logo_file"),
    ("JupyterHub", "oauth_require_pkce"),
    ("JupyterHub", "redirect_to_server"),
    ("JupyterHub", "service_tokens"),
    ("JupyterHub", "services"),
    ("JupyterHub", "shutdown_on_logout"),
    ("JupyterHub", "template_paths"),
    ("JupyterHub", "template_vars"),
    ("JupyterHub", "token_allowed_scopes"),
    ("JupyterHub", "token_expires_in_max_seconds"),
    ("JupyterHub", "trusted_downstream_ips"),
    ("JupyterHub", "use_legacy_stopped_server_status_code"),
    ("Spawner", "options_form"),
    ("Spawner", "options_from_form"),
    ("Authenticator", "admin_users"),
    ("Authenticator", "allow_all"),
    ("Authenticator", "allow_existing_users"),
    ("Authenticator", "allowed_users"),
    ("Authenticator", "any_allow_config"),
    ("Authenticator", "auto_login"),
    ("Authenticator", "blocked_users"),
    ("Authenticator", "manage_groups"),
    ("Authenticator", "otp_prompt"),
    ("Authenticator", "request_otp"),
    ("Authenticator", "username_map"),
    ("Authenticator", "username_pattern"),
    ("LocalAuthenticator", "allowed_groups"),
    ("LocalAuthenticator", "group_whitelist"),
    ("PAMAuthenticator", "admin_groups"),
    ("DummyAuthenticator", "password"),
    ("SharedPasswordAuthenticator", "admin_password"),
    ("SharedPasswordAuthenticator", "user_password"),
];

/// A configuration that was read again.
pub struct Fresh {
    /// All options; those that need a restart with their old values.
    pub config: Config,
    /// An authenticator with the new options.
    pub authenticator: Arc<dyn Authenticator>,
    /// The options that changed and take effect now.
    pub changed: Vec<String>,
    /// The options that changed and need a restart.
    pub need_restart: Vec<String>,
}

/// Where a changed configuration comes from.
#[async_trait]
pub trait ConfigSource: Send {
    /// Returns when somebody wants the configuration to be read again.
    async fn wished(&mut self);

    /// Reads it. The error is a sentence that says what is wrong with it.
    async fn read(&mut self) -> Result<Fresh, String>;

    /// The hub has taken what was read last, which holds from now on.
    fn taken(&mut self);
}

/// Why a changed configuration was not taken. Each is a sentence.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Who may come in.
    #[error("{0}")]
    Rules(#[from] orrery_core::access::RulesError),
    /// The templates.
    #[error("the templates cannot be loaded: {0:#}")]
    Templates(#[from] minijinja::Error),
    /// One of the site's own templates.
    #[error("the template {0}")]
    Template(String),
    /// Roles, users, groups and services.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// The authenticator's own options.
    #[error("{0}")]
    Authenticator(String),
    /// The database went away, and nobody can tell whether it took the changes before.
    #[error(
        "the database failed ({0}); roles, users, groups and services of the new configuration may stand in it \
         all the same: reload again when the database answers, or restart the hub"
    )]
    Unsure(String),
    /// Something took too long.
    #[error("{0} did not answer in time")]
    Late(&'static str),
}

/// A transaction that ended with its connection may have been committed.
fn unsure(error: SetupError) -> ReloadError {
    match error {
        SetupError::Store(error @ (StoreError::Away { .. } | StoreError::Unavailable { .. })) => {
            ReloadError::Unsure(error.to_string())
        }
        error => error.into(),
    }
}

/// The hub as it is now. Requests that come while a new configuration is being noted in the database
/// wait for that moment.
pub struct Site {
    current: RwLock<(AppState, Router)>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl Site {
    /// The site of a hub as it starts.
    pub fn new(hub: AppState) -> Arc<Self> {
        let router = crate::router::router(Arc::clone(&hub));
        Arc::new(Self {
            current: RwLock::new((hub, router)),
            reloading: Mutex::default(),
        })
    }

    /// Sends each request to the hub as it is when the request comes.
    pub fn router(self: &Arc<Self>) -> Router {
        let site = Arc::clone(self);
        let service = tower::service_fn(move |request: Request| {
            let site = Arc::clone(&site);
            async move {
                let mut router = site.current.read().await.1.clone();
                let answer: Result<Response, std::convert::Infallible> = router.call(request).await;
                answer
            }
        });
        Router::new().fallback_service(service)
    }

    /// The hub as it is now.
    pub async fn hub(&self) -> AppState {
        Arc::clone(&self.current.read().await.0)
    }

    /// Takes a changed configuration, or none of it.
    pub async fn reload(
        &self,
        config: Config,
        authenticator: Arc<dyn Authenticator>,
    ) -> Result<(), ReloadError> {
        let _one = self.reloading.lock().await;
        let hub = self.hub().await;
        tokio::time::timeout(CHECK, authenticator.check())
            .await
            .map_err(|_| ReloadError::Late("the authenticator"))?
            .map_err(|error| ReloadError::Authenticator(error.to_string()))?;
        let (rules, warnings) = Rules::new(access_settings(&config, &*authenticator))?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let templates = templates(&config)?;
        if let Some(broken) = templates.broken().first() {
            return Err(ReloadError::Template(broken.clone()));
        }
        let mut wishes = Wishes::of(&config, &hub.scopes).await?;
        let comparing = wishes.compare(&hub.store, hub.clock.now());
        comparing.await.map_err(SetupError::from)?;
        let changed = Changed {
            config,
            authenticator,
            rules,
            templates,
        };
        let changed = Arc::new(hub.changed(changed));
        let router = crate::router::router(Arc::clone(&changed));

        // From here on requests wait, so that none meets new roles and old rules.
        let mut current = self.current.write().await;
        let writing = wishes.write(
            &changed.store,
            &changed.config,
            &changed.rules,
            &changed.urls,
            changed.clock.now(),
        );
        let written = tokio::time::timeout(NOTE, writing).await;
        let events = written
            .map_err(|_| ReloadError::Unsure("it did not answer in time".to_owned()))?
            .map_err(unsure)?;
        *current = (changed, router);
        drop(current);
        hub.replaced.cancel();
        hub.audit.record_all(events).await;
        // Services may have come or gone.
        hub.routes.wake();
        Ok(())
    }
}

/// Reloads whenever `source` wants it, until `closing` is cancelled.
pub async fn run(site: Arc<Site>, mut source: Box<dyn ConfigSource>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            () = source.wished() => {}
        }
        service_manager::reloading();
        tokio::select! {
            () = closing.cancelled() => return,
            () = once(&site, &mut *source) => {}
        }
        service_manager::ready();
    }
}

async fn once(site: &Site, source: &mut dyn ConfigSource) {
    let kept = "the configuration was not reloaded; the hub goes on with the old one";
    let hub = site.hub().await;
    let refused = || {
        let event = Event::new(Action::ConfigReload).by_config();
        hub.audit.record(event.outcome(Outcome::Failed))
    };
    let fresh = match source.read().await {
        Ok(fresh) => fresh,
        Err(why) => {
            tracing::error!(why, "{kept}");
            return refused().await;
        }
    };
    let Fresh {
        config,
        authenticator,
        changed,
        need_restart,
    } = fresh;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(why) = site.reload(config, authenticator).await {
        tracing::error!(%why, "{kept}");
        return refused().await;
    }
    source.taken();
    let event = Event::new(Action::ConfigReload).by_config();
    let event = event.detail("changed", changed.clone());
    hub.audit
        .record(event.detail("need_restart", need_restart.clone()))
        .await;
    if !need_restart.is_empty() {
        tracing::warn!(
            options = need_restart.join(", "),
            "changed options that need a restart of the hub to take effect"
        );
    }
    tracing::info!(
        changed = changed.join(", "),
        "the configuration was reloaded"
    );
}
