//! The configuration's services, with their OAuth clients.

use std::collections::{BTreeMap, BTreeSet};

use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::services::{self, ServiceFields};
use orrery_store::token_hash::{self, Origin};
use orrery_store::{ConnectionTrait, StoreError};
use serde_json::json;

use super::SetupError;
use crate::audit::{Action, Event};
use crate::config::{Config, ServiceSpec};
use crate::urls::Urls;

/// Makes and changes the configured services, and deletes those that the configuration had before.
pub(super) async fn write(
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
    // The role `admin` follows with the other roles.
    if let Some(old) = services::find(transaction, &spec.name).await? {
        services::update(transaction, old.id, &fields).await?;
    } else {
        events.push(Event::new(Action::ServiceCreate).on_service(&spec.name));
        services::insert(transaction, &fields).await?;
    }
    Ok(())
}

/// The secrets of services that are OAuth clients, by name, hashed.
pub(super) async fn hashed_secrets(
    config: &Config,
) -> Result<BTreeMap<String, String>, StoreError> {
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
