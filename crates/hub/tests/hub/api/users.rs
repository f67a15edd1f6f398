//! `/hub/api/users` and `/hub/api/users/{user}`.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::phase::Phase;
use orrery_store::runs;
use serde_json::{Value, json};

use crate::test_hub::{Answer, TestHub};

fn names(answer: &Answer) -> Vec<String> {
    let list = answer.ok(200);
    list.as_array()
        .expect("a list")
        .iter()
        .map(|user| user["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn a_list_shows_whom_the_requester_may_list() {
    let hub = TestHub::new().await.with_admin("root").await;
    let hub = hub
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_user("eve")
        .await;
    let hub = hub.with_group("staff", &["ada", "eve"]).await;
    let list = async |token: String| names(&hub.get("/users", &token).await);
    assert_eq!(
        list(hub.token("root").await).await,
        ["root", "ada", "bob", "eve"]
    );
    assert_eq!(
        list(hub.service("one", &["list:users!user=bob"]).await).await,
        ["bob"]
    );
    assert_eq!(
        list(hub.service("group", &["list:users!group=staff"]).await).await,
        ["ada", "eve"]
    );
    assert_eq!(
        list(
            hub.service("both", &["list:users!group=staff", "list:users!user=bob"])
                .await
        )
        .await,
        ["ada", "bob", "eve"]
    );
    let odd = hub.service("odd", &["list:users!server=ada/"]).await;
    hub.get("/users", &odd).await.refused(403);
    let ada = hub.token("ada").await;
    let message = hub.get("/users", &ada).await.refused(403);
    assert_eq!(
        message,
        "Action is not authorized with current scopes; requires any of [list:users]"
    );
}

#[tokio::test]
async fn a_list_shows_only_the_fields_that_the_scopes_show() {
    let hub = TestHub::new().await.with_user("ada").await;
    let service = hub.service("names", &["list:users"]).await;
    let list = hub.get("/users", &service).await.ok(200);
    assert_eq!(
        list,
        json!([{"kind": "user", "name": "ada", "admin": false, "user_info": null}])
    );
}

#[tokio::test]
async fn a_list_is_sorted_filtered_and_cut_into_pages() {
    let hub = TestHub::new().await.with_admin("root").await;
    let hub = hub
        .with_user("cleo")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    let list = async |query: &str| names(&hub.get(&format!("/users?{query}"), &root).await);
    assert_eq!(list("sort=name").await, ["ada", "bob", "cleo", "root"]);
    assert_eq!(list("sort=-name&limit=2").await, ["root", "cleo"]);
    assert_eq!(list("offset=1&limit=2").await, ["cleo", "ada"]);
    assert_eq!(list("name_filter=O").await, ["root", "cleo", "bob"]);
    assert_eq!(list("limit=0").await.len(), 1);
    for (query, message) in [
        (
            "sort=age",
            "sort must be 'id', 'name', or 'last_activity', not 'age'",
        ),
        ("state=odd", "Unrecognized state filter: 'odd'"),
        (
            "limit=x",
            "Invalid argument type, offset and limit must be integers",
        ),
        (
            "offset=",
            "Invalid argument type, offset and limit must be integers",
        ),
    ] {
        assert_eq!(
            hub.get(&format!("/users?{query}"), &root)
                .await
                .refused(400),
            message
        );
    }

    let request = Request::get("/hub/api/users?limit=3&sort=name&name_filter=")
        .header(header::AUTHORIZATION, format!("token {root}"))
        .header(header::ACCEPT, "application/jupyterhub-pagination+json")
        .header(header::HOST, "hub.example")
        .body(Body::empty())
        .expect("a request");
    let page = hub.raw(request).await.ok(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        page["_pagination"],
        json!({
            "offset": 0, "limit": 3, "total": 4,
            "next": {
                "offset": 3, "limit": 3,
                "url": "http://hub.example/hub/api/users?limit=3&sort=name&name_filter=&offset=3"
            }
        })
    );
}

#[tokio::test]
async fn users_are_listed_by_whether_they_have_servers() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    hub.send("POST", "/users/ada/server", &root, None)
        .await
        .empty(201);
    hub.post(
        "/users/bob/server",
        &root,
        json!({"user_options": {"behave": "fail"}}),
    )
    .await
    .refused(500);
    let list = async |query: &str| names(&hub.get(&format!("/users?{query}"), &root).await);
    assert_eq!(list("state=active").await, ["ada"]);
    assert_eq!(list("state=ready").await, ["ada"]);
    assert_eq!(list("state=inactive").await, ["root", "bob"]);
    let all = hub
        .get("/users?include_stopped_servers=1", &root)
        .await
        .ok(200);
    let servers = |index: usize| all[index]["servers"].as_object().expect("servers").len();
    assert_eq!((servers(0), servers(1), servers(2)), (1, 1, 1), "{all}");
    assert_eq!(all[1]["servers"][""]["ready"], true);
    assert_eq!(all[2]["servers"][""]["stopped"], true);
}

#[tokio::test]
async fn users_are_created_once() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let created = hub
        .post("/users", &root, json!({"usernames": ["Ada", "bob"]}))
        .await
        .ok(201);
    let created: Vec<&Value> = created
        .as_array()
        .expect("a list")
        .iter()
        .map(|user| &user["name"])
        .collect();
    assert_eq!(created, ["ada", "bob"]);
    let created = hub
        .post(
            "/users",
            &root,
            json!({"usernames": ["ada", "eve"], "admin": true}),
        )
        .await
        .ok(201);
    assert_eq!(
        (created[0]["name"].as_str(), created[0]["admin"].as_bool()),
        (Some("eve"), Some(true))
    );
    assert_eq!(created[0]["roles"], json!(["user", "admin"]));
    for (body, status, message) in [
        (
            json!({"usernames": ["ada", "bob"]}),
            409,
            "All 2 users already exist",
        ),
        (json!({"usernames": ["a/b"]}), 400, "Invalid username: a/b"),
        (
            json!({"usernames": ["a/b", ""]}),
            400,
            "Invalid usernames: a/b, ",
        ),
        (
            json!({"usernames": []}),
            400,
            "Must specify at least one user to create",
        ),
        (
            json!({"usernames": "ada"}),
            400,
            "usernames must be a list, not <class 'str'>",
        ),
        (
            json!({"usernames": [1]}),
            400,
            "usernames must be str, not <class 'int'>",
        ),
        (
            json!({"usernames": ["x"], "y": 1}),
            400,
            "Invalid JSON keys: {'y': 1}",
        ),
        (json!(null), 400, "Must specify at least one user to create"),
    ] {
        assert_eq!(
            hub.post("/users", &root, body.clone())
                .await
                .refused(status),
            message,
            "{body}"
        );
    }
    let one = hub.send("POST", "/users/dan", &root, None).await.ok(201);
    assert_eq!(one["name"], "dan");
    assert_eq!(
        hub.send("POST", "/users/dan", &root, None)
            .await
            .refused(409),
        "User dan already exists"
    );
    assert_eq!(
        hub.send("POST", "/users/%20x", &root, None)
            .await
            .refused(400),
        "Failed to create user:  x"
    );
    hub.send("POST", &format!("/users/{}", "x".repeat(300)), &root, None)
        .await
        .refused(400);
}

#[tokio::test]
async fn a_filtered_scope_creates_nobody() {
    // GHSA-69wv-m5fw-2fhp: a filter on a collection is not a permission for all of it.
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_group("staff", &["ada"])
        .await;
    let service = hub
        .service(
            "part",
            &[
                "admin:users!user=ada",
                "admin:users!group=staff",
                "admin:groups!group=staff",
            ],
        )
        .await;
    hub.post("/users", &service, json!({"usernames": ["new"]}))
        .await
        .refused(403);
    hub.send("POST", "/users/new", &service, None)
        .await
        .refused(404);
    hub.post("/groups", &service, json!({"groups": ["new"]}))
        .await
        .refused(403);
    hub.send("POST", "/groups/new", &service, None)
        .await
        .refused(404);
    hub.patch("/users/ada", &service, json!({"admin": false}))
        .await
        .ok(200);
}

#[tokio::test]
async fn only_admins_make_and_edit_admins() {
    // CVE-2024-41942: `admin:users` alone must not lead to the administrator's rights.
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let manager = hub.service("manager", &["admin:users"]).await;
    let grant = "Only admins can grant admin permissions";
    assert_eq!(
        hub.post(
            "/users",
            &manager,
            json!({"usernames": ["x"], "admin": true})
        )
        .await
        .refused(403),
        grant
    );
    assert_eq!(
        hub.post("/users/x", &manager, json!({"admin": true}))
            .await
            .refused(403),
        grant
    );
    assert_eq!(
        hub.patch("/users/ada", &manager, json!({"admin": true}))
            .await
            .refused(403),
        grant
    );
    for body in [json!({"admin": false}), json!({"name": "mine"})] {
        let message = hub.patch("/users/root", &manager, body).await.refused(403);
        assert_eq!(message, "Only admins can modify other admins");
    }
    hub.patch("/users/bob", &manager, json!({"name": "bobby"}))
        .await
        .ok(200);
    let root = hub.token("root").await;
    let edited = hub
        .patch("/users/ada", &root, json!({"admin": true}))
        .await
        .ok(200);
    assert_eq!(edited["roles"], json!(["user", "admin"]));
    let edited = hub
        .patch("/users/ada", &root, json!({"admin": false}))
        .await
        .ok(200);
    assert_eq!(
        (&edited["roles"], &edited["auth_state"]),
        (&json!(["user"]), &json!(null))
    );
}

#[tokio::test]
async fn users_are_renamed_to_free_and_valid_names() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let root = hub.token("root").await;
    for (body, message) in [
        (
            json!({"name": "bob"}),
            "User bob already exists, username must be unique",
        ),
        (json!({"name": "a/b"}), "Invalid username: 'a/b'"),
        (
            json!({"name": 5}),
            "user.name must be <class 'str'>, not: <class 'int'>",
        ),
        (json!(null), "Invalid JSON data: None"),
    ] {
        assert_eq!(
            hub.patch("/users/ada", &root, body).await.refused(400),
            message
        );
    }
    assert_eq!(
        hub.patch("/users/ada", &root, json!({"name": "Cleo"}))
            .await
            .ok(200)["name"],
        "cleo"
    );
    hub.get("/users/ada", &root).await.refused(404);
    assert_eq!(
        hub.patch("/users/cleo", &root, json!({"name": "cleo"}))
            .await
            .ok(200)["name"],
        "cleo"
    );
}

#[tokio::test]
async fn what_may_not_be_seen_and_what_does_not_exist_answer_alike() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let ada = hub.token("ada").await;
    for path in ["/users/bob", "/users/nobody"] {
        assert_eq!(
            hub.get(path, &ada).await.refused(404),
            "No access to resources or resources not found"
        );
    }
    let root = hub.token("root").await;
    hub.get("/users/nobody", &root).await.refused(404);
    let model = hub.get("/users/bob", &root).await.ok(200);
    assert_eq!(
        (&model["name"], &model["auth_state"]),
        (&json!("bob"), &json!(null))
    );
    assert!(
        hub.get("/users/ada", &ada)
            .await
            .ok(200)
            .get("auth_state")
            .is_none()
    );
}

#[tokio::test]
async fn a_user_is_deleted_with_their_servers_but_not_by_themselves() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let (root, ada) = (hub.token("root").await, hub.token("ada").await);
    assert_eq!(
        hub.delete("/users/root", &root).await.refused(400),
        "Cannot delete yourself!"
    );
    hub.delete("/users/ada", &ada).await.refused(403);
    hub.send("POST", "/users/ada/server", &ada, None)
        .await
        .empty(201);
    hub.delete("/users/ada", &root).await.empty(204);
    hub.get("/users/ada", &root).await.refused(404);
    assert_eq!(
        hub.state.servers.counts().await.expect("counts").active(),
        0
    );
    hub.delete("/users/ada", &root).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_during_a_delete_left_servers_that_nobody_stopped() {
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let active = [
        Phase::Queued,
        Phase::Starting,
        Phase::Ready,
        Phase::Stopping,
    ];
    for round in 0..6 {
        let path = format!("/users/ada-{round}");
        hub.post(&path, &root, json!({})).await.ok(201);
        let start = async || {
            let path = format!("{path}/server");
            loop {
                let answer = hub.post(&path, &root, json!({})).await;
                let status = answer.status.as_u16();
                if status == 404 {
                    return;
                }
                // As upstream answers when a start is cancelled by a stop.
                let cancelled = ["was stopped before", "was cancelled"];
                assert!(
                    [201, 202, 400].contains(&status)
                        || (status == 500
                            && cancelled.iter().any(|part| answer.text().contains(part))),
                    "{status}: {}",
                    answer.text()
                );
            }
        };
        let delete = async {
            loop {
                let answer = hub.delete(&path, &root).await;
                match answer.status.as_u16() {
                    204 => return,
                    400 | 409 => assert!(answer.refused(answer.status.as_u16()).contains("server")),
                    status => panic!("{status}"),
                }
            }
        };
        let all = async { tokio::join!(start(), start(), start(), delete) };
        tokio::time::timeout(Duration::from_secs(60), all)
            .await
            .expect("the user is deleted in time");
        let left = runs::list(hub.state.store.read(), &active).await.unwrap();
        assert_eq!(left, []);
    }
}
