//! What the hub asks and tells authenticators beyond passwords: who may come in, who is an
//! administrator, who is added and who deleted.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orrery_core::UserName;
use orrery_core::access::NameLookup;
use orrery_core::authenticator::{
    AddUserError, Authenticator, AuthenticatorError, Credentials, Identity,
};
use orrery_hub::build;
use orrery_store::roles::{self, Holder};
use orrery_store::users;
use serde_json::json;

use crate::pages::Browser;
use crate::test_hub::{PASSWORD, TestHub, fake_proxy, setup};

/// Believes everybody. Lets in those whose name begins with `g`, and makes administrators of those
/// whose name ends with `boss`; there are no users named `ghost…`, and nobody can tell of `fog…`.
#[derive(Default)]
struct Village {
    told: Mutex<Vec<String>>,
}

impl Village {
    fn tell(&self, what: &str, name: &UserName) {
        let mut told = self.told.lock().expect("no panics");
        told.push(format!("{what} {name}"));
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().expect("no panics"))
    }
}

#[async_trait]
impl Authenticator for Village {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        Ok(Some(Identity::named(credentials.username.clone())))
    }

    fn name_lookup(&self) -> Option<NameLookup> {
        Some(|typed| typed.strip_prefix("VILLAGE\\").map(str::to_owned))
    }

    fn has_allow_rules(&self) -> bool {
        true
    }

    async fn allows(&self, name: &UserName) -> Result<bool, AuthenticatorError> {
        Ok(name.as_str().to_lowercase().starts_with('g'))
    }

    async fn is_admin(&self, name: &UserName) -> Result<Option<bool>, AuthenticatorError> {
        if name.as_str() == "gone" {
            return Err(AuthenticatorError("the mayor is away".to_owned()));
        }
        Ok(Some(name.as_str().ends_with("boss")))
    }

    async fn add_user(&self, name: &UserName) -> Result<(), AddUserError> {
        self.tell("add", name);
        let name = name.as_str();
        if name.starts_with("ghost") {
            return Err(AddUserError::NoSuchUser("there are no ghosts".to_owned()));
        }
        if name.starts_with("fog") {
            return Err(AddUserError::Failed("too much fog".to_owned()));
        }
        Ok(())
    }

    async fn delete_user(&self, name: &UserName) -> Result<(), AuthenticatorError> {
        self.tell("delete", name);
        Ok(())
    }
}

async fn hub() -> (Arc<Village>, TestHub) {
    let village = Arc::new(Village::default());
    let hub = TestHub::with_authenticator(Arc::clone(&village) as _).await;
    (village, hub)
}

/// The status that a login is answered with.
async fn login(hub: &TestHub, name: &str) -> u16 {
    let browser = Browser::new(hub);
    browser.get("/hub/login").await;
    let form = format!(
        "username={}&password={}",
        name.replace('\\', "%5C"),
        PASSWORD.replace(' ', "+")
    );
    browser.post("/hub/login", &form).await.status.as_u16()
}

#[tokio::test]
async fn rules_of_the_authenticators_own_let_people_in_and_make_administrators() {
    let (village, hub) = hub().await;
    let hub = hub.with_admin("gwen").await;
    assert_eq!(login(&hub, "bob").await, 403);
    assert_eq!(village.told(), [""; 0]);
    for (name, is_admin) in [("gina", false), ("gboss", true), ("gwen", false)] {
        assert_eq!(login(&hub, name).await, 302, "{name}");
        assert_eq!(hub.user(name).await.admin, is_admin, "{name}");
    }
    // Who is there already is not added again.
    assert_eq!(village.told(), ["add gina", "add gboss"]);
    // Nobody becomes or stays an administrator because nobody could say.
    assert_eq!(login(&hub, "gone").await, 503);
    let gone = users::find(hub.state.store.read(), "gone").await;
    assert!(gone.expect("an answer").is_none());
}

#[tokio::test]
async fn names_are_written_as_the_authenticator_says() {
    let (_village, hub) = hub().await;
    assert_eq!(login(&hub, "VILLAGE\\gina").await, 302);
    assert_eq!(login(&hub, "Gina").await, 302);
    let names = users::list(hub.state.store.read(), &users::UserQuery::default()).await;
    let names: Vec<_> = names
        .expect("users")
        .into_iter()
        .map(|user| user.name)
        .collect();
    assert_eq!(names, ["gina", "Gina"]);
}

#[tokio::test]
async fn a_user_whom_the_authenticator_cannot_add_is_not_written() {
    let (village, hub) = hub().await;
    let hub = hub.with_admin("root").await;
    let token = hub.token("root").await;
    assert_eq!(login(&hub, "ghost").await, 500);
    assert_eq!(village.told(), ["add ghost"]);
    let why = hub
        .post("/users/ghost", &token, json!({}))
        .await
        .refused(400);
    assert_eq!(why, "Failed to create user: ghost");
    let asked = json!({ "usernames": ["ghosty"] });
    let why = hub.post("/users", &token, asked).await.refused(400);
    assert_eq!(why, "Failed to create user ghosty: there are no ghosts");
    let names = users::list(hub.state.store.read(), &users::UserQuery::default()).await;
    assert_eq!(names.expect("users").len(), 1);
    village.told();

    hub.post("/users/bea", &token, json!({})).await.ok(201);
    let asked = json!({ "usernames": ["bea", "cid"] });
    hub.post("/users", &token, asked).await.ok(201);
    hub.delete("/users/bea", &token).await.empty(204);
    assert_eq!(village.told(), ["add bea", "add cid", "delete bea"]);
}

#[tokio::test]
async fn at_start_the_authenticator_is_told_of_all_and_invalid_ones_go_when_wished() {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = fake_proxy().await;
    for (life, delete, left) in [(0, false, 3), (1, false, 3), (2, true, 2)] {
        let village = Arc::new(Village::default());
        let mut setup = setup(folder.path(), &proxy, |config| {
            config.authenticator.delete_invalid_users = delete;
            config.authenticator.blocked_users = ["blocked".to_owned()].into();
        });
        setup.authenticator = Arc::clone(&village) as _;
        let (hub, _) = Box::pin(build(setup)).await.expect("a hub");
        if life == 0 {
            for name in ["ghost", "ada", "blocked"] {
                let new = users::NewUser {
                    name: name.to_owned(),
                    admin: false,
                    created: hub.clock.now(),
                    cookie_id: name.to_owned(),
                };
                let written = hub.store.write(|transaction| {
                    let new = &new;
                    async move { users::insert(&transaction, new).await }
                });
                written.await.expect("a new user");
            }
        } else {
            assert_eq!(village.told(), ["add ghost", "add ada"]);
        }
        let all = users::list(hub.store.read(), &users::UserQuery::default()).await;
        assert_eq!(all.expect("users").len(), left, "{life}");
        hub.store.close().await;
    }
}

/// Who is left of these users after a start that deletes those who are not valid.
async fn left_of(names: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = fake_proxy().await;
    let mut left = Vec::new();
    for delete in [false, true] {
        let mut setup = setup(folder.path(), &proxy, |config| {
            config.authenticator.delete_invalid_users = delete;
        });
        setup.authenticator = Arc::new(Village::default());
        let (hub, _) = Box::pin(build(setup)).await.expect("a hub");
        for name in names.iter().filter(|_| !delete) {
            let new = &users::NewUser {
                name: (*name).to_owned(),
                admin: false,
                created: hub.clock.now(),
                cookie_id: (*name).to_owned(),
            };
            let written = hub
                .store
                .write(|transaction| async move { users::insert(&transaction, new).await });
            written.await.expect("a new user");
        }
        let all = users::list(hub.store.read(), &users::UserQuery::default()).await;
        left = all
            .expect("users")
            .into_iter()
            .map(|user| user.name)
            .collect();
        hub.store.close().await;
    }
    left
}

#[tokio::test]
async fn nobody_is_deleted_while_a_directory_may_be_away() {
    assert_eq!(left_of(&["ada", "ghost", "ghosty"]).await, ["ada"]);
    // One whom nobody could look up stays, and with them all others.
    let people = ["ada", "fog", "ghost"];
    assert_eq!(left_of(&people).await, people);
    // A directory that knows nobody at all is not believed; a name that no user can have is no user.
    assert_eq!(
        left_of(&["ghost", "ghosty", "a/b"]).await,
        ["ghost", "ghosty"]
    );
    assert_eq!(left_of(&["ghost"]).await, [""; 0]);
}

#[tokio::test]
async fn a_login_gives_back_the_role_that_everybody_has() {
    // Upstream's `test_login_default_role`, and the role of administrators.
    let (_village, hub) = hub().await;
    let hub = hub.with_admin("gboss").await.with_user("gina").await;
    for (name, expected) in [("gina", &["user"][..]), ("gboss", &["user", "admin"])] {
        let holder = Holder::User(hub.user(name).await.id);
        let held = async || -> Vec<String> {
            let held = roles::of(hub.state.store.read(), holder).await;
            held.expect("roles")
                .into_iter()
                .map(|role| role.name)
                .collect()
        };
        for _ in 0..2 {
            assert_eq!(held().await, expected);
            for role in roles::of(hub.state.store.read(), holder)
                .await
                .expect("roles")
            {
                hub.state
                    .store
                    .write(|transaction| async move {
                        roles::strip(&transaction, holder, role.id).await
                    })
                    .await
                    .expect("a role less");
            }
            assert_eq!(held().await, [""; 0]);
            assert_eq!(login(&hub, name).await, 302);
        }
        assert_eq!(held().await, expected);
    }
    let reader = hub.service("reader", &["read:audit"]).await;
    let found = hub
        .get("/audit?action=role.assign&target=gina", &reader)
        .await
        .ok(200);
    let items = found["items"].as_array().expect("a list");
    assert_eq!(items.len(), 2, "{found}");
    assert_eq!(items[0]["details"], json!({"role": "user"}));
    assert_eq!(items[0]["via"], "authenticator");
}
