use std::time::Duration;

use orrery_core::phase::{
    Cause, Failure,
    Phase::{Failed, Queued, Ready, Starting, Stopped, Stopping},
};
use orrery_store::{
    Store, StoreError, runs,
    runs::{NewRun, TakeOver},
    spawners::Spawner,
    users,
    users::User,
};
use serde_json::json;

use crate::harness::{add_spawner, add_user, at, on_each};

pub(crate) fn new_run(user: &User, spawner: &Spawner, seconds: i64) -> NewRun {
    NewRun {
        user_id: user.id,
        spawner_id: spawner.id,
        user_name: user.name.clone(),
        server_name: spawner.name.clone(),
        options: json!({"image": "small"}),
        owner: Some("hub-1".into()),
        lease_until: Some(at(seconds + 30)),
        deadline: Some(at(seconds + 600)),
        queued_at: at(seconds),
    }
}

/// Adds a run, which waits.
async fn add_run(store: &Store, user: &User, spawner: &Spawner, seconds: i64) -> i64 {
    store
        .write(|txn| async move { runs::insert(&txn, &new_run(user, spawner, seconds)).await })
        .await
        .unwrap()
}

#[tokio::test]
async fn a_run_goes_through_its_phases() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let read = store.read();
        let id = add_run(&store, ada, spawner, 0).await;
        let run = runs::find(read, id).await.unwrap().unwrap();
        assert_eq!(run.phase, Queued);
        assert_eq!(
            runs::options(read, id).await.unwrap(),
            json!({"image": "small"})
        );
        assert_eq!((run.queued_at, run.deadline), (at(0), Some(at(600))));
        assert!(run.events.is_empty() && run.failure.is_none() && !run.cancel_requested);
        assert_eq!(
            runs::active(read, ada.id, "").await.unwrap(),
            Some(run.clone())
        );
        assert_eq!(runs::active(read, ada.id, "other").await.unwrap(), None);
        assert_eq!(
            runs::active_of_users(read, &[ada.id]).await.unwrap(),
            vec![run.clone()]
        );

        // At most one active run for a server, whoever writes.
        let second = store
            .write(|txn| async move { runs::insert(&txn, &new_run(ada, spawner, 1)).await })
            .await;
        assert!(second.unwrap_err().is_duplicate());

        store
            .write(|txn| async move {
                assert!(runs::transition(&txn, id, Queued, Starting, at(2), Some(at(62))).await?);
                assert!(
                    !runs::transition(&txn, id, Queued, Starting, at(3), None).await?,
                    "it left the queue"
                );
                assert!(runs::set_deadline(&txn, id, Starting, Some(at(99))).await?);
                assert!(!runs::set_deadline(&txn, id, Ready, Some(at(1))).await?);
                let run = runs::find(&txn, id).await?.unwrap();
                assert_eq!(run.deadline, Some(at(99)));
                assert!(runs::transition(&txn, id, Starting, Ready, at(5), None).await?);
                assert_eq!(runs::find(&txn, id).await?.unwrap().deadline, None);
                assert!(runs::transition(&txn, id, Ready, Stopping, at(50), Some(at(60))).await?);
                assert!(runs::transition(&txn, id, Stopping, Stopped, at(51), None).await?);
                assert!(!runs::request_cancel(&txn, id).await?, "it has ended");
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let run = runs::find(read, id).await.unwrap().unwrap();
        assert_eq!(run.phase, Stopped);
        assert_eq!(
            (run.started_at, run.ready_at, run.stopping_at, run.ended_at),
            (Some(at(2)), Some(at(5)), Some(at(50)), Some(at(51)))
        );
        assert_eq!((run.deadline, run.lease_until), (None, None));
        assert_eq!(runs::active(read, ada.id, "").await.unwrap(), None);
        assert_eq!(runs::latest(read, spawner.id).await.unwrap(), Some(run));
        assert_eq!(
            runs::recent_start_times(read, 5).await.unwrap(),
            [Duration::from_secs(3)]
        );

        let next = add_run(&store, ada, spawner, 100).await;
        assert!(next > id);
        assert_eq!(
            runs::latest(read, spawner.id).await.unwrap().unwrap().id,
            next
        );
        assert_eq!(
            runs::counts(read).await.unwrap(),
            [(Queued, 1)],
            "what has ended is not counted"
        );
        assert_eq!(
            runs::list(read, &[Queued, Starting]).await.unwrap().len(),
            1
        );
        assert_eq!(runs::list(read, &[]).await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn a_failure_is_kept_with_its_log() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let failure = &Failure {
            cause: Cause::Exited,
            message: "The server ended by itself.".into(),
            exit_code: Some(3),
            log_tail: vec!["line “one”".into(), "'quoted' \\ \u{1f4a5}".into()],
            left_running: Some(json!({"pid": 4711})),
        };
        let id = store
            .write(|txn| async move {
                let id = runs::insert(&txn, &new_run(ada, spawner, 0)).await?;
                assert!(runs::request_cancel(&txn, id).await?);
                assert!(
                    !runs::fail(&txn, id, Starting, failure, at(1)).await?,
                    "it is queued"
                );
                assert!(runs::fail(&txn, id, Queued, failure, at(1)).await?);
                Ok::<_, StoreError>(id)
            })
            .await
            .unwrap();
        let run = runs::find(store.read(), id).await.unwrap().unwrap();
        assert_eq!(run.phase, Failed);
        assert_eq!(run.failure.as_ref(), Some(failure));
        assert!(run.cancel_requested);
        assert_eq!(run.ended_at, Some(at(1)));
    })
    .await;
}

#[tokio::test]
async fn what_a_former_owner_left_is_found() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let left = &Failure {
            left_running: Some(json!({})),
            ..Failure::new(Cause::Spawner, "It may still run.")
        };
        let owned = |owner: &str| NewRun {
            owner: Some(owner.to_owned()),
            ..new_run(ada, spawner, 0)
        };
        let (ours, living, former) = (&owned("ours"), &owned("living"), &owned("former"));
        let active = &NewRun {
            lease_until: Some(at(60)),
            ..owned("living")
        };
        let ids = store
            .write(|txn| async move {
                let mut ids = Vec::new();
                for new in [ours, living, former] {
                    let id = runs::insert(&txn, new).await?;
                    runs::fail(&txn, id, Queued, left, at(1)).await?;
                    runs::set_deadline(&txn, id, Failed, Some(at(1))).await?;
                    ids.push(id);
                }
                runs::insert(&txn, active).await?;
                Ok::<_, StoreError>(ids)
            })
            .await
            .unwrap();
        for (which, now, expected) in [
            (TakeOver::Expired, at(30), vec![ids[0], ids[2]]),
            (TakeOver::Expired, at(90), ids.clone()),
            (TakeOver::All, at(30), ids.clone()),
        ] {
            let found = runs::with_leftovers(store.read(), which, "ours", now)
                .await
                .unwrap();
            let found: Vec<_> = found.iter().map(|run| run.id).collect();
            assert_eq!(found, expected, "{which:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_events_are_kept() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let id = add_run(&store, ada, spawner, 0).await;
        for number in 0..5 {
            let event = &json!({"progress": number, "message": "still ✓"});
            let found = store
                .write(|txn| async move { runs::append_event(&txn, id, event, 3).await })
                .await
                .unwrap();
            assert!(found);
        }
        let run = runs::find(store.read(), id).await.unwrap().unwrap();
        let numbers: Vec<_> = run
            .events
            .iter()
            .map(|event| event["progress"].as_i64().unwrap())
            .collect();
        assert_eq!(numbers, [2, 3, 4]);
        let none = store
            .write(|txn| async move { runs::append_event(&txn, 999, &json!({}), 3).await })
            .await
            .unwrap();
        assert!(!none);
    })
    .await;
}

#[tokio::test]
async fn events_appended_at_once_are_all_kept() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let id = add_run(&store, ada, spawner, 0).await;
        let mut tasks = Vec::new();
        for number in 0..10 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let event = &json!({ "number": number });
                store
                    .write(|txn| async move { runs::append_event(&txn, id, event, 50).await })
                    .await
                    .unwrap()
            }));
        }
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(
            runs::find(store.read(), id)
                .await
                .unwrap()
                .unwrap()
                .events
                .len(),
            10
        );
    })
    .await;
}

#[tokio::test]
async fn leases_are_extended_and_taken_over() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let first = &add_spawner(&store, ada, "").await;
        let second = &add_spawner(&store, ada, "two").await;
        let (one, two) = store
            .write(|txn| async move {
                let one = runs::insert(&txn, &new_run(ada, first, 0)).await?;
                let two = runs::insert(&txn, &new_run(ada, second, 0)).await?;
                assert!(runs::extend_lease(&txn, one, "hub-1", at(100)).await?);
                assert!(
                    runs::extend_lease(&txn, one, "hub-1", at(100)).await?,
                    "again the same"
                );
                assert!(!runs::extend_lease(&txn, one, "hub-2", at(100)).await?);
                Ok::<_, StoreError>((one, two))
            })
            .await
            .unwrap();
        let take = async |which, owner: &'static str, now| {
            let taken = store
                .write(|txn| async move {
                    runs::take_over(&txn, which, owner, at(now), at(now + 30)).await
                })
                .await
                .unwrap();
            taken.iter().map(|run| run.id).collect::<Vec<_>>()
        };
        assert_eq!(
            take(TakeOver::Expired, "hub-2", 30).await,
            [] as [i64; 0],
            "both leases hold"
        );
        assert_eq!(take(TakeOver::Expired, "hub-2", 31).await, [two]);
        assert_eq!(take(TakeOver::Expired, "hub-3", 31).await, [] as [i64; 0]);
        let owned = runs::list_owned(store.read(), "hub-2").await.unwrap();
        assert_eq!((owned.len(), owned[0].lease_until), (1, Some(at(61))));
        let extended = store
            .write(|txn| async move { runs::extend_leases(&txn, "hub-2", at(90)).await })
            .await
            .unwrap();
        assert_eq!(extended, 1);
        assert_eq!(take(TakeOver::All, "hub-4", 40).await, [one, two]);
        assert_eq!(
            take(TakeOver::All, "hub-4", 41).await,
            [] as [i64; 0],
            "they are its own"
        );
        let lost = store
            .write(|txn| async move { runs::extend_lease(&txn, one, "hub-1", at(100)).await })
            .await
            .unwrap();
        assert!(!lost);
    })
    .await;
}

#[tokio::test]
async fn the_queue_is_fair() {
    on_each(|store| async move {
        let (ada, bob) = (
            &add_user(&store, "ada").await,
            &add_user(&store, "bob").await,
        );
        let mut ids = Vec::new();
        for (user, name, seconds) in [
            (ada, "a1", 0),
            (ada, "a2", 1),
            (ada, "a3", 2),
            (bob, "b1", 3),
            (bob, "b2", 4),
        ] {
            let spawner = &add_spawner(&store, user, name).await;
            ids.push(add_run(&store, user, spawner, seconds).await);
        }
        let order = async || {
            let queue = runs::queue(store.read()).await.unwrap();
            queue
                .into_iter()
                .map(|run| run.server_name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(order().await, "a1 b1 a2 b2 a3");
        assert_eq!(
            runs::queue_place(store.read(), ids[3]).await.unwrap(),
            Some(2)
        );
        let (first, second) = (ids[0], ids[1]);
        // Two of ada's start: bob's come before her third.
        store
            .write(|txn| async move {
                runs::transition(&txn, first, Queued, Starting, at(9), None).await?;
                runs::transition(&txn, second, Queued, Starting, at(9), None).await
            })
            .await
            .unwrap();
        assert_eq!(order().await, "b1 b2 a3");
        assert_eq!(runs::queue_place(store.read(), first).await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn statistics_see_each_change_once() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let mut ids = Vec::new();
        for (name, seconds) in [("one", 0), ("two", 1), ("three", 2)] {
            let spawner = &add_spawner(&store, ada, name).await;
            let inserted = store
                .write(
                    |txn| async move { runs::insert(&txn, &new_run(ada, spawner, seconds)).await },
                )
                .await;
            ids.push(inserted.unwrap());
        }
        let (one, two, three) = (ids[0], ids[1], ids[2]);
        let failure = &Failure::new(Cause::Timeout, "It did not answer.");
        store
            .write(|txn| async move {
                runs::transition(&txn, one, Queued, Starting, at(10), None).await?;
                runs::transition(&txn, one, Starting, Ready, at(20), None).await?;
                runs::fail(&txn, two, Queued, failure, at(30)).await
            })
            .await
            .unwrap();
        let changed = async |first: i64, after: i64, until: i64| {
            let runs = runs::changed_between(store.read(), first, at(after), at(until)).await;
            runs.unwrap()
                .into_iter()
                .map(|run| run.id)
                .collect::<Vec<_>>()
        };
        assert_eq!(changed(0, 0, 20).await, [one]);
        assert_eq!(changed(0, 20, 30).await, [two]);
        assert_eq!(changed(0, 0, 40).await, [one, two]);
        assert_eq!(changed(two, 0, 40).await, [two]);
        assert_eq!(changed(0, 30, 40).await, Vec::<i64>::new());

        let first_open = async |first: i64, until: i64| {
            runs::first_open(store.read(), first, at(until))
                .await
                .unwrap()
        };
        assert_eq!(first_open(0, 40).await, one);
        assert_eq!(first_open(two, 29).await, two);
        assert_eq!(first_open(two, 30).await, three);
        store
            .write(|txn| async move {
                for (id, phase) in [(one, Ready), (three, Queued)] {
                    runs::fail(&txn, id, phase, failure, at(50)).await?;
                }
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        assert_eq!(first_open(0, 60).await, three + 1);
        assert_eq!(first_open(three + 1, 60).await, three + 1);
    })
    .await;
}

/// As JupyterHub on the same database does: the user's row goes, and our foreign key keeps the run.
async fn delete_row(store: &orrery_store::Store, table: &str, id: i32) {
    use orrery_store::ConnectionTrait;
    let sql = format!("DELETE FROM {table} WHERE id = {id}");
    store
        .write(|txn| {
            let sql = sql.clone();
            async move {
                txn.execute_unprepared(&sql).await?;
                Ok::<_, StoreError>(())
            }
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_new_user_inherited_the_run_of_a_deleted_one() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let orphan = add_run(&store, ada, spawner, 0).await;
        delete_row(&store, "spawners", spawner.id).await;
        delete_row(&store, "users", ada.id).await;
        let mut bob = add_user(&store, "bob").await;
        let mut its = add_spawner(&store, &bob, "").await;
        if store.dialect() != orrery_store::Dialect::Sqlite {
            // Others give no id twice.
            use orrery_store::ConnectionTrait;
            let sql = format!("UPDATE spawners SET user_id = NULL WHERE id = {}", its.id);
            let again = format!("UPDATE users SET id = {} WHERE id = {}", ada.id, bob.id);
            let back = format!(
                "UPDATE spawners SET user_id = {} WHERE id = {}",
                ada.id, its.id
            );
            for sql in [sql, again, back] {
                let sql = &sql;
                store
                    .write(|txn| async move {
                        txn.execute_unprepared(sql).await?;
                        Ok::<_, StoreError>(())
                    })
                    .await
                    .unwrap();
            }
            bob.id = ada.id;
            its.user_id = Some(ada.id);
        }
        let (bob, its) = (&bob, &its);
        assert_eq!(bob.id, ada.id, "the id is used again");
        let read = store.read();
        assert_eq!(runs::active(read, bob.id, "").await.unwrap(), None);
        let run = add_run(&store, bob, its, 1).await;
        let active = runs::active(read, bob.id, "").await.unwrap().unwrap();
        assert_eq!((active.id, active.user_name.as_str()), (run, "bob"));
        // The orphan is still there to be ended.
        let owned = runs::list_owned(read, "hub-1").await.unwrap();
        let owned: Vec<i64> = owned.iter().map(|run| run.id).collect();
        assert_eq!(owned, [orphan, run]);
    })
    .await;
}

#[tokio::test]
async fn a_start_during_a_delete_left_a_run_without_a_user() {
    on_each(|store| async move {
        for round in 0..12 {
            let ada = &add_user(&store, &format!("ada-{round}")).await;
            let spawner = &add_spawner(&store, ada, "").await;
            let start = store
                .write(|txn| async move { runs::insert(&txn, &new_run(ada, spawner, 0)).await });
            let delete = store.write(|txn| async move { users::delete(&txn, ada.id).await });
            let (started, deleted) = tokio::join!(start, delete);
            match (&started, &deleted) {
                (Ok(_), Err(StoreError::StillActive(_)))
                | (Err(StoreError::Reference(_)), Ok(true)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_ledger_is_pruned_from_its_old_end() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let spawner = &add_spawner(&store, ada, "").await;
        let mut ids = Vec::new();
        for ended in [10, 20, 30, 40] {
            let id = store
                .write(|txn| async move {
                    let id = runs::insert(&txn, &new_run(ada, spawner, ended - 5)).await?;
                    runs::transition(&txn, id, Queued, Failed, at(ended), None).await?;
                    Ok::<_, StoreError>(id)
                })
                .await
                .unwrap();
            ids.push(id);
        }
        let active = add_run(&store, ada, spawner, 0).await;
        let prune = async |limit| {
            store
                .write(|txn| async move { runs::prune(&txn, at(35), limit).await })
                .await
                .unwrap()
        };
        assert_eq!(prune(2).await, 2);
        assert_eq!(runs::find(store.read(), ids[1]).await.unwrap(), None);
        assert!(runs::find(store.read(), ids[2]).await.unwrap().is_some());
        assert_eq!(prune(2).await, 1);
        assert_eq!(prune(2).await, 0);
        for kept in [ids[3], active] {
            assert!(runs::find(store.read(), kept).await.unwrap().is_some());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_counted_after_serialise_stays_true() {
    on_each(|store| async move {
        let ada = &add_user(&store, "ada").await;
        let mut spawners = Vec::new();
        for number in 0..12 {
            spawners.push(add_spawner(&store, ada, &format!("s{number}")).await);
        }
        let mut asking = tokio::task::JoinSet::new();
        for spawner in spawners {
            let (store, ada) = (store.clone(), ada.clone());
            asking.spawn(async move {
                let (ada, spawner) = (&ada, &spawner);
                store
                    .write(|txn| async move {
                        runs::serialise(&txn).await?;
                        if runs::count_in(&txn, &[Queued]).await? >= 3 {
                            return Ok(false);
                        }
                        runs::insert(&txn, &new_run(ada, spawner, 0)).await?;
                        Ok::<_, StoreError>(true)
                    })
                    .await
                    .unwrap()
            });
        }
        let taken = asking.join_all().await;
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 3);
        assert_eq!(runs::count_in(store.read(), &[Queued]).await.unwrap(), 3);
        assert_eq!(runs::standing(store.read()).await.unwrap().len(), 3);
    })
    .await;
}
