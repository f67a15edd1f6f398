//! Pages for people: templates, their values, the built-in assets, and the handlers.
//!
//! Templates carry JupyterHub's names, blocks and context variables, so that a site's own templates
//! (`{% extends "templates/home.html" %}`) work; the markup and the design are ours.

mod accept_share;
mod admin;
mod audit;
pub mod filters;
pub mod frame;
mod home;
mod pending;
mod proxy_error;
mod respond;
mod spawn;
pub mod static_files;
mod target;
pub mod templates;
mod token;
mod user_url;
pub mod values;

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use orrery_core::scopes::Scope;

pub use frame::{Frame, ServiceLink, error_page};
pub use respond::{
    LoginForm, frame, login, logout, not_found, outside, page_server, page_user, render_errors,
    root, stranger_frame,
};
pub use templates::Templates;
pub use values::{PageServer, PageUser, Stamp};

use crate::router::{Needs, Routes};
use crate::state::AppState;

/// The routes of this module; login and logout are with [`crate::auth`].
pub fn routes() -> Routes {
    let servers = Needs::LoginAnd(&[Scope::Servers]);
    let mut routes = Routes::default()
        .get("/home", Needs::Login, home::show)
        .get("/spawn", Needs::Login, spawn::show)
        .post("/spawn", Needs::Login, spawn::submit)
        .get("/spawn/{user}", servers, spawn::show)
        .post("/spawn/{user}", servers, spawn::submit)
        .get("/spawn/{user}/{server}", servers, spawn::show)
        .post("/spawn/{user}/{server}", servers, spawn::submit)
        .get("/spawn-pending/{user}", servers, pending::show_default)
        .get("/spawn-pending/{user}/{server}", servers, pending::show)
        .get("/token", Needs::Login, token::show)
        .get(
            "/token/{user}",
            Needs::LoginAnd(&[Scope::ReadTokens]),
            token::show_of,
        )
        .get("/accept-share", Needs::Login, accept_share::show)
        .post("/accept-share", Needs::Login, accept_share::accept)
        .get("/admin", Needs::LoginAnd(&[Scope::AdminUi]), admin::show)
        .get("/audit", Needs::LoginAnd(&[Scope::ReadAudit]), audit::show)
        .get("/accesses", Needs::Login, audit::show_own)
        .get("/error/{status}", Needs::Nothing, proxy_error::show)
        .get("/user-redirect/", Needs::Login, user_url::redirect)
        .get("/user-redirect/{*path}", Needs::Login, user_url::redirect)
        .get("/static/{*path}", Needs::Nothing, static_file)
        .get("/favicon.ico", Needs::Nothing, favicon)
        .get("/logo", Needs::Nothing, logo);
    for path in ["/user/{user}", "/user/{user}/", "/user/{user}/{*path}"] {
        // The handler itself tells browsers, which it sends to the login page, from programs.
        routes = routes
            .get(path, Needs::Nothing, user_url::show)
            .post(path, Needs::Nothing, user_url::other)
            .patch(path, Needs::Nothing, user_url::other)
            .delete(path, Needs::Nothing, user_url::other);
    }
    routes
}

async fn static_file(
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    static_files::static_file(&path, query.as_deref(), &headers)
}

async fn favicon(headers: HeaderMap) -> Response {
    static_files::static_file("favicon.ico", None, &headers)
}

async fn logo(State(hub): State<AppState>, headers: HeaderMap) -> Response {
    let file = &hub.config.hub.logo_file;
    static_files::logo(
        (!file.is_empty()).then(|| std::path::Path::new(file)),
        &headers,
    )
    .await
}
