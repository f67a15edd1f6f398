//! `/hub/api/user`: who asks.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;

use crate::test_hub::TestHub;

#[tokio::test]
async fn a_token_shows_its_owner_and_its_scopes() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_group("staff", &[])
        .await;
    hub.get("/user", "").await.refused(403);
    hub.get("/user", "no such token").await.refused(403);

    let ada = hub.token("ada").await;
    let mut model = hub.get("/user", &ada).await.ok(200);
    let fields: Vec<String> = model
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    let mut expected = vec![
        "admin",
        "created",
        "groups",
        "kind",
        "last_activity",
        "name",
        "pending",
        "roles",
        "scopes",
        "server",
        "servers",
        "session_id",
        "token_id",
        "user_info",
    ];
    expected.sort_unstable();
    assert_eq!(fields, expected);
    let scopes = model["scopes"].take();
    assert_eq!(model["name"], "ada");
    assert_eq!(model["roles"], json!(["user"]));
    assert_eq!(model["servers"], json!({}));
    assert_eq!(model["token_id"].as_str().map(|id| &id[..1]), Some("a"));
    assert_eq!(
        scopes,
        json!([
            "access:servers!user=ada",
            "delete:servers!user=ada",
            "read:servers!user=ada",
            "read:shares!user=ada",
            "read:tokens!user=ada",
            "read:users!user=ada",
            "read:users:activity!user=ada",
            "read:users:groups!user=ada",
            "read:users:name!user=ada",
            "read:users:shares!user=ada",
            "servers!user=ada",
            "start:servers!user=ada",
            "tokens!user=ada",
            "users:activity!user=ada",
            "users:shares!user=ada"
        ])
    );
}

#[tokio::test]
async fn whoever_may_do_nothing_may_still_know_who_they_are() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await;
    let narrow = hub.token_with("ada", &["access:servers!user=ada"]).await;
    let model = hub.get("/user", &narrow).await.ok(200);
    assert_eq!(
        (&model["name"], &model["groups"]),
        (&json!("ada"), &json!(["staff"]))
    );
    assert!(
        model.get("servers").is_none() && model.get("roles").is_none(),
        "{model}"
    );
    assert!(
        !model["scopes"].to_string().contains("read:users!user"),
        "{model}"
    );
    hub.get("/users/ada", &narrow).await.ok(200);

    let service = hub.service("web", &[]).await;
    let mut model = hub.get("/user", &service).await.ok(200);
    model["token_id"].take();
    assert_eq!(
        model,
        json!({"kind": "service", "name": "web", "admin": false, "token_id": null, "session_id": null, "scopes": []})
    );
}

#[tokio::test]
async fn the_kept_answer_follows_the_database() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_admin("root")
        .await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    for _ in 0..2 {
        assert_eq!(hub.get("/user", &ada).await.ok(200)["server"], json!(null));
    }
    hub.send("POST", "/users/ada/server", &ada, None)
        .await
        .empty(201);
    assert_eq!(hub.get("/user", &ada).await.ok(200)["server"], "/user/ada/");
    hub.patch("/users/ada", &root, json!({"admin": true}))
        .await
        .ok(200);
    assert_eq!(hub.get("/user", &ada).await.ok(200)["admin"], true);
    let with_stopped = hub
        .get("/user?include_stopped_servers=1", &root)
        .await
        .ok(200);
    assert_eq!(with_stopped["servers"][""]["stopped"], true);
    hub.delete("/users/ada", &root).await.empty(204);
    hub.get("/user", &ada).await.refused(403);
}

#[tokio::test]
async fn a_login_cookie_is_good_for_reading_but_scripts_must_show_the_xsrf_token() {
    let hub = TestHub::new().await.with_user("ada").await;
    let name = orrery_hub::auth::LOGIN_COOKIE;
    let cookie = hub
        .state
        .signer
        .sign(name, b"cookie of ada", hub.state.unix_time());
    let ask = async |mode: Option<&str>| {
        let mut request =
            Request::get("/hub/api/user").header(header::COOKIE, format!("{name}={cookie}"));
        if let Some(mode) = mode {
            request = request.header("sec-fetch-mode", mode);
        }
        hub.raw(request.body(Body::empty()).expect("a request"))
            .await
    };
    let model = ask(None).await.ok(200);
    assert_eq!(
        (&model["name"], &model["token_id"]),
        (&json!("ada"), &json!(null))
    );
    assert_eq!(
        ask(Some("cors")).await.refused(403),
        "'_xsrf' argument missing from GET"
    );
}
