//! What requests about shares and codes for them show.

use std::collections::HashMap;

use axum::Json;
use orrery_core::ServerName;
use orrery_store::share_codes::{self, ShareCode};
use orrery_store::shares::{self, Of, Share};
use orrery_store::{groups, spawners, users};
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::models;
use super::time::isoformat;
use crate::auth::Requester;
use crate::error::Result;
use crate::state::AppState;

/// The value of a path's parameter; empty where the path has none.
pub(super) fn named<'a>(path: &'a [(String, String)], name: &str) -> &'a str {
    path.iter()
        .find(|(key, _)| key == name)
        .map_or("", |(_, value)| value)
}

/// A part of a text for an error's sentence, which is no longer than needed to know it by.
pub(super) fn short(text: &str) -> &str {
    text.char_indices()
        .nth(200)
        .map_or(text, |(end, _)| &text[..end])
}

/// A page of a list of shares. Those that have expired are left out.
pub(super) async fn share_list(
    hub: &AppState,
    requester: &Requester,
    arguments: &Arguments,
    of: Of,
) -> Result<Json<Value>> {
    let page = arguments.page(hub)?;
    let (found, total) = shares::page(hub.store.read(), of, page.offset, page.limit).await?;
    let now = hub.clock.now();
    let (mut servers, mut models) = (Servers::default(), Vec::new());
    for share in found {
        if share.expires_at.is_none_or(|end| end > now) {
            models.extend(servers.share(hub, &share).await?);
        }
    }
    Ok(Json(arguments.framed(
        requester,
        &json!(models),
        page,
        total,
    )))
}

/// A page of a list of codes. Those that have expired are left out.
pub(super) async fn code_list(
    hub: &AppState,
    requester: &Requester,
    arguments: &Arguments,
    of: Of,
) -> Result<Json<Value>> {
    let page = arguments.page(hub)?;
    let (found, total) = share_codes::page(hub.store.read(), of, page.offset, page.limit).await?;
    let now = hub.clock.now();
    let (mut servers, mut models) = (Servers::default(), Vec::new());
    for code in found {
        if code.expires_at.is_none_or(|end| end > now) {
            models.extend(servers.code(hub, &code).await?);
        }
    }
    Ok(Json(arguments.framed(
        requester,
        &json!(models),
        page,
        total,
    )))
}

/// A server as those see it who may use it.
#[derive(Clone)]
struct Seen {
    model: Value,
    filter: String,
}

/// The servers of one answer, each looked up once.
#[derive(Default)]
pub(super) struct Servers(HashMap<(i32, i32), Option<Seen>>);

impl Servers {
    /// One share; `None` if its server is going away just now.
    pub(super) async fn share(&mut self, hub: &AppState, share: &Share) -> Result<Option<Value>> {
        let Some(server) = self.seen(hub, share.owner_id, share.spawner_id).await? else {
            return Ok(None);
        };
        let user = match share.user_id {
            Some(id) => users::find_by_id(hub.store.read(), id)
                .await?
                .map(|user| json!({ "name": user.name })),
            None => None,
        };
        let group = match share.group_id {
            Some(id) => groups::find_by_id(hub.store.read(), id)
                .await?
                .map(|group| json!({ "name": group.name })),
            None => None,
        };
        Ok(Some(json!({
            "server": server.model,
            "scopes": shares::filtered(&share.scopes, &server.filter),
            "kind": if group.is_some() { "group" } else { "user" },
            "user": user,
            "group": group,
            "created_at": isoformat(share.created_at),
        })))
    }

    /// One code, without the code itself; `None` if its server is going away just now.
    pub(super) async fn code(&mut self, hub: &AppState, code: &ShareCode) -> Result<Option<Value>> {
        let Some(server) = self.seen(hub, code.owner_id, code.spawner_id).await? else {
            return Ok(None);
        };
        Ok(Some(json!({
            "server": server.model,
            "scopes": shares::filtered(&code.scopes, &server.filter),
            "id": format!("sc_{}", code.id),
            "created_at": isoformat(code.created_at),
            "expires_at": code.expires_at.map(isoformat),
            "exchange_count": code.exchange_count,
            "last_exchanged_at": code.last_exchanged_at.map(isoformat),
        })))
    }

    async fn seen(
        &mut self,
        hub: &AppState,
        owner: Option<i32>,
        spawner: Option<i32>,
    ) -> Result<Option<Seen>> {
        let (Some(owner), Some(spawner)) = (owner, spawner) else {
            return Ok(None);
        };
        if let Some(known) = self.0.get(&(owner, spawner)) {
            return Ok(known.clone());
        }
        let found = look_up(hub, owner, spawner).await?;
        self.0.insert((owner, spawner), found.clone());
        Ok(found)
    }
}

async fn look_up(hub: &AppState, owner: i32, spawner: i32) -> Result<Option<Seen>> {
    let owner = users::find_by_id(hub.store.read(), owner).await?;
    let spawner = spawners::find_by_id(hub.store.read(), spawner).await?;
    let (Some(owner), Some(spawner)) = (owner, spawner) else {
        return Ok(None);
    };
    let Ok(name) = ServerName::parse(&spawner.name) else {
        return Ok(None);
    };
    let Some(view) = hub.servers.view(&owner, &name).await? else {
        return Ok(None);
    };
    Ok(Some(Seen {
        model: json!({
            "user": { "name": owner.name },
            "name": view.name.as_str(),
            "url": view.url,
            "full_url": models::full_url(hub, &view.url),
            "ready": view.ready(),
        }),
        filter: format!("server={}/{}", owner.name, view.name),
    }))
}
