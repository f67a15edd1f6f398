//! The one place that names backends: which classes there are, by which names configurations choose
//! them, and how a chosen one is made.

use std::sync::Arc;

use orrery_authenticators::config as authenticators;
use orrery_authenticators::dummy::Dummy;
use orrery_authenticators::null::Null;
use orrery_authenticators::pam::Pam;
use orrery_authenticators::shared_password::{People, SharedPassword};
use orrery_core::access::Normalizer;
use orrery_core::authenticator::Authenticator;
use orrery_core::config::{
    Catalog, ClassSpec, ConfigClass as _, Problem, Setting, Tree, Value, nearest,
};
use orrery_core::spawner::{Resources, Spawner};
use orrery_hub::config::{self as hub, Config};
use orrery_session::client::Helper;
use orrery_spawners::config as spawners;
use orrery_spawners::local::{LocalProcess, Simple};

/// Every class that a configuration may have a section for, in the order in which help shows them.
pub(crate) fn catalog() -> Catalog {
    Catalog::new(
        hub::CLASSES
            .iter()
            .copied()
            .chain(BACKENDS.iter().map(|backend| backend.spec)),
    )
}

/// A class that `JupyterHub.spawner_class` or `authenticator_class` may name.
struct Backend {
    role: Role,
    /// The short names that upstream registers; the first is the one we show.
    names: &'static [&'static str],
    spec: &'static ClassSpec,
    make: Make,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Spawner,
    Authenticator,
    Proxy,
    /// Only a base of others.
    Base,
}

/// What a backend's maker gives: the backend, or what is wrong with its options.
type Made<T> = Result<Arc<T>, Vec<Problem>>;

/// Makes a backend from the tree, for the ancestry of its class. Warnings go to the configuration's.
type Maker<T> = fn(&Tree, &[&'static ClassSpec], &mut Config) -> Made<T>;

enum Make {
    Spawner(Maker<dyn Spawner>),
    Authenticator(Maker<dyn Authenticator>),
    /// The hub makes it.
    Own,
    /// There is no such backend yet.
    NotYet,
}

const BACKENDS: &[Backend] = &[
    Backend {
        role: Role::Spawner,
        names: &["simple"],
        spec: spawners::SimpleLocalProcessSpawner::SPEC,
        make: Make::Spawner(simple_spawner),
    },
    Backend {
        role: Role::Spawner,
        names: &["localprocess", "default"],
        spec: spawners::LocalProcessSpawner::SPEC,
        make: Make::Spawner(local_process_spawner),
    },
    Backend {
        role: Role::Authenticator,
        names: &["dummy"],
        spec: authenticators::DummyAuthenticator::SPEC,
        make: Make::Authenticator(dummy_authenticator),
    },
    Backend {
        role: Role::Authenticator,
        names: &["shared-password"],
        spec: authenticators::SharedPasswordAuthenticator::SPEC,
        make: Make::Authenticator(shared_password_authenticator),
    },
    Backend {
        role: Role::Authenticator,
        names: &["null"],
        spec: authenticators::NullAuthenticator::SPEC,
        make: Make::Authenticator(|_, _, _| Ok(Arc::new(Null))),
    },
    Backend {
        role: Role::Base,
        names: &[],
        spec: authenticators::LocalAuthenticator::SPEC,
        make: Make::NotYet,
    },
    Backend {
        role: Role::Authenticator,
        names: &["pam", "default"],
        spec: authenticators::PAMAuthenticator::SPEC,
        make: Make::Authenticator(pam_authenticator),
    },
];

/// The proxies; their class has its section in the hub's own list.
const PROXIES: &[Backend] = &[Backend {
    role: Role::Proxy,
    names: &["configurable-http-proxy", "default"],
    spec: hub::ConfigurableHTTPProxy::SPEC,
    make: Make::Own,
}];

/// The classes that cannot be chosen yet, for the list of what is missing.
pub(crate) fn not_yet() -> impl Iterator<Item = &'static ClassSpec> {
    let missing =
        |backend: &&Backend| matches!(backend.make, Make::NotYet) && backend.role != Role::Base;
    BACKENDS.iter().filter(missing).map(|backend| backend.spec)
}

/// The short names of a class.
pub(crate) fn short_names(spec: &ClassSpec) -> &'static [&'static str] {
    let all = BACKENDS.iter().chain(PROXIES);
    all.filter(|backend| backend.spec.name == spec.name)
        .map(|backend| backend.names)
        .next()
        .unwrap_or_default()
}

/// A configuration with the backends it chose.
pub(crate) struct Chosen {
    pub(crate) config: Config,
    pub(crate) spawner: Arc<dyn Spawner>,
    pub(crate) authenticator: Arc<dyn Authenticator>,
}

/// Reads the tree into types for the classes it chooses, and makes these.
pub(crate) fn choose(tree: &Tree) -> Result<Chosen, Vec<Problem>> {
    let (config, spawner, authenticator, mut problems) = load(tree, true)?;
    let mut config = config;
    let catalog = catalog();
    let made_spawner = match spawner.map(|backend| (&backend.make, catalog.chain(backend.spec))) {
        Some((Make::Spawner(make), chain)) => make(tree, &chain, &mut config)
            .map_err(|found| problems.extend(found))
            .ok(),
        _ => None,
    };
    let made_authenticator =
        match authenticator.map(|backend| (&backend.make, catalog.chain(backend.spec))) {
            Some((Make::Authenticator(make), chain)) => make(tree, &chain, &mut config)
                .map_err(|found| problems.extend(found))
                .ok(),
            _ => None,
        };
    match (made_spawner, made_authenticator) {
        (Some(spawner), Some(authenticator)) if problems.is_empty() => Ok(Chosen {
            config,
            spawner,
            authenticator,
        }),
        _ => Err(problems),
    }
}

/// Reads the tree into types, for commands that start no server and let nobody in.
pub(crate) fn config_only(tree: &Tree) -> Result<Config, Vec<Problem>> {
    load(tree, false).map(|(config, ..)| config)
}

type Found = (
    Config,
    Option<&'static Backend>,
    Option<&'static Backend>,
    Vec<Problem>,
);

/// `need_backends` refuses classes that cannot be made.
fn load(tree: &Tree, need_backends: bool) -> Result<Found, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut find = |role, option, base: &'static ClassSpec, backends| {
        let found = chosen(tree, role, option, backends, need_backends);
        let found = found
            .map_err(|problem| problems.push(problem))
            .ok()
            .flatten();
        let spec = found.map_or(base, |backend: &Backend| backend.spec);
        (found, catalog().chain(spec))
    };
    let (spawner, spawner_chain) =
        find(Role::Spawner, "spawner_class", hub::Spawner::SPEC, BACKENDS);
    let (authenticator, authenticator_chain) = find(
        Role::Authenticator,
        "authenticator_class",
        hub::Authenticator::SPEC,
        BACKENDS,
    );
    find(Role::Proxy, "proxy_class", hub::Proxy::SPEC, PROXIES);
    match Config::load(tree, &spawner_chain, &authenticator_chain) {
        // A class that cannot be made is told together with everything else.
        Ok(config) if problems.is_empty() => Ok((config, spawner, authenticator, problems)),
        Ok(_) => Err(problems),
        Err(found) => Err(problems.into_iter().chain(found).collect()),
    }
}

/// The backend that the option `JupyterHub.<option>` names.
fn chosen(
    tree: &Tree,
    role: Role,
    option: &str,
    backends: &'static [Backend],
    need: bool,
) -> Result<Option<&'static Backend>, Problem> {
    let entry = tree.get("JupyterHub", option);
    let name = match entry.map(|entry| &entry.setting) {
        Some(Setting::Value(Value::Text(name) | Value::Class(name))) => name.clone(),
        // Whatever else stands there, the option's type tells it.
        Some(_) => return Ok(None),
        None => "default".to_owned(),
    };
    let fits = |backend: &&Backend| {
        backend.role == role
            && (backend.names.contains(&name.to_lowercase().as_str())
                || backend.spec.path() == name)
    };
    let usable: Vec<String> = backends
        .iter()
        .filter(|backend| backend.role == role && !matches!(backend.make, Make::NotYet))
        .map(|backend| format!("'{}'", backend.names[0]))
        .collect();
    let usable = usable.join(", ");
    let Some(backend) = backends.iter().find(fits) else {
        let names = backends
            .iter()
            .filter(|backend| backend.role == role)
            .flat_map(|backend| backend.names);
        let hint = nearest(&name, names.copied())
            .map(|name| format!("did you mean '{name}'? "))
            .unwrap_or_default();
        let place = entry
            .map(|entry| format!(" ({})", entry.origin))
            .unwrap_or_default();
        return Err(Problem::Invalid(format!(
            "JupyterHub.{option} names the class {name:?}{place}, which is not supported yet: {hint}use one of {usable}"
        )));
    };
    if need && matches!(backend.make, Make::NotYet) {
        let class = backend.spec.name;
        let origin = match entry {
            Some(entry) => format!("chosen {}", entry.origin),
            None => "the default".to_owned(),
        };
        return Err(Problem::Invalid(format!(
            "{class} ({origin}) is not supported yet: set c.JupyterHub.{option} to one of {usable}"
        )));
    }
    Ok(Some(backend))
}

/// What upstream's local spawners keep of the hub's environment unless the option is set.
const LOCAL_ENV_KEEP: [&str; 9] = [
    "CONDA_DEFAULT_ENV",
    "CONDA_ROOT",
    "JUPYTERHUB_SINGLEUSER_APP",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
];

fn keep_local_environment(tree: &Tree, chain: &[&'static ClassSpec], config: &mut Config) {
    let is_set = |class: &&'static ClassSpec| {
        matches!(
            tree.get(class.name, "env_keep").map(|entry| &entry.setting),
            Some(Setting::Value(_))
        )
    };
    if chain.iter().any(is_set) {
        return;
    }
    let kept = &mut config.spawner.env_keep;
    for name in LOCAL_ENV_KEEP {
        if !kept.iter().any(|own| own == name) {
            kept.push(name.to_owned());
        }
    }
}

fn simple_spawner(
    tree: &Tree,
    chain: &[&'static ClassSpec],
    config: &mut Config,
) -> Made<dyn Spawner> {
    keep_local_environment(tree, chain, config);
    let process = spawners::LocalProcessSpawner::load(tree, chain)?.value;
    let simple = spawners::SimpleLocalProcessSpawner::load(tree, chain)?.value;
    if pam_session(tree, config)?.is_some() {
        config.warnings.push(
            "PAMAuthenticator.open_sessions: SimpleLocalProcessSpawner's servers all run as the hub's \
             user, so no sessions are opened for them"
                .to_owned(),
        );
    }
    if configured_limits(config) != Resources::default() {
        config.warnings.push(
            "SimpleLocalProcessSpawner tells servers of their limits and guarantees, but does not hold \
             them to these: LocalProcessSpawner does"
                .to_owned(),
        );
    }
    let made = Simple::new(&process, &simple, logs_folder()?).map_err(|error| invalid(&error))?;
    Ok(Arc::new(made))
}

fn local_process_spawner(
    tree: &Tree,
    chain: &[&'static ClassSpec],
    config: &mut Config,
) -> Made<dyn Spawner> {
    keep_local_environment(tree, chain, config);
    let options = spawners::LocalProcessSpawner::load(tree, chain)?.value;
    let helper = session_helper(config);
    let mut made =
        LocalProcess::new(&options, helper, logs_folder()?).map_err(|error| invalid(&error))?;
    made = made.expecting(configured_limits(config));
    if let Some(service) = pam_session(tree, config)? {
        made = made.with_session(&service);
    }
    Ok(Arc::new(made))
}

/// The limits and guarantees of all servers.
fn configured_limits(config: &Config) -> Resources {
    let options = &config.spawner;
    Resources {
        mem_limit: options.mem_limit.map(|size| size.0),
        mem_guarantee: options.mem_guarantee.map(|size| size.0),
        cpu_limit: options.cpu_limit,
        cpu_guarantee: options.cpu_guarantee,
    }
}

/// The PAM service that opens a session for each server, if the chosen authenticator asks for that.
fn pam_session(tree: &Tree, config: &Config) -> Result<Option<String>, Vec<Problem>> {
    let spec = authenticators::PAMAuthenticator::SPEC;
    if config.authenticator_class != spec.name {
        return Ok(None);
    }
    let chain = catalog().chain(spec);
    let options = authenticators::PAMAuthenticator::load(tree, &chain)?.value;
    Ok(options.open_sessions.then_some(options.service))
}

/// Where local servers' logs go.
fn logs_folder() -> Result<std::path::PathBuf, Vec<Problem>> {
    std::path::absolute("orrery-logs")
        .map_err(|error| invalid(&format!("the working directory: {error}")))
}

fn dummy_authenticator(
    tree: &Tree,
    chain: &[&'static ClassSpec],
    config: &mut Config,
) -> Made<dyn Authenticator> {
    let options = authenticators::DummyAuthenticator::load(tree, chain)?.value;
    let dummy = Dummy::new(options);
    config.warnings.extend(dummy.warnings());
    Ok(Arc::new(dummy))
}

fn pam_authenticator(
    tree: &Tree,
    chain: &[&'static ClassSpec],
    config: &mut Config,
) -> Made<dyn Authenticator> {
    let options = authenticators::PAMAuthenticator::load(tree, chain)?.value;
    let local = authenticators::LocalAuthenticator::load(tree, chain)?.value;
    let pam = Pam::new(options, local, session_helper(config)).map_err(|error| invalid(&error))?;
    config.warnings.extend(pam.warnings());
    Ok(Arc::new(pam))
}

/// The program that does what needs root.
fn session_helper(config: &Config) -> Helper {
    Helper::new(config.hub.session_helper.0.clone())
}

fn shared_password_authenticator(
    tree: &Tree,
    chain: &[&'static ClassSpec],
    config: &mut Config,
) -> Made<dyn Authenticator> {
    let options = authenticators::SharedPasswordAuthenticator::load(tree, chain)?.value;
    let common = &config.authenticator;
    let normalizer = Normalizer::new(common.username_map.clone());
    let people = People {
        manage_groups: common.manage_groups,
        admin_users: common
            .admin_users
            .iter()
            .map(|name| normalizer.normalize(name))
            .collect(),
        normalizer,
    };
    let shared = SharedPassword::new(options, people).map_err(|error| invalid(&error))?;
    config.warnings.extend(shared.warnings());
    Ok(Arc::new(shared))
}

fn invalid(sentence: &impl ToString) -> Vec<Problem> {
    vec![Problem::Invalid(sentence.to_string())]
}

#[cfg(test)]
mod tests;
