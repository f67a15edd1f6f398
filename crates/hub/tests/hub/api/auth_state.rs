//! What an authenticator learned of people: kept encrypted, shown to administrators only.

use std::path::Path;

use orrery_core::fernet::{Fernet, Key};
use orrery_hub::build;
use orrery_hub::config::{Config, CryptKey};
use orrery_store::users::{self, UserChanges};
use orrery_store::{ConnectionTrait as _, StoreError};
use serde_json::{Value, json};

use crate::pages::Browser;
use crate::test_hub::{PASSWORD, TestHub, fake_proxy, setup};

const OLD: &[u8; 32] = b"the key of the year before......";
const NEW: &[u8; 32] = b"the key of this year............";

fn key(bytes: &[u8; 32]) -> Key {
    Key::parse(bytes).expect("32 bytes")
}

fn with_keys(keys: &[&[u8; 32]]) -> impl FnOnce(&mut Config) {
    let keys = keys.iter().map(|bytes| CryptKey(key(bytes))).collect();
    |config| {
        config.authenticator.enable_auth_state = true;
        config.crypt_keeper.keys = keys;
    }
}

async fn log_in(hub: &TestHub, name: &str, state: Option<&Value>) {
    let browser = Browser::new(hub);
    browser.get("/hub/login").await;
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("username", name)
        .append_pair("password", PASSWORD);
    if let Some(state) = state {
        form.append_pair("state", &state.to_string());
    }
    let answer = browser.post("/hub/login", &form.finish()).await;
    assert_eq!(answer.status, 302, "{}", answer.text());
}

async fn store(hub: &TestHub, name: &str, encrypted: Option<Vec<u8>>) {
    let id = hub.user(name).await.id;
    let changes = &UserChanges {
        encrypted_auth_state: Some(encrypted),
        ..UserChanges::default()
    };
    let stored = hub
        .state
        .store
        .write(|transaction| async move { users::update(&transaction, id, changes).await });
    assert!(stored.await.expect("an update"));
}

async fn shown(hub: &TestHub, token: &str) -> Value {
    hub.get("/users/ada", token).await.ok(200)["auth_state"].clone()
}

#[tokio::test]
async fn a_login_leaves_its_state_and_the_next_one_replaces_it() {
    let hub = TestHub::configured(with_keys(&[NEW]))
        .await
        .with_admin("root")
        .await;
    let root = hub.token("root").await;
    let state = json!({"token": "s3cret", "groups": ["a", "ü"]});
    log_in(&hub, "ada", Some(&state)).await;
    assert_eq!(shown(&hub, &root).await, state);
    let kept = hub.user("ada").await.encrypted_auth_state.expect("a state");
    assert!(
        kept.starts_with(b"gAAAAA"),
        "not a token as upstream keeps it"
    );

    // Nobody sees it but who may: neither ada herself nor a list.
    let own = hub.token("ada").await;
    let model = hub.get("/users/ada", &own).await.ok(200);
    assert!(model.get("auth_state").is_none(), "{model}");
    let list = hub.get("/users", &root).await.text();
    assert!(!list.contains("s3cret"), "{list}");
    let narrow = hub
        .token_with("root", &["admin:auth_state!user=ada", "read:users:name"])
        .await;
    assert_eq!(shown(&hub, &narrow).await, state);

    log_in(&hub, "ada", Some(&json!({"token": "newer"}))).await;
    assert_eq!(shown(&hub, &root).await, json!({"token": "newer"}));
    log_in(&hub, "ada", None).await;
    assert_eq!(shown(&hub, &root).await, json!(null));
    assert!(hub.user("ada").await.encrypted_auth_state.is_none());
}

#[tokio::test]
async fn administrators_set_it_and_the_pages_of_a_site_show_it() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("home.html"),
        "{% if auth_state %}known as {{ auth_state.alias }}{% else %}unknown{% endif %}",
    )
    .expect("a template");
    let path = folder.path().display().to_string();
    let keys = with_keys(&[NEW]);
    let hub = TestHub::configured(|config| {
        keys(config);
        config.hub.template_paths = vec![path];
    })
    .await
    .with_admin("root")
    .await
    .with_user("ada")
    .await;
    let root = hub.token("root").await;
    let page = async || {
        let state = shown(&hub, &root).await;
        let browser = Browser::new(&hub);
        browser.get("/hub/login").await;
        let form = format!(
            "username=ada&password={}&state={}",
            PASSWORD.replace(' ', "+"),
            state
        );
        browser.post("/hub/login", &form).await;
        browser.get("/hub/home").await.text()
    };
    assert_eq!(page().await, "unknown");
    let state = json!({"alias": "lovelace"});
    let body = json!({"auth_state": state});
    let edited = hub.patch("/users/ada", &root, body.clone()).await.ok(200);
    assert_eq!(edited["auth_state"], state);
    assert_eq!(page().await, "known as lovelace");

    let own = hub.token("ada").await;
    hub.patch("/users/ada", &own, body).await.refused(403);
    let wrong = hub
        .patch("/users/ada", &root, json!({"auth_state": "text"}))
        .await
        .refused(400);
    assert_eq!(
        wrong,
        "user.auth_state must be <class 'dict'>, not: <class 'str'>"
    );
}

#[tokio::test]
async fn what_an_older_key_encrypted_is_encrypted_anew_when_it_is_read() {
    let hub = TestHub::configured(with_keys(&[NEW, OLD]))
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let old = Fernet::new(vec![key(OLD)]).expect("a key");
    let sealed = old.seal(br#"{"a": 1}"#, 1).into_bytes();
    store(&hub, "ada", Some(sealed.clone())).await;
    let root = hub.token("root").await;
    assert_eq!(shown(&hub, &root).await, json!({"a": 1}));
    let renewed = hub.user("ada").await.encrypted_auth_state.expect("a state");
    assert!(old.open(&renewed).is_err(), "still by the old key");
    assert_eq!(shown(&hub, &root).await, json!({"a": 1}));
    // Once it is by the first key, reading writes nothing.
    let again = hub.user("ada").await.encrypted_auth_state.expect("a state");
    assert!(again == renewed);
}

#[tokio::test]
async fn what_cannot_be_encrypted_anew_is_read_all_the_same() {
    let hub = TestHub::configured(with_keys(&[NEW, OLD]))
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let old = Fernet::new(vec![key(OLD)]).expect("a key");
    // As Python writes what is no JSON.
    let written = br#"{"a": 1, "expires": Infinity}"#;
    let sealed = old.seal(written, 1).into_bytes();
    store(&hub, "ada", Some(sealed.clone())).await;
    let root = hub.token("root").await;
    let trigger = |sql: &'static str| {
        let store = hub.state.store.clone();
        async move {
            let done = store.write(|transaction| async move {
                transaction.execute_unprepared(sql).await?;
                Ok::<_, StoreError>(())
            });
            done.await.expect("a trigger");
        }
    };
    trigger(
        "CREATE TRIGGER refuse BEFORE UPDATE OF encrypted_auth_state ON users BEGIN SELECT RAISE(FAIL, 'no'); END",
    )
    .await;
    let state = json!({"a": 1, "expires": null});
    assert_eq!(shown(&hub, &root).await, state);
    let kept = hub.user("ada").await.encrypted_auth_state;
    assert!(kept == Some(sealed));
    trigger("DROP TRIGGER refuse").await;
    assert_eq!(shown(&hub, &root).await, state);
    // What was written stays to the letter.
    let renewed = hub.user("ada").await.encrypted_auth_state.expect("a state");
    let new = Fernet::new(vec![key(NEW)]).expect("a key");
    let opened = new.open(&renewed).expect("by the new key");
    assert!(opened.content == written);
}

#[tokio::test]
async fn what_no_key_decrypts_counts_as_nothing_and_waits_for_its_key() {
    let hub = TestHub::configured(with_keys(&[NEW]))
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let old = Fernet::new(vec![key(OLD)]).expect("a key");
    for unreadable in [
        old.seal(b"{}", 1).into_bytes(),
        b"\xff\x00 damaged".to_vec(),
    ] {
        store(&hub, "ada", Some(unreadable.clone())).await;
        assert_eq!(shown(&hub, &root).await, json!(null));
        assert!(hub.user("ada").await.encrypted_auth_state == Some(unreadable));
    }
    log_in(&hub, "ada", Some(&json!({"fresh": true}))).await;
    assert_eq!(shown(&hub, &root).await, json!({"fresh": true}));
}

#[tokio::test]
async fn without_a_key_it_is_refused_clearly() {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = fake_proxy().await;
    let refused = async |folder: &Path, keys: Option<&str>| {
        let mut setup = setup(folder, &proxy, |config| {
            config.authenticator.enable_auth_state = true;
        });
        if let Some(keys) = keys {
            setup
                .environment
                .insert("JUPYTERHUB_CRYPT_KEY".to_owned(), keys.to_owned());
        }
        Box::pin(build(setup))
            .await
            .err()
            .map(|error| error.to_string())
    };
    let sentence = refused(folder.path(), None).await.expect("a refusal");
    assert!(
        sentence.contains("set the environment variable"),
        "{sentence}"
    );
    let sentence = refused(folder.path(), Some("hunter2"))
        .await
        .expect("a refusal");
    assert!(
        sentence.starts_with("JUPYTERHUB_CRYPT_KEY: ") && !sentence.contains("hunter2"),
        "{sentence}"
    );
    let both = format!("{};;{}", "ab".repeat(32), "cd".repeat(32));
    assert_eq!(refused(folder.path(), Some(&both)).await, None);

    let hub = TestHub::new()
        .await
        .with_admin("root")
        .await
        .with_user("ada")
        .await;
    let root = hub.token("root").await;
    let body = json!({"auth_state": {"a": 1}});
    let sentence = hub.patch("/users/ada", &root, body).await.refused(400);
    assert!(sentence.contains("no key to encrypt it with"), "{sentence}");
    log_in(&hub, "ada", Some(&json!({"not": "kept"}))).await;
    assert!(hub.user("ada").await.encrypted_auth_state.is_none());
}
