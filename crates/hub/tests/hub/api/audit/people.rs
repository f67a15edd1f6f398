//! Events of logins, users and their tokens.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};

use super::{events, only, some_people, user, with_auth_state};
use crate::pages::Browser;
use crate::test_hub::{PASSWORD, TestHub};

#[tokio::test]
async fn a_login_and_a_logout_are_recorded_with_who_and_how() {
    let hub = some_people().await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/logout").await;
    let found = events(&hub, "login,logout").await;
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(names, ["logout", "login"]);
    for (event, via) in found.iter().zip(["cookie", "password"]) {
        assert_eq!(event["actor"], user("ada"), "{event}");
        assert_eq!(
            (&event["via"], &event["outcome"]),
            (&json!(via), &json!("ok"))
        );
    }
}

/// A login with the password wrong, from an address.
pub(super) async fn fail(hub: &TestHub, name: &str, address: &str) {
    let request = Request::get("/hub/login")
        .header("sec-fetch-mode", "navigate")
        .body(Body::empty())
        .expect("a request");
    let form = hub.raw(request).await;
    let cookies: Vec<String> = form
        .headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|cookie| Some(cookie.to_str().ok()?.split(';').next()?.to_owned()))
        .collect();
    let xsrf = cookies
        .iter()
        .find_map(|cookie| cookie.strip_prefix("_xsrf="))
        .expect("a token");
    let body = format!("_xsrf={xsrf}&username={name}&password=wrong");
    let request = Request::post("/hub/login")
        .header("x-forwarded-for", address)
        .header(header::COOKIE, cookies.join("; "))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(body))
        .expect("a request");
    let status = hub.raw(request).await.status.as_u16();
    assert!([403, 429].contains(&status), "{status}");
}

#[tokio::test]
async fn a_failed_login_is_recorded_but_what_may_be_a_password_is_not() {
    let hub = some_people().await;
    fail(&hub, "ada", "192.0.2.7").await;
    fail(&hub, "hunter2-typed-as-name", "192.0.2.8").await;
    let found = events(&hub, "login.failed").await;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["target"], Value::Null);
    assert_eq!(found[1]["target"], user("ada"));
    assert_eq!(
        (&found[1]["address"], &found[1]["actor"]),
        (&json!("192.0.2.7"), &Value::Null)
    );
    assert_eq!(found[1]["details"], json!({"reason": "credentials"}));
    assert!(!json!(found).to_string().contains("hunter2"));
    assert!(
        events(&hub, "denied").await.is_empty(),
        "it is recorded once"
    );
}

#[tokio::test]
async fn a_flood_of_failed_logins_makes_few_rows_that_count_them_all() {
    let hub = some_people().await;
    for _ in 0..12 {
        fail(&hub, "ada", "192.0.2.7").await;
    }
    // The first of those that were tried, and the first of those that had to wait.
    let found = events(&hub, "login.failed").await;
    assert_eq!(found.len(), 2, "{found:#?}");
    // The rest comes when its time is over, and at the end in any case.
    hub.state.audit.close().await;
    let root = hub.token("root").await;
    let rows = hub.get("/audit?action=login.failed", &root).await.ok(200);
    let counted: i64 = rows["items"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|row| row["repeats"].as_i64())
        .sum();
    assert_eq!(counted, 12);
}

#[tokio::test]
async fn users_come_change_and_go_in_the_log() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    hub.post("/users", &root, json!({"usernames": ["carl", "dora"]}))
        .await
        .ok(201);
    hub.post("/users/emil", &root, json!({"admin": true}))
        .await
        .ok(201);
    hub.patch("/users/carl", &root, json!({"name": "karl", "admin": true}))
        .await
        .ok(200);
    hub.delete("/users/dora", &root).await.empty(204);
    let created = events(&hub, "user.create").await;
    let names: Vec<_> = created
        .iter()
        .map(|event| event["target"]["name"].clone())
        .collect();
    assert_eq!(names, ["emil", "dora", "carl"]);
    assert_eq!(created[0]["details"], json!({"admin": true}));
    let renamed = events(&hub, "user.rename").await;
    assert_eq!(only(&renamed)["target"], user("karl"));
    assert_eq!(only(&renamed)["details"], json!({"from": "carl"}));
    assert_eq!(
        only(&events(&hub, "user.admin").await)["details"],
        json!({"admin": true})
    );
    let deleted = events(&hub, "user.delete").await;
    assert_eq!(only(&deleted)["target"], user("dora"));
    assert_eq!(only(&deleted)["actor"], user("root"));
    assert_eq!(only(&deleted)["via"], "token");
    assert!(
        only(&deleted)["token_id"]
            .as_str()
            .is_some_and(|id| id.starts_with('a'))
    );
}

#[tokio::test]
async fn a_user_who_comes_by_a_login_is_recorded() {
    let hub = some_people().await;
    Browser::of(&hub, "zoe").await;
    let created = events(&hub, "user.create").await;
    assert_eq!(only(&created)["target"], user("zoe"));
    assert_eq!(only(&created)["via"], "authenticator");
}

#[tokio::test]
async fn tokens_are_recorded_by_their_ids_and_never_themselves() {
    let hub = some_people().await;
    let ada = hub.token("ada").await;
    let made = hub
        .post(
            "/users/ada/tokens",
            &ada,
            json!({"note": "for a script", "scopes": ["read:users:name!user"]}),
        )
        .await
        .ok(201);
    let id = made["id"].as_str().expect("an id");
    hub.delete(&format!("/users/ada/tokens/{id}"), &ada)
        .await
        .empty(204);
    let by_password = json!({"auth": {"username": "bob", "password": PASSWORD}});
    hub.post("/users/bob/tokens", "", by_password).await.ok(201);
    let wrong = json!({"auth": {"username": "bob", "password": "wrong"}});
    hub.post("/users/bob/tokens", "", wrong).await.refused(403);

    let created = events(&hub, "token.create").await;
    assert_eq!(created.len(), 2);
    assert_eq!(created[0]["actor"], user("bob"));
    assert_eq!(created[0]["via"], "password");
    assert_eq!(created[1]["details"]["token"], id);
    assert_eq!(created[1]["details"]["note"], "for a script");
    assert_eq!(created[1]["owner"], "ada");
    assert_eq!(
        only(&events(&hub, "token.revoke").await)["details"]["token"],
        id
    );
    assert_eq!(
        only(&events(&hub, "login.failed").await)["target"],
        user("bob")
    );
    let root = hub.token("root").await;
    let all = hub.get("/audit", &root).await.text();
    for secret in [
        made["token"].as_str().expect("a token"),
        PASSWORD,
        "wrong",
        &ada,
    ] {
        assert!(!all.contains(secret), "a secret is in the log");
    }
}

#[tokio::test]
async fn stored_login_state_is_not_read_or_replaced_unseen() {
    let hub = with_auth_state().await;
    let root = hub.token("root").await;
    hub.get("/users/ada", &root).await.ok(200);
    assert!(
        events(&hub, "auth_state.*").await.is_empty(),
        "there was nothing to read"
    );
    let body = json!({"auth_state": {"secret": "of-the-login"}});
    hub.patch("/users/ada", &root, body).await.ok(200);
    hub.get("/users/ada", &root).await.ok(200);
    let found = events(&hub, "auth_state.*").await;
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(names, ["auth_state.read", "auth_state.write"]);
    assert!(!json!(found).to_string().contains("of-the-login"));
}
