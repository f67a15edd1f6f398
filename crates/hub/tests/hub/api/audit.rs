//! `/hub/api/audit`: who reads the log, how long it lasts, and what is never in it. What leads to its
//! events is beside this; each action has its test, so that no hook can go missing unnoticed.

#[path = "audit/people.rs"]
mod people;
#[path = "audit/servers.rs"]
mod servers;
#[path = "audit/site.rs"]
mod site;

use std::collections::BTreeSet;

use axum::http::header;
use orrery_hub::audit::{Action, Event};
use orrery_hub::housekeeping;
use serde_json::{Value, json};

use crate::pages::Browser;
use crate::test_hub::{PASSWORD, TestHub};

/// Ada and Bob, who are users, and Root, who is an administrator.
pub(super) async fn some_people() -> TestHub {
    TestHub::configured(|config| config.hub.allow_named_servers = true)
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_admin("root")
        .await
}

/// Ada and the administrator Root, on a hub that keeps what logins leave.
pub(super) async fn with_auth_state() -> TestHub {
    TestHub::configured(|config| {
        config.authenticator.enable_auth_state = true;
        let key = orrery_core::fernet::Key::parse(&[b'a'; 64]).expect("a key");
        config.crypt_keeper.keys = vec![orrery_hub::config::CryptKey(key)];
    })
    .await
    .with_user("ada")
    .await
    .with_admin("root")
    .await
}

/// The events of these actions, newest first, as an administrator sees them.
pub(super) async fn events(hub: &TestHub, actions: &str) -> Vec<Value> {
    let root = hub.token("root").await;
    let list = hub.get(&format!("/audit?action={actions}"), &root).await;
    list.ok(200)["items"].as_array().expect("a list").clone()
}

/// The one event of an action.
#[track_caller]
fn only(events: &[Value]) -> &Value {
    let [event] = events else {
        panic!("not one event: {events:#?}");
    };
    event
}

fn user(name: &str) -> Value {
    json!({ "kind": "user", "name": name })
}

#[tokio::test]
async fn only_holders_of_the_scope_read_the_log_and_administrators_are() {
    let hub = some_people().await;
    hub.get("/audit", "").await.refused(403);
    hub.get("/audit", &hub.token("ada").await)
        .await
        .refused(403);
    let others = hub
        .service(
            "others",
            &["admin:users", "admin:servers", "tokens", "read:hub"],
        )
        .await;
    hub.get("/audit", &others).await.refused(403);
    let auditor = hub.service("auditor", &["read:audit"]).await;
    hub.get("/audit", &auditor).await.ok(200);
    let root = hub.token("root").await;
    hub.get("/audit", &root).await.ok(200);
    let limited = hub.token_with("root", &["admin:users"]).await;
    hub.get("/audit", &limited).await.refused(403);
    let asked = hub
        .post(
            "/users/ada/tokens",
            &hub.token("ada").await,
            json!({"scopes": ["read:audit"]}),
        )
        .await;
    asked.refused(400);
    // The row of the role says nothing of it: JupyterHub fails on scopes that it does not know.
    let role = orrery_store::roles::find(hub.state.store.read(), "admin")
        .await
        .expect("a query")
        .expect("a role");
    assert!(!role.scopes.iter().any(|scope| scope == "read:audit"));
}

#[tokio::test]
async fn nobody_makes_a_service_that_reads_the_log_without_reading_it_themselves() {
    let hub = some_people().await;
    let role = orrery_store::roles::find(hub.state.store.read(), "admin")
        .await
        .expect("a query")
        .expect("a role");
    let all_but_audit: Vec<&str> = role.scopes.iter().map(String::as_str).collect();
    let nearly = hub.service("nearly", &all_but_audit).await;
    hub.get("/audit", &nearly).await.refused(403);
    let body = json!({"admin": true, "api_token": "a-token-of-its-own-0123456789"});
    hub.post("/services/eye", &nearly, body).await.refused(400);
}

#[tokio::test]
async fn pages_follow_each_other_without_gaps_and_bad_questions_are_refused() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    for number in 0..7 {
        let event = Event::new(Action::GroupCreate)
            .by_hub()
            .on_group(&format!("g{number}"));
        hub.state.audit.record(event).await;
    }
    let mut path = "/audit?action=group.create&limit=3".to_owned();
    let mut names = Vec::new();
    loop {
        let page = hub.get(&path, &root).await.ok(200);
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= 3);
        names.extend(items.iter().map(|item| item["target"]["name"].clone()));
        let Some(url) = page["_pagination"]["next"]["url"].as_str() else {
            break;
        };
        path = url
            .split_once("/hub/api")
            .expect("a path of the API")
            .1
            .to_owned();
    }
    assert_eq!(names, ["g6", "g5", "g4", "g3", "g2", "g1", "g0"]);
    for bad in [
        "action=nothing",
        "outcome=good",
        "since=soon",
        "before=x",
        "before=-1",
        "limit=many",
        "actor=%00",
    ] {
        hub.get(&format!("/audit?{bad}"), &root).await.refused(400);
    }
    let ada = hub.token("ada").await;
    hub.get("/users/ada/accesses?action=login", &ada)
        .await
        .refused(400);
}

#[tokio::test]
async fn the_file_has_the_same_events_in_whole_lines() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let file = path.display().to_string();
    let hub = TestHub::configured(|config| {
        config.hub.audit_log_file = file;
        config.hub.audit_ignore.insert("group.*".to_owned());
    })
    .await
    .with_admin("root")
    .await;
    let root = hub.token("root").await;
    hub.post("/users/carl", &root, json!({})).await.ok(201);
    hub.post("/groups/crew", &root, json!({})).await.ok(201);
    let event = events(&hub, "user.create").await;
    let text = std::fs::read_to_string(&path).expect("the file");
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let line = lines
        .iter()
        .find(|line| line["action"] == "user.create")
        .expect("the line");
    let mut expected = only(&event).clone();
    expected.as_object_mut().expect("an object").remove("id");
    assert_eq!(*line, expected);
    assert!(!text.contains("group.create"), "it is left out");
    let keys: BTreeSet<_> = line.as_object().expect("an object").keys().collect();
    assert!(keys.contains(&"time".to_owned()));
}

#[tokio::test]
async fn old_events_go_and_new_ones_stay() {
    let hub = some_people().await;
    let now = hub.state.clock.now();
    let old = (now - chrono::TimeDelta::days(91), "login");
    let rows: Vec<_> = [old, (now - chrono::TimeDelta::days(89), "logout")]
        .map(|(at, action)| orrery_store::audit::Row {
            id: 0,
            at,
            action: action.to_owned(),
            outcome: "ok".to_owned(),
            repeats: 1,
            actor_kind: String::new(),
            actor: String::new(),
            via: String::new(),
            token_id: None,
            oauth_client: None,
            address: String::new(),
            target_kind: String::new(),
            target: String::new(),
            owner: None,
            server: None,
            details: Value::Null,
        })
        .into();
    let rows = &rows;
    hub.state
        .store
        .write(|transaction| async move { orrery_store::audit::insert(&transaction, rows).await })
        .await
        .expect("rows");
    assert_eq!(
        housekeeping::discard_audit(&hub.state)
            .await
            .expect("a query"),
        1
    );
    assert!(events(&hub, "login").await.is_empty());
    assert_eq!(events(&hub, "logout").await.len(), 1);
}

#[tokio::test]
async fn a_site_may_go_without() {
    let hub = TestHub::configured(|config| config.hub.audit_log = false)
        .await
        .with_admin("root")
        .await;
    let root = hub.token("root").await;
    hub.post("/users/carl", &root, json!({})).await.ok(201);
    assert_eq!(hub.get("/audit", &root).await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn no_secret_is_in_any_row_or_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("audit.jsonl");
    let file = path.display().to_string();
    let hub = TestHub::configured(|config| {
        config.hub.audit_log_file = file;
        let token = (
            orrery_core::Secret::new("token-of-the-configuration-123"),
            "ada".to_owned(),
        );
        config.hub.api_tokens.0.push(token);
    })
    .await
    .with_admin("root")
    .await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    let browser = Browser::of(&hub, "ada").await;
    let opening = servers::server_client(&hub, "ada").await;
    browser.get(&opening).await;
    let other = Browser::of(&hub, "root").await;
    let code = other.post(&opening, "scopes=inherit").await;
    let code = code.headers[header::LOCATION]
        .to_str()
        .expect("text")
        .to_owned();
    let code = code.split_once("code=").expect("a code").1.to_owned();
    people::fail(&hub, "pass-word-as-name", "192.0.2.1").await;
    let token = hub
        .post("/users/ada/tokens", &ada, json!({"note": "n"}))
        .await
        .ok(201);
    let share = hub
        .post("/share-codes/ada/", &root, json!({}))
        .await
        .ok(200);
    hub.post(
        "/services/s",
        &root,
        json!({"api_token": "token-of-the-service-0123456"}),
    )
    .await
    .ok(201);
    hub.get("/authorizations/token/token-in-the-path", "")
        .await
        .refused(403);
    hub.get("/users?token=token-in-the-query", "")
        .await
        .refused(403);
    hub.get("/users", "token-that-nobody-has")
        .await
        .refused(403);
    let mut secrets: Vec<String> = [
        "token-of-the-configuration-123",
        "token-of-the-service-0123456",
        "token-in-the-path",
        "token-in-the-query",
        "token-that-nobody-has",
        "pass-word-as-name",
        "wrong",
        PASSWORD,
        &ada,
        &root,
        &code,
    ]
    .map(str::to_owned)
    .to_vec();
    for name in ["jupyterhub-hub-login", "jupyterhub-session-id", "_xsrf"] {
        secrets.push(browser.cookie(name).expect("a cookie"));
    }
    secrets.push(hub.user("ada").await.cookie_id);
    secrets.push(token["token"].as_str().expect("a token").to_owned());
    secrets.push(share["code"].as_str().expect("a code").to_owned());
    let rows = hub.get("/audit?limit=200", &root).await.text();
    let lines = std::fs::read_to_string(&path).expect("the file");
    assert!(lines.lines().count() >= 10, "{lines}");
    for secret in secrets {
        assert!(!rows.contains(&secret), "{secret} is in the table");
        assert!(!lines.contains(&secret), "{secret} is in the file");
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_counted_and_holds_nobody_up() {
    let hub = some_people().await;
    hub.state.store.close().await;
    let event = || Event::new(Action::GroupCreate).by_hub();
    let recording = hub.state.audit.record(event());
    tokio::time::timeout(crate::test_hub::PATIENCE, recording)
        .await
        .expect("a request goes on");
    hub.state.audit.note(event());
    hub.state.audit.close().await;
    let families = hub.state.metrics.registry().gather();
    let lost = families
        .iter()
        .find(|family| family.name() == "orrery_audit_lost_total")
        .expect("the metric");
    let lost = lost.get_metric()[0].get_counter().get_value();
    assert!(lost >= 2.0, "{lost}");
}
