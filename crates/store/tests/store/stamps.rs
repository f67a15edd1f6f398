//! Whatever decides about a token must be in its stamp, also when somebody else's program changes it.

use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::services::{self, ServiceFields};
use orrery_store::{Dialect, StoreError, groups, roles, stamps};
use serde_json::json;

use crate::harness::{TestDatabase, add_spawner, add_user, at};
use orrery_store::{DbUrl, Store, StoreOptions};

/// Each is a change of another program, and each must show.
const CHANGES: &[&str] = &[
    "UPDATE api_tokens SET scopes = '[\"self\"]'",
    "UPDATE api_tokens SET hashed = CONCAT(hashed, 'x')",
    "UPDATE api_tokens SET prefix = 'another'",
    "UPDATE api_tokens SET expires_at = '2030-01-01 00:00:00.000000'",
    "UPDATE api_tokens SET last_activity = '2026-01-01 00:00:00.000000'",
    "UPDATE api_tokens SET session_id = 'another'",
    "UPDATE api_tokens SET note = 'another'",
    "UPDATE api_tokens SET created = '2020-01-01 00:00:00.000000'",
    "UPDATE users SET name = 'eve' WHERE name = 'ada'",
    "UPDATE users SET admin = TRUE WHERE name = 'eve'",
    "UPDATE users SET cookie_id = 'another' WHERE name = 'eve'",
    "UPDATE users SET last_activity = '2026-01-01 00:00:00.000000' WHERE name = 'eve'",
    "UPDATE users SET user_info = '{}' WHERE name = 'eve'",
    "UPDATE users SET created = '2020-01-01 00:00:00.000000' WHERE name = 'eve'",
    "UPDATE users SET state = '{\"a\": 1}' WHERE name = 'eve'",
    "UPDATE users SET encrypted_auth_state = 'x' WHERE name = 'eve'",
    "UPDATE roles SET scopes = '[\"self\", \"proxy\"]' WHERE name = 'user'",
    "UPDATE roles SET scopes = '[\"self\", \"shutdown\"]' WHERE name = 'crew'",
    "UPDATE roles SET name = 'crewed' WHERE name = 'crew'",
    "DELETE FROM group_role_map",
    "DELETE FROM user_role_map",
    "UPDATE spawners SET name = 'lab2' WHERE name = 'lab'",
    "INSERT INTO shares (user_id, owner_id, spawner_id, created_at, scopes) \
     SELECT e.id, b.id, s.id, '2026-01-01 00:00:00', '[\"access:servers\"]' \
     FROM users e, users b, spawners s WHERE e.name = 'eve' AND b.name = 'bob' AND s.user_id = b.id",
    "UPDATE shares SET scopes = '[]'",
    "UPDATE shares SET expires_at = '2030-01-01 00:00:00'",
    "UPDATE spawners SET name = 'shared' WHERE user_id = (SELECT id FROM users WHERE name = 'bob')",
    "UPDATE users SET name = 'bo' WHERE name = 'bob'",
    "UPDATE shares SET user_id = NULL, group_id = (SELECT id FROM \"groups\" WHERE name = 'crew'); \
     DELETE FROM user_group_map",
    "UPDATE spawners SET oauth_client_id = NULL",
    "UPDATE services SET oauth_client_id = 'lab'",
    "UPDATE services SET name = 'renamed'",
    "UPDATE api_tokens SET note = 'Server at /user/eve/lab/'",
    "UPDATE roles SET scopes = '[\"shutdown\"]' WHERE name = 'server'",
    "DELETE FROM roles WHERE name = 'server'",
];

#[tokio::test]
async fn every_change_of_what_decides_shows() {
    for dialect in crate::harness::dialects() {
        if dialect == Dialect::MySql {
            // Nothing is kept there: see `Store::freshness`.
            continue;
        }
        let database = TestDatabase::create(dialect).await;
        let url = DbUrl::parse(&database.url).unwrap();
        let store = Store::open(&url, StoreOptions::default()).await.unwrap();
        let ada = add_user(&store, "ada").await;
        let bob = add_user(&store, "bob").await;
        let lab = add_spawner(&store, &ada, "lab").await;
        add_spawner(&store, &bob, "").await;
        let (token, of_service) = store
            .write(|txn| async move {
                let group = groups::insert(&txn, "crew", &json!({})).await?;
                groups::add_members(&txn, group.id, &[ada.id]).await?;
                let crew = roles::upsert(&txn, "crew", None, &[], false).await?;
                roles::assign(&txn, roles::Holder::Group(group.id), crew.id, false).await?;
                let user = roles::find(&txn, "user").await?.unwrap();
                roles::assign(&txn, roles::Holder::User(ada.id), user.id, false).await?;
                oauth_clients::upsert(&txn, &client("lab")).await?;
                let changes = orrery_store::spawners::SpawnerChanges {
                    oauth_client_id: Some(Some("lab".to_owned())),
                    ..Default::default()
                };
                orrery_store::spawners::update(&txn, lab.id, &changes).await?;
                let fields = ServiceFields {
                    name: "culler".to_owned(),
                    ..ServiceFields::default()
                };
                let service = services::insert(&txn, &fields).await?;
                let token = api_tokens::insert(&txn, &new_token(Owner::User(ada.id), "a")).await?;
                let of_service =
                    api_tokens::insert(&txn, &new_token(Owner::Service(service.id), "b")).await?;
                Ok::<_, StoreError>((token.id, of_service.id))
            })
            .await
            .unwrap();
        let both = async || {
            let one = stamps::of_token(store.read(), token).await.unwrap();
            let other = stamps::of_token(store.read(), of_service).await.unwrap();
            (one.expect("a stamp"), other.expect("a stamp"))
        };
        let mut before = both().await;
        assert_eq!(both().await, before, "nothing has changed");
        for change in CHANGES {
            database.run(change).await;
            let now = both().await;
            assert!(now != before, "{change} is overlooked on {dialect:?}");
            before = now;
        }
        for change in [
            "UPDATE services SET admin = TRUE",
            "UPDATE services SET url = 'http://127.0.0.1:1'",
            "INSERT INTO service_role_map (service_id, role_id, managed_by_auth) \
             SELECT s.id, r.id, FALSE FROM services s, roles r WHERE r.name = 'admin'",
            "UPDATE roles SET scopes = '[]' WHERE name = 'admin'",
        ] {
            database.run(change).await;
            let now = both().await;
            assert_ne!(now.1, before.1, "{change} is overlooked on {dialect:?}");
            before = now;
        }
        database.run("DELETE FROM api_tokens").await;
        assert_eq!(stamps::of_token(store.read(), token).await.unwrap(), None);
        store.close().await;
        database.remove().await;
    }
}

fn client(identifier: &str) -> NewOauthClient {
    NewOauthClient {
        identifier: identifier.to_owned(),
        description: String::new(),
        secret: String::new(),
        redirect_uri: String::new(),
        allowed_scopes: Vec::new(),
    }
}

fn new_token(owner: Owner, hashed: &str) -> NewApiToken {
    NewApiToken {
        owner,
        hashed: hashed.to_owned(),
        prefix: "abcd".to_owned(),
        client_id: "lab".to_owned(),
        session_id: None,
        created: at(0),
        expires_at: None,
        note: String::new(),
        scopes: vec!["inherit".to_owned()],
    }
}
