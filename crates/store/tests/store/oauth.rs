use orrery_store::{
    StoreError, Transaction, api_tokens, oauth_clients, oauth_codes, oauth_codes::NewOauthCode,
};

use crate::harness::{add_client, add_user, on_each};

pub(crate) async fn add_code(transaction: &Transaction, user_id: i32, client: &str, code: &str) {
    let new = NewOauthCode {
        client_id: client.into(),
        code: code.into(),
        expires_at: 1000,
        redirect_uri: "/callback".into(),
        session_id: "session".into(),
        user_id,
        scopes: vec!["self".into()],
        code_challenge: Some("challenge".into()),
        code_challenge_method: Some("S256".into()),
    };
    oauth_codes::insert(transaction, &new).await.unwrap();
}

#[tokio::test]
async fn a_code_is_good_for_one_exchange() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        add_client(&store, "client").await;
        store
            .write(|txn| async move {
                for code in ["first", "second", "third"] {
                    add_code(&txn, ada, "client", code).await;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let take = async |code: &'static str, now| {
            store
                .write(|txn| async move { oauth_codes::take(&txn, code, now).await })
                .await
                .unwrap()
        };
        assert_eq!(take("none", 10).await, None);
        assert_eq!(take("FIRST", 10).await, None);
        let code = take("first", 1000).await.unwrap();
        assert_eq!(
            (code.user_id, code.client_id.as_deref()),
            (Some(ada), Some("client"))
        );
        assert_eq!(code.code_challenge.as_deref(), Some("challenge"));
        assert_eq!(code.expires_at, Some(1000));
        assert_eq!(take("first", 1000).await, None);
        assert_eq!(take("second", 1001).await, None, "expired");
        assert_eq!(
            take("second", 10).await,
            None,
            "an expired code is used up all the same"
        );
        let purged = store
            .write(|txn| async move { oauth_codes::purge_expired(&txn, 1001).await })
            .await
            .unwrap();
        assert_eq!(purged, 1);
    })
    .await;
}

#[tokio::test]
async fn the_codes_of_one_user_for_one_client_can_be_revoked() {
    on_each(|store| async move {
        let (ada, bob) = (
            add_user(&store, "ada").await.id,
            add_user(&store, "bob").await.id,
        );
        add_client(&store, "client").await;
        add_client(&store, "other").await;
        store
            .write(|txn| async move {
                add_code(&txn, ada, "client", "gone").await;
                add_code(&txn, ada, "other", "of the other").await;
                add_code(&txn, bob, "client", "of bob").await;
                oauth_codes::delete_of_user_and_client(&txn, ada, "CLIENT").await?;
                let gone = oauth_codes::delete_of_user_and_client(&txn, ada, "client").await?;
                assert_eq!(gone, 1);
                assert_eq!(oauth_codes::take(&txn, "gone", 10).await?, None);
                for code in ["of the other", "of bob"] {
                    assert!(oauth_codes::take(&txn, code, 10).await?.is_some(), "{code}");
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn of_two_exchanges_at_once_one_wins() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        add_client(&store, "client").await;
        store
            .write(|txn| async move {
                add_code(&txn, ada, "client", "code").await;
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let mut exchanges = Vec::new();
        for _ in 0..8 {
            let store = store.clone();
            exchanges.push(tokio::spawn(async move {
                store
                    .write(|txn| async move { oauth_codes::take(&txn, "code", 10).await })
                    .await
                    .unwrap()
            }));
        }
        let mut winners = 0;
        for exchange in exchanges {
            winners += usize::from(exchange.await.unwrap().is_some());
        }
        assert_eq!(winners, 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_is_changed_and_deleted_with_its_tokens() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        add_client(&store, "client").await;
        let first = oauth_clients::find(store.read(), "client")
            .await
            .unwrap()
            .unwrap();
        let new = &oauth_clients::NewOauthClient {
            identifier: "client".into(),
            description: "changed".into(),
            secret: "hash".into(),
            redirect_uri: "/other".into(),
            allowed_scopes: vec!["a".into(), "b".into()],
        };
        let changed = store
            .write(|txn| async move {
                let changed = oauth_clients::upsert(&txn, new).await?;
                let mut token =
                    crate::tokens::new_token(api_tokens::Owner::User(ada), "some-token");
                token.client_id = "client".into();
                api_tokens::insert(&txn, &token).await?;
                add_code(&txn, ada, "client", "code").await;
                Ok::<_, StoreError>(changed)
            })
            .await
            .unwrap();
        assert_eq!(changed.id, first.id);
        assert_eq!(oauth_clients::list(store.read()).await.unwrap(), [changed]);
        let deleted = store
            .write(|txn| async move { oauth_clients::delete(&txn, "client").await })
            .await
            .unwrap();
        assert!(deleted);
        for table in ["oauth_clients", "api_tokens", "oauth_codes"] {
            assert_eq!(crate::users::count(&store, table).await, 0, "{table}");
        }
    })
    .await;
}
