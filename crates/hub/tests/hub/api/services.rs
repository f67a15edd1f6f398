//! `/hub/api/services`.

use serde_json::json;

use crate::test_hub::TestHub;

#[tokio::test]
async fn a_service_is_added_shown_and_removed() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let (root, ada) = (hub.token("root").await, hub.token("ada").await);
    let body =
        json!({"url": "http://127.0.0.1:9", "api_token": "a-token-of-its-own", "info": {"x": 1}});
    hub.post("/services/web", &ada, body.clone())
        .await
        .refused(403);
    let made = hub.post("/services/web", &root, body).await.ok(201);
    let expected = json!({
        "kind": "service", "name": "web", "roles": [], "admin": false, "url": "http://127.0.0.1:9",
        "prefix": "/services/web/", "command": [], "pid": 0, "info": {"x": 1}, "display": true
    });
    assert_eq!(made, expected);
    assert_eq!(hub.get("/services/web", &root).await.ok(200), expected);
    assert_eq!(
        hub.get("/services", &root).await.ok(200),
        json!({ "web": expected })
    );
    assert_eq!(
        hub.get("/user", "a-token-of-its-own").await.ok(200)["name"],
        "web"
    );
    assert_eq!(
        hub.post("/services/web", &root, json!({"admin": false}))
            .await
            .refused(409),
        "Service web already exists"
    );
    let part = hub.service("part", &["list:services!service=web"]).await;
    assert_eq!(
        hub.get("/services", &part).await.ok(200)["web"]["name"],
        "web"
    );
    hub.delete("/services/web", &root).await.empty(200);
    assert_eq!(
        hub.get("/services/web", &root).await.refused(404),
        "No such service: web"
    );
    hub.get("/user", "a-token-of-its-own").await.refused(403);
}

#[tokio::test]
async fn services_get_no_more_than_their_maker_has() {
    let hub = TestHub::new().await;
    let maker = hub.service("maker", &["admin:services"]).await;
    hub.post("/services/x", &maker, json!({"admin": true}))
        .await
        .refused(400);
    hub.post(
        "/services/x",
        &maker,
        json!({"oauth_client_allowed_scopes": ["shutdown"]}),
    )
    .await
    .refused(400);
    let message = hub
        .post("/services/x", &maker, json!({"command": ["sh"]}))
        .await
        .refused(400);
    assert_eq!(message, "Can not create managed service x at runtime");
    assert_eq!(
        hub.send("POST", "/services/x", &maker, None)
            .await
            .refused(400),
        "Invalid service data"
    );
    hub.post("/services/x", &maker, json!({"api_token": "short"}))
        .await
        .refused(400);
    hub.post("/services/x", &maker, json!({"url": "file:///etc"}))
        .await
        .refused(400);
    let message = hub
        .post("/services/x", &maker, json!({"oauth_no_confirm": true}))
        .await
        .refused(400);
    assert_eq!(message, "Failed to create service x");
    let message = hub.delete("/services/maker", &maker).await.refused(405);
    assert_eq!(message, "Service maker is not modifiable at runtime");
}
