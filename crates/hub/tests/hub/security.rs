//! What attackers tried, and must not be able to do. Each test is named after what it keeps from
//! happening.

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::Clock as _;
use orrery_store::users;
use serde_json::json;

use crate::pages::Browser;
use crate::test_hub::TestHub;

/// A hub whose configuration makes `root` an administrator.
async fn with_root() -> TestHub {
    TestHub::configured(|config| {
        config.authenticator.admin_users.insert("root".to_owned());
    })
    .await
    .with_user("eve")
    .await
}

#[tokio::test]
async fn whoever_may_make_tokens_does_not_become_an_administrator() {
    let hub = with_root().await;
    let minter = hub.service("minter", &["tokens", "admin:users"]).await;
    hub.post("/users/root/tokens", &minter, json!({}))
        .await
        .refused(403);
    hub.post("/users/eve/tokens", &minter, json!({}))
        .await
        .ok(201);
    // Administrators may, and services that were given all that administrators may.
    let root = hub.token("root").await;
    hub.post("/users/root/tokens", &root, json!({}))
        .await
        .ok(201);
}

#[tokio::test]
async fn whoever_may_manage_users_does_not_take_an_administrators_place() {
    let hub = with_root().await;
    let manager = hub.service("manager", &["admin:users"]).await;
    hub.delete("/users/root", &manager).await.refused(403);
    hub.patch("/users/eve", &manager, json!({"name": "root2"}))
        .await
        .ok(200);
    let root = hub.user("root").await;
    hub.state
        .store
        .write(|transaction| async move { users::delete(&transaction, root.id).await.map(|_| ()) })
        .await
        .expect("a deletion");
    hub.patch("/users/root2", &manager, json!({"name": "root"}))
        .await
        .refused(403);
    hub.post("/users", &manager, json!({"usernames": ["carl", "root"]}))
        .await
        .refused(403);
    hub.post("/users/carl", &manager, json!({})).await.ok(201);
}

#[tokio::test]
async fn a_limited_token_of_an_administrator_makes_nobody_an_administrator() {
    let hub = with_root().await;
    let limited = hub.token_with("root", &["admin:users!user=eve"]).await;
    hub.patch("/users/eve", &limited, json!({"admin": true}))
        .await
        .refused(403);
    let whole = hub.token("root").await;
    hub.patch("/users/eve", &whole, json!({"admin": true}))
        .await
        .ok(200);
}

#[tokio::test]
async fn a_new_service_does_not_take_over_another_services_oauth_client() {
    let hub = with_root().await;
    let maker = hub.service("maker", &["admin:services"]).await;
    let grader = json!({
        "oauth_client_id": "service-grader", "oauth_redirect_uri": "https://grader.example/callback",
        "api_token": "the-token-of-the-grader-0123456789",
    });
    hub.post("/services/grader", &maker, grader).await.ok(201);
    let evil = json!({
        "oauth_client_id": "service-grader", "oauth_redirect_uri": "https://evil.example/callback",
        "api_token": "the-token-of-the-evil-one-0123456789",
    });
    hub.post("/services/evil", &maker, evil).await.refused(409);
    let client = orrery_store::oauth_clients::find(hub.state.store.read(), "service-grader")
        .await
        .expect("a query")
        .expect("the grader's client");
    assert_eq!(
        client.redirect_uri.as_deref(),
        Some("https://grader.example/callback")
    );
}

#[tokio::test]
async fn a_strangers_form_of_any_shape_is_answered_at_once() {
    let hub = with_root().await;
    let boundary = "b".repeat(30_000);
    for (boundary, body) in [
        ("x", "--x".to_owned() + &"\r\n--x".repeat(10_000)),
        (boundary.as_str(), format!("--{boundary}\r\n").repeat(2)),
        ("x", "x".repeat(1 << 20)),
    ] {
        let request = Request::post("/hub/login")
            .header(
                header::CONTENT_TYPE,
                format!("multipart/form-data; boundary={boundary}"),
            )
            .body(Body::from(body))
            .expect("a request");
        let answer = hub.raw(request).await;
        assert!(
            [403, 413].contains(&answer.status.as_u16()),
            "{}",
            answer.status
        );
    }
}

#[tokio::test]
async fn blanks_around_a_name_are_no_way_around_the_wait_for_guessers() {
    let hub = with_root().await;
    let guess = |name: String| {
        let hub = &hub;
        async move {
            let body = json!({"auth": {"username": name, "password": "wrong"}});
            hub.post("/users/eve/tokens", "", body)
                .await
                .status
                .as_u16()
        }
    };
    for blanks in 0..5 {
        assert_eq!(guess(format!("eve{}", " ".repeat(blanks))).await, 403);
    }
    assert_eq!(guess("  eve ".to_owned()).await, 429);
}

#[tokio::test]
async fn no_way_of_fetching_skips_the_check_of_a_request_that_changes_something() {
    let hub = with_root().await;
    let browser = Browser::of(&hub, "eve").await;
    for mode in [
        "navigate",
        "websocket",
        "cors",
        "no-cors",
        "same-origin",
        "bogus",
    ] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let request = Request::builder()
                .method(method)
                .uri("/hub/api/users/eve/server")
                .header(header::COOKIE, browser.cookie_header())
                .header("sec-fetch-mode", mode);
            let answer = hub
                .raw(request.body(Body::empty()).expect("a request"))
                .await;
            assert_eq!(answer.status.as_u16(), 403, "{method} {mode}");
        }
    }
}

#[tokio::test]
async fn a_token_stops_working_the_moment_it_is_revoked_and_a_user_the_moment_they_are_deleted() {
    let hub = with_root().await;
    let (token, root) = (hub.token("eve").await, hub.token("root").await);
    hub.get("/user", &token).await.ok(200);
    hub.get("/user", &token).await.ok(200);
    let eve = hub.user("eve").await;
    hub.state
        .store
        .write(|transaction| async move { users::delete(&transaction, eve.id).await.map(|_| ()) })
        .await
        .expect("a deletion");
    hub.get("/user", &token).await.refused(403);
    let expired = hub.token("root").await;
    hub.get("/user", &expired).await.ok(200);
    let tokens = hub.get("/users/root/tokens", &root).await.ok(200);
    let newest = tokens["api_tokens"]
        .as_array()
        .and_then(|list| list.last())
        .expect("a token")["id"]
        .clone();
    let newest = newest.as_str().expect("an id").to_owned();
    hub.delete(&format!("/users/root/tokens/{newest}"), &root)
        .await;
    hub.get("/user", &expired).await.refused(403);
}

#[tokio::test]
async fn logging_out_ends_every_token_of_the_browser_session() {
    let hub = with_root().await;
    let browser = Browser::of(&hub, "eve").await;
    let session = browser.cookie("jupyterhub-session-id").expect("a session");
    let eve = hub.user("eve").await;
    let secret = orrery_store::token_hash::generate_token().expect("a token");
    let new = orrery_store::api_tokens::NewApiToken {
        owner: orrery_store::api_tokens::Owner::User(eve.id),
        hashed: orrery_store::token_hash::hash_token(
            secret.expose(),
            orrery_store::token_hash::Origin::Generated,
        )
        .expect("a hash"),
        prefix: orrery_store::token_hash::prefix(secret.expose()).to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: Some(session),
        created: orrery_core::SystemClock.now(),
        expires_at: None,
        note: String::new(),
        scopes: vec!["inherit".to_owned()],
    };
    let inserting = &new;
    hub.state
        .store
        .write(|transaction| async move {
            orrery_store::api_tokens::insert(&transaction, inserting)
                .await
                .map(|_| ())
        })
        .await
        .expect("a token");
    hub.get("/user", secret.expose()).await.ok(200);
    assert_eq!(browser.get("/hub/logout").await.status, 302);
    hub.get("/user", secret.expose()).await.refused(403);
}
