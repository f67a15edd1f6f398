//! `/hub/api/audit` and what leads to its events. Each action has its test, so that no hook can go
//! missing unnoticed.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::{Request, header};
use orrery_hub::audit::{Action, Event};
use orrery_hub::config::{GroupSpec, RoleSpec};
use orrery_hub::housekeeping;
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::spawners::{self, NewSpawner, SpawnerChanges};
use serde_json::{Value, json};

use crate::pages::Browser;
use crate::test_hub::{PASSWORD, TestHub};

/// Ada and Bob, who are users, and Root, who is an administrator.
async fn site() -> TestHub {
    TestHub::configured(|config| config.hub.allow_named_servers = true)
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_admin("root")
        .await
}

/// The events of these actions, newest first, as an administrator sees them.
async fn events(hub: &TestHub, actions: &str) -> Vec<Value> {
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
async fn a_login_and_a_logout_are_recorded_with_who_and_how() {
    let hub = site().await;
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
async fn fail(hub: &TestHub, name: &str, address: &str) {
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
    let hub = site().await;
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
    let hub = site().await;
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
    let hub = site().await;
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
    let hub = site().await;
    Browser::of(&hub, "zoe").await;
    let created = events(&hub, "user.create").await;
    assert_eq!(only(&created)["target"], user("zoe"));
    assert_eq!(only(&created)["via"], "authenticator");
}

#[tokio::test]
async fn tokens_are_recorded_by_their_ids_and_never_themselves() {
    let hub = site().await;
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
async fn groups_are_recorded_with_whom_they_concern() {
    let hub = site().await;
    let root = hub.token("root").await;
    hub.post("/groups/crew", &root, json!({"users": ["ada"]}))
        .await
        .ok(201);
    hub.post("/groups", &root, json!({"groups": ["choir"]}))
        .await
        .ok(201);
    hub.post("/groups/crew/users", &root, json!({"users": ["bob"]}))
        .await
        .ok(200);
    let body = Some(json!({"users": ["ada"]}));
    hub.send("DELETE", "/groups/crew/users", &root, body)
        .await
        .ok(200);
    let body = Some(json!({"quota": 3}));
    hub.send("PUT", "/groups/crew/properties", &root, body)
        .await
        .ok(200);
    hub.delete("/groups/crew", &root).await.empty(204);
    let found = events(&hub, "group.*").await;
    let found: Vec<_> = found
        .iter()
        .map(|event| {
            let name = event["target"]["name"].as_str().expect("a name");
            (
                event["action"].as_str().expect("a name"),
                name,
                event["details"]["users"].clone(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("group.delete", "crew", Value::Null),
            ("group.properties", "crew", Value::Null),
            ("group.remove", "crew", json!(["ada"])),
            ("group.add", "crew", json!(["bob"])),
            ("group.create", "choir", json!([])),
            ("group.create", "crew", json!(["ada"])),
        ]
    );
}

#[tokio::test]
async fn services_the_proxy_and_the_end_are_recorded() {
    let hub = site().await;
    let root = hub.token("root").await;
    let body = json!({"api_token": "a-token-of-its-own-0123456789", "admin": true});
    hub.post("/services/cull", &root, body).await.ok(201);
    assert_eq!(hub.delete("/services/cull", &root).await.status, 200);
    assert_eq!(hub.send("POST", "/proxy", &root, None).await.status, 200);
    hub.send("PATCH", "/proxy", &root, Some(json!({}))).await;
    hub.post("/shutdown", &root, json!({"servers": true, "proxy": false}))
        .await
        .ok(202);
    let service = json!({"kind": "service", "name": "cull"});
    let created = events(&hub, "service.create").await;
    assert_eq!(only(&created)["target"], service);
    assert_eq!(only(&created)["details"], json!({"admin": true}));
    assert_eq!(
        only(&events(&hub, "service.delete").await)["target"],
        service
    );
    let changes: Vec<_> = events(&hub, "proxy.change").await;
    let changes: Vec<_> = changes
        .iter()
        .map(|event| &event["details"]["change"])
        .collect();
    assert_eq!(changes, ["relocate", "check"]);
    assert_eq!(
        only(&events(&hub, "shutdown").await)["details"],
        json!({"servers": true, "proxy": false})
    );
}

#[tokio::test]
async fn what_others_do_to_a_server_is_recorded_and_what_its_owner_does_is_not() {
    let hub = site().await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    for (token, server) in [(&ada, "own"), (&root, "lab")] {
        let path = &format!("/users/ada/servers/{server}");
        let put = hub.send("PUT", path, token, Some(json!({}))).await;
        assert_eq!(put.status, 201, "{}", put.text());
        hub.patch(path, token, json!({"display_name": "Lab"}))
            .await
            .ok(200);
        let start = hub.post(path, token, json!({})).await;
        assert!(
            [201, 202].contains(&start.status.as_u16()),
            "{}",
            start.text()
        );
        let remove = Some(json!({"remove": true}));
        let stop = hub.send("DELETE", path, token, remove).await;
        assert_eq!(stop.status, 204, "{}", stop.text());
    }
    let found = events(&hub, "server.*").await;
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(
        names,
        ["server.stop", "server.start", "server.edit", "server.edit"]
    );
    for event in &found {
        assert_eq!(event["actor"], user("root"));
        assert_eq!(
            (&event["owner"], &event["server"]),
            (&json!("ada"), &json!("lab"))
        );
        assert_eq!(
            event["target"],
            json!({"kind": "server", "name": "ada/lab"})
        );
    }
    assert_eq!(found[0]["details"], json!({"remove": true}));
    // By the page as well.
    let browser = Browser::of(&hub, "root").await;
    browser.get("/hub/spawn/bob").await;
    assert_eq!(events(&hub, "server.start").await.len(), 2);
}

/// Makes a server with an OAuth client, as a start does; gives the address that asks for its code.
async fn server_client(hub: &TestHub, owner: &str) -> String {
    let identifier = format!("jupyterhub-user-{owner}");
    let client = &NewOauthClient {
        identifier: identifier.clone(),
        description: format!("Server at /user/{owner}/"),
        secret: "a hash".to_owned(),
        redirect_uri: format!("/user/{owner}/oauth_callback"),
        allowed_scopes: vec!["inherit".to_owned()],
    };
    let user_id = hub.user(owner).await.id;
    hub.state
        .store
        .write(|transaction| async move {
            oauth_clients::insert(&transaction, client).await?;
            let new = NewSpawner {
                user_id,
                ..NewSpawner::default()
            };
            let spawner = spawners::insert(&transaction, &new).await?;
            let changes = SpawnerChanges {
                oauth_client_id: Some(Some(client.identifier.clone())),
                ..SpawnerChanges::default()
            };
            spawners::update(&transaction, spawner.id, &changes)
                .await
                .map(|_| ())
        })
        .await
        .expect("a server with a client");
    format!(
        "/hub/api/oauth2/authorize?client_id={identifier}&redirect_uri=%2Fuser%2F{owner}%2Foauth_callback&response_type=code"
    )
}

#[tokio::test]
async fn opening_somebody_elses_server_is_recorded_and_its_owner_sees_it() {
    let hub = site().await;
    let path = server_client(&hub, "ada").await;
    // Their own: nothing to tell.
    let ada = Browser::of(&hub, "ada").await;
    assert_eq!(ada.get(&path).await.status, 302);
    let root = Browser::of(&hub, "root").await;
    assert_eq!(root.get(&path).await.status, 200, "the page that asks");
    assert!(events(&hub, "server.access").await.is_empty());
    let agreed = root.post(&path, "scopes=inherit").await;
    assert_eq!(agreed.status, 302, "{}", agreed.text());
    // Bob may not, and that is seen as well.
    let bob = Browser::of(&hub, "bob").await;
    assert_eq!(bob.get(&path).await.status, 403);

    let found = events(&hub, "server.access").await;
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(
        (&found[0]["actor"], &found[0]["outcome"]),
        (&user("bob"), &json!("denied"))
    );
    assert_eq!(
        (&found[1]["actor"], &found[1]["outcome"]),
        (&user("root"), &json!("ok"))
    );
    assert_eq!(
        (&found[1]["owner"], &found[1]["server"]),
        (&json!("ada"), &json!(""))
    );
    assert!(
        events(&hub, "denied").await.is_empty(),
        "it is recorded once"
    );

    let own = hub
        .get("/users/ada/accesses", &hub.token("ada").await)
        .await
        .ok(200);
    let own = own["items"].as_array().expect("a list");
    let who: Vec<_> = own.iter().map(|access| &access["actor"]["name"]).collect();
    assert_eq!(who, ["bob", "root"]);
    assert!(own[0].get("token_id").is_none());
    // Whoever sees servers does not see who else opens them.
    let watcher = hub
        .service("watcher", &["read:servers", "access:servers"])
        .await;
    hub.get("/users/ada/accesses", &watcher).await.refused(403);
    hub.get("/users/ada/accesses", &hub.token("bob").await)
        .await
        .refused(404);
    let auditor = hub.service("auditor", &["read:audit"]).await;
    let seen = hub.get("/users/ada/accesses", &auditor).await.ok(200);
    assert_eq!(seen["items"].as_array().map(Vec::len), Some(2));
    // On the pages.
    let home = ada.get("/hub/home").await.text();
    assert!(home.contains("Who opened your servers") && home.contains("Tried to open it"));
    let page = ada.get("/hub/accesses").await.text();
    assert!(page.contains("root") && page.contains("bob"));
    assert!(!bob.get("/hub/home").await.text().contains("Who opened"));
    assert_eq!(ada.get("/hub/audit").await.status, 403);
    let log = root.get("/hub/audit?action=server.access").await;
    assert_eq!(log.text().matches("audit-row").count(), 2, "{}", log.text());
    assert!(root.get("/hub/home").await.text().contains("/hub/audit"));
}

#[tokio::test]
async fn accesses_go_with_the_person_and_not_with_the_name() {
    let hub = site().await;
    let root = hub.token("root").await;
    let open = async |owner: &str, server: &str| {
        let path = format!("/users/{owner}/servers/{server}");
        let put = hub.send("PUT", &path, &root, Some(json!({}))).await;
        assert_eq!(put.status, 201, "{}", put.text());
    };
    let seen = async |user: &str| {
        let list = hub.get(&format!("/users/{user}/accesses"), &root).await;
        let list = list.ok(200)["items"].take();
        let names = list.as_array().expect("a list").iter();
        names
            .map(|row| row["server"].as_str().expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    let rename = async |from: &str, to: &str| {
        let path = format!("/users/{from}");
        hub.patch(&path, &root, json!({ "name": to })).await.ok(200);
    };
    open("ada", "first").await;
    rename("ada", "lovelace").await;
    open("lovelace", "second").await;
    assert_eq!(seen("lovelace").await, ["second", "first"]);
    // Bob, who was there all the time, gets the name that is free now.
    open("bob", "bobs").await;
    rename("bob", "ada").await;
    open("ada", "third").await;
    assert_eq!(seen("ada").await, ["third", "bobs"]);
    assert_eq!(seen("lovelace").await, ["second", "first"]);
    let page = Browser::of(&hub, "ada").await.get("/hub/accesses").await;
    let page = page.text();
    assert!(page.contains("third") && page.contains("bobs"), "{page}");
    assert!(!page.contains("first"), "{page}");
    // Somebody new of the same name.
    let answer = hub.delete("/users/ada", &root).await;
    answer.empty(204);
    hub.post("/users/ada", &root, json!({})).await.ok(201);
    assert!(seen("ada").await.is_empty());
    open("ada", "fourth").await;
    assert_eq!(seen("ada").await, ["fourth"]);
}

#[tokio::test]
async fn shares_and_codes_are_recorded_and_codes_themselves_are_not() {
    let hub = site().await;
    let root = hub.token("root").await;
    hub.send("PUT", "/users/ada/servers/lab", &root, Some(json!({})))
        .await
        .ok(201);
    hub.post("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.patch("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.post("/shares/ada/lab", &root, json!({"user": "bob"}))
        .await
        .ok(200);
    hub.delete("/users/bob/shared/ada/lab", &root)
        .await
        .empty(204);
    hub.delete("/shares/ada/lab", &root).await.empty(204);
    let code = hub
        .post("/share-codes/ada/lab", &root, json!({}))
        .await
        .ok(200);
    hub.delete("/share-codes/ada/lab", &root).await.empty(204);
    let mut found = events(&hub, "share.*").await;
    found.extend(events(&hub, "share_code.*").await);
    let names: Vec<_> = found.iter().map(|event| &event["action"]).collect();
    assert_eq!(
        names,
        [
            "share.revoke",
            "share.leave",
            "share.create",
            "share.revoke",
            "share.create",
            "share_code.revoke",
            "share_code.create",
        ]
    );
    for event in &found {
        assert_eq!(
            (&event["owner"], &event["server"]),
            (&json!("ada"), &json!("lab")),
            "{event}"
        );
    }
    assert_eq!(found[4]["details"]["user"], "bob");
    let text = json!(found).to_string();
    assert!(!text.contains(code["code"].as_str().expect("a code")));
}

#[tokio::test]
async fn refusals_are_recorded_with_the_route_and_not_with_the_path() {
    let hub = site().await;
    let ada = hub.token("ada").await;
    hub.get("/users/bob", &ada).await.refused(404);
    hub.post("/groups/crew", &ada, json!({})).await.refused(403);
    hub.get("/users", "").await.refused(403);
    hub.get("/authorizations/token/secret-in-the-path", "")
        .await
        .refused(403);
    // Equal ones share a row.
    for _ in 0..20 {
        hub.get("/users/bob", &ada).await.refused(404);
    }
    let found = events(&hub, "denied").await;
    let routes: Vec<_> = found
        .iter()
        .map(|event| &event["details"]["route"])
        .collect();
    assert_eq!(
        routes,
        [
            "/hub/api/authorizations/token/{token}",
            "/hub/api/users",
            "/hub/api/groups/{group}",
            "/hub/api/users/{user}",
        ]
    );
    assert_eq!(
        (&found[3]["actor"], &found[3]["target"]),
        (&user("ada"), &user("bob"))
    );
    assert_eq!(found[2]["target"], json!({"kind": "group", "name": "crew"}));
    assert_eq!(found[1]["actor"], Value::Null);
    assert!(found.iter().all(|event| event["outcome"] == "denied"));
    assert!(!json!(found).to_string().contains("secret-in-the-path"));
}

#[tokio::test]
async fn a_request_from_another_site_is_recorded() {
    let hub = site().await;
    let browser = Browser::of(&hub, "ada").await;
    let request = Request::post("/hub/spawn")
        .header(header::HOST, "hub.example")
        .header(header::COOKIE, browser.cookie_header())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("sec-fetch-site", "cross-site")
        .body(Body::from("x=1"))
        .expect("a request");
    assert_eq!(hub.raw(request).await.status, 403);
    let found = events(&hub, "denied").await;
    assert_eq!(only(&found)["actor"], user("ada"));
    assert_eq!(only(&found)["details"]["method"], "POST");
}

#[tokio::test]
async fn stored_login_state_is_not_read_or_replaced_unseen() {
    let hub = TestHub::configured(|config| {
        config.authenticator.enable_auth_state = true;
        let key = orrery_core::fernet::Key::parse(&[b'a'; 64]).expect("a key");
        config.crypt_keeper.keys = vec![orrery_hub::config::CryptKey(key)];
    })
    .await
    .with_user("ada")
    .await
    .with_admin("root")
    .await;
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

#[tokio::test]
async fn what_the_configuration_changes_is_recorded_once() {
    let change = |config: &mut orrery_hub::config::Config| {
        config.authenticator.admin_users.insert("olga".to_owned());
        let crew = GroupSpec {
            users: vec!["olga".to_owned()],
            ..GroupSpec::default()
        };
        config.hub.load_groups.insert("crew".to_owned(), crew);
        config.hub.load_roles.push(RoleSpec {
            name: "teacher".to_owned(),
            description: None,
            scopes: Some(vec!["list:users".to_owned()]),
            users: None,
            services: None,
            groups: Some(vec!["crew".to_owned()]),
        });
    };
    let hub = TestHub::configured(change).await.with_admin("root").await;
    let all = "user.*,group.*,role.*,token.*";
    let found = events(&hub, all).await;
    let mut names: Vec<_> = found
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "group.add",
            "group.create",
            "role.assign",
            "role.define",
            "user.create"
        ]
    );
    for event in &found {
        assert_eq!(event["actor"], json!({"kind": "hub", "name": ""}));
        assert_eq!(event["via"], "config");
    }
    // The same again changes nothing.
    hub.reload(|_| {}).await.expect("a reload");
    assert_eq!(events(&hub, all).await.len(), found.len());
    hub.reload(|config| config.hub.load_roles.clear())
        .await
        .expect("a reload");
    assert_eq!(
        only(&events(&hub, "role.delete").await)["target"]["name"],
        "teacher"
    );
}

#[tokio::test]
async fn only_holders_of_the_scope_read_the_log_and_administrators_are() {
    let hub = site().await;
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
    let hub = site().await;
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
    let hub = site().await;
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
    let hub = site().await;
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
    let opening = server_client(&hub, "ada").await;
    browser.get(&opening).await;
    let other = Browser::of(&hub, "root").await;
    let code = other.post(&opening, "scopes=inherit").await;
    let code = code.headers[header::LOCATION]
        .to_str()
        .expect("text")
        .to_owned();
    let code = code.split_once("code=").expect("a code").1.to_owned();
    fail(&hub, "pass-word-as-name", "192.0.2.1").await;
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
    let hub = site().await;
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
