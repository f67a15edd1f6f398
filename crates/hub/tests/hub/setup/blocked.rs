//! `Authenticator.blocked_users`, whose tokens and cookies may do nothing.

use orrery_hub::config::Config;
use orrery_store::groups;
use serde_json::json;

use super::{Lives, done, end, event, load_roles, option, roles_of, stripped};
use crate::test_hub::TestHub;

/// Eve is an administrator, a grader and of the crew.
fn trusting(config: &mut Config) {
    config.authenticator.admin_users.insert("eve".to_owned());
    let crew = option(&json!({"users": ["eve"]}));
    config.hub.load_groups.insert("crew".to_owned(), crew);
    let graders = json!({"name": "graders", "scopes": ["list:groups"], "users": ["eve"]});
    load_roles(config, &[graders]);
}

fn block(config: &mut Config) {
    config.authenticator.blocked_users.insert("eve".to_owned());
}

/// Nothing of hers is left.
async fn has_nothing(hub: &TestHub, token: &str) {
    hub.get("/users", token).await.refused(403);
    hub.get("/groups", token).await.refused(403);
    hub.get("/users/eve", token).await.refused(403);
    let eve = hub.user("eve").await;
    assert!(!eve.admin);
    assert_eq!(roles_of(hub, "eve").await, [""; 0]);
    let groups = groups::of_users(hub.state.store.read(), &[eve.id]).await;
    assert_eq!(groups.expect("groups").len(), 0);
}

const TAKEN: &str = "user.admin,role.strip,group.remove";

#[tokio::test]
async fn a_start_takes_all_rights_from_an_administrator_who_is_blocked() {
    let lives = Lives::new().await;
    let hub = lives.start(trusting).await;
    let token = hub.token("eve").await;
    hub.get("/users", &token).await.ok(200);
    hub.get("/groups", &token).await.ok(200);
    end(hub).await;

    for life in 0..2 {
        let hub = lives
            .start(|config| {
                trusting(config);
                block(config);
            })
            .await;
        has_nothing(&hub, &token).await;
        // Once, and the next start has nothing to take.
        let expected = [
            event("user.admin", "eve", &json!({"admin": false})),
            stripped("user", "eve"),
            stripped("admin", "eve"),
            stripped("graders", "eve"),
            event("group.remove", "crew", &json!({"users": ["eve"]})),
        ];
        assert_eq!(done(&hub, TAKEN).await, expected, "life {life}");
        end(hub).await;
    }

    // Who is blocked no longer is a user like others.
    let hub = lives.start(|_| {}).await;
    assert_eq!(roles_of(&hub, "eve").await, ["user"]);
    hub.get("/users/eve", &token).await.ok(200);
    hub.get("/users", &token).await.refused(403);
}

#[tokio::test]
async fn a_reload_takes_all_rights_from_an_administrator_who_is_blocked() {
    let hub = TestHub::configured(trusting).await;
    let token = hub.token("eve").await;
    hub.get("/users", &token).await.ok(200);
    hub.reload(block).await.expect("a reload");
    has_nothing(&hub, &token).await;
    let taken = done(&hub, TAKEN).await;
    assert_eq!(taken.len(), 5, "{taken:?}");
    hub.reload(|_| {}).await.expect("a reload");
    has_nothing(&hub, &token).await;
    assert_eq!(done(&hub, TAKEN).await, taken);

    hub.reload(|config| {
        config.authenticator.blocked_users.clear();
        config.authenticator.admin_users.clear();
    })
    .await
    .expect("a reload");
    assert_eq!(roles_of(&hub, "eve").await, ["user", "graders"]);
    hub.get("/users/eve", &token).await.ok(200);
    hub.get("/users", &token).await.refused(403);
}

#[tokio::test]
async fn who_is_blocked_before_the_first_start_gets_nothing() {
    let hub = TestHub::configured(|config| {
        trusting(config);
        block(config);
        config.authenticator.allowed_users.insert("eve".to_owned());
        load_roles(
            config,
            &[
                json!({"name": "admin", "users": ["eve"]}),
                json!({"name": "user", "users": ["eve"]}),
            ],
        );
    })
    .await;
    let token = hub.token("eve").await;
    has_nothing(&hub, &token).await;
    assert!(done(&hub, TAKEN).await.is_empty());
}
