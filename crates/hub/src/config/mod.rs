//! The hub's configuration: one struct per class, and [`Config`], which bundles them as they hold
//! for the chosen spawner and authenticator.

mod application;
mod authenticator;
mod jupyterhub;
mod proxy;
mod resolve;
mod spawner;
mod specs;
#[cfg(test)]
mod tests;

use orrery_core::config::{ClassSpec, ConfigClass, Loaded, Problem, Tree};

pub use application::{Application, LogLevel};
pub use authenticator::Authenticator;
pub use jupyterhub::JupyterHub;
pub use proxy::{ConfigurableHTTPProxy, CryptKeeper, CryptKey, Proxy, ProxyLogLevel};
pub use resolve::HttpAddress;
pub use spawner::Spawner;
pub use specs::{CookieSecret, FormReading, GroupSpec, InvalidNamedServers, RoleSpec, ServiceSpec};

/// All options of one hub. Defaults that follow from other options are filled in, so a field can be
/// used as it stands.
#[derive(Clone)]
pub struct Config {
    /// Logging and showing.
    pub application: Application,
    /// The hub's own options.
    pub hub: JupyterHub,
    /// Options of the chosen spawner that all spawners have.
    pub spawner: Spawner,
    /// Options of the chosen authenticator that all authenticators have.
    pub authenticator: Authenticator,
    /// Options that all proxies have.
    pub proxy: Proxy,
    /// Options of configurable-http-proxy, ours or the original.
    pub chp: ConfigurableHTTPProxy,
    /// Keys for auth state.
    pub crypt_keeper: CryptKeeper,
    /// The chosen spawner's class name, as upstream calls it.
    pub spawner_class: &'static str,
    /// The chosen authenticator's class name, as upstream calls it.
    pub authenticator_class: &'static str,
    /// Whether `ConfigurableHTTPProxy.command` was set, so that the program it names is started
    /// instead of our own proxy.
    pub foreign_proxy: bool,
    /// Sentences for the log: settings that look wrong but do not stop the start.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads a merged tree. `spawner` and `authenticator` are the ancestries of the chosen classes,
    /// base class first, as [`Catalog::chain`](orrery_core::config::Catalog::chain) gives them.
    pub fn load(
        tree: &Tree,
        spawner: &[&'static ClassSpec],
        authenticator: &[&'static ClassSpec],
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let application = keep(
            Application::load(tree, &[Application::SPEC, JupyterHub::SPEC]),
            &mut problems,
        );
        let hub = keep(
            JupyterHub::load(tree, &[Application::SPEC, JupyterHub::SPEC]),
            &mut problems,
        );
        let spawner_options = keep(Spawner::load(tree, spawner), &mut problems);
        let authenticator_options = keep(Authenticator::load(tree, authenticator), &mut problems);
        let proxy_chain: &[&ClassSpec] = &[Proxy::SPEC, ConfigurableHTTPProxy::SPEC];
        let proxy = keep(Proxy::load(tree, proxy_chain), &mut problems);
        let chp = keep(
            ConfigurableHTTPProxy::load(tree, proxy_chain),
            &mut problems,
        );
        let crypt_keeper = keep(CryptKeeper::load(tree, &[CryptKeeper::SPEC]), &mut problems);

        let mut warnings = Vec::new();
        let loaded = resolve::Parts {
            application,
            hub,
            spawner: spawner_options,
            authenticator: authenticator_options,
            chp,
        };
        let resolved = resolve::resolve(loaded, &mut problems, &mut warnings);
        let mut proxy = proxy;
        resolve::extra_routes(
            &mut proxy.value,
            &resolved.hub.value,
            &mut problems,
            &mut warnings,
        );
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            foreign_proxy: resolved.chp.is_set("command"),
            application: resolved.application.value,
            hub: resolved.hub.value,
            spawner: resolved.spawner.value,
            authenticator: resolved.authenticator.value,
            proxy: proxy.value,
            chp: resolved.chp.value,
            crypt_keeper: crypt_keeper.value,
            spawner_class: spawner.last().map_or("Spawner", |class| class.name),
            authenticator_class: authenticator
                .last()
                .map_or("Authenticator", |class| class.name),
            warnings,
        })
    }

    /// The configuration of a hub that sets nothing, for tests and as a start for builders.
    pub fn with_defaults() -> Self {
        Self::load(&Tree::default(), &[Spawner::SPEC], &[Authenticator::SPEC])
            .unwrap_or_else(|_| unreachable!("the defaults hold together"))
    }
}

/// The classes that the hub itself reads, for the catalog of the program.
pub const CLASSES: &[&ClassSpec] = &[
    Application::SPEC,
    JupyterHub::SPEC,
    Spawner::SPEC,
    Authenticator::SPEC,
    Proxy::SPEC,
    ConfigurableHTTPProxy::SPEC,
    CryptKeeper::SPEC,
];

/// Keeps the problems and goes on with defaults, so that one start tells all problems.
fn keep<T: ConfigClass>(
    loaded: Result<Loaded<T>, Vec<Problem>>,
    problems: &mut Vec<Problem>,
) -> Loaded<T> {
    match loaded {
        Ok(loaded) => loaded,
        Err(found) => {
            problems.extend(found);
            T::load(&Tree::default(), &[T::SPEC])
                .unwrap_or_else(|_| unreachable!("an empty tree sets nothing wrong"))
        }
    }
}
