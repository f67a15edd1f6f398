//! Names are what was written, whatever the database's collation overlooks.

use orrery_store::{
    Dialect, Store, StoreError, api_tokens, groups, oauth_clients,
    oauth_clients::NewOauthClient,
    roles, services,
    services::ServiceFields,
    spawners,
    spawners::SpawnerChanges,
    users,
    users::{UserChanges, UserQuery, Visible},
};
use serde_json::json;

use crate::harness::{add_client, add_spawner, add_user, at, on_each};

/// Whether the database may keep two names that differ in case or accents only.
fn tells_apart(store: &Store) -> bool {
    store.dialect() != Dialect::MySql
}

/// Both names kept, or the second one refused with a sentence that has both in it.
fn check<T: std::fmt::Debug>(store: &Store, outcome: Result<T, StoreError>, existing: &str) {
    if tells_apart(store) {
        outcome.unwrap();
        return;
    }
    let error = outcome.unwrap_err();
    assert!(error.is_duplicate(), "{error:?}");
    assert!(matches!(error, StoreError::Lookalike { .. }), "{error:?}");
    assert!(error.to_string().contains(existing), "{error}");
}

#[tokio::test]
async fn another_spelling_is_another_user() {
    on_each(|store| async move {
        let jose = &add_user(&store, "jose").await;
        let root = &add_user(&store, "root").await;
        for name in ["Root", "róot", "ROOT", "root "] {
            let found = users::find(store.read(), name).await.unwrap();
            assert_eq!(found, None, "{name}");
        }
        let new = &users::NewUser {
            name: "josé".into(),
            admin: false,
            created: at(0),
            cookie_id: "another".into(),
        };
        let added = store
            .write(|txn| async move { users::insert(&txn, new).await })
            .await;
        check(&store, added, "jose");
        let changes = &UserChanges {
            name: Some("Jose".into()),
            ..UserChanges::default()
        };
        let renamed = store
            .write(|txn| async move { users::update(&txn, root.id, changes).await })
            .await;
        check(&store, renamed, "jose");
        // The same user may take another spelling of its own name.
        let own = &UserChanges {
            name: Some("JOSE".into()),
            ..UserChanges::default()
        };
        let renamed = store
            .write(|txn| async move { users::update(&txn, jose.id, own).await })
            .await
            .unwrap();
        assert!(renamed);
    })
    .await;
}

#[tokio::test]
async fn a_scope_for_another_spelling_shows_nobody() {
    on_each(|store| async move {
        let root = &add_user(&store, "root").await;
        store
            .write(|txn| async move {
                let staff = groups::insert(&txn, "staff", &json!({})).await?;
                groups::add_members(&txn, staff.id, &[root.id]).await
            })
            .await
            .unwrap();
        let seen = async |users: &[&str], groups: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let query = UserQuery {
                visible: Some(Visible {
                    users: texts(users),
                    groups: texts(groups),
                }),
                ..UserQuery::default()
            };
            let listed = users::list(store.read(), &query).await.unwrap().len();
            let counted = users::count(store.read(), &query).await.unwrap();
            assert_eq!(u64::try_from(listed).unwrap(), counted);
            listed
        };
        assert_eq!(seen(&["Root", "róot"], &["Staff"]).await, 0);
        assert_eq!(seen(&["nobody", "root"], &[]).await, 1);
        assert_eq!(seen(&[], &["staff"]).await, 1);
    })
    .await;
}

#[tokio::test]
async fn another_spelling_is_another_group_role_service_or_server() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let lab = &add_spawner(&store, ada, "lab").await;
        add_client(&store, "service-grader").await;
        let grader = &ServiceFields {
            name: "grader".into(),
            oauth_client_id: Some("service-grader".into()),
            ..ServiceFields::default()
        };
        store
            .write(|txn| async move {
                groups::insert(&txn, "staff", &json!({})).await?;
                services::insert(&txn, grader).await?;
                let changes = SpawnerChanges {
                    oauth_client_id: Some(Some("service-grader".into())),
                    ..SpawnerChanges::default()
                };
                spawners::update(&txn, lab.id, &changes).await
            })
            .await
            .unwrap();
        let read = store.read();
        assert_eq!(groups::find(read, "Staff").await.unwrap(), None);
        assert_eq!(roles::find(read, "Admin").await.unwrap(), None);
        assert_eq!(services::find(read, "Grader").await.unwrap(), None);
        assert_eq!(spawners::find(read, ada.id, "Lab").await.unwrap(), None);
        let client = "service-Grader";
        assert_eq!(services::find_by_client(read, client).await.unwrap(), None);
        assert_eq!(spawners::find_by_client(read, client).await.unwrap(), None);

        // Two servers' names may differ in case only; each is found as itself.
        let upper = add_spawner(&store, ada, "Lab").await;
        for (name, id) in [("lab", lab.id), ("Lab", upper.id)] {
            let found = spawners::find(read, ada.id, name).await.unwrap().unwrap();
            assert_eq!(found.id, id, "{name}");
        }

        let group = store
            .write(|txn| async move { groups::insert(&txn, "STAFF", &json!({})).await })
            .await;
        check(&store, group, "staff");
        let other = &ServiceFields {
            name: "Grader".into(),
            ..ServiceFields::default()
        };
        let service = store
            .write(|txn| async move { services::insert(&txn, other).await })
            .await;
        check(&store, service, "grader");
        let role = store
            .write(|txn| async move { roles::upsert(&txn, "ADMIN", None, &[], false).await })
            .await;
        check(&store, role, "admin");
        let admin = roles::find(read, "admin").await.unwrap().unwrap();
        assert!(!admin.scopes.is_empty(), "the role kept its scopes");
    })
    .await;
}

#[tokio::test]
async fn another_spelling_of_a_client_id_takes_nothing_over() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        add_client(&store, "service-grader").await;
        let read = store.read();
        let before = oauth_clients::find(read, "service-grader").await.unwrap();
        assert!(before.is_some());
        let wrong = "service-Grader";
        assert_eq!(oauth_clients::find(read, wrong).await.unwrap(), None);
        store
            .write(|txn| async move {
                let owner = api_tokens::Owner::User(ada);
                let mut token = crate::tokens::new_token(owner, "some-token");
                token.client_id = "service-grader".into();
                api_tokens::insert(&txn, &token).await?;
                assert!(!oauth_clients::delete(&txn, wrong).await?);
                let deleted = api_tokens::delete_of_owner_and_client(&txn, owner, wrong).await?;
                assert_eq!(deleted, 0);
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let new = &NewOauthClient {
            identifier: wrong.into(),
            description: "evil".into(),
            secret: "evil".into(),
            redirect_uri: "https://evil.example/".into(),
            allowed_scopes: vec![],
        };
        let upserted = store
            .write(|txn| async move { oauth_clients::upsert(&txn, new).await })
            .await;
        check(&store, upserted, "service-grader");
        let after = oauth_clients::find(read, "service-grader").await.unwrap();
        assert_eq!(after, before);
    })
    .await;
}
