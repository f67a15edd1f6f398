//! What the configuration makes of the database at start and when it is read again.

#[path = "setup/blocked.rs"]
mod blocked;
#[path = "setup/groups.rs"]
mod groups;
#[path = "setup/holders.rs"]
mod holders;
#[path = "setup/tokens.rs"]
mod tokens;

use std::sync::atomic::{AtomicU32, Ordering};

use orrery_core::config::{OptionValue, Value};
use orrery_hub::build;
use orrery_hub::config::Config;
use orrery_store::roles::{self, Holder};
use serde_json::{Value as Json, json};

use crate::test_hub::{TestHub, fake_proxy, setup};

/// A hub that is started again and again on the same database.
struct Lives {
    folder: tempfile::TempDir,
    proxy: String,
}

impl Lives {
    async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            proxy: fake_proxy().await,
        }
    }

    /// The next life.
    async fn start(&self, change: impl FnOnce(&mut Config)) -> TestHub {
        let setup = setup(self.folder.path(), &self.proxy, change);
        let (state, _) = Box::pin(build(setup)).await.expect("a hub");
        TestHub::of_state(state)
    }
}

/// Ends one life.
async fn end(hub: TestHub) {
    let store = hub.state.store.clone();
    drop(hub);
    store.close().await;
}

/// An option's value, as a configuration file has it.
fn option<T: OptionValue>(json: &Json) -> T {
    T::from_value(&Value::from_json(json)).unwrap_or_else(|_| panic!("a value: {json}"))
}

/// `load_roles`.
fn load_roles(config: &mut Config, roles: &[Json]) {
    config.hub.load_roles = roles.iter().map(option).collect();
}

/// The token of a new service with these scopes. The configuration does not name it, so that it goes with the
/// next start or reload.
async fn reader(hub: &TestHub, scopes: &[&str]) -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    hub.service(&format!("reader-{number}"), scopes).await
}

/// The names of a user's own roles.
async fn roles_of(hub: &TestHub, user: &str) -> Vec<String> {
    let holder = Holder::User(hub.user(user).await.id);
    let held = roles::of(hub.state.store.read(), holder).await;
    held.expect("roles")
        .into_iter()
        .map(|role| role.name)
        .collect()
}

/// What the configuration did, as the audit log has it, oldest first: action, target and details.
async fn done(hub: &TestHub, actions: &str) -> Vec<(String, String, Json)> {
    let auditor = reader(hub, &["read:audit"]).await;
    let list = hub.get(&format!("/audit?action={actions}"), &auditor).await;
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = list.ok(200)["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|event| event["via"] == "config")
        .map(|event| {
            let target = text(&event["target"]["name"]);
            (text(&event["action"]), target, event["details"].clone())
        })
        .collect();
    found.reverse();
    found
}

/// One of them.
fn event(action: &str, target: &str, details: &Json) -> (String, String, Json) {
    (action.to_owned(), target.to_owned(), details.clone())
}

/// A role taken from somebody.
fn stripped(role: &str, holder: &str) -> (String, String, Json) {
    event("role.strip", holder, &json!({ "role": role }))
}
