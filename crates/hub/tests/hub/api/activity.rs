//! `/hub/api/users/{user}/activity`.

use serde_json::{Value, json};

use crate::test_hub::TestHub;

#[tokio::test]
async fn activity_moves_forward_only() {
    let hub = TestHub::new().await.with_user("ada").await;
    let ada = hub
        .token_with(
            "ada",
            &[
                "users:activity!user=ada",
                "read:users!user=ada",
                "read:servers!user=ada",
            ],
        )
        .await;
    hub.send("POST", "/users/ada/server", &hub.token("ada").await, None)
        .await
        .empty(201);
    hub.state.servers.flush_activity().await.expect("written");
    // Later than now, but by less than clocks may differ.
    let soon = chrono::TimeDelta::minutes(30);
    let time = orrery_core::Clock::now(&orrery_core::SystemClock) + soon;
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let servers = json!({"": {"last_activity": text}});
    hub.post(
        "/users/ada/activity",
        &ada,
        json!({"last_activity": text, "servers": servers}),
    )
    .await
    .empty(200);
    hub.post(
        "/users/ada/activity",
        &ada,
        json!({"last_activity": "2020-01-01T00:00:00Z"}),
    )
    .await
    .empty(200);
    hub.state.servers.flush_activity().await.expect("written");
    let model = hub.get("/users/ada", &ada).await.ok(200);
    assert_eq!(model["last_activity"], text.as_str());
    assert_eq!(model["servers"][""]["last_activity"], text.as_str());
}

#[tokio::test]
async fn activity_that_makes_no_sense_is_refused() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let ada = hub.token("ada").await;
    let form = "servers must be a dict of the form {server_name: {last_activity: timestamp}}";
    for (body, message) in [
        (json!(null), "body must be a json dict"),
        (json!([]), "body must be a json dict"),
        (
            json!({}),
            "body must contain at least one of `last_activity` or `servers`",
        ),
        (
            json!({"last_activity": "soon"}),
            "Not a valid timestamp: 'soon'",
        ),
        (
            json!({"last_activity": {"a": 1}}),
            "Not a valid timestamp: {'a': 1}",
        ),
        (json!({"servers": [1]}), form),
        (json!({"servers": {"": 1}}), form),
        (json!({"servers": {"": {}}}), form),
        (
            json!({"servers": {"zz": {}}}),
            "No such server 'zz' for user ada",
        ),
        (
            json!({"last_activity": "2999-01-01T00:00:00Z"}),
            "Rejecting activity from more than an hour in the future: 2999-01-01T00:00:00Z",
        ),
    ] {
        let body: Value = body;
        assert_eq!(
            hub.post("/users/ada/activity", &ada, body.clone())
                .await
                .refused(400),
            message,
            "{body}"
        );
    }
    hub.post(
        "/users/bob/activity",
        &ada,
        json!({"last_activity": "2026-01-01"}),
    )
    .await
    .refused(404);
}
