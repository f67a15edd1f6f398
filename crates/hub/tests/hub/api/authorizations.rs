//! `/hub/api/authorizations`, `/hub/api/shares` and their relatives.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::json;

use crate::test_hub::TestHub;

#[tokio::test]
async fn tokens_and_cookies_are_resolved_for_whoever_has_a_token() {
    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let (root, ada) = (hub.token("root").await, hub.token("ada").await);
    let service = hub.service("old", &[]).await;
    assert_eq!(
        hub.get(&format!("/authorizations/token/{ada}"), &service)
            .await
            .ok(200)["name"],
        "ada"
    );
    hub.get(&format!("/authorizations/token/{ada}"), "")
        .await
        .refused(403);
    hub.get("/authorizations/token/nothing", &service)
        .await
        .refused(404);
    assert!(
        hub.send("POST", "/authorizations/token", "", None)
            .await
            .refused(404)
            .contains("/hub/api/users/:user/tokens")
    );

    let name = orrery_hub::auth::LOGIN_COOKIE;
    let cookie = hub
        .state
        .signer
        .sign(name, b"cookie of ada", hub.state.unix_time());
    let escaped = orrery_core::escape::path_segment(&cookie);
    assert_eq!(
        hub.get(&format!("/authorizations/cookie/{name}/{escaped}"), &root)
            .await
            .ok(200)["name"],
        "ada"
    );
    hub.get(&format!("/authorizations/cookie/{name}/forged"), &root)
        .await
        .refused(404);
    // A cookie does not prove who asks here.
    let request = Request::get(format!("/hub/api/authorizations/token/{ada}"))
        .header(header::COOKIE, format!("{name}={cookie}"))
        .body(Body::empty())
        .expect("a request");
    hub.raw(request).await.refused(403);
}

#[tokio::test]
async fn nothing_is_shared_yet() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let ada = hub.token("ada").await;
    let nothing =
        json!({"items": [], "_pagination": {"offset": 0, "limit": 200, "total": 0, "next": null}});
    for path in ["/shares/ada", "/share-codes/ada", "/users/ada/shared"] {
        assert_eq!(hub.get(path, &ada).await.ok(200), nothing, "{path}");
        hub.get(&path.replace("ada", "bob"), &ada)
            .await
            .refused(404);
    }
    assert_eq!(
        hub.get("/shares/ada/lab", &ada).await.refused(404),
        "No such server: ada/lab"
    );
    let message = hub
        .get("/users/ada/shared/bob/lab", &ada)
        .await
        .refused(404);
    assert_eq!(message, "No such share for user ada on bob/lab");
}
