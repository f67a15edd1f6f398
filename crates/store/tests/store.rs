//! Every query on every database: SQLite always, PostgreSQL and MariaDB where the environment says
//! where they are (`tests/databases/start.sh` starts them).

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a panic at the line is the best report"
)]

#[path = "store/harness.rs"]
mod harness;

#[path = "store/audit.rs"]
mod audit;
#[path = "store/ended_sessions.rs"]
mod ended_sessions;
#[path = "store/events.rs"]
mod events;
#[path = "store/groups_and_roles.rs"]
mod groups_and_roles;
#[path = "store/migrating.rs"]
mod migrating;
#[path = "store/names.rs"]
mod names;
#[path = "store/oauth.rs"]
mod oauth;
#[path = "store/opening.rs"]
mod opening;
#[path = "store/outages.rs"]
mod outages;
#[path = "store/runs.rs"]
mod runs;
#[path = "store/services_and_shares.rs"]
mod services_and_shares;
#[path = "store/sessions.rs"]
mod sessions;
#[path = "store/spawners.rs"]
mod spawners;
#[path = "store/stamps.rs"]
mod stamps;
#[path = "store/tokens.rs"]
mod tokens;
#[path = "store/upstream.rs"]
mod upstream;
#[path = "store/user_pages.rs"]
mod user_pages;
#[path = "store/users.rs"]
mod users;
#[path = "store/writing.rs"]
mod writing;
