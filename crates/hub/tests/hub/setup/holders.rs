//! `load_roles`: who holds a role is what its lists say.

use orrery_hub::config::Config;
use serde_json::{Value as Json, json};

use super::{Lives, done, end, event, load_roles, option, reader, roles_of, stripped};
use crate::test_hub::TestHub;

/// The names and flags of everybody, as the database has them.
async fn admins(hub: &TestHub) -> Vec<String> {
    let mut found = Vec::new();
    for user in orrery_store::users::list(
        hub.state.store.read(),
        &orrery_store::users::UserQuery::default(),
    )
    .await
    .expect("users")
    {
        let has_role = roles_of(hub, &user.name)
            .await
            .contains(&"admin".to_owned());
        assert_eq!(user.admin, has_role, "{}", user.name);
        if user.admin {
            found.push(user.name);
        }
    }
    found.sort();
    found
}

fn of_roles(config: &mut Config, role: &Json) {
    config.hub.services = vec![option(&json!({"name": "bot", "api_token": BOT}))];
    load_roles(config, std::slice::from_ref(role));
}

const BOT: &str = "token-of-the-bot-0123456789";

#[tokio::test]
async fn nobody_keeps_a_role_whose_list_has_gone() {
    let lists = [("users", "ada"), ("groups", "crew"), ("services", "bot")];
    for reload in [true, false] {
        let lives = Lives::new().await;
        let mut role = json!({"name": "graders", "scopes": ["list:groups"]});
        for (kind, name) in lists {
            role[kind] = json!([name]);
        }
        let mut hub = lives.start(|config| of_roles(config, &role)).await;
        let ada = hub.token("ada").await;
        hub.get("/groups", &ada).await.ok(200);
        hub.get("/groups", BOT).await.ok(200);

        let left_out = json!({"name": "graders", "scopes": ["list:groups"]});
        if reload {
            let reloading = hub.reload(|config| of_roles(config, &left_out));
            reloading.await.expect("a reload");
        } else {
            end(hub).await;
            hub = lives.start(|config| of_roles(config, &left_out)).await;
        }
        hub.get("/groups", &ada).await.refused(403);
        hub.get("/groups", BOT).await.refused(403);
        assert_eq!(
            done(&hub, "role.strip").await,
            [
                stripped("graders", "ada"),
                stripped("graders", "bot"),
                stripped("graders", "crew"),
            ]
        );
        assert_eq!(roles_of(&hub, "ada").await, ["user"]);
    }
}

#[tokio::test]
async fn the_role_of_every_user_stays_theirs_unless_its_users_are_listed() {
    let lives = Lives::new().await;
    let hub = lives.start(|_| {}).await.with_user("ada").await;
    let hub = hub.with_user("bob").await;
    end(hub).await;
    let everybody = json!({"name": "user", "scopes": ["self"], "groups": ["crew"]});
    let hub = lives.start(|config| load_roles(config, &[everybody])).await;
    assert_eq!(roles_of(&hub, "bob").await, ["user"]);
    assert!(done(&hub, "role.strip").await.is_empty());

    let bob = hub.token("bob").await;
    hub.get("/users/bob", &bob).await.ok(200);
    let only = |config: &mut Config| {
        load_roles(config, &[json!({"name": "user", "users": ["ada"]})]);
    };
    hub.reload(only).await.expect("a reload");
    assert_eq!(roles_of(&hub, "ada").await, ["user"]);
    hub.get("/users/bob", &bob).await.refused(403);
    let expected = [stripped("user", "crew"), stripped("user", "bob")];
    let found = done(&hub, "role.strip").await;
    assert!(
        expected.iter().all(|event| found.contains(event)),
        "{found:?}"
    );
    assert_eq!(found.len(), 2);
    // Once, and not at each reload.
    hub.reload(only).await.expect("a reload");
    assert_eq!(done(&hub, "role.strip").await, found);
    // Whom the configuration allows has the role by that.
    hub.reload(|config| {
        config.authenticator.allowed_users.insert("bob".to_owned());
    })
    .await
    .expect("a reload");
    assert_eq!(roles_of(&hub, "bob").await, ["user"]);
}

#[tokio::test]
async fn the_administrators_are_those_of_the_list_where_there_is_one() {
    // As the cases of upstream's `test_admin_role_membership`, and one more: who is in the database,
    // the role's users, `admin_users`, who is an administrator then.
    for (there, listed, admin_users, expected) in [
        (
            &["alpha", "beta"][..],
            None,
            &[][..],
            &["alpha", "beta"][..],
        ),
        (
            &["alpha", "beta"],
            None,
            &["gamma"],
            &["alpha", "beta", "gamma"],
        ),
        (&["alpha", "beta"], Some(vec![]), &[], &[]),
        (
            &["alpha", "beta"],
            Some(vec!["alpha", "gamma"]),
            &[],
            &["alpha", "gamma"],
        ),
        (
            &["alpha", "beta"],
            Some(vec!["gamma"]),
            &["beta"],
            &["beta", "gamma"],
        ),
    ] {
        let mut hub = TestHub::new().await;
        for name in there {
            hub = hub.with_admin(name).await;
        }
        hub.reload(|config| {
            config.authenticator.admin_users =
                admin_users.iter().map(ToString::to_string).collect();
            if let Some(listed) = &listed {
                load_roles(config, &[json!({"name": "admin", "users": listed})]);
            }
        })
        .await
        .expect("a reload");
        assert_eq!(admins(&hub).await, expected, "{listed:?} {admin_users:?}");
    }
}

#[tokio::test]
async fn who_leaves_the_list_of_administrators_is_none() {
    // Upstream's `test_admin_role_and_flag`.
    let lives = Lives::new().await;
    let config = |users: Json| {
        move |config: &mut Config| {
            config.authenticator.admin_users.insert("admin".to_owned());
            config.authenticator.allowed_users.insert("eddy".to_owned());
            load_roles(config, &[json!({"name": "admin", "users": users})]);
        }
    };
    let hub = lives.start(config(json!(["eddy"]))).await;
    assert_eq!(admins(&hub).await, ["admin", "eddy"]);
    let token = hub.token("eddy").await;
    hub.get("/users", &token).await.ok(200);
    end(hub).await;
    let hub = lives.start(config(json!([]))).await;
    assert_eq!(admins(&hub).await, ["admin"]);
    hub.get("/users", &token).await.refused(403);
    assert_eq!(
        done(&hub, "role.strip,user.admin").await.last_chunk(),
        Some(&[
            stripped("admin", "eddy"),
            event("user.admin", "eddy", &json!({"admin": false})),
        ])
    );
    // `admin_users` alone makes a list of an entry without one.
    hub.reload(|config| load_roles(config, &[json!({"name": "admin", "users": ["eddy"]})]))
        .await
        .expect("a reload");
    assert_eq!(admins(&hub).await, ["admin", "eddy"]);
    hub.reload(|config| load_roles(config, &[json!({"name": "admin"})]))
        .await
        .expect("a reload");
    assert_eq!(admins(&hub).await, ["admin"]);
}

#[tokio::test]
async fn a_service_of_the_role_admin_is_an_administrator_as_long_as_it_is_listed() {
    let lives = Lives::new().await;
    let bots = |config: &mut Config, flagged: bool, roles: &[Json]| {
        let bot = json!({"name": "bot", "admin": flagged, "api_token": BOT});
        config.hub.services = vec![option(&bot)];
        load_roles(config, roles);
    };
    let listed = json!({"name": "admin", "services": ["bot"]});
    let hub = lives.start(|config| bots(config, false, &[listed])).await;
    let shown = async |hub: &TestHub| {
        let reader = reader(hub, &["read:services", "read:roles"]).await;
        let bot = hub.get("/services/bot", &reader).await.ok(200);
        (bot["admin"].clone(), bot["roles"].clone())
    };
    assert_eq!(shown(&hub).await, (json!(true), json!(["admin"])));
    assert_eq!(hub.get("/user", BOT).await.ok(200)["admin"], true);
    end(hub).await;

    // The list is stronger than the service's own `admin`.
    let others = json!({"name": "admin", "services": []});
    let hub = lives.start(|config| bots(config, true, &[others])).await;
    assert_eq!(shown(&hub).await, (json!(false), json!([])));
    hub.get("/users", BOT).await.refused(403);
    assert_eq!(
        done(&hub, "role.assign,role.strip").await,
        [
            event("role.assign", "bot", &json!({"role": "admin"})),
            stripped("admin", "bot"),
        ]
    );

    // Without a list it counts.
    let unlisted = [json!({"name": "admin", "users": []})];
    hub.reload(|config| bots(config, true, &unlisted))
        .await
        .expect("a reload");
    assert_eq!(shown(&hub).await, (json!(true), json!(["admin"])));
    hub.reload(|config| bots(config, false, &unlisted))
        .await
        .expect("a reload");
    assert_eq!(shown(&hub).await, (json!(false), json!([])));
}
