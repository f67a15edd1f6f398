use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use orrery_store::{
    ConnectionTrait, DbUrl, Dialect, Store, StoreError, StoreOptions, WriteError, roles, users,
    users::UserChanges,
};
use sqlx::{Connection, Executor, SqliteConnection};

use crate::harness::{TestDatabase, add_user, at, on_each};

#[tokio::test]
async fn an_error_rolls_everything_back() {
    #[derive(Debug)]
    enum Refused {
        Store(StoreError),
        NotAllowed,
    }
    impl From<StoreError> for Refused {
        fn from(error: StoreError) -> Self {
            Self::Store(error)
        }
    }
    impl WriteError for Refused {
        fn store_error(&self) -> Option<&StoreError> {
            match self {
                Self::Store(error) => Some(error),
                Self::NotAllowed => None,
            }
        }
    }
    on_each(|store| async move {
        let outcome = store
            .write(|txn| async move {
                roles::upsert(&txn, "temporary", None, &[], false).await?;
                Err::<(), _>(Refused::NotAllowed)
            })
            .await;
        assert!(matches!(outcome, Err(Refused::NotAllowed)));
        assert!(
            roles::find(store.read(), "temporary")
                .await
                .unwrap()
                .is_none()
        );
        // The writer is free again.
        add_user(&store, "ada").await;
    })
    .await;
}

#[tokio::test]
async fn a_dropped_transaction_is_rolled_back() {
    on_each(|store| async move {
        let transaction = store.begin().await.unwrap();
        roles::upsert(&transaction, "temporary", None, &[], false)
            .await
            .unwrap();
        drop(transaction);
        let transaction = store.begin().await.unwrap();
        roles::upsert(&transaction, "kept", None, &[], false)
            .await
            .unwrap();
        store.commit(transaction).await.unwrap();
        assert!(
            roles::find(store.read(), "temporary")
                .await
                .unwrap()
                .is_none()
        );
        assert!(roles::find(store.read(), "kept").await.unwrap().is_some());
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_write_leaves_no_trace_and_no_lock() {
    on_each(|store| async move {
        let (entered, wait) = tokio::sync::oneshot::channel::<()>();
        let entered = &std::sync::Mutex::new(Some(entered));
        {
            let work = store.write(|txn| async move {
                roles::upsert(&txn, "temporary", None, &[], false).await?;
                if let Some(entered) = entered.lock().unwrap().take() {
                    let _ = entered.send(());
                }
                std::future::pending::<Result<(), StoreError>>().await
            });
            tokio::select! {
                _ = work => panic!("it cannot end"),
                _ = wait => {}
            }
        }
        add_user(&store, "ada").await;
        assert!(
            roles::find(store.read(), "temporary")
                .await
                .unwrap()
                .is_none()
        );
    })
    .await;
}

#[tokio::test]
async fn concurrent_increments_are_not_lost() {
    on_each(|store| async move {
        // A counter in a role's description: read and written in one transaction.
        store
            .write(|txn| async move { roles::upsert(&txn, "counter", Some("0"), &[], false).await })
            .await
            .unwrap();
        let mut tasks = Vec::new();
        for _ in 0..20 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                store
                    .write(|txn| async move {
                        if txn.get_database_backend() != sea_orm::DbBackend::Sqlite {
                            txn.execute_unprepared(
                                "SELECT id FROM roles WHERE name = 'counter' FOR UPDATE",
                            )
                            .await?;
                        }
                        let counter = roles::find(&txn, "counter").await?.unwrap();
                        let next = counter.description.unwrap().parse::<u32>().unwrap() + 1;
                        roles::upsert(&txn, "counter", Some(&next.to_string()), &[], false).await
                    })
                    .await
                    .unwrap();
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let counter = roles::find(store.read(), "counter").await.unwrap().unwrap();
        assert_eq!(counter.description.as_deref(), Some("20"));
    })
    .await;
}

#[tokio::test]
async fn a_busy_database_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let options = StoreOptions {
        busy_timeout: Duration::from_millis(1),
        ..StoreOptions::default()
    };
    let store = Store::open(&DbUrl::file(&path), options).await.unwrap();
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let runs = &AtomicUsize::new(0);
    let work = store.write(|txn| async move {
        runs.fetch_add(1, Ordering::SeqCst);
        roles::upsert(&txn, "late", None, &[], false).await
    });
    let release = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        other.execute("COMMIT").await.unwrap();
    };
    let (written, ()) = tokio::join!(work, release);
    written.unwrap();
    assert_eq!(
        runs.load(Ordering::SeqCst),
        1,
        "the closure runs only once it holds the lock"
    );

    // And when the other never ends, the answer is "unavailable", in bounded time.
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = store
        .write(|txn| async move { roles::upsert(&txn, "never", None, &[], false).await })
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(
        roles::find(store.read(), "never").await.unwrap().is_none(),
        "readers are not held up"
    );
}

#[tokio::test]
async fn a_cut_connection_is_unavailable_once_and_then_replaced() {
    on_each(|store| async move {
        let suicide = match store.dialect() {
            Dialect::Sqlite => return,
            Dialect::Postgres => "SELECT pg_terminate_backend(pg_backend_pid())",
            Dialect::MySql => "KILL CONNECTION_ID()",
        };
        let outcome = store
            .write(|txn| async move {
                txn.execute_unprepared(suicide).await?;
                Ok::<_, StoreError>(())
            })
            .await;
        let error = outcome.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        add_user(&store, "ada").await;
        store.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_reader_of_a_file_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(
        &DbUrl::file(folder.path().join("hub.sqlite")),
        StoreOptions::default(),
    )
    .await
    .unwrap();
    let outcome = roles::upsert(store.read(), "sneaked", None, &[], false).await;
    assert!(outcome.is_err());
}

#[tokio::test]
async fn waiting_for_the_writer_is_bounded() {
    let options = StoreOptions {
        acquire_timeout: Duration::from_millis(500),
        busy_timeout: Duration::from_millis(500),
        ..StoreOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&DbUrl::file(folder.path().join("hub.sqlite")), options)
        .await
        .unwrap();
    let _held = store.begin().await.unwrap();
    let error = store.begin().await.map(drop).unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
}

#[tokio::test]
async fn a_leaked_handle_does_not_commit() {
    let store = Store::open(&DbUrl::memory(), StoreOptions::default())
        .await
        .unwrap();
    let leak = &std::sync::Mutex::new(None);
    let outcome = store
        .write(|txn| async move {
            roles::upsert(&txn, "leaked", None, &[], false).await?;
            *leak.lock().unwrap() = Some(txn.clone());
            Ok::<_, StoreError>(())
        })
        .await;
    assert!(outcome.is_err());
    leak.lock().unwrap().take();
    assert!(roles::find(store.read(), "leaked").await.unwrap().is_none());
}

#[tokio::test]
async fn freshness_changes_with_every_commit_of_anybody() {
    on_each(|store| async move {
        let Some(before) = store.freshness().await.unwrap() else {
            assert_eq!(store.dialect(), Dialect::MySql);
            return;
        };
        // On PostgreSQL, transactions in other databases of the server, as those of other tests, count too.
        let is_alone = store.dialect() == Dialect::Sqlite;
        if is_alone {
            assert_eq!(store.freshness().await.unwrap(), Some(before));
            users::find(store.read(), "ada").await.unwrap();
            assert_eq!(
                store.freshness().await.unwrap(),
                Some(before),
                "reading changes nothing"
            );
        }
        let ada = add_user(&store, "ada").await;
        let after = store.freshness().await.unwrap().unwrap();
        assert_ne!(after, before);
        let transaction = store.begin().await.unwrap();
        let changes = UserChanges {
            last_activity: Some(at(1)),
            ..UserChanges::default()
        };
        users::update(&transaction, ada.id, &changes).await.unwrap();
        let after = if is_alone {
            after
        } else {
            store.freshness().await.unwrap().unwrap()
        };
        assert!(
            !is_alone || store.freshness().await.unwrap() == Some(after),
            "not committed yet"
        );
        store.commit(transaction).await.unwrap();
        assert_ne!(store.freshness().await.unwrap(), Some(after));
    })
    .await;
}

#[tokio::test]
async fn freshness_sees_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let store = Store::open(&DbUrl::file(&path), StoreOptions::default())
        .await
        .unwrap();
    let before = store.freshness().await.unwrap();
    // Python's sqlite3 is certainly not this process.
    let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                  c.execute(\"insert into groups (name) values ('crew')\"); c.commit()";
    let done = std::process::Command::new("python3")
        .arg("-c")
        .arg(script)
        .arg(&path)
        .status()
        .unwrap();
    assert!(done.success());
    assert_ne!(store.freshness().await.unwrap(), before);
}

/// Of many changes in another connection, each is seen by a look that begins after it, and a look at rest
/// sees none: on PostgreSQL, where the server says what is over.
#[tokio::test]
async fn freshness_of_postgres_sees_every_commit_and_stays_while_there_is_none() {
    let database = TestDatabase::create(Dialect::Postgres).await;
    let url = DbUrl::parse(&database.url).unwrap();
    let store = Store::open(&url, StoreOptions::default()).await.unwrap();
    for statement in [
        "INSERT INTO \"groups\" (name) VALUES ('crew')",
        "UPDATE \"groups\" SET name = 'others'",
        "BEGIN; SAVEPOINT a; UPDATE \"groups\" SET name = 'crew'; RELEASE a; COMMIT",
        "DELETE FROM \"groups\"",
        "TRUNCATE shares",
        "CREATE TABLE another (id INTEGER)",
    ] {
        let before = store.freshness().await.unwrap();
        assert!(before.is_some());
        database.run(statement).await;
        assert_ne!(store.freshness().await.unwrap(), before, "{statement}");
    }
    // Other tests use the same server; some moment they all rest.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let before = store.freshness().await.unwrap();
        users::find(store.read(), "ada").await.unwrap();
        if store.freshness().await.unwrap() == before {
            break;
        }
        assert!(Instant::now() < deadline, "it never rests");
    }
    store.close().await;
    database.remove().await;
}

#[tokio::test]
async fn freshness_in_memory_counts_commits() {
    let store = Store::open(&DbUrl::memory(), StoreOptions::default())
        .await
        .unwrap();
    let before = store.freshness().await.unwrap();
    assert!(before.is_some());
    add_user(&store, "ada").await;
    assert_ne!(store.freshness().await.unwrap(), before);
}

/// Every caller must see what was committed before it asked, also when it shares another's look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_looks_are_never_stale() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(
        &DbUrl::file(folder.path().join("hub.sqlite")),
        StoreOptions::default(),
    )
    .await
    .unwrap();
    let ada = add_user(&store, "ada").await.id;
    let crowd: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                loop {
                    store.freshness().await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for second in 0..100 {
        let before = store.freshness().await.unwrap();
        let changes = &UserChanges {
            last_activity: Some(at(second)),
            ..UserChanges::default()
        };
        store
            .write(|txn| async move { users::update(&txn, ada, changes).await })
            .await
            .unwrap();
        assert_ne!(
            store.freshness().await.unwrap(),
            before,
            "the look {second} was stale"
        );
    }
    for task in crowd {
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_is_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(
        &DbUrl::file(folder.path().join("hub.sqlite")),
        StoreOptions::default(),
    )
    .await
    .unwrap();
    let begun = Instant::now();
    let rounds = 2000;
    for _ in 0..rounds {
        store.freshness().await.unwrap();
    }
    let each = begun.elapsed() / rounds;
    // A build without optimisation on a busy machine; a release build takes a small part of this.
    assert!(each < Duration::from_millis(1), "{each:?}");
}
