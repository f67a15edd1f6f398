//! Starting and stopping the hub: what is opened, in which order, and how it ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orrery_core::access::{Rules, Settings as AccessSettings};
use orrery_core::authenticator::Authenticator;
use orrery_core::scopes::Definitions;
use orrery_core::spawner::Spawner;
use orrery_core::{Clock, Secret};
use orrery_store::{
    Claim, DbUrl, NaiveDateTime, Store, StoreError, StoreOptions,
    migrate::{self, Progress},
};
use tokio_util::sync::CancellationToken;

use crate::audit::{Action, Audit, AuditError, Event};
use crate::auth::auth_state::{AuthStateError, AuthStates};
use crate::auth::cookies::Signer;
use crate::auth::{KnownCache, secret_file, throttle::Throttle};
use crate::certs::{CertificateError, Internal, check_public};
use crate::changes::{Feed, Pauses};
use crate::config::{Config, HttpAddress};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::pages::Templates;
use crate::reload::{self, ConfigSource, Site};
use crate::routes::{
    HttpRouteTable, Keeper, KeeperParts, ProxyError, ProxyHold, ProxyProcess, ProxySettings,
};
use crate::servers::{Engine, EngineParts, Settings};
use crate::service_manager;
use crate::setup;
use crate::state::{AppState, HubState};
use crate::urls::Urls;

/// How long stopping all servers may take, unless the spawner's own timeouts ask for more.
const STOP_ALL: Duration = Duration::from_secs(120);

/// How long all else may take at the end: the proxy, the services, the database.
const END: Duration = Duration::from_secs(45);

/// How long the start waits for the proxy to take its first routes.
const FIRST_ROUTES: Duration = Duration::from_secs(10);

/// All that a hub is made of; the program chooses the backends.
pub struct Setup {
    /// The options.
    pub config: Config,
    /// How servers are started.
    pub spawner: Arc<dyn Spawner>,
    /// How people prove who they are.
    pub authenticator: Arc<dyn Authenticator>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The program to start as `… proxy`: this one.
    pub program: PathBuf,
    /// The machine's name, by which servers reach a hub that listens on all addresses.
    pub hostname: String,
    /// The environment that the hub was started in.
    pub environment: std::collections::BTreeMap<String, String>,
}

/// Why the hub does not start. Each is a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The database's URL.
    #[error("JupyterHub.db_url: {0}")]
    DbUrl(String),
    /// The cookie secret.
    #[error("{0}")]
    CookieSecret(#[from] secret_file::SecretError),
    /// The keys of auth state.
    #[error("{0}")]
    AuthState(#[from] AuthStateError),
    /// Who may come in.
    #[error("{0}")]
    Rules(#[from] orrery_core::access::RulesError),
    /// The site's own scopes.
    #[error("JupyterHub.custom_scopes: {0}")]
    Scopes(#[from] orrery_core::scopes::ScopeError),
    /// Roles, users, groups and services of the configuration.
    #[error("{0}")]
    Setup(#[from] setup::SetupError),
    /// The templates.
    #[error("the templates cannot be loaded: {0:#}")]
    Templates(#[from] minijinja::Error),
    /// The hub's own address.
    #[error("{0}")]
    Listen(String),
    /// The proxy.
    #[error("{0}")]
    Proxy(#[from] ProxyError),
    /// The proxy's address or token.
    #[error("{0}")]
    Routes(#[from] orrery_core::routes::RouteError),
    /// A backend's own settings.
    #[error("{0}")]
    Backend(String),
    /// The process id file.
    #[error("JupyterHub.pid_file: {0} cannot be written: {1}")]
    PidFile(String, std::io::Error),
    /// Keys and certificates.
    #[error("{0}")]
    Certificates(#[from] CertificateError),
    /// The audit log.
    #[error("{0}")]
    Audit(#[from] AuditError),
    /// Metrics of one name twice.
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Opens the database and builds the hub, without listening or starting anything.
pub async fn build(setup: Setup) -> Result<(AppState, Arc<HttpRouteTable>), StartError> {
    let Setup {
        config,
        spawner,
        authenticator,
        clock,
        hostname,
        environment,
        program: _,
    } = setup;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    authenticator
        .check()
        .await
        .map_err(|error| StartError::Backend(error.to_string()))?;
    spawner
        .check()
        .await
        .map_err(|failure| StartError::Backend(failure.message))?;

    let secret = cookie_secret(
        &config,
        environment.get("JPY_COOKIE_SECRET").map(String::as_str),
    )?;
    let auth_states = AuthStates::new(&config, &environment)?;
    let (definitions, warnings) =
        Definitions::with_custom(&config.hub.custom_scopes.clone().into_iter().collect())?;
    let (rules, more_warnings) = Rules::new(access_settings(&config, &*authenticator))?;
    for warning in warnings.iter().chain(&more_warnings) {
        tracing::warn!("{warning}");
    }
    let templates = templates(&config)?;

    let store = open_store(&config, &environment, clock.now()).await?;
    let urls = Urls::from_config(&config.hub);
    let metrics = Arc::new(Metrics::new()?);
    let audit = Audit::start(&config, &store, &clock, &metrics)?;
    let applied = setup::apply(&store, &config, &rules, &definitions, &urls, clock.now()).await?;
    audit.record_all(applied).await;
    setup::add_known_users(&store, &config, &rules, &*authenticator).await?;

    let connect_url = config.hub_connect_url(&hostname);
    let hub_target = connect_url
        .strip_suffix(urls.hub.as_str())
        .unwrap_or(&connect_url)
        .to_owned();
    let proxy_token = proxy_token(
        &config,
        environment
            .get("CONFIGPROXY_AUTH_TOKEN")
            .map(String::as_str),
        &secret,
    );
    let internal = Internal::from_config(&config, &hostname, clock.now())?;
    let client_tls = internal
        .as_ref()
        .map(|internal| Arc::clone(&internal.proxy_api));
    let concurrency = usize::try_from(config.chp.concurrency).unwrap_or(10).max(1);
    // Only a proxy of our own runs as our own account.
    let table_of = if config.proxy.should_start {
        HttpRouteTable::of_our_own_proxy
    } else {
        HttpRouteTable::new
    };
    let table = Arc::new(table_of(
        &config.chp.api_url,
        proxy_token.clone(),
        urls.hosts().is_some(),
        concurrency,
        client_tls,
    )?);
    let routes = Keeper::new(KeeperParts {
        store: store.clone(),
        table: Arc::clone(&table) as Arc<dyn orrery_core::routes::RouteTable>,
        hub_routespec: config.hub.hub_routespec.clone(),
        hub_target,
        extra_routes: config.proxy.extra_routes.clone(),
        urls: urls.clone(),
        check_interval: seconds(config.chp.check_running_interval),
    });
    let hub_api_url = format!("{connect_url}api");
    let servers = Engine::new(EngineParts {
        internal: internal.clone(),
        store: store.clone(),
        spawner,
        clock: Arc::clone(&clock),
        settings: Settings {
            // As they are written, and as their users are called.
            blocked_users: rules.blocked_users().iter().cloned().collect(),
            ..Settings::from_config(&config, &environment, hub_api_url)
        },
        urls: urls.clone(),
        definitions: definitions.clone(),
        routes: routes.clone(),
        replica: match config.hub_address() {
            HttpAddress {
                socket: Some(socket),
                ..
            } => format!("{hostname}:{}", socket.display()),
            HttpAddress { port, .. } => format!("{hostname}:{port}"),
        },
    });
    let started = clock.now();
    let state = HubState {
        changes: Feed::new(store.clone(), Pauses::default()),
        replaced: tokio_util::sync::CancellationToken::new(),
        internal,
        signer: Signer::new(&secret),
        urls,
        store,
        clock,
        authenticator,
        auth_states: Arc::new(auth_states),
        rules,
        scopes: definitions,
        servers,
        routes,
        templates,
        throttle: Arc::new(Throttle::default()),
        known: KnownCache::default(),
        counts: Arc::default(),
        long_reads: Arc::default(),
        proxy_token,
        stop: CancellationToken::new(),
        cleanup: Arc::new(crate::api::Cleanup::default()),
        started,
        audit,
        metrics,
        config,
    };
    Ok((Arc::new(state), table))
}

/// Runs the hub until `stop` is cancelled, by a signal's handler or by the API.
pub async fn run(setup: Setup, stop: CancellationToken) -> Result<(), StartError> {
    Box::pin(run_and_reload(setup, stop, None)).await
}

/// As [`run`], and takes a changed configuration while it runs.
pub async fn run_and_reload(
    setup: Setup,
    stop: CancellationToken,
    source: Option<Box<dyn ConfigSource>>,
) -> Result<(), StartError> {
    let program = setup.program.clone();
    if setup.config.proxy.should_start {
        check_public(&setup.config.hub, setup.clock.now())?;
    }
    // The address first: a second hub on the same port must not touch the first one's database.
    let address = setup.config.hub_address();
    let listener = match &address.socket {
        Some(socket) => {
            let mode = u32::try_from(setup.config.hub.hub_socket_mode).unwrap_or(0o600);
            Listener::unix(socket, mode)
        }
        None => Listener::tcp(&address.host, address.port).await,
    }
    .map_err(StartError::Listen)?;
    // Nor its proxy, nor its process id file, when the two have ports of their own.
    let hold = ProxyHold::take(
        setup.config.proxy.should_start,
        Path::new(&setup.config.chp.pid_file),
    )?;
    let claim = Claim::take(&db_url(&setup.config)?)?;
    let pid_file = PidFile::write(&setup.config.hub.pid_file)?;
    let (hub, table) = build(setup).await?;
    let reconciled = hub.servers.reconcile().await?;
    tracing::info!(?reconciled, "servers of before taken over");

    let site = Site::new(Arc::clone(&hub));
    let router = site.router();
    tracing::info!(address = listener.address(), prefix = %hub.urls.hub, "the hub listens");
    let closing = CancellationToken::new();
    let tls = hub
        .internal
        .as_ref()
        .filter(|_| address.socket.is_none())
        .map(|internal| Arc::clone(&internal.tls.server));
    let serving = tokio::spawn(listener.serve(router, tls, closing.clone().cancelled_owned()));

    let proxy = match ProxyProcess::start(proxy_settings(&hub, &program), table).await {
        Ok(proxy) => proxy,
        Err(error) => {
            closing.cancel();
            hub.servers.shutdown(false).await;
            return Err(error.into());
        }
    };
    proxy.supervise(hub.routes.clone());
    let keeper = hub.routes.clone();
    let keeping = tokio::spawn(async move { keeper.run().await });
    let engine = hub.servers.clone();
    let moving = tokio::spawn(async move { engine.run().await });
    let discarding = tokio::spawn(crate::housekeeping::run(Arc::clone(&hub), closing.clone()));
    let watching = tokio::spawn(crate::services_watch::run(
        Arc::clone(&hub),
        closing.clone(),
    ));
    let reloading = source.map(|source| tokio::spawn(reload::run(site, source, closing.clone())));
    let guarding = tokio::spawn(service_manager::keep_watchdog(closing.clone()));
    // Running means that the proxy leads here; should it not answer, the keeper goes on trying.
    let first = tokio::time::timeout(FIRST_ROUTES, hub.routes.check()).await;
    if !matches!(first, Ok(Ok(_))) {
        tracing::warn!("the proxy does not lead to the hub yet");
    }
    tracing::info!(url = %hub.config.hub.bind_url, "JupyterHub is now running, by Orrery");
    service_manager::ready();
    hub.audit.record(Event::new(Action::Start).by_hub()).await;

    tokio::select! {
        () = stop.cancelled() => {
            hub.audit.note(Event::new(Action::Shutdown).by_hub().detail("by", "signal"));
        }
        () = hub.stop.cancelled() => {}
    }
    tracing::info!("shutting down");
    let stop_all = STOP_ALL.max(hub.servers.shutdown_limit());
    service_manager::stopping(stop_all + END);
    let cleanup_servers = hub.cleanup.servers(hub.config.hub.cleanup_servers);
    if tokio::time::timeout(stop_all, hub.servers.shutdown(cleanup_servers))
        .await
        .is_err()
    {
        tracing::warn!(
            seconds = stop_all.as_secs(),
            "some servers did not stop in time"
        );
    }
    hub.routes.close();
    hub.changes.close();
    proxy
        .stop(hub.cleanup.proxy(hub.config.hub.cleanup_proxy))
        .await;
    closing.cancel();
    let always = [serving, keeping, moving, discarding, watching, guarding];
    for task in always.into_iter().chain(reloading) {
        if let Err(error) = task.await {
            tracing::error!(%error, "a part of the hub ended badly");
        }
    }
    hub.audit.close().await;
    hub.store.close().await;
    drop(claim);
    drop(pid_file);
    drop(hold);
    Ok(())
}

/// The templates as configured.
pub(crate) fn templates(config: &Config) -> Result<Templates, minijinja::Error> {
    let paths: Vec<PathBuf> = config
        .hub
        .template_paths
        .iter()
        .map(PathBuf::from)
        .collect();
    Templates::with_options(
        &paths,
        &config.hub.template_vars.clone().into_iter().collect(),
        &config.hub.jinja_environment_options,
    )
}

pub(crate) fn access_settings(
    config: &Config,
    authenticator: &dyn Authenticator,
) -> AccessSettings {
    let options = &config.authenticator;
    AccessSettings {
        // Resolved for the chosen class when the configuration was read, the dummy's default included.
        allow_all: Some(options.allow_all),
        open_by_default: false,
        allowed_users: options.allowed_users.clone(),
        allow_existing_users: Some(options.allow_existing_users),
        blocked_users: options.blocked_users.clone(),
        admin_users: options.admin_users.clone(),
        any_allow_config: options.any_allow_config.then_some(true),
        other_allow_config: authenticator.has_allow_rules(),
        name_lookup: authenticator.name_lookup(),
        username_map: options.username_map.clone(),
        username_pattern: options.username_pattern.clone(),
    }
}

fn cookie_secret(config: &Config, environment: Option<&str>) -> Result<Vec<u8>, StartError> {
    if !config.hub.cookie_secret.is_empty() {
        return Ok(config.hub.cookie_secret.expose().to_vec());
    }
    match environment.filter(|value| !value.is_empty()) {
        Some(value) => Ok(secret_file::from_environment(value)?),
        None => Ok(secret_file::load_or_create(Path::new(
            &config.hub.cookie_secret_file,
        ))?),
    }
}

async fn open_store(
    config: &Config,
    environment: &std::collections::BTreeMap<String, String>,
    now: NaiveDateTime,
) -> Result<Store, StartError> {
    let allowed = environment.get("ORRERY_ALLOW_NETWORK_SQLITE");
    let options = StoreOptions {
        allow_network_file_system: allowed.is_some_and(|value| value == "1"),
        ..StoreOptions::default()
    };
    let url = db_url(config)?;
    if config.hub.upgrade_db {
        migrate::upgrade(&url, &options, now, &|progress| match progress {
            Progress::Backup(copy) => {
                tracing::info!(copy = %copy.display(), "the database was copied");
            }
            Progress::Step(step) => tracing::info!(
                revision = step.to,
                "upgrading the database: {}",
                step.summary
            ),
            Progress::Statement(sql) => tracing::debug!(sql, "upgrading the database"),
        })
        .await?;
    }
    Ok(Store::open(&url, options).await?)
}

fn db_url(config: &Config) -> Result<DbUrl, StartError> {
    DbUrl::parse(&config.hub.db_url).map_err(|error| StartError::DbUrl(error.to_string()))
}

/// Configured, or made of the cookie secret, so that a hub that starts again still knows the token of
/// the proxy that it left running.
fn proxy_token(config: &Config, environment: Option<&str>, cookie_secret: &[u8]) -> Secret {
    if !config.chp.auth_token.is_empty() {
        return config.chp.auth_token.clone();
    }
    match environment.filter(|value| !value.is_empty()) {
        Some(value) => Secret::new(value),
        None => Secret::new(Signer::new(cookie_secret).derive("proxy api token")),
    }
}

fn proxy_settings(hub: &AppState, program: &Path) -> ProxySettings {
    let internal = hub.internal.as_ref();
    let certificates = internal.and_then(|internal| internal.certificates.proxy.clone());
    ProxySettings::from_config(&hub.config, program, hub.proxy_token.clone(), certificates)
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or_default())
}

/// Holds our process id while we run.
struct PidFile(Option<PathBuf>);

impl PidFile {
    fn write(path: &str) -> Result<Self, StartError> {
        if path.is_empty() {
            return Ok(Self(None));
        }
        std::fs::write(path, format!("{}", std::process::id()))
            .map_err(|error| StartError::PidFile(path.to_owned(), error))?;
        Ok(Self(Some(PathBuf::from(path))))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let is_ours = |path: &PathBuf| {
            std::fs::read_to_string(path).is_ok_and(|id| id == std::process::id().to_string())
        };
        if let Some(path) = self.0.as_ref().filter(|path| is_ours(path))
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "the process id file was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_waits_longer_than_the_hub_takes_to_end() {
        let unit = include_str!("../../../deploy/systemd/orrery.service");
        let minutes = unit
            .lines()
            .find_map(|line| line.strip_prefix("TimeoutStopSec=")?.strip_suffix("min"))
            .and_then(|minutes| minutes.parse().ok());
        let limit = Duration::from_mins(minutes.expect("whole minutes"));
        assert!(limit > STOP_ALL + END, "{limit:?}");
    }
}
