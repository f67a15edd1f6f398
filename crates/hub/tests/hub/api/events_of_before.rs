//! `/hub/api/events`: a name that is free goes to somebody else, and what was told of it does not.

use serde_json::{Value, json};

use super::events::{follow, follow_after, last_id, told};
use crate::test_hub::TestHub;

/// A hub where Ada had a server and is gone; the position before.
async fn without_ada() -> (TestHub, String) {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    let mut open = follow(&hub, &root).await;
    let before = last_id(&open);
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    let started = hub.post("/users/ada/server", &root, json!({})).await;
    assert!(started.status.is_success(), "{}", started.text());
    open.until("server.ready").await;
    hub.delete("/users/ada", &root).await.empty(204);
    open.until("user.deleted").await;
    (hub, before)
}

/// What Ada is told by then.
async fn told_to_ada(hub: &TestHub, before: &str) -> Vec<Value> {
    let ada = hub.token("ada").await;
    let mut open = follow_after(hub, &ada, before).await;
    let started = hub.post("/users/ada/server", &ada, json!({})).await;
    assert!(started.status.is_success(), "{}", started.text());
    open.until("server.ready").await;
    told(&open)
}

fn now_told() -> [Value; 5] {
    let server = |kind: &str| json!({"type": kind, "user": "ada", "server": ""});
    [
        json!({"type": "open"}),
        json!({"type": "user.created", "user": "ada"}),
        server("server.queued"),
        server("server.starting"),
        server("server.ready"),
    ]
}

#[tokio::test]
async fn somebody_new_is_not_told_what_was_done_under_their_name() {
    let (hub, before) = without_ada().await;
    let root = hub.token("root").await;
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    assert_eq!(told_to_ada(&hub, &before).await, now_told());
    // Who sees all is told all.
    let mut open = follow_after(&hub, &root, &before).await;
    open.until("user.deleted").await;
    let all = told(&open);
    assert!(all.iter().any(|event| event["type"] == "server.stopped"));
}

#[tokio::test]
async fn whoever_is_renamed_to_it_is_not_either() {
    let (hub, before) = without_ada().await;
    let root = hub.token("root").await;
    hub.patch("/users/bob", &root, json!({"name": "ada"}))
        .await
        .ok(200);
    // By this name they are new.
    assert_eq!(told_to_ada(&hub, &before).await, now_told());
}

#[tokio::test]
async fn others_are_told_that_somebody_went_and_came_again() {
    let (hub, before) = without_ada().await;
    let root = hub.token("root").await;
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    let watcher = hub
        .service("watcher", &["read:users!user=ada", "read:servers!user=ada"])
        .await;
    let mut open = follow_after(&hub, &watcher, &before).await;
    open.until("user.created").await;
    let user = |kind: &str| json!({"type": kind, "user": "ada"});
    assert_eq!(
        told(&open),
        [
            json!({"type": "open"}),
            user("user.deleted"),
            user("user.created")
        ]
    );
}
