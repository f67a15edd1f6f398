//! What the configuration wants in the database, put there when the hub starts: roles, users,
//! groups, services and their tokens.

mod server_names;

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::access::Rules;
use orrery_core::authenticator::{AddUserError, Authenticator};
use orrery_core::scopes::Definitions;
use orrery_core::scopes::roles::{DEFAULT_ROLES, RolePlan, plan};
use orrery_core::{Secret, escape};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::roles::{self, Holder, HolderKind, Role};
use orrery_store::services::{self, ServiceFields};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{ConnectionTrait, NaiveDateTime, Store, StoreError, groups, users};
use serde_json::{Value, json};

use crate::audit::{Action, Event};
use crate::auth::people::{self, add_user};
use crate::config::{Config, ServiceSpec};
use crate::urls::Urls;

/// Why the configuration cannot be put into the database.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A role or scope is not sound.
    #[error("{0}")]
    Role(#[from] orrery_core::scopes::roles::RoleError),
    /// A scope is not sound.
    #[error("{0}")]
    Scope(#[from] orrery_core::scopes::ScopeError),
    /// A name is not a user's.
    #[error("{option} names {name}, which is not a valid username: {why}")]
    User {
        /// The option.
        option: &'static str,
        /// The name, made safe to show.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A server's name of an older version, with what only a newer one writes.
    #[error(
        "the server {server} of {user} has a name that JupyterHub 6 does not give, and a display name, which older \
         versions do not write: correct one of them in the database"
    )]
    Name {
        /// Whose it is.
        user: String,
        /// The name, made safe to show.
        server: String,
    },
    /// Something is given to whom or what does not exist.
    #[error("{what} names {name}, which does not exist")]
    Unknown {
        /// What names it.
        what: String,
        /// The name, made safe to show.
        name: String,
    },
}

impl orrery_store::WriteError for SetupError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

/// Puts everything there, in one transaction. Gives what that changed, for the audit log.
pub(crate) async fn apply(
    store: &Store,
    config: &Config,
    rules: &Rules,
    definitions: &Definitions,
    urls: &Urls,
    now: NaiveDateTime,
) -> Result<Vec<Event>, SetupError> {
    let mut wishes = Wishes::of(config, definitions).await?;
    wishes.compare(store, now).await?;
    server_names::check(store, config.hub.allow_existing_invalid_named_servers).await?;
    wishes.write(store, config, rules, urls, now).await
}

/// What the configuration wants, with all that takes time done beforehand.
pub(crate) struct Wishes {
    plan: RolePlan,
    tokens: Vec<ConfiguredToken>,
    /// Of services that are OAuth clients, by name, hashed.
    secrets: BTreeMap<String, String>,
}

impl Wishes {
    /// Reads them from the configuration.
    pub(crate) async fn of(config: &Config, definitions: &Definitions) -> Result<Self, SetupError> {
        let load_roles: Vec<Value> = config.hub.load_roles.iter().map(role_value).collect();
        let extra: Vec<String> = config.hub.extra_user_scopes.iter().cloned().collect();
        let plan = plan(&load_roles, &extra, definitions)?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        check_token_bounds(config, definitions, &plan)?;
        let tokens = hashed_tokens(config).await?;
        let secrets = hashed_secrets(config).await?;
        Ok(Self {
            plan,
            tokens,
            secrets,
        })
    }

    /// Finds out which of the configured tokens are known already, which is as slow as hashing.
    pub(crate) async fn compare(
        &mut self,
        store: &Store,
        now: NaiveDateTime,
    ) -> Result<(), StoreError> {
        let mut candidates = Vec::new();
        for configured in &self.tokens {
            let prefix = token_hash::prefix(configured.token.expose());
            let rows = api_tokens::find_candidates(store.read(), prefix, now).await?;
            candidates.push(rows.into_iter().map(|row| row.hashed).collect::<Vec<_>>());
        }
        let mut tokens = std::mem::take(&mut self.tokens);
        let comparing = tokio::task::spawn_blocking(move || {
            for (configured, hashes) in tokens.iter_mut().zip(candidates) {
                let token = configured.token.expose();
                let verdicts = hashes.into_iter().map(|hashed| {
                    let is_same = token_hash::verify_token(&hashed, token);
                    (hashed, is_same)
                });
                configured.compared = verdicts.collect();
            }
            tokens
        });
        self.tokens = comparing.await.expect("comparing tokens does not panic");
        Ok(())
    }

    /// Puts everything into the database, in one transaction. [`compare`](Self::compare) comes before.
    /// Gives what that changed, for the audit log.
    pub(crate) async fn write(
        &self,
        store: &Store,
        config: &Config,
        rules: &Rules,
        urls: &Urls,
        now: NaiveDateTime,
    ) -> Result<Vec<Event>, SetupError> {
        let (plan, tokens, secrets) = (&self.plan, &self.tokens, &self.secrets);
        store
            .write(|transaction| async move {
                let mut events = Vec::new();
                let roles = write_roles(&transaction, plan, &mut events).await?;
                write_users(&transaction, rules, now, &mut events).await?;
                write_groups(&transaction, config, rules, now, &mut events).await?;
                write_services(&transaction, config, secrets, urls, &mut events).await?;
                write_holders(&transaction, plan, &roles, rules, now, &mut events).await?;
                write_tokens(&transaction, tokens, rules, now, &mut events).await?;
                Ok::<_, SetupError>(events.into_iter().map(Event::by_config).collect())
            })
            .await
    }
}

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

fn role_value(role: &crate::config::RoleSpec) -> Value {
    let mut value = serde_json::Map::from_iter([("name".to_owned(), json!(role.name))]);
    let lists = [
        ("scopes", &role.scopes),
        ("users", &role.users),
        ("services", &role.services),
        ("groups", &role.groups),
    ];
    value.extend(
        role.description
            .iter()
            .map(|text| ("description".to_owned(), json!(text))),
    );
    value.extend(
        lists
            .into_iter()
            .filter_map(|(key, list)| Some((key.to_owned(), json!(list.as_ref()?)))),
    );
    Value::Object(value)
}

async fn write_roles(
    transaction: &impl ConnectionTrait,
    plan: &RolePlan,
    events: &mut Vec<Event>,
) -> Result<BTreeMap<String, Role>, SetupError> {
    let before: BTreeMap<String, BTreeSet<String>> = roles::list(transaction)
        .await?
        .into_iter()
        .map(|role| (role.name, role.scopes.into_iter().collect()))
        .collect();
    let mut written = BTreeMap::new();
    for role in &plan.roles {
        let scopes: BTreeSet<String> = role.scopes.iter().cloned().collect();
        if before.get(&role.name) != Some(&scopes) {
            let event = Event::new(Action::RoleDefine).on_role(&role.name);
            events.push(event.detail("scopes", role.scopes.clone()));
        }
        let row = roles::upsert(
            transaction,
            &role.name,
            role.description.as_deref(),
            &role.scopes,
            role.managed_by_auth,
        )
        .await?;
        written.insert(role.name.clone(), row);
    }
    for old in roles::list(transaction).await? {
        let is_wanted =
            written.contains_key(&old.name) || DEFAULT_ROLES.contains(&old.name.as_str());
        if !is_wanted && !old.managed_by_auth {
            tracing::info!(role = %old.name, "deleting a role that is no longer configured");
            roles::delete(transaction, old.id).await?;
            events.push(Event::new(Action::RoleDelete).on_role(&old.name));
        }
    }
    Ok(written)
}

/// Allowed users and administrators have a row before they first log in, as in upstream.
async fn write_users(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for name in rules.allowed_users().union(rules.admin_users()) {
        let admin = rules.admin_users().contains(name);
        let user = find_or_insert(transaction, name, admin, now, events).await?;
        if admin && !user.admin {
            events.push(made_admin(name));
        }
        people::set_admin(transaction, user, admin.then_some(true)).await?;
    }
    // Rows that something else than a login made may lack the roles that everybody has.
    roles::assign_missing_defaults(transaction).await?;
    Ok(())
}

/// The user of that name, whom the configuration may want to be new.
async fn find_or_insert(
    transaction: &impl ConnectionTrait,
    name: &str,
    admin: bool,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<users::User, SetupError> {
    if let Some(user) = users::find(transaction, name).await? {
        return Ok(user);
    }
    let event = Event::new(Action::UserCreate).on_user(name);
    events.push(event.detail("admin", admin));
    Ok(people::find_or_insert(transaction, name, admin, now).await?)
}

fn made_admin(name: &str) -> Event {
    let event = Event::new(Action::UserAdmin).on_user(name);
    event.detail("admin", true)
}

async fn write_groups(
    transaction: &impl ConnectionTrait,
    config: &Config,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for (name, spec) in &config.hub.load_groups {
        let properties = spec.properties.as_ref().map(|properties| json!(properties));
        let group = if let Some(group) = groups::find(transaction, name).await? {
            if let Some(properties) = &properties {
                groups::set_properties(transaction, group.id, properties).await?;
            }
            group
        } else {
            events.push(Event::new(Action::GroupCreate).on_group(name));
            groups::insert(transaction, name, &properties.unwrap_or_else(|| json!({}))).await?
        };
        let before: BTreeSet<i32> = groups::members_of(transaction, &[group.id])
            .await?
            .into_iter()
            .map(|member| member.id)
            .collect();
        let (mut members, mut added) = (Vec::new(), Vec::new());
        for user in &spec.users {
            let option = "JupyterHub.load_groups";
            let id = named_user(transaction, rules, option, user, now, events).await?;
            members.push(id);
            if !before.contains(&id) {
                added.push(user.as_str());
            }
        }
        groups::add_members(transaction, group.id, &members).await?;
        if !added.is_empty() {
            let event = Event::new(Action::GroupAdd).on_group(name);
            events.push(event.detail("users", added));
        }
    }
    Ok(())
}

async fn named_user(
    transaction: &impl ConnectionTrait,
    rules: &Rules,
    option: &'static str,
    name: &str,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<i32, SetupError> {
    let name = rules.user_name(name).map_err(|why| SetupError::User {
        option,
        name: escape::for_log(name, 64),
        why: why.to_string(),
    })?;
    let admin = rules.admin_users().contains(name.as_str());
    Ok(
        find_or_insert(transaction, name.as_str(), admin, now, events)
            .await?
            .id,
    )
}

async fn write_services(
    transaction: &impl ConnectionTrait,
    config: &Config,
    secrets: &BTreeMap<String, String>,
    urls: &Urls,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    // Tokens that no service asked for belong to the hub's own client.
    oauth_clients::upsert(
        transaction,
        &NewOauthClient {
            identifier: "jupyterhub".to_owned(),
            description: "JupyterHub".to_owned(),
            secret: String::new(),
            redirect_uri: String::new(),
            allowed_scopes: Vec::new(),
        },
    )
    .await?;
    let configured: BTreeSet<&str> = config
        .hub
        .services
        .iter()
        .map(|service| service.name.as_str())
        .chain(
            config
                .hub
                .service_tokens
                .0
                .iter()
                .map(|(_, name)| name.as_str()),
        )
        .collect();
    for old in services::list(transaction).await? {
        if old.fields.from_config && !configured.contains(old.fields.name.as_str()) {
            tracing::info!(service = %old.fields.name, "deleting a service that is no longer configured");
            services::delete(transaction, old.id).await?;
            events.push(Event::new(Action::ServiceDelete).on_service(&old.fields.name));
        }
    }
    for spec in &config.hub.services {
        write_service(transaction, spec, secrets, urls, events).await?;
    }
    // A token alone makes a service, which roles may name.
    for (_, name) in &config.hub.service_tokens.0 {
        if services::find(transaction, name).await?.is_none() {
            let fields = ServiceFields {
                name: name.clone(),
                from_config: true,
                ..ServiceFields::default()
            };
            services::insert(transaction, &fields).await?;
            events.push(Event::new(Action::ServiceCreate).on_service(name));
        }
    }
    Ok(())
}

async fn write_service(
    transaction: &impl ConnectionTrait,
    spec: &ServiceSpec,
    secrets: &BTreeMap<String, String>,
    urls: &Urls,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    let is_client = is_client(spec);
    if is_client {
        let redirect_uri = spec
            .oauth_redirect_uri
            .clone()
            .unwrap_or_else(|| urls.service_callback(&spec.name));
        // Without a secret the client can prove nothing and stays unusable.
        let secret = secrets.get(&spec.name).cloned().unwrap_or_default();
        let client = NewOauthClient {
            identifier: spec.oauth_client_id.clone(),
            description: format!("JupyterHub service {}", spec.name),
            secret,
            redirect_uri,
            allowed_scopes: spec.oauth_client_allowed_scopes.clone(),
        };
        oauth_clients::upsert(transaction, &client).await?;
    }
    let fields = ServiceFields {
        name: spec.name.clone(),
        admin: spec.admin,
        url: spec.url.clone(),
        oauth_client_allowed_scopes: Some(spec.oauth_client_allowed_scopes.clone()),
        info: json!(spec.info),
        display: Some(spec.display),
        oauth_no_confirm: Some(spec.oauth_no_confirm),
        oauth_client_id: is_client.then(|| spec.oauth_client_id.clone()),
        from_config: true,
        ..ServiceFields::default()
    };
    let id = if let Some(old) = services::find(transaction, &spec.name).await? {
        services::update(transaction, old.id, &fields).await?;
        old.id
    } else {
        events.push(Event::new(Action::ServiceCreate).on_service(&spec.name));
        services::insert(transaction, &fields).await?.id
    };
    if spec.admin
        && let Some(role) = roles::find(transaction, "admin").await?
        && roles::assign(transaction, Holder::Service(id), role.id, false).await?
    {
        let event = Event::new(Action::RoleAssign).on_service(&spec.name);
        events.push(event.detail("role", "admin"));
    }
    Ok(())
}

/// Gives each role to whom the configuration names, and takes it from others where it names a list.
async fn write_holders(
    transaction: &impl ConnectionTrait,
    plan: &RolePlan,
    written: &BTreeMap<String, Role>,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for role in &plan.roles {
        let Some(row) = written.get(&role.name) else {
            continue;
        };
        let lists = [
            (HolderKind::User, &role.users),
            (HolderKind::Service, &role.services),
            (HolderKind::Group, &role.groups),
        ];
        for (kind, names) in lists {
            let Some(names) = names else { continue };
            let mut wanted = BTreeSet::new();
            for name in names {
                let holder =
                    holder(transaction, kind, &role.name, name, rules, now, events).await?;
                wanted.insert(id_of(holder));
                if roles::assign(transaction, holder, row.id, false).await? {
                    events.push(of_role(Action::RoleAssign, kind, name, &role.name));
                }
            }
            for old in roles::holders(transaction, kind, row.id).await? {
                // Whoever is an administrator, or simply a user, has that role by that.
                let by_default =
                    kind == HolderKind::User && matches!(role.name.as_str(), "admin" | "user");
                if !wanted.contains(&old.id) && !by_default {
                    roles::strip(transaction, holder_of(kind, old.id), row.id).await?;
                    events.push(of_role(Action::RoleStrip, kind, &old.name, &role.name));
                }
            }
        }
    }
    Ok(())
}

fn of_role(action: Action, kind: HolderKind, holder: &str, role: &str) -> Event {
    let event = Event::new(action).detail("role", role);
    match kind {
        HolderKind::User => event.on_user(holder),
        HolderKind::Group => event.on_group(holder),
        HolderKind::Service => event.on_service(holder),
    }
}

/// Checks `JupyterHub.token_allowed_scopes`: a bound that names nothing would shut people out.
fn check_token_bounds(
    config: &Config,
    definitions: &Definitions,
    plan: &RolePlan,
) -> Result<(), SetupError> {
    const OPTION: &str = "JupyterHub.token_allowed_scopes";
    for (role, scopes) in &config.hub.token_allowed_scopes {
        if !plan.roles.iter().any(|planned| planned.name == *role) {
            return Err(SetupError::Unknown {
                what: OPTION.to_owned(),
                name: format!("the role {}", escape::for_log(role, 64)),
            });
        }
        definitions.check(scopes, OPTION)?;
    }
    Ok(())
}

async fn holder(
    transaction: &impl ConnectionTrait,
    kind: HolderKind,
    role: &str,
    name: &str,
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<Holder, SetupError> {
    let unknown = || SetupError::Unknown {
        what: format!("role '{role}' in JupyterHub.load_roles"),
        name: escape::for_log(name, 64),
    };
    let id = match kind {
        HolderKind::User => {
            let option = "JupyterHub.load_roles";
            let id = named_user(transaction, rules, option, name, now, events).await?;
            if role == "admin"
                && let Some(user) = users::find_by_id(transaction, id).await?
            {
                if !user.admin {
                    events.push(made_admin(&user.name));
                }
                people::set_admin(transaction, user, Some(true)).await?;
            }
            id
        }
        HolderKind::Service => {
            services::find(transaction, name)
                .await?
                .ok_or_else(unknown)?
                .id
        }
        HolderKind::Group => {
            if let Some(group) = groups::find(transaction, name).await? {
                group.id
            } else {
                events.push(Event::new(Action::GroupCreate).on_group(name));
                groups::insert(transaction, name, &json!({})).await?.id
            }
        }
    };
    Ok(holder_of(kind, id))
}

fn holder_of(kind: HolderKind, id: i32) -> Holder {
    match kind {
        HolderKind::User => Holder::User(id),
        HolderKind::Service => Holder::Service(id),
        HolderKind::Group => Holder::Group(id),
    }
}

fn id_of(holder: Holder) -> i32 {
    match holder {
        Holder::User(id) | Holder::Service(id) | Holder::Group(id) => id,
    }
}

/// A token that the configuration gives to somebody.
struct ConfiguredToken {
    token: Secret,
    hashed: String,
    name: String,
    is_service: bool,
    /// Hashes in the database, and whether they are of this token.
    compared: BTreeMap<String, bool>,
}

impl ConfiguredToken {
    fn is_of(&self, hashed: &str) -> bool {
        match self.compared.get(hashed) {
            Some(is_same) => *is_same,
            // It came into the database a moment ago.
            None => token_hash::verify_token(hashed, self.token.expose()),
        }
    }
}

async fn hashed_secrets(config: &Config) -> Result<BTreeMap<String, String>, StoreError> {
    let clients = config.hub.services.iter().filter(|spec| is_client(spec));
    let secrets: Vec<_> = clients
        .filter_map(|spec| Some((spec.name.clone(), spec.api_token.clone()?)))
        .collect();
    let hashing = tokio::task::spawn_blocking(move || {
        secrets
            .into_iter()
            .map(|(name, secret)| {
                Ok((
                    name,
                    token_hash::hash_token(secret.expose(), Origin::Chosen)?,
                ))
            })
            .collect()
    });
    hashing.await.expect("hashing secrets does not panic")
}

/// Whether a service is an OAuth client.
fn is_client(spec: &ServiceSpec) -> bool {
    spec.url.is_some() || spec.oauth_specified
}

/// Hashing chosen tokens is slow on purpose, so it is done before the transaction begins.
async fn hashed_tokens(config: &Config) -> Result<Vec<ConfiguredToken>, StoreError> {
    let origin = if config.hub.trust_user_provided_tokens {
        Origin::Generated
    } else {
        Origin::Chosen
    };
    let of_users = config
        .hub
        .api_tokens
        .0
        .iter()
        .map(|(token, name)| (token.clone(), name.clone(), false));
    let of_services = config
        .hub
        .service_tokens
        .0
        .iter()
        .map(|(token, name)| (token.clone(), name.clone(), true));
    let in_services = config
        .hub
        .services
        .iter()
        .filter_map(|service| Some((service.api_token.clone()?, service.name.clone(), true)));
    let all: Vec<_> = of_users.chain(of_services).chain(in_services).collect();
    let hashing = tokio::task::spawn_blocking(move || {
        all.into_iter()
            .map(|(token, name, is_service)| {
                let hashed = token_hash::hash_token(token.expose(), origin)?;
                Ok(ConfiguredToken {
                    token,
                    hashed,
                    name,
                    is_service,
                    compared: BTreeMap::new(),
                })
            })
            .collect()
    });
    hashing.await.expect("hashing tokens does not panic")
}

async fn write_tokens(
    transaction: &impl ConnectionTrait,
    tokens: &[ConfiguredToken],
    rules: &Rules,
    now: NaiveDateTime,
    events: &mut Vec<Event>,
) -> Result<(), SetupError> {
    for configured in tokens {
        let owner = if configured.is_service {
            // `write_services` has made it.
            let Some(service) = services::find(transaction, &configured.name).await? else {
                return Err(SetupError::Unknown {
                    what: "JupyterHub.service_tokens".to_owned(),
                    name: escape::for_log(&configured.name, 64),
                });
            };
            Owner::Service(service.id)
        } else {
            Owner::User(
                named_user(
                    transaction,
                    rules,
                    "JupyterHub.api_tokens",
                    &configured.name,
                    now,
                    events,
                )
                .await?,
            )
        };
        let prefix = token_hash::prefix(configured.token.expose());
        let mut is_known = false;
        for row in api_tokens::find_candidates(transaction, prefix, now).await? {
            if !configured.is_of(&row.hashed) {
                continue;
            }
            let same_owner = match owner {
                Owner::User(id) => row.user_id == Some(id),
                Owner::Service(id) => row.service_id == Some(id),
            };
            if same_owner {
                is_known = true;
            } else {
                // The configuration gave the token to somebody else.
                api_tokens::delete(transaction, row.id).await?;
                events
                    .push(Event::new(Action::TokenRevoke).detail("token", format!("a{}", row.id)));
            }
        }
        if is_known {
            continue;
        }
        let new = NewApiToken {
            owner,
            hashed: configured.hashed.clone(),
            prefix: prefix.to_owned(),
            client_id: "jupyterhub".to_owned(),
            session_id: None,
            created: now,
            expires_at: None,
            note: "from config".to_owned(),
            scopes: vec!["inherit".to_owned()],
        };
        let row = api_tokens::insert(transaction, &new).await?;
        let event = Event::new(Action::TokenCreate)
            .detail("token", format!("a{}", row.id))
            .detail("note", "from config")
            .detail("scopes", new.scopes);
        events.push(if configured.is_service {
            event.on_service(&configured.name)
        } else {
            event.on_user(&configured.name).owned_by(&configured.name)
        });
    }
    Ok(())
}
