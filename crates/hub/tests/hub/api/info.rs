//! `/hub/api/`, `/hub/api/info`, health, metrics, shutdown and bad bodies.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;

use crate::test_hub::TestHub;

#[tokio::test]
async fn the_version_is_for_everybody_and_the_rest_needs_a_scope() {
    let hub = TestHub::new().await.with_user("ada").await;
    let answer = hub.get("/", "").await;
    assert_eq!(answer.ok(200), json!({ "version": "6.1.1" }));
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(hub.get("", "").await.ok(200), json!({ "version": "6.1.1" }));

    assert_eq!(
        hub.get("/info", "").await.refused(403),
        "Missing or invalid credentials."
    );
    let ada = hub.token("ada").await;
    let message = hub.get("/info", &ada).await.refused(403);
    assert_eq!(
        message,
        "Action is not authorized with current scopes; requires any of [read:hub]"
    );
    let service = hub.service("watcher", &["read:hub"]).await;
    let info = hub.get("/info", &service).await.ok(200);
    assert_eq!(info["version"], "6.1.1");
    for field in ["python", "sys_executable"] {
        assert!(info[field].is_string(), "{info}");
    }
    for class in ["spawner", "authenticator"] {
        assert!(
            info[class]["class"].is_string() && info[class]["version"].is_string(),
            "{info}"
        );
    }
}

#[tokio::test]
async fn health_is_empty() {
    let hub = TestHub::new().await;
    hub.get("/health", "").await.empty(200);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_in_json() {
    let hub = TestHub::new().await;
    assert_eq!(hub.get("/nothing/here", "").await.refused(404), "Not Found");
    assert_eq!(
        hub.send("PUT", "/users", "", None).await.refused(405),
        "Method Not Allowed"
    );
    hub.send("OPTIONS", "/users", "", None).await.empty(200);
}

#[tokio::test]
async fn bodies_that_are_not_json_are_refused_everywhere() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let long = "x".repeat(1024 * 1024 + 1);
    for (method, path) in [
        ("POST", "/users"),
        ("POST", "/users/new"),
        ("PATCH", "/users/ada"),
        ("POST", "/users/ada/tokens"),
        ("POST", "/users/ada/activity"),
        ("POST", "/users/ada/server"),
        ("DELETE", "/users/ada/server"),
        ("POST", "/groups"),
        ("POST", "/groups/new"),
        ("POST", "/services/new"),
        ("POST", "/shutdown"),
        ("PATCH", "/proxy"),
    ] {
        for (body, status) in [
            (&b"{not json"[..], 400),
            (b"\xff\xfe\x00", 400),
            (b"{\"a\": \"\xff\"}", 400),
            (b"   ", 400),
            (long.as_bytes(), 413),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(format!("/hub/api{path}"))
                .header(header::AUTHORIZATION, format!("token {root}"))
                .body(Body::from(body.to_vec()))
                .expect("a request");
            let message = hub.raw(request).await.refused(status);
            if status == 400 {
                let sentence = match path {
                    "/proxy" => "Request body must be JSON dict",
                    _ => "Invalid JSON in body of request",
                };
                assert_eq!(message, sentence, "{method} {path}");
            }
        }
        // Of the wrong type, but JSON.
        for body in [
            json!([1, 2]),
            json!("text"),
            json!(3),
            json!(true),
            json!({"usernames": 7, "groups": {"a": 1}}),
        ] {
            let status = hub
                .send(method, path, &root, Some(body.clone()))
                .await
                .status;
            assert!(
                status.is_client_error() || status.is_success(),
                "{method} {path} {body}: {status}"
            );
        }
        if path == "/shutdown" {
            assert!(hub.state.stop.is_cancelled());
        }
    }
}

#[tokio::test]
async fn shutdown_needs_its_scope_and_takes_wishes() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_admin("root")
        .await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    hub.post("/shutdown", &ada, json!({})).await.refused(403);
    let message = hub
        .post("/shutdown", &root, json!({"servers": "no"}))
        .await
        .refused(400);
    assert_eq!(message, "servers must be true or false, got 'no'");
    assert!(!hub.state.stop.is_cancelled());
    let answer = hub
        .post("/shutdown", &root, json!({"servers": false}))
        .await
        .ok(202);
    assert_eq!(answer, json!({ "message": "Shutting down Hub" }));
    assert!(hub.state.stop.is_cancelled());
    assert!(!hub.state.cleanup.servers(true) && hub.state.cleanup.proxy(true));
}

#[tokio::test]
async fn metrics_count_users_servers_and_requests() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let message = hub.get("/metrics", "").await.refused(403);
    assert_eq!(message, "Access to metrics requires scope 'read:metrics'");
    let root = hub.token("root").await;
    hub.send("POST", "/users/ada/server", &root, None)
        .await
        .empty(201);
    let answer = hub.get("/metrics", &root).await;
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = answer.text();
    for line in [
        "jupyterhub_total_users 2",
        "jupyterhub_running_servers 1",
        "jupyterhub_active_users{period=\"24h\"} ",
        "jupyterhub_server_spawn_duration_seconds_count{reason=\"\",status=\"failure\"} 0",
        "jupyterhub_request_duration_seconds_count{code=\"201\",handler=\"jupyterhub.apihandlers.users.UserServerAPIHandler\",method=\"POST\"} 1",
    ] {
        assert!(
            text.lines().any(|found| found.starts_with(line)),
            "{line} is not in\n{text}"
        );
    }
}

#[tokio::test]
async fn the_proxys_routes_are_shown_and_mended() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    hub.get("/proxy", &ada).await.refused(403);
    hub.send("POST", "/proxy", &root, None).await.empty(200);
    let routes = hub.get("/proxy", &root).await.ok(200);
    assert_eq!(routes["/"]["routespec"], "/");
    assert_eq!(routes["/"]["data"]["hub"], true);
    assert_eq!(
        hub.send("PATCH", "/proxy", &root, None).await.refused(400),
        "need JSON body"
    );
    hub.patch("/proxy", &root, json!({"auth_token": "another"}))
        .await
        .refused(409);
    hub.patch("/proxy", &root, json!({"auth_token": "proxy token"}))
        .await
        .empty(200);
}

/// Not all databases can keep or even be asked for such texts.
#[tokio::test]
async fn a_nul_is_refused_wherever_texts_come_in() {
    use base64::Engine as _;
    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    for path in [
        "/users?name_filter=%00",
        "/groups?name_filter=a%00b",
        "/tokens?note=%00",
        "/tokens?user=%00",
        "/sessions?user=%00",
        "/users?%00=x",
    ] {
        let message = hub.get(path, &root).await.refused(400);
        assert!(
            message.contains("holds a NUL character"),
            "{path}: {message}"
        );
    }
    for (sort, key) in [("name", "a\0"), ("last_activity", "-0100-01-01T00:00:00Z")] {
        let cursor = json!({"sort": sort, "key": key, "id": 1}).to_string();
        let cursor = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(cursor);
        let message = hub
            .get(&format!("/users?sort={sort}&cursor={cursor}"), &root)
            .await
            .refused(400);
        assert!(message.starts_with("cursor is none"), "{message}");
    }
    let in_body = "A text in the body of the request holds a NUL character.";
    for body in [
        json!({"note": "\0"}),
        json!({"note": "x", "scopes": ["\0"]}),
        json!({"\0": 1}),
    ] {
        let answer = hub.post("/users/root/tokens", &root, body).await;
        assert_eq!(answer.refused(400), in_body);
    }
    // A backslash and some letters.
    hub.post("/users/root/tokens", &root, json!({"note": "\\u0000"}))
        .await
        .ok(201);
    for path in ["/users/x%00", "/groups/x%00", "/services/x%00"] {
        hub.get(path, &root).await.refused(404);
    }
    hub.get(&format!("/users?name_filter={}", "x".repeat(60_000)), &root)
        .await
        .ok(200);
    hub.get("/sessions?unused_since=-9999-01-01T00:00:00Z", &root)
        .await
        .refused(400);
}
