//! Events of groups, services, the proxy and the configuration, and of requests that were refused.

use axum::body::Body;
use axum::http::{Request, header};
use orrery_hub::config::{GroupSpec, RoleSpec};
use serde_json::{Value, json};

use super::{events, only, some_people, user};
use crate::pages::Browser;
use crate::test_hub::TestHub;

#[tokio::test]
async fn groups_are_recorded_with_whom_they_concern() {
    let hub = some_people().await;
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
    let hub = some_people().await;
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
async fn refusals_are_recorded_with_the_route_and_not_with_the_path() {
    let hub = some_people().await;
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
    let hub = some_people().await;
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
