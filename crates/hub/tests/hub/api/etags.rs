//! Entity tags: `If-None-Match` for what a client has, `If-Match` for what it changes.

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::test_hub::{Answer, TestHub};

async fn with_tag(hub: &TestHub, path: &str, token: &str, tag: &str) -> Answer {
    let request = Request::get(format!("/hub/api{path}"))
        .header(header::AUTHORIZATION, format!("token {token}"))
        .header(header::IF_NONE_MATCH, tag);
    hub.raw(request.body(Body::empty()).expect("a request"))
        .await
}

async fn if_match(
    hub: &TestHub,
    (method, path): (&str, &str),
    token: &str,
    tag: &str,
    body: Value,
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("/hub/api{path}"))
        .header(header::AUTHORIZATION, format!("token {token}"))
        .header(header::IF_MATCH, tag)
        .body(Body::from(body.to_string()));
    hub.raw(request.expect("a request")).await
}

fn tag(answer: &Answer) -> String {
    let tag = answer.headers[header::ETAG].to_str().expect("a text");
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    tag.to_owned()
}

#[tokio::test]
async fn what_a_client_has_is_not_sent_again() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await;
    let root = hub.token("root").await;
    // The first use of a token is noted, and shows in its user's model.
    hub.get("/user", &root).await.ok(200);
    hub.state.servers.flush_activity().await.expect("written");
    for path in [
        "/users",
        "/users/ada",
        "/groups",
        "/groups/staff",
        "/user",
        "/services",
        "/info",
        "/",
    ] {
        let first = hub.get(path, &root).await;
        first.ok(200);
        let again = with_tag(&hub, path, &root, &tag(&first)).await;
        again.empty(304);
        assert_eq!(tag(&again), tag(&first), "{path}");
        assert!(!again.headers.contains_key(header::CONTENT_TYPE), "{path}");
        with_tag(&hub, path, &root, &format!("W/{}", tag(&first)))
            .await
            .empty(304);
        with_tag(&hub, path, &root, "\"another\"").await.ok(200);
    }
    let before = hub.get("/groups/staff", &root).await;
    hub.send(
        "PUT",
        "/groups/staff/properties",
        &root,
        Some(json!({"quota": 1})),
    )
    .await
    .ok(200);
    let after = with_tag(&hub, "/groups/staff", &root, &tag(&before)).await;
    assert_eq!(after.ok(200)["properties"], json!({"quota": 1}));
    // Refusals and changes have none.
    let missing = hub.get("/users/nobody", &root).await;
    assert!(!missing.headers.contains_key(header::ETAG));
    let made = hub.post("/users/bob", &root, json!({})).await;
    assert!(!made.headers.contains_key(header::ETAG));
}

#[tokio::test]
async fn a_change_of_an_old_state_is_refused_if_the_client_wants_that() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await;
    let root = hub.token("root").await;
    let properties = ("PUT", "/groups/staff/properties");
    let old = tag(&hub.get("/groups/staff", &root).await);
    if_match(&hub, properties, &root, &old, json!({"a": 1}))
        .await
        .ok(200);
    if_match(&hub, properties, &root, &old, json!({"b": 1}))
        .await
        .refused(412);
    if_match(&hub, ("DELETE", "/groups/staff"), &root, &old, json!(null))
        .await
        .refused(412);
    let now = hub.get("/groups/staff", &root).await;
    assert_eq!(now.ok(200)["properties"], json!({"a": 1}));
    if_match(
        &hub,
        ("DELETE", "/groups/staff"),
        &root,
        &tag(&now),
        json!(null),
    )
    .await
    .empty(204);

    let user = ("PATCH", "/users/ada");
    let old = tag(&hub.get("/users/ada", &root).await);
    if_match(&hub, user, &root, &old, json!({"admin": true}))
        .await
        .ok(200);
    if_match(&hub, user, &root, &old, json!({"admin": false}))
        .await
        .refused(412);
    if_match(&hub, ("DELETE", "/users/ada"), &root, &old, json!(null))
        .await
        .refused(412);
    assert_eq!(hub.get("/users/ada", &root).await.ok(200)["admin"], true);
    if_match(&hub, user, &root, "*", json!({"admin": false}))
        .await
        .ok(200);
}

#[tokio::test]
async fn users_who_are_active_can_be_changed_too() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let before = hub.get("/users/ada", &root).await;
    let later = SystemClock.now() + chrono::TimeDelta::hours(1);
    let ada = hub.user("ada").await.id;
    hub.state.servers.record_user_activity(ada, later);
    let after = with_tag(&hub, "/users/ada", &root, &tag(&before)).await;
    assert_ne!(
        after.ok(200)["last_activity"],
        before.json()["last_activity"],
        "what has changed is sent"
    );
    let admin = json!({"admin": true});
    if_match(&hub, ("PATCH", "/users/ada"), &root, &tag(&before), admin)
        .await
        .ok(200);
    for old in [&before, &after] {
        let tag = tag(old);
        if_match(&hub, ("DELETE", "/users/ada"), &root, &tag, json!(null))
            .await
            .refused(412);
    }
}
