//! The REST API, as JupyterHub 6.1.1 answers it.
//!
//! One file for each endpoint or small family, with its wire types. A handler's scopes stand in the
//! route's [`Needs`](crate::router::Needs); what a model shows of somebody is filtered in `models`.

mod activity;
mod admin_access;
mod all_tokens;
mod arguments;
mod audit;
mod authorizations;
mod body;
mod by_password;
mod description;
mod event_models;
mod events;
mod groups;
mod info;
mod models;
mod path;
mod proxy;
mod python;
pub(crate) mod schemas;
mod self_user;
mod server;
mod server_progress;
mod server_start;
mod server_stop;
mod services;
mod sessions;
mod share_codes;
mod share_models;
mod shared;
mod shares;
mod shutdown;
mod time;
mod token_create;
mod tokens;
mod user;
mod user_models;
mod users;

use std::time::Duration;

use crate::router::{ApiRoutes, Routes};

pub(crate) use share_codes::find as find_share_code;
pub use shutdown::Cleanup;
pub(crate) use time::parse as parse_time;

/// How long a request waits for a start before it answers that the start goes on
/// (upstream's `slow_spawn_timeout`).
pub const SLOW_SPAWN: Duration = Duration::from_secs(10);
/// How long a request waits for a stop before it answers that the stop goes on
/// (upstream's `slow_stop_timeout`).
pub const SLOW_STOP: Duration = Duration::from_secs(10);

/// All routes of the REST API.
pub fn routes() -> ApiRoutes {
    ApiRoutes::default()
        .merge(info::routes())
        .merge(self_user::routes())
        .merge(users::routes())
        .merge(events::routes())
        .merge(user::routes())
        .merge(activity::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
        .merge(token_create::routes())
        .merge(all_tokens::routes())
        .merge(sessions::routes())
        .merge(server::routes())
        .merge(server_start::routes())
        .merge(server_stop::routes())
        .merge(server_progress::routes())
        .merge(groups::routes())
        .merge(services::routes())
        .merge(proxy::routes())
        .merge(shutdown::routes())
        .merge(authorizations::routes())
        .merge(shares::routes())
        .merge(share_codes::routes())
        .merge(shared::routes())
        .merge(admin_access::routes())
        .merge(description::routes())
        .merge(crate::metrics::api_routes())
        .merge(crate::oauth::routes())
}

/// Routes that stand beside the API.
pub fn other_routes() -> Routes {
    info::other_routes().merge(crate::metrics::routes())
}
