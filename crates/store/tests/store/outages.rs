//! Connections that are lost, databases that cannot be written, files where SQLite must not be.

use std::sync::atomic::{AtomicU32, Ordering};

use orrery_store::{ConnectionTrait, DbUrl, Dialect, Store, StoreError, StoreOptions, users};

use crate::harness::{add_user, on_each};

/// Cuts all connections but one's own, as a database administrator does. False where there are none.
async fn cut_connections(store: &Store) -> bool {
    let (find, cut) = match store.dialect() {
        Dialect::Sqlite => return false,
        Dialect::Postgres => (
            "SELECT pid AS id FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
            "SELECT pg_terminate_backend(",
        ),
        Dialect::MySql => (
            "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
            "KILL (",
        ),
    };
    let cutting = store
        .write(|txn| async move {
            let backend = txn.get_database_backend();
            let rows = txn
                .query_all_raw(sea_orm::Statement::from_string(backend, find))
                .await?;
            for row in rows {
                let id = match row.try_get::<i32>("", "id") {
                    Ok(id) => i64::from(id),
                    Err(_) => row.try_get::<i64>("", "id")?,
                };
                txn.execute_unprepared(&format!("{cut}{id})")).await?;
            }
            Ok::<_, StoreError>(())
        })
        .await;
    cutting.unwrap();
    true
}

#[tokio::test]
async fn connections_that_are_cut_are_replaced_without_an_error() {
    on_each(|store| async move {
        add_user(&store, "ada").await;
        // Several connections, so that more than one is lost.
        let reads = (0..6).map(|_| users::find(store.read(), "ada"));
        for found in futures(reads).await {
            assert!(found.unwrap().is_some());
        }
        for round in 0..3 {
            if !cut_connections(&store).await {
                return;
            }
            let reads = (0..6).map(|_| users::find(store.read(), "ada"));
            for found in futures(reads).await {
                assert!(found.unwrap().is_some());
            }
            assert!(cut_connections(&store).await);
            add_user(&store, &format!("user{round}")).await;
        }
    })
    .await;
}

/// All at once.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, place) in all.iter_mut().zip(&mut done) {
            if place.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *place = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn a_transaction_whose_connection_is_lost_is_run_again() {
    on_each(|store| async move {
        if store.dialect() == Dialect::Sqlite {
            return;
        }
        let runs = &AtomicU32::new(0);
        let same = &store;
        store
            .write(|txn| async move {
                users::find(&txn, "ada").await?;
                if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    assert!(cut_connections(same).await);
                }
                users::find(&txn, "ada").await
            })
            .await
            .unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    })
    .await;
}

#[tokio::test]
async fn a_file_on_a_network_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let options = StoreOptions {
        file_system: |_| Ok(0x6969),
        ..StoreOptions::default()
    };
    let Err(error) = Store::open(&DbUrl::file(&path), options.clone()).await else {
        panic!("it was opened");
    };
    let sentence = error.to_string();
    for part in ["network file system (NFS)", "local disk", "PostgreSQL"] {
        assert!(sentence.contains(part), "{sentence}");
    }
    assert!(!path.exists(), "a file was made all the same");
    let allowed = StoreOptions {
        allow_network_file_system: true,
        ..options
    };
    let store = Store::open(&DbUrl::file(&path), allowed).await.unwrap();
    store.close().await;
}
