//! What the running hub does by itself, and that there is only one on a database.

use std::path::Path;
use std::time::Duration;

use chrono::{NaiveDateTime, TimeDelta};
use orrery_core::Clock;
use orrery_core::clock::SystemClock;
use orrery_core::phase::Phase;
use orrery_hub::housekeeping::{Discarded, discard};
use orrery_hub::{Setup, run};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::oauth_codes::{self, NewOauthCode};
use orrery_store::runs::{self, NewRun};
use orrery_store::sessions::{self, NewSession};
use orrery_store::spawners::{self, NewSpawner};
use orrery_store::{ConnectionTrait, DbUrl, Store, StoreError, StoreOptions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::test_hub::{PATIENCE, TestHub, fake_proxy, setup};

async fn add_token(
    store: &Store,
    user: i32,
    hash: &str,
    expires_at: Option<NaiveDateTime>,
) -> Result<(), StoreError> {
    let new = &NewApiToken {
        owner: Owner::User(user),
        hashed: format!("not a hash: {hash}"),
        prefix: hash[..4].to_owned(),
        client_id: "jupyterhub".to_owned(),
        session_id: None,
        created: SystemClock.now(),
        expires_at,
        note: String::new(),
        scopes: Vec::new(),
    };
    store
        .write(|transaction| async move { api_tokens::insert(&transaction, new).await.map(drop) })
        .await
}

#[tokio::test]
async fn what_had_expired_and_runs_of_long_ago_were_never_deleted() {
    let hub = TestHub::new().await.with_user("ada").await;
    let store = &hub.state.store;
    let user = &hub.user("ada").await;
    let now = SystemClock.now();
    let tokens = api_tokens::list(store.read(), Owner::User(user.id))
        .await
        .unwrap()
        .len();
    for (hash, expires) in [
        ("old-token", Some(now - TimeDelta::seconds(1))),
        ("new-token", Some(now + TimeDelta::days(1))),
        ("for-ever", None),
    ] {
        add_token(store, user.id, hash, expires).await.unwrap();
    }
    store
        .write(|transaction| async move {
            for (code, after) in [("old", -10), ("new", 10)] {
                let new = NewOauthCode {
                    client_id: "jupyterhub".to_owned(),
                    code: code.to_owned(),
                    expires_at: now.and_utc().timestamp() + after,
                    redirect_uri: "/".to_owned(),
                    session_id: "session".to_owned(),
                    user_id: user.id,
                    scopes: Vec::new(),
                    code_challenge: None,
                    code_challenge_method: None,
                };
                oauth_codes::insert(&transaction, &new).await?;
            }
            let spawner = NewSpawner {
                user_id: user.id,
                ..NewSpawner::default()
            };
            let spawner = spawners::insert(&transaction, &spawner).await?.id;
            for days in [91, 89] {
                let ended = now - TimeDelta::days(days);
                let new = NewRun {
                    user_id: user.id,
                    spawner_id: spawner,
                    user_name: "ada".to_owned(),
                    server_name: String::new(),
                    options: json!({}),
                    owner: None,
                    lease_until: None,
                    deadline: None,
                    queued_at: ended,
                };
                let run = runs::insert(&transaction, &new).await?;
                runs::transition(&transaction, run, Phase::Queued, Phase::Failed, ended, None)
                    .await?;
            }
            let expired = (now - TimeDelta::days(1)).format("%Y-%m-%d %H:%M:%S%.6f");
            for statement in [
                format!(
                    "INSERT INTO shares (user_id, owner_id, spawner_id, created_at, expires_at, scopes) \
                     VALUES ({0}, {0}, {spawner}, '{expired}', '{expired}', '[]')",
                    user.id
                ),
                format!(
                    "INSERT INTO share_codes (hashed, prefix, owner_id, spawner_id, created_at, expires_at, \
                     scopes, exchange_count) \
                     VALUES ('hash', 'pref', {}, {spawner}, '{expired}', '{expired}', '[]', 0)",
                    user.id
                ),
            ] {
                transaction.execute_unprepared(&statement).await?;
            }
            Ok::<_, StoreError>(())
        })
        .await
        .unwrap();
    let expected = Discarded {
        tokens: 1,
        oauth_codes: 1,
        shares: 1,
        share_codes: 1,
        runs: 1,
        ..Discarded::default()
    };
    assert_eq!(
        discard(store, now, now - chrono::TimeDelta::days(14))
            .await
            .unwrap(),
        expected
    );
    assert_eq!(
        discard(store, now, now - chrono::TimeDelta::days(14))
            .await
            .unwrap(),
        Discarded::default()
    );
    let kept = api_tokens::list(store.read(), Owner::User(user.id))
        .await
        .unwrap();
    assert_eq!(kept.len(), tokens + 2);
}

#[tokio::test]
async fn what_ended_goes_soon_where_its_cookie_is_refused_without_it() {
    let hub = TestHub::new().await.with_user("ada").await;
    let store = &hub.state.store;
    let user_id = hub.user("ada").await.id;
    let now = SystemClock.now();
    let mut kept = Vec::new();
    for (key, ended, stays) in [
        ("a", Some(TimeDelta::minutes(61)), false),
        ("b", Some(TimeDelta::minutes(6)), true),
        ("c", None, true),
        (sessions::UNMARKED, Some(TimeDelta::days(3)), true),
    ] {
        let new = &NewSession {
            user_id,
            cookie_key: format!("{key}{:063}", 0),
            session_id: key.to_owned(),
            created: now - TimeDelta::days(4),
            last_seen: now,
            address: None,
            user_agent: None,
        };
        let made = store
            .write(|transaction| async move {
                let made = sessions::insert(&transaction, new).await?;
                if let Some(ago) = ended {
                    sessions::end(&transaction, made.id, now - ago).await?;
                }
                Ok::<_, StoreError>(made)
            })
            .await
            .unwrap();
        kept.push((made.id, stays));
    }
    let done = discard(store, now, now - TimeDelta::days(14))
        .await
        .unwrap();
    assert_eq!(done.sessions, 1);
    for (id, stays) in kept {
        let found = sessions::find_by_id(store.read(), id).await.unwrap();
        assert_eq!(found.is_some(), stays, "{id}");
    }
}

async fn without_proxy(folder: &Path) -> Setup {
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let file = |name: &str| folder.join(name).display().to_string();
    setup(folder, &fake_proxy().await, |config| {
        config.proxy.should_start = false;
        config.hub.hub_bind_url = format!("http://127.0.0.1:{port}");
        config.hub.pid_file = file("hub.pid");
    })
}

#[tokio::test]
async fn a_running_hub_cleans_up_and_keeps_a_second_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let stop = CancellationToken::new();
    let first = without_proxy(folder.path()).await;
    // What an earlier life left.
    let (hub, _) = Box::pin(orrery_hub::build(without_proxy(folder.path()).await))
        .await
        .unwrap();
    let now = SystemClock.now();
    let user = hub
        .store
        .write(|transaction| async move {
            orrery_hub::auth::people::find_or_insert(&transaction, "ada", false, now).await
        })
        .await
        .unwrap();
    let old = now - TimeDelta::days(1);
    add_token(&hub.store, user.id, "old-token", Some(old))
        .await
        .unwrap();
    hub.store.close().await;

    let running = tokio::spawn(Box::pin(run(first, stop.clone())));
    let url = DbUrl::file(&path);
    let look = Store::open(&url, StoreOptions::default()).await.unwrap();
    let gone = async {
        while !api_tokens::list(look.read(), Owner::User(user.id))
            .await
            .unwrap()
            .is_empty()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the old token is deleted");

    let second = without_proxy(folder.path()).await;
    let second = tokio::time::timeout(PATIENCE, Box::pin(run(second, stop.clone())));
    let refusal = second
        .await
        .expect("it ends by itself")
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("another hub"), "{refusal}");
    assert!(
        folder.path().join("hub.pid").exists(),
        "the first hub's file is left alone"
    );

    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, running);
    ended.await.expect("it stops in time").unwrap().unwrap();
    // Another program that still looks at the database leaves nothing in the log either.
    let log = std::fs::metadata(folder.path().join("hub.sqlite-wal"));
    assert_eq!(log.map_or(0, |log| log.len()), 0);
    look.close().await;
}
