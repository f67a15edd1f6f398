//! Whose server a page is about, and where it leads on to.

use std::sync::Arc;

use axum::http::Uri;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::scopes::{Scope, Target};
use orrery_core::{ServerName, UserName};
use orrery_store::users::User;
use orrery_store::{runs, users};

use crate::auth::{Requester, login, redirects, user_name, xsrf};
use crate::error::{Error, Result};
use crate::servers::ServerView;
use crate::state::AppState;

/// A server that a page is about; it need not exist.
pub(super) struct ServerTarget {
    /// Whose it is.
    pub(super) user: Arc<User>,
    /// The owner's name, as routes take it.
    pub(super) user_name: UserName,
    /// Its name.
    pub(super) server: ServerName,
}

impl ServerTarget {
    /// The server that a path names; the requester's own where it names nobody. The scope `servers`
    /// is asked for here too, for paths without a name.
    pub(super) async fn find(
        hub: &AppState,
        requester: &Requester,
        user: Option<&str>,
        server: Option<&str>,
    ) -> Result<Self> {
        let own = requester.logged_in()?;
        let user = match user {
            Some(name) if name != own.name => find_user(hub, name).await?,
            _ => Arc::clone(own),
        };
        if requester
            .require(
                &[Scope::Servers],
                Some(Target::Server {
                    user: &user.name,
                    server: server.unwrap_or(""),
                }),
            )
            .await?
            .is_err()
        {
            return Err(Error::forbidden(
                "Action is not authorized with current scopes; requires any of [servers]",
            ));
        }
        let server = ServerName::parse(server.unwrap_or(""))
            .map_err(|error| Error::bad_request(format!("Invalid server name: {error}")))?;
        Ok(Self {
            user_name: user_name(&user)?,
            user,
            server,
        })
    }

    /// The server's view, if it has a row.
    pub(super) async fn view(&self, hub: &AppState) -> Result<Option<ServerView>> {
        Ok(hub.servers.view(&self.user, &self.server).await?)
    }

    /// Its own address.
    pub(super) fn url(&self, hub: &AppState) -> String {
        hub.urls.server_url(&self.user_name, &self.server)
    }

    /// The page that waits for its start, carrying on the query of `uri`.
    pub(super) fn pending_url(&self, hub: &AppState, uri: &Uri) -> String {
        let mut parameters: Vec<_> = redirects::query_pairs(uri)
            .into_iter()
            .filter(|(key, _)| !matches!(key.as_str(), "next" | "display_name" | xsrf::NAME))
            .collect();
        if let Some(next) = login::query(uri, "next").filter(|next| !next.is_empty()) {
            parameters.push(("next".to_owned(), next));
        }
        redirects::with_query(
            &hub.urls.spawn_pending(&self.user_name, &self.server),
            &parameters,
        )
    }
}

/// The user of that name.
pub(super) async fn find_user(hub: &AppState, name: &str) -> Result<Arc<User>> {
    users::find(hub.store.read(), name)
        .await?
        .map(Arc::new)
        .ok_or_else(|| Error::not_found(format!("No such user: {name}")))
}

/// `?next=` where it is ours, `default` with the rest of the query otherwise.
pub(super) fn next_or(hub: &AppState, requester: &Requester, uri: &Uri, default: &str) -> String {
    if let Some(next) =
        login::query(uri, "next").and_then(|next| hub.safe_next(&next, &requester.browser))
    {
        return next;
    }
    let kept: Vec<_> = redirects::query_pairs(uri)
        .into_iter()
        .filter(|(key, _)| key != "next" && key != xsrf::NAME)
        .collect();
    redirects::with_query(default, &kept)
}

/// How a server that is not active came to be so.
pub(super) enum Ending {
    /// Stopped as asked, or never started, or its start was cancelled.
    Stopped,
    /// Its last start failed.
    StartFailed(Failure),
    /// It ran, and ended by itself.
    Died(Failure),
}

/// How the last run of `view` ended.
pub(super) async fn ending(hub: &AppState, view: Option<&ServerView>) -> Result<Ending> {
    let Some(view) = view.filter(|view| view.phase == Phase::Failed || view.failing()) else {
        return Ok(Ending::Stopped);
    };
    let Some(failure) = view
        .failure
        .clone()
        .filter(|failure| failure.cause != Cause::Cancelled)
    else {
        return Ok(Ending::Stopped);
    };
    let was_ready = match view.run {
        Some(run) => runs::find(hub.store.read(), run.0)
            .await?
            .is_some_and(|run| run.ready_at.is_some()),
        None => false,
    };
    Ok(if was_ready {
        Ending::Died(failure)
    } else {
        Ending::StartFailed(failure)
    })
}

/// A failure's cause in words for its reader.
pub(super) fn cause_in_words(cause: Cause) -> &'static str {
    match cause {
        Cause::Command => "the program to start is missing or may not be run",
        Cause::Image => "its image cannot be had",
        Cause::Quota => "a quota or limit",
        Cause::OutOfMemory => "out of memory",
        Cause::Exited => "it ended by itself",
        Cause::Unreachable => "it runs, but cannot be reached",
        Cause::Timeout => "it took too long",
        Cause::Cancelled => "cancelled",
        Cause::Options => "its options were refused",
        Cause::Spawner => "the spawner failed",
        Cause::Internal => "the hub failed",
    }
}
