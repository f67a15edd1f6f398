//! A configuration that changes while the hub runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use orrery_core::config::{OptionValue as _, Value};
use orrery_hub::config::{Config, RoleSpec};
use serde_json::{Value as Json, json};

use crate::pages::Browser;
use crate::test_hub::TestHub;

fn role(json: &Json) -> RoleSpec {
    RoleSpec::from_value(&Value::from_json(json)).unwrap_or_else(|_| panic!("a role"))
}

fn only(config: &mut Config, name: &str) {
    config.authenticator.allow_all = false;
    config.authenticator.allowed_users = [name.to_owned()].into();
}

async fn may_log_in(hub: &TestHub, name: &str) -> bool {
    let browser = Browser::new(hub);
    browser.get("/hub/login").await;
    let form = format!("username={name}&password=open+sesame");
    match browser.post("/hub/login", &form).await.status.as_u16() {
        302 => true,
        403 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn lists_of_people_take_effect_and_nobody_is_logged_out() {
    let hub = TestHub::configured(|config| only(config, "ada")).await;
    assert!(!may_log_in(&hub, "bob").await);
    let ada = Browser::of(&hub, "ada").await;
    hub.reload(|config| only(config, "bob"))
        .await
        .expect("a reload");
    assert!(may_log_in(&hub, "bob").await);
    assert!(!may_log_in(&hub, "ada").await);
    assert_eq!(ada.get("/hub/home").await.status, 200);
    hub.reload(|config| _ = config.authenticator.blocked_users.insert("bob".to_owned()))
        .await
        .expect("a reload");
    assert!(!may_log_in(&hub, "bob").await);
    assert!(!hub.user("bob").await.admin);
    hub.reload(|config| {
        config.authenticator.blocked_users.clear();
        config.authenticator.admin_users.insert("bob".to_owned());
    })
    .await
    .expect("a reload");
    assert!(hub.user("bob").await.admin);
}

#[tokio::test]
async fn roles_and_groups_take_effect_for_tokens_that_are_out() {
    let hub = TestHub::new().await.with_user("ada").await;
    let token = hub.token("ada").await;
    hub.get("/groups", &token).await.refused(403);
    hub.reload(|config| {
        config.hub.load_roles = vec![role(&json!({
            "name": "graders", "scopes": ["list:groups"], "users": ["ada"],
        }))];
    })
    .await
    .expect("a reload");
    hub.get("/groups", &token).await.ok(200);
    hub.reload(|config| config.hub.load_roles.clear())
        .await
        .expect("a reload");
    hub.get("/groups", &token).await.refused(403);
}

#[tokio::test]
async fn what_cannot_be_taken_whole_is_not_taken_at_all() {
    let site = tempfile::tempdir().expect("a folder");
    let hub = TestHub::configured(|config| only(config, "ada")).await;
    let refusal = hub
        .reload(|config| {
            only(config, "bob");
            config.hub.load_roles = vec![role(&json!({"name": "graders", "scopes": ["nonsense"]}))];
        })
        .await
        .expect_err("a refusal");
    assert!(refusal.to_string().contains("nonsense"), "{refusal}");
    std::fs::write(site.path().join("home.html"), "{% if %}").expect("a file");
    let paths = vec![site.path().display().to_string()];
    let refusal = hub
        .reload(|config| {
            only(config, "bob");
            config.hub.template_paths.clone_from(&paths);
        })
        .await
        .expect_err("a refusal");
    assert!(refusal.to_string().contains("home.html"), "{refusal}");
    let refusal = hub
        .reload(|config| {
            only(config, "bob");
            // Noticed in the transaction itself.
            config.hub.load_roles = vec![role(&json!({
                "name": "graders", "scopes": ["list:groups"], "services": ["none"],
            }))];
        })
        .await
        .expect_err("a refusal");
    assert!(refusal.to_string().contains("none"), "{refusal}");
    assert!(may_log_in(&hub, "ada").await);
    assert!(!may_log_in(&hub, "bob").await);
    let roles = orrery_store::roles::find(hub.state.store.read(), "graders")
        .await
        .expect("an answer");
    assert!(roles.is_none());
}

#[tokio::test]
async fn templates_of_the_site_and_their_values_take_effect() {
    let site = tempfile::tempdir().expect("a folder");
    std::fs::write(
        site.path().join("login.html"),
        "{% extends 'templates/login.html' %}{% block announcement %}<b>{{ motto }}</b>{% endblock %}",
    )
    .expect("a file");
    let hub = TestHub::new().await;
    let page = async || Browser::new(&hub).get("/hub/login").await.text();
    hub.reload(|config| {
        let text = json!("Closed on Monday");
        config
            .hub
            .template_vars
            .insert("announcement".to_owned(), text);
    })
    .await
    .expect("a reload");
    assert!(page().await.contains("Closed on Monday"));
    hub.reload(|config| {
        config.hub.template_paths = vec![site.path().display().to_string()];
        config
            .hub
            .template_vars
            .insert("motto".to_owned(), json!("Festina lente"));
    })
    .await
    .expect("a reload");
    assert!(page().await.contains("<b>Festina lente</b>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_page_mixes_old_and_new() {
    // One value goes through the templates, the other through the options.
    fn number(config: &mut Config, number: usize) {
        let text = json!(format!("first-{number}-"));
        config
            .hub
            .template_vars
            .insert("announcement".to_owned(), text);
        config.authenticator.request_otp = true;
        config.authenticator.otp_prompt = Some(format!("second-{number}-"));
    }
    let hub = Arc::new(TestHub::configured(|config| number(config, 0)).await);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (hub, done) = (Arc::clone(&hub), Arc::clone(&done));
            tokio::spawn(async move {
                let mut seen = std::collections::BTreeSet::new();
                while !done.load(Ordering::Relaxed) {
                    let page = Browser::new(&hub).get("/hub/login").await.text();
                    let after = |mark: &str| {
                        let rest = page.split(mark).nth(1).expect("the mark");
                        rest.split('-').next().expect("a number").to_owned()
                    };
                    assert_eq!(after("first-"), after("second-"));
                    seen.insert(after("first-"));
                }
                seen.len()
            })
        })
        .collect();
    for round in 1..=30 {
        hub.reload(|config| number(config, round))
            .await
            .expect("a reload");
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("a reader") > 1);
    }
}
