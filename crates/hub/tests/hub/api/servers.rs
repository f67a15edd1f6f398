//! `/hub/api/users/{user}/server`, `…/servers/{server}` and their progress.

use axum::http::header;
use serde_json::{Value, json};

use crate::test_hub::{Answer, PATIENCE, TestHub};

async fn hub() -> (TestHub, String) {
    let hub = TestHub::configured(|config| {
        config.hub.allow_named_servers = true;
        config.hub.named_server_limit_per_user = 2;
    });
    let hub = hub.await.with_user("ada").await.with_user("bob").await;
    let ada = hub.token("ada").await;
    (hub, ada)
}

fn events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-cache");
    answer
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn the_default_server_starts_and_stops() {
    let (hub, ada) = hub().await;
    let stopped = hub.get("/users/ada/server", &ada).await.ok(200);
    assert_eq!(
        stopped,
        json!({
            "name": "", "display_name": "", "full_name": "ada/", "last_activity": null, "started": null,
            "pending": null, "ready": false, "stopped": true, "url": "/user/ada/", "user_options": {},
            "progress_url": "/hub/api/users/ada/server/progress", "full_url": null, "full_progress_url": null
        })
    );
    let answer = hub
        .post("/users/ada/server", &ada, json!({"size": "small"}))
        .await;
    answer.empty(201);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain");
    let server = hub.get("/users/ada/servers/", &ada).await.ok(200);
    assert_eq!(
        (&server["ready"], &server["stopped"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(server["user_options"], json!({"size": "small"}));
    assert!(
        server["started"].is_string() && server.get("state").is_none(),
        "{server}"
    );
    let message = hub
        .send("POST", "/users/ada/server", &ada, None)
        .await
        .refused(400);
    assert_eq!(message, "ada is already running");

    let told = events(&hub.get("/users/ada/server/progress", &ada).await);
    let expected = json!([{
        "progress": 100,
        "ready": true,
        "message": "Server ready at /user/ada/",
        "html_message": "Server ready at <a href=\"/user/ada/\">/user/ada/</a>",
        "url": "/user/ada/"
    }]);
    assert_eq!(json!(told), expected);

    hub.delete("/users/ada/server", &ada).await.empty(204);
    hub.delete("/users/ada/server", &ada).await.empty(204);
    assert_eq!(
        hub.get("/users/ada/server", &ada).await.ok(200)["stopped"],
        true
    );
    assert_eq!(
        hub.get("/users/ada/server/progress", &ada)
            .await
            .refused(400),
        "ada is not starting..."
    );
}

#[tokio::test]
async fn a_named_server_is_made_edited_started_and_removed() {
    let (hub, ada) = hub().await;
    let body = json!({"display_name": "My lab", "user_options": {"a": 1}});
    let made = hub
        .send("PUT", "/users/ada/servers/lab", &ada, Some(body))
        .await
        .ok(201);
    assert_eq!(
        (&made["name"], &made["display_name"], &made["user_options"]),
        (&json!("lab"), &json!("My lab"), &json!({"a": 1}))
    );
    assert_eq!(
        made["progress_url"],
        "/hub/api/users/ada/servers/lab/progress"
    );
    let again = hub
        .send("PUT", "/users/ada/servers/lab", &ada, None)
        .await
        .refused(409);
    assert_eq!(again, "User ada already has server lab");
    let default = hub
        .send("PUT", "/users/ada/servers/", &ada, None)
        .await
        .refused(409);
    assert_eq!(default, "User ada already has a default server");
    assert_eq!(
        hub.get("/users/ada/servers/lab/progress", &ada)
            .await
            .refused(400),
        "ada:lab is not starting..."
    );
    hub.get("/users/ada/servers/none/progress", &ada)
        .await
        .refused(404);
    hub.get("/users/ada/servers/none", &ada).await.refused(404);

    let edited = hub
        .patch(
            "/users/ada/servers/lab",
            &ada,
            json!({"name": "den", "user_options": {"b": 2}}),
        )
        .await
        .ok(200);
    assert_eq!(
        (&edited["name"], &edited["display_name"], &edited["url"]),
        (&json!("den"), &json!("My lab"), &json!("/user/ada/den/"))
    );
    assert_eq!(edited["user_options"], json!({"b": 2}));
    hub.get("/users/ada/servers/lab", &ada).await.refused(404);

    hub.send("POST", "/users/ada/servers/den", &ada, None)
        .await
        .empty(201);
    let message = hub
        .patch(
            "/users/ada/servers/den",
            &ada,
            json!({"display_name": "Den"}),
        )
        .await
        .refused(400);
    assert_eq!(
        message,
        "ada:den is active. Please stop it before modifying it."
    );
    let user = hub.get("/users/ada", &ada).await.ok(200);
    assert_eq!(user["servers"]["den"]["user_options"], json!({"b": 2}));
    hub.send(
        "DELETE",
        "/users/ada/servers/den",
        &ada,
        Some(json!({"remove": true})),
    )
    .await
    .empty(204);
    let gone = async {
        while hub.get("/users/ada/servers/den", &ada).await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the server is removed");
}

#[tokio::test]
async fn requests_for_servers_that_cannot_be_are_refused() {
    let (hub, ada) = hub().await;
    for name in ["one", "two"] {
        hub.send("PUT", &format!("/users/ada/servers/{name}"), &ada, None)
            .await
            .ok(201);
    }
    let full = "User ada already has the maximum of 2 named servers.  One must be deleted before a new server can be created";
    let cases = [
        ("POST", "/users/ada/servers/three", json!(null), 400, full),
        ("PUT", "/users/ada/servers/three", json!(null), 400, full),
        (
            "POST",
            "/users/ada/servers/one",
            json!([1]),
            400,
            "Body must be a JSON object",
        ),
        (
            "POST",
            "/users/ada/servers/one",
            json!({"display_name": 3}),
            400,
            "display_name must be a string",
        ),
        (
            "POST",
            "/users/ada/servers/one",
            json!({"user_options": 3}),
            400,
            "user_options must be an object or null",
        ),
        (
            "DELETE",
            "/users/ada/servers/none",
            json!(null),
            404,
            "ada has no server named 'none'",
        ),
        (
            "DELETE",
            "/users/ada/servers/",
            json!({"remove": true}),
            400,
            "Cannot delete the default server",
        ),
        (
            "DELETE",
            "/users/ada/server",
            json!([1]),
            400,
            "Body must be a JSON object",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({}),
            400,
            "Must specify at least one field to modify.",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({"x": 1}),
            400,
            "Unexpected fields: x, supported fields: name,display_name,user_options",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({"user_options": [1]}),
            400,
            "user_options must be a dict",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({"name": "two"}),
            409,
            "User ada already has server 'two'",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({"name": "-x"}),
            400,
            "Invalid server_name: '-x'",
        ),
        (
            "PATCH",
            "/users/ada/servers/none",
            json!({"name": "x"}),
            404,
            "User ada has no such server 'none'",
        ),
        (
            "PATCH",
            "/users/ada/servers/one",
            json!({"display_name": "x\ny"}),
            400,
            "Invalid display_name: 'x\\u{a}y'",
        ),
        (
            "GET",
            "/users/bob/server",
            json!(null),
            404,
            "No access to resources or resources not found",
        ),
        (
            "POST",
            "/users/bob/server",
            json!(null),
            404,
            "No access to resources or resources not found",
        ),
    ];
    for (method, path, body, status, message) in cases {
        let refused = hub
            .send(method, path, &ada, Some(body.clone()))
            .await
            .refused(status);
        if !message.is_empty() {
            assert_eq!(refused, message, "{method} {path} {body}");
        }
    }
    let bob = hub.token("bob").await;
    for name in ["-bad", "UPPER", "a%20b", "a%2Fb", "a%0Ab", &"x".repeat(300)] {
        let message = hub
            .send("POST", &format!("/users/bob/servers/{name}"), &bob, None)
            .await
            .refused(400);
        assert!(
            message.starts_with("Invalid server_name: "),
            "{name}: {message}"
        );
    }
}

#[tokio::test]
async fn named_servers_may_be_switched_off() {
    let hub = TestHub::new().await.with_user("ada").await;
    let ada = hub.token("ada").await;
    for method in ["PUT", "POST", "DELETE"] {
        let message = hub
            .send(method, "/users/ada/servers/lab", &ada, None)
            .await
            .refused(400);
        assert_eq!(message, "Named servers are not enabled.");
    }
}

#[tokio::test]
async fn a_scope_for_one_server_reaches_that_server() {
    let (hub, _) = hub().await;
    let default = hub.service("default", &["servers!server=ada/"]).await;
    hub.send("POST", "/users/ada/server", &default, None)
        .await
        .empty(201);
    hub.get("/users/ada/servers/", &default).await.ok(200);
    events(&hub.get("/users/ada/server/progress", &default).await);
    hub.send("POST", "/users/ada/servers/lab", &default, None)
        .await
        .refused(404);
    let named = hub
        .service(
            "named",
            &[
                "servers!server=ada/lab",
                "admin:server_state!server=ada/lab",
            ],
        )
        .await;
    hub.send("POST", "/users/ada/servers/lab", &named, None)
        .await
        .empty(201);
    assert!(hub.get("/users/ada/servers/lab", &named).await.ok(200)["state"]["port"].is_u64());
    hub.get("/users/ada/server", &named).await.refused(404);
    let nobody = hub.service("nobody", &["servers"]).await;
    hub.get("/users/nobody/server", &nobody).await.refused(404);
}

#[tokio::test]
async fn a_failed_start_says_why_at_once_and_in_its_progress() {
    let (hub, ada) = hub().await;
    let message = hub
        .post(
            "/users/ada/server",
            &ada,
            json!({"user_options": {"behave": "fail"}}),
        )
        .await
        .refused(500);
    assert_eq!(message, "There is no room for this server.");
    let told = events(&hub.get("/users/ada/server/progress", &ada).await);
    let last = told.last().expect("an event");
    assert_eq!(
        (&last["failed"], &last["progress"]),
        (&json!(true), &json!(100))
    );
    assert_eq!(
        last["message"],
        "Spawn failed: There is no room for this server."
    );
    hub.post("/users/ada/server", &ada, json!({"user_options": {}}))
        .await
        .empty(201);
}

#[tokio::test]
async fn a_start_that_hangs_is_cancelled_by_a_stop() {
    let (hub, ada) = hub().await;
    let body = json!({"user_options": {"behave": "hang"}});
    let starting = hub.post("/users/ada/server", &ada, body);
    let cancelling = async {
        let pending = async {
            while hub.get("/users/ada/server", &ada).await.ok(200)["pending"] != "spawn" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, pending)
            .await
            .expect("the server is starting");
        let mut progress = hub.open("/users/ada/server/progress", &ada).await;
        progress.until("Thinking about it").await;
        // A second request does not mind that the first one is under way.
        hub.send("POST", "/users/ada/server", &ada, None)
            .await
            .empty(202);
        hub.delete("/users/ada/server", &ada).await.empty(204);
        progress.until("Spawn cancelled").await;
        progress.end().await;
    };
    let (answer, ()) = tokio::join!(starting, cancelling);
    answer.refused(500);
    let told = events(&hub.get("/users/ada/server/progress", &ada).await);
    assert_eq!(told.last().expect("an event")["message"], "Spawn cancelled");
}

#[tokio::test]
async fn a_start_beyond_the_limit_waits_for_its_turn() {
    let hub = TestHub::configured(|config| config.hub.concurrent_spawn_limit = 1).await;
    let hub = hub.with_user("ada").await.with_user("bob").await;
    let (ada, bob) = (hub.token("ada").await, hub.token("bob").await);
    let pending = async |name: &str, token: &str| {
        let waiting = async {
            while hub
                .get(&format!("/users/{name}/server"), token)
                .await
                .ok(200)["pending"]
                != "spawn"
            {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the server is pending");
    };
    let hanging = hub.post(
        "/users/ada/server",
        &ada,
        json!({"user_options": {"behave": "hang"}}),
    );
    let queueing = async {
        pending("ada", &ada).await;
        hub.send("POST", "/users/bob/server", &bob, None).await
    };
    let freeing = async {
        pending("bob", &bob).await;
        let mut progress = hub.open("/users/bob/server/progress", &bob).await;
        progress.until("yours is next").await;
        hub.delete("/users/ada/server", &ada).await.empty(204);
        progress.until("\"ready\":true").await;
    };
    let (cancelled, queued, ()) = tokio::join!(hanging, queueing, freeing);
    cancelled.refused(500);
    queued.empty(201);
}
