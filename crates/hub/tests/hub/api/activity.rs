//! `/hub/api/users/{user}/activity`.

use orrery_store::{ConnectionTrait as _, StoreError};
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

/// Whatever is asked while it is being written: what was posted is seen at once and stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn activity_never_goes_backwards_while_it_is_written() {
    let hub = TestHub::new().await.with_user("ada").await;
    let token = hub
        .token_with("ada", &["users:activity!user=ada", "read:users!user=ada"])
        .await;
    let engine = hub.state.servers.clone();
    let writing = tokio::spawn(async move {
        loop {
            engine.flush_activity().await.expect("written");
            tokio::task::yield_now().await;
        }
    });
    for second in 0..100 {
        let text = format!("2999-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
        let at =
            chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%SZ").expect("a time");
        let ada = hub.user("ada").await.id;
        hub.state.servers.record_user_activity(ada, at);
        for _ in 0..3 {
            let model = hub.get("/users/ada", &token).await.ok(200);
            assert_eq!(model["last_activity"], text.as_str());
        }
    }
    writing.abort();
}

/// Thousands of servers that post cost one transaction, not one for each.
#[tokio::test]
async fn many_posts_are_written_in_one_transaction() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let tokens = [hub.token("ada").await, hub.token("bob").await];
    let look = async || hub.state.store.freshness().await.expect("a look");
    // The engine writes of its own every few seconds; there is a round without that.
    for round in 1.. {
        assert!(round < 10, "the posts are written one by one");
        hub.state.servers.flush_activity().await.expect("written");
        let before = look().await;
        for number in 0..20 {
            for (name, token) in ["ada", "bob"].iter().zip(&tokens) {
                let body =
                    json!({"last_activity": format!("2026-11-22T00:{round:02}:{number:02}Z")});
                hub.post(&format!("/users/{name}/activity"), token, body)
                    .await
                    .empty(200);
            }
        }
        if look().await == before {
            hub.state.servers.flush_activity().await.expect("written");
            assert_ne!(look().await, before);
            break;
        }
    }
    for name in ["ada", "bob"] {
        let seen = hub.user(name).await.last_activity.expect("seen");
        assert!(seen.to_string().as_str() >= "2026-11-22 00:01:19", "{seen}");
    }
}

/// What no database could give back is not taken, so that it spoils no list.
#[tokio::test]
async fn activity_that_cannot_be_kept_is_refused() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    for text in [
        "2026-01-02T03:39:60Z",
        "2016-12-31T23:59:60Z",
        "2026-01-02 03:39:60.5+02:00",
        "-0100-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
    ] {
        for body in [
            json!({"last_activity": text}),
            json!({"servers": {"": {"last_activity": text}}}),
        ] {
            assert_eq!(
                hub.post("/users/bob/activity", &root, body)
                    .await
                    .refused(400),
                format!("Not a valid timestamp: '{text}'")
            );
        }
        hub.get(
            &format!(
                "/tokens?unused_since={}",
                text.replace('+', "%2B").replace(' ', "%20")
            ),
            &root,
        )
        .await
        .refused(400);
    }
    hub.state.servers.flush_activity().await.expect("written");
    let list = hub.get("/users", &root).await.ok(200);
    assert_eq!(list.as_array().map(Vec::len), Some(2));
}

/// One row that the database refuses does not keep the others from being written, now or later.
#[tokio::test]
async fn activity_that_the_database_refuses_is_forgotten_alone() {
    let mut hub = TestHub::new().await;
    for name in ["ada", "bob", "cleo", "dora", "eve"] {
        hub = hub.with_user(name).await;
    }
    let statement = "CREATE TRIGGER refuse BEFORE UPDATE OF last_activity ON users \
        WHEN NEW.name = 'cleo' BEGIN SELECT RAISE(ABORT, 'no'); END";
    let refuse = |transaction: orrery_store::Transaction| async move {
        transaction.execute_unprepared(statement).await?;
        Ok::<_, StoreError>(())
    };
    hub.state.store.write(refuse).await.expect("a trigger");
    let engine = hub.state.servers.clone();
    let at = orrery_core::Clock::now(&orrery_core::SystemClock);
    for name in ["ada", "bob", "cleo", "dora", "eve"] {
        engine.record_user_activity(hub.user(name).await.id, at);
    }
    engine.flush_activity().await.expect("the others");
    for name in ["ada", "bob", "cleo", "dora", "eve"] {
        let user = hub.user(name).await;
        let is_written = user.last_activity.is_some();
        assert_eq!(is_written, name != "cleo", "{name}");
        let shown = engine.user_activity(user.id, user.last_activity);
        assert_eq!(shown.is_some(), name != "cleo", "{name}");
    }
}
