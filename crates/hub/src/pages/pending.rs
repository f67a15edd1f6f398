//! `/hub/spawn-pending`: a server on its way up or down, or the reason why it is not. Nothing is
//! ever started here.

use std::sync::Arc;

use axum::extract::{OriginalUri, Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use minijinja::context;
use minijinja::value::{Serde, Value};
use orrery_core::phase::Failure;

use super::PageServer;
use super::respond::{frame, page_server, page_user};
use super::spawn::found;
use super::target::{Ending, ServerTarget, cause_in_words, ending, next_or};
use crate::auth::{Asking, auth_state, redirects, xsrf};
use crate::error::{Error, Result};
use crate::servers::ServerView;
use crate::state::AppState;

/// `GET /hub/spawn-pending/:user`.
pub(super) async fn show_default(
    hub: State<AppState>,
    asking: Asking,
    uri: OriginalUri,
    Path(user): Path<String>,
) -> Result<Response> {
    show(hub, asking, uri, Path((user, String::new()))).await
}

/// `GET /hub/spawn-pending/:user/:server`.
pub(super) async fn show(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    OriginalUri(uri): OriginalUri,
    Path((user, server)): Path<(String, String)>,
) -> Result<Response> {
    let target = ServerTarget::find(&hub, &requester, Some(&user), Some(&server)).await?;
    let view = target.view(&hub).await?;
    if view.is_none() && !target.server.is_default() {
        return Err(Error::not_found(format!(
            "{} has no such server {}",
            target.user.name,
            target.server.as_str()
        )));
    }
    if view.as_ref().is_some_and(ServerView::ready) {
        return Ok(found(&next_or(&hub, &requester, &uri, &target.url(&hub))));
    }

    let frame = frame(&hub, &requester).await?;
    let owner = Value::from_object(page_user(&hub, &target.user).await?);
    let options_form = !hub.config.spawner.options_form.is_empty();
    let spawn_url = hub.urls.spawn(&target.user_name, &target.server);
    if let Some(view) = view
        .as_ref()
        .filter(|view| view.pending().is_some() && !view.failing())
    {
        let template = if view.pending() == Some("stop") {
            "stop_pending.html"
        } else {
            "spawn_pending.html"
        };
        let token = (xsrf::NAME.to_owned(), requester.xsrf_token().to_owned());
        let html = hub.templates.render(
            template,
            context! {
                user => owner,
                spawner => Value::from_object(page_server(view, options_form)),
                progress_url => redirects::with_query(&view.progress_url, &[token]),
                spawn_url,
                auth_state => Serde(auth_state::of(&hub, &target.user).await?),
                ..frame.value()
            },
        )?;
        return Ok(Html(html).into_response());
    }

    let ending = ending(&hub, view.as_ref()).await?;
    let (status, failed, failure) = match &ending {
        // As upstream answers for a start that failed.
        Ending::StartFailed(failure) => (StatusCode::INTERNAL_SERVER_ERROR, true, Some(failure)),
        Ending::Died(failure) => (StatusCode::OK, false, Some(failure)),
        Ending::Stopped => (StatusCode::OK, false, None),
    };
    let html = hub.templates.render(
        "not_running.html",
        context! {
            user => owner,
            server_name => target.server.as_str(),
            spawn_url,
            failed,
            failed_message => failure.filter(|_| failed).map(|failure| failure.message.clone()),
            failed_html_message => (),
            failure => failure.map(failure_value),
            implicit_spawn_seconds => 0,
            auth_state => Serde(auth_state::of(&hub, &target.user).await?),
            spawner => Value::from_dyn_object(Arc::new(view.as_ref().map_or_else(PageServer::default, |view| page_server(view, options_form)))),
            ..frame.value()
        },
    )?;
    Ok((status, Html(html)).into_response())
}

/// A failure as `not_running.html` shows it.
pub(super) fn failure_value(failure: &Failure) -> Value {
    context! {
        cause => cause_in_words(failure.cause),
        message => failure.message.as_str(),
        exit_code => failure.exit_code,
        log => failure.log_tail.join("\n"),
    }
}
