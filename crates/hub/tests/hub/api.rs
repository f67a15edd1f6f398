//! `/hub/api`, driven through the real router, database and engine.

#[path = "api/activity.rs"]
mod activity;
#[path = "api/all_tokens.rs"]
mod all_tokens;
#[path = "api/audit.rs"]
mod audit;
#[path = "api/audit_gaps.rs"]
mod audit_gaps;
#[path = "api/audit_hooks.rs"]
mod audit_hooks;
#[path = "api/auth_state.rs"]
mod auth_state;
#[path = "api/authorizations.rs"]
mod authorizations;
#[path = "api/credentials.rs"]
mod credentials;
#[path = "api/etags.rs"]
mod etags;
#[path = "api/events.rs"]
mod events;
#[path = "api/events_of_before.rs"]
mod events_of_before;
#[path = "api/groups.rs"]
mod groups;
#[path = "api/info.rs"]
mod info;
#[path = "api/logins.rs"]
mod logins;
#[path = "api/meanwhile.rs"]
mod meanwhile;
#[path = "api/oauth.rs"]
mod oauth;
#[path = "api/old_names.rs"]
mod old_names;
#[path = "api/servers.rs"]
mod servers;
#[path = "api/services.rs"]
mod services;
#[path = "api/sessions.rs"]
mod sessions;
#[path = "api/tokens.rs"]
mod tokens;
#[path = "api/user.rs"]
mod user;
#[path = "api/users.rs"]
mod users;
