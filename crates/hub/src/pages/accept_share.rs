//! `/hub/accept-share`: exchanges a code for a share of somebody else's server.

use axum::body::Bytes;
use axum::extract::{OriginalUri, State};
use axum::http::Uri;
use axum::response::{Html, Response};
use minijinja::context;
use minijinja::value::Serde;
use orrery_core::{Secret, ServerName};
use orrery_store::StoreError;
use orrery_store::share_codes::{self, ShareCode};
use orrery_store::shares::{self, Grant, With};
use orrery_store::spawners::{self, Spawner};
use orrery_store::users::{self, User};
use serde_json::json;

use super::respond::frame;
use crate::api;
use crate::audit::{Action, Event};
use crate::auth::{self, Asking, Requester, auth_state, redirects};
use crate::error::{Error, Result};
use crate::servers::ServerView;
use crate::state::AppState;

/// `GET`: what the code gives, and a button.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
) -> Result<Html<String>> {
    let user = requester.logged_in()?;
    let code = argument(&uri, b"", "code").ok_or_else(missing_code)?;
    let offer = Offer::find(&hub, &code)
        .await?
        .ok_or_else(|| Error::not_found("Share not found or expired"))?;
    if offer.owner.id == user.id {
        return Err(Error::forbidden("You can't share with yourself!"));
    }
    let view = hub.servers.view(&offer.owner, &offer.server).await?;
    let scopes = shares::filtered(&offer.code.scopes, &offer.filter());
    let scopes = hub.scopes.describe(&scopes, Some(&user.name));
    let html = hub.templates.render(
        "accept-share.html",
        context! {
            code => code.expose(),
            owner => Serde(json!({ "name": offer.owner.name })),
            spawner => Serde(json!({ "name": offer.spawner.name })),
            spawner_ready => view.as_ref().is_some_and(ServerView::ready),
            spawner_url => offer.url(&hub)?,
            scope_descriptions => scopes
                .into_iter()
                .map(|scope| context! { scope => scope.scope, description => scope.description, filter => scope.filter })
                .collect::<Vec<_>>(),
            next_url => offer.next_url(&hub, &requester, &uri, b"")?,
            auth_state => Serde(auth_state::of(&hub, user).await?),
            ..frame(&hub, &requester).await?.value()
        },
    )?;
    Ok(Html(html))
}

/// `POST`: the person accepts.
pub(super) async fn accept(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    body: Bytes,
) -> Result<Response> {
    let user = requester.logged_in()?;
    let code = argument(&uri, &body, "code").ok_or_else(missing_code)?;
    let offer = Offer::find(&hub, &code)
        .await?
        .ok_or_else(|| Error::bad_request("Invalid share code"))?;
    if offer.owner.id == user.id {
        return Err(Error::bad_request("You can't share with yourself!"));
    }
    let now = hub.clock.now();
    let filter = offer.filter();
    let grant = &Grant {
        owner_id: offer.owner.id,
        spawner_id: offer.spawner.id,
        with: With::User(user.id),
        scopes: shares::filtered(&offer.code.scopes, &filter)
            .into_iter()
            .collect(),
        filter,
        now,
    };
    let code_id = offer.code.id;
    let is_given = hub
        .store
        .write(|transaction| async move {
            // The code may have been revoked in between.
            if !share_codes::count_exchange(&transaction, code_id, now).await? {
                return Ok(false);
            }
            shares::grant(&transaction, grant).await?;
            Ok::<_, StoreError>(true)
        })
        .await?;
    if !is_given {
        return Err(Error::bad_request("Invalid share code"));
    }
    let event = Event::new(Action::ShareAccept)
        .by(&requester)
        .on_server(&offer.owner.name, &offer.spawner.name)
        .detail("id", format!("sc_{code_id}"))
        .detail("scopes", grant.scopes.clone());
    hub.audit.record(event).await;
    tracing::info!(user = %user.name, owner = %offer.owner.name, server = offer.spawner.name, code = code_id, "share accepted");
    Ok(crate::error::redirect(
        &offer.next_url(&hub, &requester, &uri, &body)?,
    ))
}

/// What a code is for.
struct Offer {
    code: ShareCode,
    owner: User,
    spawner: Spawner,
    server: ServerName,
}

impl Offer {
    async fn find(hub: &AppState, code: &Secret) -> Result<Option<Self>> {
        let Some(code) = api::find_share_code(hub, code).await? else {
            return Ok(None);
        };
        let (Some(owner), Some(spawner)) = (code.owner_id, code.spawner_id) else {
            return Ok(None);
        };
        let owner = users::find_by_id(hub.store.read(), owner).await?;
        let spawner = spawners::find_by_id(hub.store.read(), spawner).await?;
        let (Some(owner), Some(spawner)) = (owner, spawner) else {
            return Ok(None);
        };
        Ok(ServerName::parse(&spawner.name).ok().map(|server| Self {
            code,
            owner,
            spawner,
            server,
        }))
    }

    fn filter(&self) -> String {
        format!("server={}/{}", self.owner.name, self.spawner.name)
    }

    fn url(&self, hub: &AppState) -> Result<String> {
        Ok(hub
            .urls
            .server_url(&auth::user_name(&self.owner)?, &self.server))
    }

    /// Where to go afterwards: where the page was asked to lead, if that is here, or to the server.
    fn next_url(
        &self,
        hub: &AppState,
        requester: &Requester,
        uri: &Uri,
        body: &[u8],
    ) -> Result<String> {
        let safe = |url: &str| hub.safe_next(url, &requester.browser);
        let asked = argument(uri, body, "next").and_then(|next| safe(next.expose()));
        if let Some(next) = asked {
            Ok(next)
        } else {
            let url = self.url(hub)?;
            Ok(safe(&url).unwrap_or(url))
        }
    }
}

fn missing_code() -> Error {
    Error::bad_request("Missing argument code")
}

/// A parameter of the form, or else of the address.
fn argument(uri: &Uri, body: &[u8], name: &str) -> Option<Secret> {
    let in_form = form_urlencoded::parse(body)
        .filter(|(key, _)| key == name)
        .last()
        .map(|(_, value)| value.into_owned());
    in_form
        .or_else(|| {
            redirects::query_pairs(uri)
                .into_iter()
                .rev()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        })
        .map(|value| Secret::new(value.trim()))
}
