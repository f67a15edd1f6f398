//! Events: what is told, in which order, and what happens when they are thrown away.

use orrery_core::phase::{Cause, Failure, Phase};
use orrery_store::events::{self, Event, Kind};
use orrery_store::groups;
use orrery_store::runs::{self, NewRun};
use orrery_store::users::{self, NewUser, UserChanges};
use orrery_store::{DbUrl, Dialect, Store, StoreError, StoreOptions, spawners};
use serde_json::{Value, json};

use crate::harness::{TestDatabase, add_spawner, add_user, at, dialects, on_each};

async fn all(store: &Store) -> Vec<Event> {
    events::after(store, 0, 1000).await.unwrap().events
}

fn short(events: &[Event]) -> Vec<(Option<Kind>, &str, Option<&str>, Value)> {
    events
        .iter()
        .map(|event| {
            (
                event.kind,
                event.user.as_str(),
                event.server.as_deref(),
                event.data.clone(),
            )
        })
        .collect()
}

#[tokio::test]
async fn each_change_is_told_once_with_what_changed() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let bob = add_user(&store, "bob").await;
        let changes = &UserChanges {
            admin: Some(true),
            name: Some("lovelace".to_owned()),
            ..UserChanges::default()
        };
        let ids = &[ada.id, bob.id];
        store
            .write(|txn| async move {
                users::update(&txn, ada.id, changes).await?;
                // What is so already, and what nobody is shown.
                users::update(&txn, ada.id, changes).await?;
                let cookie = UserChanges {
                    cookie_id: Some("another".to_owned()),
                    ..UserChanges::default()
                };
                users::update(&txn, ada.id, &cookie).await?;
                let group = groups::insert(&txn, "staff", &json!({})).await?;
                groups::add_members(&txn, group.id, &ids[..1]).await?;
                groups::add_members(&txn, group.id, ids).await?;
                groups::remove_members(&txn, group.id, &ids[..1]).await?;
                groups::remove_members(&txn, group.id, &ids[..1]).await?;
                groups::delete(&txn, group.id).await?;
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let told = all(&store).await;
        let changed = |user, data| (Some(Kind::UserChanged), user, None, data);
        assert_eq!(
            short(&told),
            vec![
                (Some(Kind::UserCreated), "ada", None, Value::Null),
                (Some(Kind::UserCreated), "bob", None, Value::Null),
                changed("lovelace", json!({"admin": true, "old_name": "ada"})),
                changed("lovelace", json!({"groups_added": ["staff"]})),
                changed("bob", json!({"groups_added": ["staff"]})),
                changed("lovelace", json!({"groups_removed": ["staff"]})),
                changed("bob", json!({"groups_removed": ["staff"]})),
            ]
        );
        assert!(told.is_sorted_by_key(|event| event.position));
    })
    .await;
}

#[tokio::test]
async fn a_servers_life_is_told_by_its_names_of_now() {
    on_each(|store| async move {
        let ada = add_user(&store, "ada").await;
        let lab = add_spawner(&store, &ada, "lab").await;
        let new = &NewRun {
            user_id: ada.id,
            spawner_id: lab.id,
            user_name: "ada".to_owned(),
            server_name: "lab".to_owned(),
            options: json!({}),
            owner: None,
            lease_until: None,
            deadline: None,
            queued_at: at(1),
        };
        store
            .write(|txn| async move {
                let run = runs::insert(&txn, new).await?;
                let step = |from, to| runs::transition(&txn, run, from, to, at(2), None);
                assert!(step(Phase::Queued, Phase::Starting).await?);
                assert!(!step(Phase::Queued, Phase::Starting).await?);
                spawners::rename(&txn, lab.id, "studio").await?;
                let failure = Failure::new(Cause::Image, "no image");
                assert!(runs::fail(&txn, run, Phase::Starting, &failure, at(3)).await?);
                users::delete(&txn, ada.id).await
            })
            .await
            .unwrap();
        let told = all(&store).await;
        let server = |kind, name, data| (Some(kind), "ada", Some(name), data);
        assert_eq!(
            short(&told)[1..],
            [
                server(Kind::Server(Phase::Queued), "lab", Value::Null),
                server(Kind::Server(Phase::Starting), "lab", Value::Null),
                server(Kind::ServerRenamed, "studio", json!({"old_name": "lab"})),
                server(
                    Kind::Server(Phase::Failed),
                    "studio",
                    json!({"cause": "image"})
                ),
                server(Kind::ServerDeleted, "studio", Value::Null),
                (Some(Kind::UserDeleted), "ada", None, json!({"groups": []})),
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn a_change_that_was_rolled_back_is_not_told() {
    on_each(|store| async move {
        let result: Result<(), StoreError> = store
            .write(|txn| async move {
                users::insert(&txn, &new_user("ada")).await?;
                Err(StoreError::Corrupt("on purpose".to_owned()))
            })
            .await;
        assert!(result.is_err());
        add_user(&store, "bob").await;
        let told = all(&store).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].user, "bob");
    })
    .await;
}

fn new_user(name: &str) -> NewUser {
    NewUser {
        name: name.to_owned(),
        admin: false,
        created: at(0),
        cookie_id: format!("cookie of {name}"),
    }
}

/// Two hubs on one database: what commits later is told later, even if it was written earlier.
#[tokio::test]
async fn a_reader_missed_what_was_written_first_and_committed_last() {
    for dialect in dialects() {
        if dialect == Dialect::Sqlite {
            // It has one writer.
            continue;
        }
        let database = TestDatabase::create(dialect).await;
        let url = DbUrl::parse(&database.url).unwrap();
        let open = || Store::open(&url, StoreOptions::default());
        let (first, second) = (open().await.unwrap(), open().await.unwrap());
        let slow = first.begin().await.unwrap();
        users::insert(&slow, &new_user("slow")).await.unwrap();
        add_user(&second, "quick").await;
        // Both hubs read meanwhile.
        let seen = events::after(&second, 0, 10).await.unwrap().events;
        assert_eq!(seen.len(), 1, "{dialect:?}");
        assert_eq!(seen[0].user, "quick");
        let position = seen[0].position;
        assert_eq!(events::span(&first).await.unwrap().last, position);
        first.commit(slow).await.unwrap();
        add_user(&second, "last").await;
        for store in [&first, &second] {
            let rest = events::after(store, position, 10).await.unwrap();
            assert!(!rest.has_gap);
            let names: Vec<_> = rest.events.iter().map(|event| &event.user).collect();
            assert_eq!(names, ["slow", "last"], "{dialect:?}");
        }
        first.close().await;
        second.close().await;
        database.remove().await;
    }
}

/// Many writers on two hubs, and readers on both who keep their place: all are told everything once, in
/// the same order.
#[tokio::test]
async fn many_writers_and_two_readers_agree() {
    const WRITERS: usize = 4;
    const EACH: usize = 15;
    for dialect in dialects() {
        let database = TestDatabase::create(dialect).await;
        let url = DbUrl::parse(&database.url).unwrap();
        let open = || Store::open(&url, StoreOptions::default());
        let stores = [open().await.unwrap(), open().await.unwrap()];
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let store = stores[writer % 2].clone();
            writers.push(tokio::spawn(async move {
                for number in 0..EACH {
                    let name = format!("user-{writer}-{number}");
                    add_user(&store, &name).await;
                }
            }));
        }
        let mut readers = Vec::new();
        for store in stores.clone() {
            readers.push(tokio::spawn(async move {
                let mut told = Vec::new();
                let mut position = 0;
                while told.len() < WRITERS * EACH {
                    let page = events::after(&store, position, 7).await.unwrap();
                    assert!(!page.has_gap);
                    for event in page.events {
                        assert!(event.position > position);
                        position = event.position;
                        told.push(event.user);
                    }
                    tokio::task::yield_now().await;
                }
                told
            }));
        }
        let limit = std::time::Duration::from_secs(60);
        for writer in writers {
            tokio::time::timeout(limit, writer).await.unwrap().unwrap();
        }
        let mut told = Vec::new();
        for reader in readers {
            told.push(tokio::time::timeout(limit, reader).await.unwrap().unwrap());
        }
        assert_eq!(told[0], told[1], "{dialect:?}");
        let mut names = told.remove(0);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), WRITERS * EACH, "{dialect:?}");
        for store in stores {
            store.close().await;
        }
        database.remove().await;
    }
}

#[tokio::test]
async fn what_was_thrown_away_leaves_a_gap_that_is_noticed() {
    on_each(|store| async move {
        assert_eq!(events::span(&store).await.unwrap().last, 0);
        for name in ["one", "two", "three"] {
            add_user(&store, name).await;
        }
        let told = all(&store).await;
        let later = told[2].at + chrono::TimeDelta::seconds(1);
        let prune = async |before, limit| {
            store
                .write(|txn| async move { events::prune(&txn, before, limit).await })
                .await
                .unwrap()
        };
        assert_eq!(prune(told[0].at, 10).await, 0);
        assert_eq!(prune(later, 2).await, 2);
        let span = events::span(&store).await.unwrap();
        assert_eq!(
            (span.pruned, span.last),
            (told[1].position, told[2].position)
        );
        assert!(!span.covers(told[0].position));
        assert!(span.covers(told[1].position) && span.covers(told[2].position));
        assert!(!span.covers(told[2].position + 1));
        assert!(
            events::after(&store, told[0].position, 10)
                .await
                .unwrap()
                .has_gap
        );
        let page = events::after(&store, told[1].position, 10).await.unwrap();
        assert!(!page.has_gap);
        assert_eq!(page.events, told[2..]);
        // Positions go on rising when nothing is left, and what nobody read is noticed to be gone too.
        assert_eq!(prune(later, 10).await, 1);
        add_user(&store, "four").await;
        let long_after = later + chrono::TimeDelta::hours(1);
        assert_eq!(prune(long_after, 10).await, 1);
        let gone = events::span(&store).await.unwrap();
        assert!(gone.last > told[2].position && gone.pruned == gone.last);
        assert!(!gone.covers(told[2].position));
        add_user(&store, "five").await;
        let page = events::after(&store, gone.last, 10).await.unwrap();
        assert_eq!((page.events.len(), page.has_gap), (1, false));
    })
    .await;
}
