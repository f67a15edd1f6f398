//! Tokens that the configuration gives to users and services.

use orrery_core::Secret;
use orrery_hub::config::Config;
use orrery_store::api_tokens::{self, Owner};
use orrery_store::services;
use serde_json::json;

use super::{load_roles, option};
use crate::test_hub::TestHub;

const BOT: &str = "token-of-the-bot-0123456789";
const ADA: &str = "token-of-ada-0123456789";

fn tokens(config: &mut Config) {
    config.authenticator.admin_users.insert("ada".to_owned());
    config.hub.services = vec![option(
        &json!({"name": "bot", "admin": true, "api_token": BOT}),
    )];
    config
        .hub
        .api_tokens
        .0
        .push((Secret::new(ADA), "ada".to_owned()));
}

#[tokio::test]
async fn tokens_of_the_configuration_have_the_scopes_of_the_role_token() {
    let scopes = ["list:users", "read:users:name"];
    let hub = TestHub::configured(|config| {
        tokens(config);
        load_roles(config, &[json!({"name": "token", "scopes": scopes})]);
    })
    .await;
    let made = json!({"api_token": "token-of-the-late-one-0123456"});
    let root = hub.token("ada").await;
    hub.post("/services/late", &root, made).await.ok(201);
    for name in ["bot", "late"] {
        let service = services::find(hub.state.store.read(), name)
            .await
            .expect("an answer");
        let owner = Owner::Service(service.expect("it").id);
        assert_eq!(scopes_of(&hub, owner).await, [scopes], "{name}");
    }
    for token in [BOT, ADA] {
        let users = hub.get("/users", token).await.ok(200);
        assert_eq!(users[0]["name"], "ada");
        hub.get("/groups", token).await.refused(403);
    }
}

#[tokio::test]
async fn tokens_of_the_configuration_may_do_by_default_what_their_owners_may() {
    let hub = TestHub::configured(tokens).await;
    for token in [BOT, ADA] {
        hub.get("/groups", token).await.ok(200);
    }
}

async fn scopes_of(hub: &TestHub, owner: Owner) -> Vec<Vec<String>> {
    let rows = api_tokens::list(hub.state.store.read(), owner).await;
    rows.expect("tokens")
        .into_iter()
        .map(|row| row.scopes)
        .collect()
}
