//! What the audit log must not leave out, or show to the wrong person.

use serde_json::{Value, json};

use super::audit::{self, with_auth_state};
use crate::test_hub::TestHub;

/// The names of the events of these actions, newest first.
async fn actions(hub: &TestHub, actions: &str) -> Vec<Value> {
    (audit::events(hub, actions).await)
        .iter_mut()
        .map(|event| event["action"].take())
        .collect()
}

#[tokio::test]
async fn an_edit_that_changes_nothing_is_no_way_to_read_login_state_unseen() {
    let hub = with_auth_state().await;
    let root = hub.token("root").await;
    let shown = hub.patch("/users/ada", &root, json!({})).await.ok(200);
    assert_eq!(shown["auth_state"], Value::Null);
    let state = json!({"secret": "of-the-login"});
    let body = json!({ "auth_state": state });
    hub.patch("/users/ada", &root, body).await.ok(200);
    assert_eq!(actions(&hub, "auth_state.*").await, ["auth_state.write"]);
    let shown = hub.patch("/users/ada", &root, json!({})).await.ok(200);
    assert_eq!(shown["auth_state"], state);
    assert_eq!(
        actions(&hub, "auth_state.*").await,
        ["auth_state.read", "auth_state.write"]
    );
}

#[tokio::test]
async fn a_service_does_not_hide_behind_the_name_of_the_servers_owner() {
    let hub = TestHub::new().await.with_user("ada").await;
    let service = hub.service("ada", &["servers"]).await;
    let (ada, empty) = (hub.token("ada").await, json!({}));
    let started = hub.post("/users/ada/server", &service, empty.clone()).await;
    assert!(started.status.is_success(), "{}", started.text());
    hub.post("/users/ada/server", &ada, empty).await;
    let seen = hub.get("/users/ada/accesses", &ada).await.ok(200);
    let actors = seen["items"].as_array().expect("a list").iter();
    let actors: Vec<_> = actors.map(|event| &event["actor"]).collect();
    assert_eq!(actors, [&json!({"kind": "service", "name": "ada"})]);
}
