use orrery_store::{
    ConnectionTrait, StoreError, Transaction, api_tokens, groups, roles, servers, services,
    services::ServiceFields, share_codes, shares,
};
use serde_json::json;

use crate::{
    harness::{add_client, add_spawner, add_user, at, on_each},
    users::{count, server},
};

/// The row as upstream writes it.
pub(crate) async fn add_share(
    transaction: &Transaction,
    user_id: Option<i32>,
    group_id: Option<i32>,
    owner_id: i32,
    spawner_id: i32,
) {
    let id = |id: Option<i32>| id.map_or("NULL".to_owned(), |id| id.to_string());
    let sql = format!(
        "INSERT INTO shares (user_id, group_id, created_at, scopes, owner_id, spawner_id) \
         VALUES ({}, {}, '2026-11-21 00:00:00', '[\"access:servers!server=ada/\"]', {owner_id}, {spawner_id})",
        id(user_id),
        id(group_id)
    );
    transaction.execute_unprepared(&sql).await.unwrap();
}

#[tokio::test]
async fn a_service_is_kept_whole() {
    on_each(|store| async move {
        add_client(&store, "service-grader").await;
        add_client(&store, "jupyterhub").await;
        let service = store
            .write(|txn| async move {
                let address = servers::insert(&txn, &server()).await?;
                let fields = ServiceFields {
                    name: "grader".into(),
                    admin: true,
                    url: Some("http://127.0.0.1:1".into()),
                    oauth_client_allowed_scopes: Some(vec!["self".into()]),
                    info: json!({"a": [1]}),
                    display: Some(true),
                    oauth_no_confirm: Some(false),
                    command: Some(vec!["python3".into(), "-m".into(), "grader".into()]),
                    cwd: Some("/srv".into()),
                    environment: json!({"KEY": "value"}),
                    user: Some("nobody".into()),
                    timeout: 7,
                    from_config: false,
                    server_id: Some(address.id),
                    pid: Some(9),
                    oauth_client_id: Some("service-grader".into()),
                };
                let service = services::insert(&txn, &fields).await?;
                let token =
                    crate::tokens::new_token(api_tokens::Owner::Service(service.id), "some-token");
                api_tokens::insert(&txn, &token).await?;
                let role = roles::find(&txn, "server").await?.unwrap();
                roles::assign(&txn, roles::Holder::Service(service.id), role.id, false).await?;
                Ok::<_, StoreError>(service)
            })
            .await
            .unwrap();
        let read = store.read();
        assert_eq!(
            services::find(read, "grader").await.unwrap(),
            Some(service.clone())
        );
        assert_eq!(
            services::find_by_id(read, service.id).await.unwrap(),
            Some(service.clone())
        );
        assert_eq!(
            services::find_by_client(read, "service-grader")
                .await
                .unwrap(),
            Some(service.clone())
        );
        let plain = &ServiceFields {
            name: "grader".into(),
            server_id: service.fields.server_id,
            oauth_client_id: Some("service-grader".into()),
            ..Default::default()
        };
        assert!(
            store
                .write(|txn| async move { services::update(&txn, service.id, plain).await })
                .await
                .unwrap()
        );
        assert_eq!(services::list(read).await.unwrap()[0].fields, *plain);
        assert!(
            store
                .write(|txn| async move { services::delete(&txn, service.id).await })
                .await
                .unwrap()
        );
        for (table, rows) in [
            ("services", 0),
            ("servers", 0),
            ("api_tokens", 0),
            ("service_role_map", 0),
            ("oauth_clients", 1),
        ] {
            assert_eq!(count(&store, table).await, rows, "{table}");
        }
    })
    .await;
}

#[tokio::test]
async fn shares_are_found_from_every_side() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let bob = &add_user(&store, "bob").await;
        let carol = &add_user(&store, "carol").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let crew = store
            .write(|txn| async move {
                let crew = groups::insert(&txn, "crew", &json!({})).await?;
                groups::add_members(&txn, crew.id, &[carol.id]).await?;
                add_share(&txn, Some(bob.id), None, ada.id, spawner.id).await;
                add_share(&txn, None, Some(crew.id), ada.id, spawner.id).await;
                let sql = format!(
                    "INSERT INTO share_codes (hashed, prefix, exchange_count, created_at, scopes, expires_at, owner_id, spawner_id) \
                     VALUES ('sha512:1:s:h', 'abcd', 0, '2026-11-21 00:00:00', '[]', '2026-11-21 00:01:00.000000', {}, {})",
                    ada.id, spawner.id
                );
                txn.execute_unprepared(&sql).await.map_err(StoreError::from)?;
                Ok::<_, StoreError>(crew)
            })
            .await
            .unwrap();
        let read = store.read();
        let owned = shares::by_owner(read, ada.id).await.unwrap();
        assert_eq!(owned.len(), 2);
        assert_eq!(owned[0].scopes, ["access:servers!server=ada/"]);
        assert_eq!(owned[0].created_at, at(0));
        assert_eq!(shares::by_spawner(read, spawner.id).await.unwrap(), owned);
        assert_eq!(shares::with_user(read, bob.id).await.unwrap(), owned[..1]);
        assert_eq!(shares::with_user(read, carol.id).await.unwrap(), owned[1..]);
        assert_eq!(shares::with_user(read, ada.id).await.unwrap(), []);
        assert_eq!(shares::with_group(read, crew.id).await.unwrap(), owned[1..]);
        let codes = share_codes::by_owner(read, ada.id).await.unwrap();
        assert_eq!(codes.len(), 1);
        assert_eq!(share_codes::by_spawner(read, spawner.id).await.unwrap(), codes);
        assert_eq!(share_codes::find_candidates(read, "abcd", at(60)).await.unwrap(), codes);
        assert_eq!(share_codes::find_candidates(read, "abcd", at(61)).await.unwrap(), []);
        assert_eq!(share_codes::find_candidates(read, "abce", at(0)).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_share_grows_and_goes_and_a_code_is_counted() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let bob = &add_user(&store, "bob").await;
        let spawner = &add_spawner(&store, ada, "lab").await;
        let wish = |filter: &str, scopes: &[&str]| shares::Grant {
            owner_id: ada.id,
            spawner_id: spawner.id,
            with: shares::With::User(bob.id),
            filter: filter.to_owned(),
            scopes: scopes
                .iter()
                .map(|scope| format!("{scope}!{filter}"))
                .collect(),
            now: at(0),
        };
        let first = &wish("server=ada/lab", &["read:servers", "access:servers"]);
        // The server has another name by then.
        let second = &wish("server=ada/new", &["start:servers", "access:servers"]);
        let (one, two) = store
            .write(|txn| async move {
                let one = shares::grant(&txn, first).await?;
                Ok::<_, StoreError>((one, shares::grant(&txn, second).await?))
            })
            .await
            .unwrap();
        assert_eq!(
            one.scopes,
            [
                "access:servers!server=ada/lab",
                "read:servers!server=ada/lab"
            ]
        );
        assert_eq!((one.created_at, one.id), (at(0), two.id));
        assert_eq!(
            two.scopes,
            [
                "access:servers!server=ada/new",
                "read:servers!server=ada/new",
                "start:servers!server=ada/new"
            ]
        );
        let read = store.read();
        let of = shares::Of::User(bob.id);
        assert_eq!(
            shares::page(read, of, 0, 5).await.unwrap(),
            (vec![two.clone()], 1)
        );
        assert_eq!(shares::page(read, of, 1, 5).await.unwrap(), (vec![], 1));
        let found = shares::find(read, spawner.id, shares::With::User(ada.id)).await;
        assert_eq!(found.unwrap(), None);

        let code = &share_codes::NewShareCode {
            hashed: "sha512:1:s:h".to_owned(),
            prefix: "abcd".to_owned(),
            created_at: at(0),
            expires_at: at(60),
            scopes: vec!["access:servers!server=ada/lab".to_owned()],
            owner_id: ada.id,
            spawner_id: spawner.id,
        };
        let kept = &store
            .write(|txn| async move {
                let kept = share_codes::insert(&txn, code).await?;
                assert!(share_codes::count_exchange(&txn, kept.id, at(5)).await?);
                assert!(!share_codes::count_exchange(&txn, kept.id + 1, at(5)).await?);
                Ok::<_, StoreError>(kept)
            })
            .await
            .unwrap();
        let (codes, total) = share_codes::page(read, shares::Of::Spawner(spawner.id), 0, 5)
            .await
            .unwrap();
        assert_eq!((codes.len(), total), (1, 1));
        assert_eq!(
            (codes[0].exchange_count, codes[0].last_exchanged_at),
            (1, Some(at(5)))
        );
        store
            .write(|txn| async move {
                assert!(!share_codes::delete(&txn, spawner.id + 1, kept.id).await?);
                assert!(share_codes::delete(&txn, spawner.id, kept.id).await?);
                share_codes::insert(&txn, code).await?;
                assert_eq!(share_codes::delete_of_spawner(&txn, spawner.id).await?, 1);
                assert_eq!(shares::delete_of_spawner(&txn, spawner.id).await?, 1);
                assert!(!shares::delete(&txn, two.id).await?);
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
    })
    .await;
}
