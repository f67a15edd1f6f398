//! What a server is given: its OAuth client and the scopes of its token.

use orrery_core::phase::Phase;
use orrery_hub::servers::Engine;
use orrery_store::users::User;
use orrery_store::{StoreError, groups, oauth_clients, roles, spawners};

use super::bench::{Bench, named, start, until};
use super::fakes::Start;

/// The client that the last server was told, the one in its row, and where that leads back to.
async fn client_of(bench: &Bench, user: &User, server: &str) -> (String, String, String) {
    let told = bench
        .spawner
        .environments
        .lock()
        .expect("no panic under a lock")
        .last()
        .expect("a start")["JUPYTERHUB_CLIENT_ID"]
        .clone();
    let row = spawners::find(bench.store.read(), user.id, server)
        .await
        .expect("a database")
        .expect("a row");
    let stored = row.oauth_client_id.expect("a client");
    let redirect = oauth_clients::find(bench.store.read(), &stored)
        .await
        .expect("a database")
        .and_then(|client| client.redirect_uri)
        .unwrap_or_default();
    (told, stored, redirect)
}

async fn up(engine: &Engine, user: &User, server: &str) {
    start(engine, user, server).await;
    until(engine, user, server, Phase::Ready).await;
}

#[tokio::test]
async fn servers_whose_names_join_to_the_same_text_have_clients_of_their_own() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let (owner, other) = (bench.user("john-doe").await, bench.user("john").await);
    up(&engine, &owner, "").await;
    let (told, stored, redirect) = client_of(&bench, &owner, "").await;
    assert_eq!(told, "jupyterhub-user-john-doe");
    assert_eq!(stored, told);
    assert_eq!(redirect, "/user/john-doe/oauth_callback");

    up(&engine, &other, "doe").await;
    let (others, stored_there, redirect) = client_of(&bench, &other, "doe").await;
    assert_ne!(others, told);
    assert_eq!(stored_there, others);
    assert_eq!(redirect, "/user/john/doe/oauth_callback");
    let untouched = oauth_clients::find(bench.store.read(), &told)
        .await
        .expect("a database")
        .expect("the owner's client");
    assert_eq!(
        untouched.redirect_uri.as_deref(),
        Some("/user/john-doe/oauth_callback")
    );

    engine.stop(&other, &named("doe")).await.expect("a stop");
    until(&engine, &other, "doe", Phase::Stopped).await;
    let find = async |id: &str| {
        oauth_clients::find(bench.store.read(), id)
            .await
            .expect("a database")
    };
    assert!(find(&told).await.is_some(), "the owner's client is kept");
    assert!(find(&others).await.is_none());
}

#[tokio::test]
async fn a_token_gets_what_its_user_holds_by_a_group() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.server_token_scopes = vec!["read:users:name!user=bob".to_owned()];
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    let (ada_id, bob_id) = (ada.id, bob.id);
    bench
        .store
        .write(|transaction| async move {
            let group = groups::insert(&transaction, "class", &serde_json::json!({})).await?;
            groups::add_members(&transaction, group.id, &[bob_id]).await?;
            let scopes = ["read:users!group=class".to_owned()];
            let role = roles::upsert(&transaction, "teacher", None, &scopes, false).await?;
            roles::assign(&transaction, roles::Holder::User(ada_id), role.id, false).await?;
            Ok::<_, StoreError>(())
        })
        .await
        .expect("rows");
    up(&engine, &ada, "").await;
    let tokens = bench.tokens(&ada).await;
    assert!(
        tokens[0]
            .scopes
            .contains(&"read:users:name!user=bob".to_owned()),
        "{:?}",
        tokens[0].scopes
    );
}
