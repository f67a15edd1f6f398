use orrery_store::{
    StoreError, api_tokens,
    api_tokens::{NewApiToken, Owner},
    services, token_hash,
    token_hash::Origin,
};

use crate::harness::{add_client, add_user, at, on_each};

pub(crate) fn new_token(owner: Owner, token: &str) -> NewApiToken {
    NewApiToken {
        owner,
        hashed: token_hash::hash_token(token, Origin::Generated).unwrap(),
        prefix: token_hash::prefix(token).to_owned(),
        client_id: "jupyterhub".into(),
        session_id: None,
        created: at(0),
        expires_at: None,
        note: "made in a test".into(),
        scopes: vec!["inherit".into()],
    }
}

#[tokio::test]
async fn a_token_is_found_by_prefix_until_it_expires() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        add_client(&store, "jupyterhub").await;
        let token = token_hash::generate_token().unwrap();
        let mut new = new_token(Owner::User(ada.id), token.expose());
        new.expires_at = Some(at(100));
        new.session_id = Some("session".into());
        let new = &new;
        let inserted = store
            .write(|txn| async move { api_tokens::insert(&txn, new).await })
            .await
            .unwrap();
        let read = store.read();
        let candidates = async |seconds| {
            api_tokens::find_candidates(read, token_hash::prefix(token.expose()), at(seconds))
                .await
                .unwrap()
        };
        assert_eq!(candidates(99).await, vec![inserted.clone()]);
        assert!(token_hash::verify_token(
            &candidates(99).await[0].hashed,
            token.expose()
        ));
        assert_eq!(
            candidates(100).await.len(),
            1,
            "the last instant counts, as in upstream"
        );
        assert_eq!(candidates(101).await, []);
        assert_eq!(
            api_tokens::find_by_id(read, inserted.id).await.unwrap(),
            Some(inserted.clone())
        );

        let scopes = &["self".to_owned(), "read:hub".to_owned()];
        store
            .write(|txn| async move {
                assert!(api_tokens::touch(&txn, inserted.id, at(7)).await?);
                assert!(api_tokens::set_scopes(&txn, inserted.id, scopes).await?);
                assert_eq!(api_tokens::purge_expired(&txn, at(100)).await?, 0);
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let changed = api_tokens::find_by_id(read, inserted.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(changed.last_activity, Some(at(7)));
        assert_eq!(changed.scopes, scopes);
        let purged = store
            .write(|txn| async move { api_tokens::purge_expired(&txn, at(101)).await })
            .await
            .unwrap();
        assert_eq!(purged, 1);
    })
    .await;
}

#[tokio::test]
async fn tokens_are_deleted_by_owner_session_and_client() {
    on_each(|store| async move {
        let (ada, bob) = (
            add_user(&store, "ada").await.id,
            add_user(&store, "bob").await.id,
        );
        add_client(&store, "jupyterhub").await;
        add_client(&store, "jupyterhub-user-ada").await;
        let service = store
            .write(|txn| async move {
                let fields = services::ServiceFields {
                    name: "cull".into(),
                    ..Default::default()
                };
                services::insert(&txn, &fields).await
            })
            .await
            .unwrap()
            .id;
        let mut number = 0;
        let mut token = |owner, client: &str, session: Option<&str>| {
            number += 1;
            let mut new = new_token(owner, &format!("tok{number}-of-a-test"));
            new.client_id = client.into();
            new.session_id = session.map(str::to_owned);
            new
        };
        let new = &[
            token(Owner::User(ada), "jupyterhub", None),
            token(Owner::User(ada), "jupyterhub-user-ada", Some("one")),
            token(Owner::User(ada), "jupyterhub-user-ada", Some("two")),
            token(Owner::User(bob), "jupyterhub-user-ada", Some("one")),
            token(Owner::Service(service), "jupyterhub", None),
        ];
        store
            .write(|txn| async move {
                for token in new {
                    api_tokens::insert(&txn, token).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let left = async |owner| api_tokens::list(store.read(), owner).await.unwrap().len();
        assert_eq!(left(Owner::User(ada)).await, 3);
        assert_eq!(left(Owner::Service(service)).await, 1);
        let gone = store
            .write(|txn| async move { api_tokens::delete_session(&txn, ada, "one").await })
            .await
            .unwrap();
        assert_eq!(
            (
                gone,
                left(Owner::User(ada)).await,
                left(Owner::User(bob)).await
            ),
            (1, 2, 1)
        );
        let gone = store
            .write(|txn| async move {
                api_tokens::delete_of_owner_and_client(
                    &txn,
                    Owner::User(bob),
                    "jupyterhub-user-ada",
                )
                .await
            })
            .await
            .unwrap();
        assert_eq!(
            (
                gone,
                left(Owner::User(ada)).await,
                left(Owner::User(bob)).await
            ),
            (1, 2, 0)
        );
        let gone = store
            .write(|txn| async move {
                api_tokens::delete_of_owner_and_client(
                    &txn,
                    Owner::User(ada),
                    "jupyterhub-user-ada",
                )
                .await
            })
            .await
            .unwrap();
        assert_eq!((gone, left(Owner::User(ada)).await), (1, 1));
        let last = api_tokens::list(store.read(), Owner::User(ada))
            .await
            .unwrap()[0]
            .id;
        let twice = store
            .write(|txn| async move {
                Ok::<_, StoreError>((
                    api_tokens::delete(&txn, last).await?,
                    api_tokens::delete(&txn, last).await?,
                ))
            })
            .await
            .unwrap();
        assert_eq!(twice, (true, false));
    })
    .await;
}

#[tokio::test]
async fn a_token_needs_its_client() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await.id;
        let new = &new_token(Owner::User(ada), "some-token");
        let error = store
            .write(|txn| async move { api_tokens::insert(&txn, new).await })
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Reference(_)), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn no_secret_is_in_debug_output() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        add_client(&store, "jupyterhub").await;
        let new = &new_token(Owner::User(ada.id), "some-token");
        let token = store
            .write(|txn| async move { api_tokens::insert(&txn, new).await })
            .await
            .unwrap();
        let shown = format!("{ada:?} {token:?}");
        assert!(
            !shown.contains(&ada.cookie_id) && !shown.contains(&token.hashed),
            "{shown}"
        );
        assert!(shown.contains("ada"));
    })
    .await;
}
