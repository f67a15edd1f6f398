//! `/hub/api/users/{user}/tokens`.

use orrery_core::Secret;
use orrery_core::config::TokenMap;
use orrery_hub::config::Config;
use orrery_store::api_tokens::{self, Owner};
use serde_json::{Value, json};

use crate::test_hub::{PASSWORD, TestHub};

#[tokio::test]
async fn a_new_token_works_until_it_is_deleted() {
    let hub = TestHub::new().await.with_user("ada").await;
    let ada = hub.token("ada").await;
    let model = hub
        .post(
            "/users/ada/tokens",
            &ada,
            json!({"note": "for a script", "expires_in": 60}),
        )
        .await
        .ok(201);
    let token = model["token"].as_str().expect("the token").to_owned();
    assert_eq!(
        (
            &model["user"],
            &model["kind"],
            &model["note"],
            &model["roles"]
        ),
        (
            &json!("ada"),
            &json!("api_token"),
            &json!("for a script"),
            &json!([])
        )
    );
    assert_eq!(model["oauth_client"], "JupyterHub");
    assert!(
        model["expires_at"].is_string()
            && model["scopes"]
                .as_array()
                .is_some_and(|scopes| scopes.len() == 15)
    );
    assert_eq!(
        hub.get("/user", &token).await.ok(200)["token_id"],
        model["id"]
    );

    let id = model["id"].as_str().expect("an id");
    let shown = hub
        .get(&format!("/users/ada/tokens/{id}"), &ada)
        .await
        .ok(200);
    assert_eq!(shown["id"], id);
    assert!(
        shown.get("token").is_none(),
        "the secret is shown once only"
    );
    let all = hub.get("/users/ada/tokens", &ada).await.ok(200);
    assert_eq!(all["api_tokens"].as_array().map(Vec::len), Some(2));
    hub.delete(&format!("/users/ada/tokens/{id}"), &ada)
        .await
        .empty(204);
    hub.get("/user", &token).await.refused(403);
    let message = hub
        .get(&format!("/users/ada/tokens/{id}"), &ada)
        .await
        .refused(404);
    assert_eq!(message, format!("No such token {id} for user ada"));
}

#[tokio::test]
async fn wishes_that_cannot_be_met_are_refused() {
    let hub = TestHub::configured(|config| config.hub.token_expires_in_max_seconds = 100)
        .await
        .with_user("ada")
        .await;
    let ada = hub.token("ada").await;
    for (body, message) in [
        (json!([1]), "Body must be a JSON dict or empty"),
        (
            json!({"scopes": "x"}),
            "token scopes must be null or a list of strings, not 'x'",
        ),
        (
            json!({"roles": [1]}),
            "token roles must be null or a list of strings, not [1]",
        ),
        (json!({"roles": ["nope"]}), "No such role: nope"),
        (
            json!({"roles": ["user"], "scopes": []}),
            "Can only assign one of scopes or roles when creating tokens.",
        ),
        (
            json!({"scopes": ["nope"]}),
            "Scope 'nope' for token does not exist",
        ),
        (
            json!({"scopes": ["shutdown"]}),
            "Not assigning requested scopes shutdown not held by User ada",
        ),
        (
            json!({"expires_in": 1.5}),
            "token expires_in must be null or integer, not 1.5",
        ),
        (
            json!({"expires_in": 101}),
            "token expires_in: 101 must not exceed 100",
        ),
        (
            json!({"expires_in": 0}),
            "expires_in must be a positive integer or null, not 0",
        ),
        (
            json!({"note": {"a": 1}}),
            "token note must be a string, not {'a': 1}",
        ),
    ] {
        let body: Value = body;
        assert_eq!(
            hub.post("/users/ada/tokens", &ada, body.clone())
                .await
                .refused(400),
            message,
            "{body}"
        );
    }
    let model = hub
        .send("POST", "/users/ada/tokens", &ada, None)
        .await
        .ok(201);
    assert!(
        model["expires_at"].is_string(),
        "the site's limit holds for tokens without a wish"
    );
    assert_eq!(model["note"], "Requested via api");
}

#[tokio::test]
async fn tokens_are_made_for_whom_one_may() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_admin("root")
        .await;
    let (ada, root) = (hub.token("ada").await, hub.token("root").await);
    for name in ["bob", "nobody"] {
        let message = hub
            .post(&format!("/users/{name}/tokens"), &ada, json!({}))
            .await
            .refused(403);
        assert_eq!(
            message,
            format!("User {name} not found or no permissions to generate tokens")
        );
    }
    let model = hub
        .send("POST", "/users/ada/tokens", &root, None)
        .await
        .ok(201);
    assert_eq!(model["note"], "Requested via api by user root");
    let service = hub.service("maker", &["tokens!user=ada"]).await;
    let model = hub
        .send("POST", "/users/ada/tokens", &service, None)
        .await
        .ok(201);
    assert_eq!(model["note"], "Requested via api by service maker");
    let message = hub
        .send("POST", "/users/bob/tokens", &service, None)
        .await
        .refused(403);
    assert_eq!(
        message,
        "Service bob not found or no permissions to generate tokens"
    );
    let id = model["id"].as_str().expect("an id");
    hub.get(&format!("/users/bob/tokens/{id}"), &root)
        .await
        .refused(404);
    for id in ["x", "a", "b1", "a99999999999999", ""] {
        assert!(
            hub.get(&format!("/users/ada/tokens/{id}"), &root)
                .await
                .status
                == 404,
            "{id}"
        );
    }
}

#[tokio::test]
async fn a_password_in_the_body_is_as_good_as_a_login() {
    let hub = TestHub::new()
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await;
    let auth =
        |name: &str, password: &str| json!({"auth": {"username": name, "password": password}});
    let model = hub
        .post("/users/ada/tokens", "", auth("ada", PASSWORD))
        .await
        .ok(201);
    hub.get("/user", model["token"].as_str().expect("the token"))
        .await
        .ok(200);
    hub.post("/users/ada/tokens", "", auth("bob", PASSWORD))
        .await
        .refused(403);
    hub.post("/users/new/tokens", "", auth("new", PASSWORD))
        .await
        .refused(403);
    hub.post("/users/ada/tokens", "", auth("ada", "wrong"))
        .await
        .refused(403);
    for body in [
        json!(null),
        json!({}),
        json!({"auth": "ada"}),
        json!({"auth": {"username": 1, "password": []}}),
    ] {
        hub.post("/users/ada/tokens", "", body).await.refused(403);
    }
    assert!(
        orrery_store::users::find(hub.state.store.read(), "new")
            .await
            .expect("an answer")
            .is_none(),
        "asking for a token makes no user"
    );
}

/// Tokens that the configuration gives are chosen by people and slow to check, unless it says otherwise.
#[tokio::test]
async fn tokens_of_the_configuration_are_slow_to_check_unless_they_are_trusted() {
    const TOKEN: &str = "a-token-that-somebody-chose";
    for (trusted, rounds) in [(false, "sha512:16384:"), (true, "sha512:1:")] {
        let given = |config: &mut Config, name: &str| {
            let token = (Secret::new(TOKEN), name.to_owned());
            config.hub.api_tokens = TokenMap(vec![token]);
            config.hub.trust_user_provided_tokens = trusted;
        };
        let hub = TestHub::configured(|config| given(config, "ada")).await;
        assert_eq!(hub.get("/user", TOKEN).await.ok(200)["name"], "ada");
        let of = async |name: &str| {
            let owner = Owner::User(hub.user(name).await.id);
            let rows = api_tokens::list(hub.state.store.read(), owner).await;
            rows.expect("tokens")
        };
        let rows = of("ada").await;
        assert_eq!(rows.len(), 1);
        assert!(rows[0].hashed.starts_with(rounds), "trusted: {trusted}");
        // It is known when the configuration is read again, and follows it to somebody else.
        let again = hub.reload(|config| given(config, "ada")).await;
        again.expect("a reload");
        let known = of("ada").await;
        assert_eq!((known.len(), known[0].id), (1, rows[0].id));
        let elsewhere = hub.reload(|config| given(config, "bob")).await;
        elsewhere.expect("a reload");
        assert!(of("ada").await.is_empty());
        assert_eq!(hub.get("/user", TOKEN).await.ok(200)["name"], "bob");
    }
}
