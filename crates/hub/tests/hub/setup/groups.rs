//! Groups of the configuration and of the authenticator, which are not for the same site.

use std::sync::Arc;

use async_trait::async_trait;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};
use orrery_hub::build;
use orrery_hub::config::Config;
use serde_json::json;

use super::option;
use crate::pages::Browser;
use crate::test_hub::{TestHub, fake_proxy, setup};

fn both(config: &mut Config) {
    config.authenticator.manage_groups = true;
    let crew = option(&json!({"users": ["ada"]}));
    config.hub.load_groups.insert("crew".to_owned(), crew);
}

#[tokio::test]
async fn groups_of_the_configuration_and_of_the_authenticator_are_refused_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let setup = setup(folder.path(), &fake_proxy().await, both);
    let why = Box::pin(build(setup)).await.err().expect("a refusal");
    let why = why.to_string();
    assert!(
        why.contains("load_groups") && why.contains("manage_groups"),
        "{why}"
    );

    let hub = TestHub::new().await.with_admin("root").await;
    let root = hub.token("root").await;
    let why = hub.reload(both).await.expect_err("a refusal").to_string();
    assert!(why.contains("load_groups"), "{why}");
    assert_eq!(hub.get("/groups", &root).await.ok(200), json!([]));
    Browser::of(&hub, "ada").await;
}

/// Believes everybody; the form's field `guilds` says which groups they are in, with commas, if it is
/// there.
struct Guilds;

#[async_trait]
impl Authenticator for Guilds {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        let guilds = credentials.fields.iter().find(|(name, _)| name == "guilds");
        let groups = guilds.map(|(_, names)| {
            let names = names.expose().split(',').filter(|name| !name.is_empty());
            names.map(str::to_owned).collect()
        });
        Ok(Some(Identity {
            groups,
            ..Identity::named(credentials.username.clone())
        }))
    }
}

async fn guild_hub() -> TestHub {
    let folder = tempfile::tempdir().expect("a folder");
    let mut setup = setup(folder.path(), &fake_proxy().await, |config| {
        config.authenticator.manage_groups = true;
    });
    setup.authenticator = Arc::new(Guilds);
    let (state, _) = Box::pin(build(setup)).await.expect("a hub");
    TestHub::of(state, folder)
}

async fn login(hub: &TestHub, form: &str) -> u16 {
    let browser = Browser::new(hub);
    browser.get("/hub/login").await;
    let form = format!("username=ada&password=any&{form}");
    browser.post("/hub/login", &form).await.status.as_u16()
}

/// Ada's groups, as the API shows them.
async fn groups_of_ada(hub: &TestHub, root: &str) -> Vec<String> {
    let ada = hub.get("/users/ada", root).await.ok(200);
    let mut names: Vec<String> =
        serde_json::from_value(ada["groups"].clone()).expect("a list of names");
    names.sort();
    names
}

#[tokio::test]
async fn a_login_moves_people_into_and_out_of_the_authenticators_groups() {
    let hub = guild_hub().await.with_admin("root").await;
    let root = hub.token("root").await;
    for (guilds, expected) in [
        ("guilds=bakers,smiths", &["bakers", "smiths"][..]),
        ("guilds=smiths,weavers", &["smiths", "weavers"]),
        ("guilds=smiths,weavers", &["smiths", "weavers"]),
        ("guilds=", &[]),
    ] {
        assert_eq!(login(&hub, guilds).await, 302, "{guilds}");
        assert_eq!(groups_of_ada(&hub, &root).await, expected, "{guilds}");
    }
    // The groups themselves stay.
    let groups = hub.get("/groups", &root).await.ok(200);
    assert_eq!(groups.as_array().map(Vec::len), Some(3));
    let events = hub
        .get("/audit?action=group.add,group.remove", &root)
        .await
        .ok(200);
    let moves: Vec<_> = events["items"]
        .as_array()
        .expect("a list")
        .iter()
        .rev()
        .map(|event| {
            assert_eq!(event["details"], json!({"users": ["ada"]}));
            assert_eq!(event["via"], "authenticator");
            format!("{} {}", event["action"], event["target"]["name"]).replace('"', "")
        })
        .collect();
    assert_eq!(
        moves,
        [
            "group.add bakers",
            "group.add smiths",
            "group.add weavers",
            "group.remove bakers",
            "group.remove smiths",
            "group.remove weavers",
        ]
    );
    // Who is in which group must be said, and not silently be nothing.
    assert_eq!(login(&hub, "guilds=smiths").await, 302);
    assert_eq!(login(&hub, "").await, 500);
    assert_eq!(groups_of_ada(&hub, &root).await, ["smiths"]);
}

#[tokio::test]
async fn the_api_changes_groups_while_the_authenticator_manages_them() {
    // Upstream's `test_auth_managed_groups`.
    let hub = guild_hub()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let hub = hub.with_group("crew", &["ada"]).await;
    let root = hub.token("root").await;
    let made = json!({"groups": {"groupname": ["ada"]}});
    hub.post("/groups", &root, made).await.ok(201);
    hub.post("/groups/newgroup", &root, json!({})).await.ok(201);
    let ada = json!({"users": ["ada"]});
    hub.post("/groups/newgroup/users", &root, ada.clone())
        .await
        .ok(200);
    // A table of groups is read as a list of their names.
    hub.get("/groups/groupname", &root).await.ok(200);
    assert_eq!(groups_of_ada(&hub, &root).await, ["crew", "newgroup"]);
    hub.send("DELETE", "/groups/crew/users", &root, Some(ada))
        .await
        .ok(200);
    hub.delete("/groups/crew", &root).await.empty(204);
    assert_eq!(groups_of_ada(&hub, &root).await, ["newgroup"]);
    // Until the next login.
    assert_eq!(login(&hub, "guilds=bakers").await, 302);
    assert_eq!(groups_of_ada(&hub, &root).await, ["bakers"]);
}
