//! `/hub/api/tokens`: everybody's tokens; and what bounds them (`JupyterHub.token_allowed_scopes`).

use std::collections::BTreeSet;

use orrery_hub::config::Config;
use serde_json::{Value, json};

use crate::pages::Browser;
use crate::test_hub::TestHub;

async fn people(hub: TestHub) -> TestHub {
    hub.with_admin("root")
        .await
        .with_user("ada")
        .await
        .with_user("bob")
        .await
        .with_group("class", &["bob"])
        .await
}

async fn list(hub: &TestHub, query: &str, token: &str) -> Vec<Value> {
    let page = hub.get(&format!("/tokens{query}"), token).await.ok(200);
    page["items"].as_array().expect("a list").clone()
}

fn id(token: &Value) -> &str {
    token["id"].as_str().expect("an id")
}

#[tokio::test]
async fn an_administrator_finds_and_revokes_anybodys_token() {
    let hub = people(TestHub::new().await).await;
    let root = hub.token("root").await;
    let (ada, bob) = (hub.token("ada").await, hub.token("bob").await);
    let grader = hub.service("grader", &[]).await;
    let made = json!({"note": "Backup 100%_of files", "expires_in": 3600});
    hub.post("/users/ada/tokens", &ada, made).await.ok(201);

    let all = list(&hub, "", &root).await;
    let owners: BTreeSet<&str> = all
        .iter()
        .filter_map(|token| token["user"].as_str().or(token["service"].as_str()))
        .collect();
    assert_eq!(owners, BTreeSet::from(["ada", "bob", "grader", "root"]));
    assert!(!json!(all).to_string().contains(&bob[4..]));

    // Page by page, whatever happens meanwhile.
    let (mut seen, mut path) = (Vec::new(), "/tokens?limit=2".to_owned());
    loop {
        let page = hub.get(&path, &root).await.ok(200);
        seen.extend(page["items"].as_array().expect("a list").clone());
        let Some(next) = page["_pagination"]["next"]["url"].as_str() else {
            break;
        };
        path = next.split_once("/hub/api").expect("a path").1.to_owned();
        hub.token("ada").await;
        if seen.len() > 20 {
            break;
        }
    }
    let ids: Vec<&str> = seen.iter().map(id).collect();
    let once: BTreeSet<&&str> = ids.iter().collect();
    assert_eq!(ids.len(), once.len());
    assert!(all.iter().all(|token| ids.contains(&id(token))));

    let count = async |query: &str| list(&hub, query, &root).await.len();
    assert_eq!(count("?user=bob").await, 1);
    assert_eq!(count("?user=nobody").await, 0);
    assert_eq!(count("?service=grader").await, 1);
    assert_eq!(count("?note=backup+100%25_OF").await, 1);
    assert_eq!(
        count("?note=100_%25of").await,
        0,
        "wildcards mean themselves"
    );
    assert_eq!(count("?expired=true").await, 0);
    assert_eq!(count("?user=bob&expired=false").await, 1);
    assert_eq!(count("?user=bob&unused_since=2020-01-01").await, 0);
    assert_eq!(
        count("?user=bob&unused_since=2999-01-01T00:00:00Z").await,
        1
    );
    for bad in [
        "?after=x",
        "?expired=maybe",
        "?unused_since=never",
        "?user=a&service=b",
    ] {
        hub.get(&format!("/tokens{bad}"), &root).await.refused(400);
    }

    let bobs = id(&list(&hub, "?user=bob", &root).await[0]).to_owned();
    hub.delete(&format!("/tokens/{bobs}"), &root)
        .await
        .empty(204);
    hub.get("/user", &bob).await.refused(403);
    let graders = id(&list(&hub, "?service=grader", &root).await[0]).to_owned();
    hub.delete(&format!("/tokens/{graders}"), &root)
        .await
        .empty(204);
    hub.get("/user", &grader).await.refused(403);
    for gone in [bobs.as_str(), "a99999", "a99999999999999", "x", "%00"] {
        hub.delete(&format!("/tokens/{gone}"), &root)
            .await
            .refused(404);
    }
}

#[tokio::test]
async fn filtered_scopes_see_and_revoke_only_theirs() {
    let hub = people(TestHub::new().await).await;
    hub.token("ada").await;
    hub.token("bob").await;
    let root = hub.token("root").await;
    let teacher = hub
        .service("teacher", &["tokens!group=class", "read:services"])
        .await;
    let seen = list(&hub, "", &teacher).await;
    assert!(seen.len() == 1 && seen[0]["user"] == "bob", "{seen:?}");
    assert_eq!(list(&hub, "?user=ada", &teacher).await.len(), 0);
    assert_eq!(list(&hub, "?service=teacher", &teacher).await.len(), 0);
    let adas = id(&list(&hub, "?user=ada", &root).await[0]).to_owned();
    hub.delete(&format!("/tokens/{adas}"), &teacher)
        .await
        .refused(404);
    hub.delete(&format!("/tokens/{}", id(&seen[0])), &teacher)
        .await
        .empty(204);

    // Everybody has their own.
    let own = hub.token("ada").await;
    assert!(
        list(&hub, "", &own)
            .await
            .iter()
            .all(|token| token["user"] == "ada")
    );
    // Who may change users' tokens may not change services'.
    let changer = hub.service("changer", &["tokens", "read:services"]).await;
    let graders = id(&list(&hub, "?service=teacher", &changer).await[0]).to_owned();
    hub.delete(&format!("/tokens/{graders}"), &changer)
        .await
        .refused(404);
    let reader = hub.service("reader", &["read:tokens"]).await;
    assert!(
        list(&hub, "", &reader)
            .await
            .iter()
            .all(|token| token["user"].is_string())
    );
    hub.delete(&format!("/tokens/{adas}"), &reader)
        .await
        .refused(403);
    let nobody = hub.service("nobody", &["list:users"]).await;
    hub.get("/tokens", &nobody).await.refused(403);
    hub.get("/tokens", "").await.refused(403);
}

fn bound(config: &mut Config, role: &str, scopes: &[&str]) {
    let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    config
        .hub
        .token_allowed_scopes
        .insert(role.to_owned(), scopes);
}

#[tokio::test]
async fn no_token_goes_beyond_what_the_site_allows_its_owners_role() {
    let hub = people(
        TestHub::configured(|config| {
            bound(config, "user", &["read:users!user", "tokens!user"]);
        })
        .await,
    )
    .await;
    let ada = hub.token("ada").await;
    let refused = hub
        .post(
            "/users/ada/tokens",
            &ada,
            json!({"scopes": ["servers!user", "read:users:name!user"]}),
        )
        .await
        .refused(400);
    assert!(
        refused.contains("servers!user=ada")
            && refused.contains("at most read:users!user, tokens!user"),
        "{refused}"
    );
    hub.post(
        "/users/ada/tokens",
        &ada,
        json!({"scopes": ["read:users:name!user"]}),
    )
    .await
    .ok(201);
    // All that they may do is, of a token, no more than that.
    let made = hub.post("/users/ada/tokens", &ada, json!({})).await.ok(201);
    let scopes: Vec<&str> = made["scopes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(
        scopes.contains(&"tokens!user=ada") && !scopes.contains(&"servers!user=ada"),
        "{scopes:?}"
    );
    let made = made["token"].as_str().expect("a token");
    hub.post("/users/ada/server", made, json!({}))
        .await
        .refused(403);
    hub.get("/users/ada", made).await.ok(200);
    // People themselves may do all they could.
    let browser = Browser::of(&hub, "ada").await;
    assert_eq!(browser.api("GET", "/hub/api/users/ada").await.status, 200);
    let page = browser.get("/hub/token").await.text();
    assert!(
        page.contains("value=\"read:users!user=ada\"")
            && !page.contains("value=\"servers!user=ada\"")
    );
    // Nor does another's right to make tokens lead around it.
    let root = Browser::of(&hub, "root").await;
    assert_eq!(
        root.api("GET", "/hub/api/users/ada/tokens").await.status,
        200
    );
}

#[tokio::test]
async fn a_lower_bound_narrows_the_tokens_there_are_and_spares_servers() {
    let hub = people(TestHub::new().await).await;
    let ada = hub.token("ada").await;
    let root = hub.token("root").await;
    hub.get("/users/ada/tokens", &ada).await.ok(200);
    hub.get("/users", &root).await.ok(200);
    let of_server = hub
        .token_noted(
            "ada",
            "Server at /user/ada/",
            &["users:activity!user", "servers!user"],
        )
        .await;
    hub.reload(|config| {
        bound(config, "user", &["read:users!user"]);
        bound(config, "admin", &["inherit"]);
    })
    .await
    .expect("a good configuration");
    hub.get("/users/ada/tokens", &ada).await.refused(403);
    hub.get("/users/ada", &ada).await.ok(200);
    hub.get("/users", &root).await.ok(200);
    hub.post(
        "/users/ada/activity",
        &of_server,
        json!({"last_activity": "2026-11-22T00:00:00Z"}),
    )
    .await
    .empty(200);
    // A note alone lets nobody keep more than servers have.
    hub.post("/users/ada/server", &of_server, json!({}))
        .await
        .refused(403);
    hub.reload(|config| config.hub.token_allowed_scopes.clear())
        .await
        .expect("a good configuration");
    hub.get("/users/ada/tokens", &ada).await.ok(200);
}

#[tokio::test]
async fn a_bound_that_names_nothing_is_an_error() {
    let hub = TestHub::new().await;
    for (role, scope) in [
        ("usr", "self"),
        ("user", "read:usrs"),
        ("user", "read:users!of=ada"),
    ] {
        let refused = hub.reload(|config| bound(config, role, &[scope])).await;
        let refused = refused.expect_err("nonsense").to_string();
        assert!(
            refused.contains("JupyterHub.token_allowed_scopes"),
            "{refused}"
        );
    }
}
