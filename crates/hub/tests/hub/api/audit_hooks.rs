//! Events of the audit log that come from further away than a request of the API: from pages, from other
//! applications, from the authenticator, the configuration and the log itself. Last, that each action has
//! its test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use orrery_core::Secret;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};
use orrery_hub::audit::{Action, Event};
use orrery_hub::build;
use orrery_hub::reload::{self, ConfigSource, Fresh, Site};
use orrery_store::{ConnectionTrait as _, StoreError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::audit::{self, some_people};
use crate::pages::Browser;
use crate::test_hub::{PATIENCE, TestHub, fake_proxy, setup};

/// The events of these actions, oldest first, as an administrator sees them.
async fn events(hub: &TestHub, actions: &str) -> Vec<Value> {
    let mut list = audit::events(hub, actions).await;
    list.reverse();
    list
}

/// What tells an event: its action, how it ended, of whom or what it tells, and its details.
fn told(event: &Value) -> (&str, &str, &str, &Value) {
    (
        event["action"].as_str().expect("a name"),
        event["outcome"].as_str().expect("a word"),
        event["target"]["name"].as_str().unwrap_or_default(),
        &event["details"],
    )
}

#[tokio::test]
async fn sessions_that_somebody_else_ends_are_recorded() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    let _ada = Browser::of(&hub, "ada").await;
    let list = hub.get("/users/ada/sessions", &root).await.ok(200);
    let id = list["sessions"][0]["id"].as_str().expect("an id");
    hub.delete(&format!("/users/ada/sessions/{id}"), &root)
        .await
        .empty(204);
    let _again = Browser::of(&hub, "ada").await;
    hub.delete("/users/ada/sessions", &root).await.empty(204);
    let found = events(&hub, "session.revoke").await;
    let of_one = json!({"session": id, "tokens": 0});
    let of_all = json!({"sessions": 1});
    assert_eq!(
        found.iter().map(told).collect::<Vec<_>>(),
        [
            ("session.revoke", "ok", "ada", &of_one),
            ("session.revoke", "ok", "ada", &of_all),
        ]
    );
    for event in found {
        assert_eq!(
            (&event["actor"]["name"], &event["owner"]),
            (&json!("root"), &json!("ada"))
        );
    }
}

#[tokio::test]
async fn who_lets_a_service_know_who_they_are_is_recorded_and_so_is_who_may_not() {
    let hub = some_people().await;
    let shop = json!({
        "api_token": "the-secret-of-the-shop",
        "oauth_client_id": "service-shop",
        "oauth_redirect_uri": "http://shop.example/callback",
        "oauth_no_confirm": true,
    });
    let root = hub.token("root").await;
    hub.post("/services/shop", &root, shop).await.ok(201);
    let path = "/hub/api/oauth2/authorize?client_id=service-shop&response_type=code&state=s";
    for (name, status) in [("root", 302), ("ada", 403)] {
        let answer = Browser::of(&hub, name).await.get(path).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    let found = events(&hub, "service.access").await;
    let [given, refused] = found.as_slice() else {
        panic!("not two events: {found:#?}");
    };
    assert_eq!(
        (told(given).1, told(given).2, &given["actor"]["name"]),
        ("ok", "shop", &json!("root"))
    );
    assert!(given["details"]["scopes"].is_array(), "{given}");
    assert_eq!(
        (told(refused).1, told(refused).2, &refused["actor"]["name"]),
        ("denied", "shop", &json!("ada"))
    );
}

#[tokio::test]
async fn who_takes_what_is_shared_by_a_code_is_recorded() {
    let hub = some_people().await;
    let root = hub.token("root").await;
    hub.send("PUT", "/users/ada/servers/lab", &root, Some(json!({})))
        .await
        .ok(201);
    let made = hub
        .post("/share-codes/ada/lab", &root, json!({}))
        .await
        .ok(200);
    let code = made["code"].as_str().expect("a code");
    let bob = Browser::of(&hub, "bob").await;
    // Looking at the page takes nothing.
    assert_eq!(
        bob.get(&format!("/hub/accept-share?code={code}"))
            .await
            .status,
        200
    );
    assert!(events(&hub, "share.accept").await.is_empty());
    let taken = bob.post("/hub/accept-share", &format!("code={code}")).await;
    assert_eq!(taken.status, 302, "{}", taken.text());
    let found = events(&hub, "share.accept").await;
    let [event] = found.as_slice() else {
        panic!("not one event: {found:#?}");
    };
    assert_eq!((told(event).1, told(event).2), ("ok", "ada/lab"));
    assert_eq!(
        (&event["actor"]["name"], &event["owner"]),
        (&json!("bob"), &json!("ada"))
    );
    assert_eq!(event["details"]["id"], made["id"]);
    assert!(!event.to_string().contains(code));
}

/// Knows of everybody whether they are an administrator, and their groups.
struct Registry(Mutex<(bool, &'static str)>);

#[async_trait]
impl Authenticator for Registry {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        let (admin, group) = *self.0.lock().expect("no panics");
        Ok(Some(Identity {
            admin: Some(admin),
            groups: Some(vec![group.to_owned()]),
            ..Identity::named(credentials.username.clone())
        }))
    }
}

#[tokio::test]
async fn what_the_authenticator_says_of_people_is_recorded_when_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let registry = Arc::new(Registry(Mutex::new((true, "crew"))));
    let mut setup = setup(folder.path(), &fake_proxy().await, |config| {
        config.authenticator.manage_groups = true;
    });
    setup.authenticator = Arc::clone(&registry) as _;
    let (state, _) = Box::pin(build(setup)).await.expect("a hub");
    let hub = TestHub::of_state(state)
        .with_user("ada")
        .await
        .with_admin("root")
        .await;
    Browser::of(&hub, "ada").await;
    // The same again changes nothing.
    Browser::of(&hub, "ada").await;
    *registry.0.lock().expect("no panics") = (false, "choir");
    Browser::of(&hub, "ada").await;
    let found = events(&hub, "user.admin,group.add,group.remove").await;
    let (made, unmade) = (json!({"admin": true}), json!({"admin": false}));
    let ada = json!({"users": ["ada"]});
    assert_eq!(
        found.iter().map(told).collect::<Vec<_>>(),
        [
            ("user.admin", "ok", "ada", &made),
            ("group.add", "ok", "crew", &ada),
            ("user.admin", "ok", "ada", &unmade),
            ("group.add", "ok", "choir", &ada),
            ("group.remove", "ok", "crew", &ada),
        ]
    );
    assert!(found.iter().all(|event| event["via"] == "authenticator"));
}

#[tokio::test]
async fn a_token_that_the_configuration_gives_to_somebody_else_is_recorded() {
    let hub = TestHub::configured(|config| {
        let token = Secret::new("token-of-the-configuration-123");
        config.hub.api_tokens.0.push((token, "ada".to_owned()));
    })
    .await
    .with_admin("root")
    .await;
    hub.reload(|config| config.hub.api_tokens.0[0].1 = "bob".to_owned())
        .await
        .expect("a reload");
    let found = events(&hub, "token.*").await;
    let [of_ada, revoked, of_bob] = found.as_slice() else {
        panic!("not three events: {found:#?}");
    };
    assert_eq!((told(of_ada).0, told(of_ada).2), ("token.create", "ada"));
    assert_eq!(told(revoked).0, "token.revoke");
    assert_eq!(revoked["details"]["token"], of_ada["details"]["token"]);
    assert_eq!((told(of_bob).0, told(of_bob).2), ("token.create", "bob"));
    assert!(found.iter().all(|event| event["via"] == "config"));
}

/// Gives what a test sends: a configuration, or what is wrong with it.
struct Told(
    mpsc::Receiver<Result<Fresh, String>>,
    Option<Result<Fresh, String>>,
);

#[async_trait]
impl ConfigSource for Told {
    async fn wished(&mut self) {
        match self.0.recv().await {
            Some(next) => self.1 = Some(next),
            None => std::future::pending().await,
        }
    }

    async fn read(&mut self) -> Result<Fresh, String> {
        self.1.take().expect("something was sent")
    }

    fn taken(&mut self) {}
}

#[tokio::test]
async fn a_reload_is_recorded_whether_it_was_taken_or_not() {
    let hub = some_people().await;
    let (sender, receiver) = mpsc::channel(1);
    let closing = CancellationToken::new();
    let source = Box::new(Told(receiver, None));
    let running = tokio::spawn(reload::run(
        Site::new(Arc::clone(&hub.state)),
        source,
        closing.clone(),
    ));
    let fresh = |changed: &str| Fresh {
        config: hub.state.config.clone(),
        authenticator: Arc::clone(&hub.state.authenticator),
        changed: vec![changed.to_owned()],
        need_restart: vec!["JupyterHub.base_url".to_owned()],
    };
    let mut broken = fresh("JupyterHub.template_paths");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("home.html"), "{% if %}").expect("a file");
    broken.config.hub.template_paths = vec![folder.path().display().to_string()];
    let wishes = [
        Ok(fresh("JupyterHub.template_vars")),
        Err("it is no JSON".to_owned()),
        Ok(broken),
    ];
    for wish in wishes {
        sender.send(wish).await.expect("somebody reads");
    }
    let told_all = async {
        loop {
            let found = events(&hub, "config.reload").await;
            if found.len() == 3 {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, told_all)
        .await
        .expect("three events in time");
    let taken = json!({
        "changed": ["JupyterHub.template_vars"], "need_restart": ["JupyterHub.base_url"],
    });
    assert_eq!(told(&found[0]), ("config.reload", "ok", "", &taken));
    for refused in &found[1..] {
        assert_eq!(
            (told(refused).0, told(refused).1),
            ("config.reload", "failed")
        );
    }
    assert!(found.iter().all(|event| event["via"] == "config"));
    closing.cancel();
    tokio::time::timeout(PATIENCE, running)
        .await
        .expect("an end in time")
        .expect("no panic");
}

#[tokio::test]
async fn what_the_table_lacks_is_counted_there_once() {
    let hub = some_people().await;
    let refuse = |transaction: orrery_store::Transaction| async move {
        let trigger = "CREATE TRIGGER refuse BEFORE INSERT ON orrery_audit WHEN NEW.target = 'refused' \
             BEGIN SELECT RAISE(ABORT, 'no'); END";
        transaction.execute_unprepared(trigger).await?;
        Ok::<_, StoreError>(())
    };
    hub.state.store.write(refuse).await.expect("a trigger");
    let event = |group: &str| Event::new(Action::GroupCreate).by_hub().on_group(group);
    hub.state.audit.record(event("refused")).await;
    // Told with what comes next, also where a part of that cannot be kept either.
    let both = [event("kept"), event("refused")];
    hub.state.audit.record_all(both).await;
    hub.state.audit.record(event("kept as well")).await;
    hub.state.audit.record(event("kept, too")).await;
    let gaps = events(&hub, "audit.gap").await;
    let counted: Vec<_> = gaps.iter().map(|event| &event["repeats"]).collect();
    assert_eq!(counted, [&json!(1), &json!(1)], "{gaps:#?}");
    assert_eq!(events(&hub, "group.create").await.len(), 3);
}

/// The test of each action; the name of the action stands in it.
const TESTS: &[(&str, &str)] = &[
    (
        "login",
        "a_login_and_a_logout_are_recorded_with_who_and_how",
    ),
    (
        "login.failed",
        "a_failed_login_is_recorded_but_what_may_be_a_password_is_not",
    ),
    (
        "logout",
        "a_login_and_a_logout_are_recorded_with_who_and_how",
    ),
    (
        "session.revoke",
        "sessions_that_somebody_else_ends_are_recorded",
    ),
    (
        "token.create",
        "tokens_are_recorded_by_their_ids_and_never_themselves",
    ),
    (
        "token.revoke",
        "tokens_are_recorded_by_their_ids_and_never_themselves",
    ),
    ("user.create", "users_come_change_and_go_in_the_log"),
    ("user.rename", "users_come_change_and_go_in_the_log"),
    ("user.admin", "users_come_change_and_go_in_the_log"),
    ("user.delete", "users_come_change_and_go_in_the_log"),
    (
        "auth_state.read",
        "stored_login_state_is_not_read_or_replaced_unseen",
    ),
    (
        "auth_state.write",
        "stored_login_state_is_not_read_or_replaced_unseen",
    ),
    ("group.create", "groups_are_recorded_with_whom_they_concern"),
    ("group.delete", "groups_are_recorded_with_whom_they_concern"),
    ("group.add", "groups_are_recorded_with_whom_they_concern"),
    ("group.remove", "groups_are_recorded_with_whom_they_concern"),
    (
        "group.properties",
        "groups_are_recorded_with_whom_they_concern",
    ),
    (
        "role.define",
        "what_the_configuration_changes_is_recorded_once",
    ),
    (
        "role.delete",
        "what_the_configuration_changes_is_recorded_once",
    ),
    (
        "role.assign",
        "what_the_configuration_changes_is_recorded_once",
    ),
    ("role.strip", "nobody_keeps_a_role_whose_list_has_gone"),
    (
        "service.create",
        "services_the_proxy_and_the_end_are_recorded",
    ),
    (
        "service.delete",
        "services_the_proxy_and_the_end_are_recorded",
    ),
    (
        "service.access",
        "who_lets_a_service_know_who_they_are_is_recorded_and_so_is_who_may_not",
    ),
    (
        "server.access",
        "opening_somebody_elses_server_is_recorded_and_its_owner_sees_it",
    ),
    (
        "server.start",
        "what_others_do_to_a_server_is_recorded_and_what_its_owner_does_is_not",
    ),
    (
        "server.stop",
        "what_others_do_to_a_server_is_recorded_and_what_its_owner_does_is_not",
    ),
    (
        "server.edit",
        "what_others_do_to_a_server_is_recorded_and_what_its_owner_does_is_not",
    ),
    (
        "share.create",
        "shares_and_codes_are_recorded_and_codes_themselves_are_not",
    ),
    (
        "share.revoke",
        "shares_and_codes_are_recorded_and_codes_themselves_are_not",
    ),
    (
        "share.leave",
        "shares_and_codes_are_recorded_and_codes_themselves_are_not",
    ),
    (
        "share.accept",
        "who_takes_what_is_shared_by_a_code_is_recorded",
    ),
    (
        "share_code.create",
        "shares_and_codes_are_recorded_and_codes_themselves_are_not",
    ),
    (
        "share_code.revoke",
        "shares_and_codes_are_recorded_and_codes_themselves_are_not",
    ),
    (
        "denied",
        "refusals_are_recorded_with_the_route_and_not_with_the_path",
    ),
    (
        "proxy.change",
        "services_the_proxy_and_the_end_are_recorded",
    ),
    (
        "config.reload",
        "a_reload_is_recorded_whether_it_was_taken_or_not",
    ),
    (
        "start",
        "a_start_a_reload_and_an_end_by_a_signal_are_in_the_audit_log",
    ),
    ("shutdown", "services_the_proxy_and_the_end_are_recorded"),
    ("audit.gap", "what_the_table_lacks_is_counted_there_once"),
];

#[test]
fn each_action_has_a_test_that_names_it() {
    let all: Vec<_> = Action::ALL.iter().map(|action| action.as_str()).collect();
    let tested: Vec<_> = TESTS.iter().map(|(action, _)| *action).collect();
    assert_eq!(tested, all, "an action without a line in TESTS");
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    read(&crates.join("tests"), &mut sources);
    read(&crates.join("../orrery/tests/cli"), &mut sources);
    for (action, test) in TESTS {
        let body = sources.iter().find_map(|source| {
            let (_, rest) = source.split_once(&format!("fn {test}("))?;
            // The first brace at the beginning of a line ends it.
            rest.split("\n}\n").next()
        });
        let body = body.unwrap_or_else(|| panic!("{action}: there is no test {test}"));
        let is_named = ['"', ','].iter().any(|before| {
            ['"', ',']
                .iter()
                .any(|after| body.contains(&format!("{before}{action}{after}")))
        });
        assert!(is_named, "{test} does not name {action}");
    }
}

fn read(folder: &Path, sources: &mut Vec<String>) {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, sources);
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push(std::fs::read_to_string(&path).expect("a source"));
        }
    }
}
