//! Connections that are lost, databases that cannot be written, files where SQLite must not be.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use orrery_store::{ConnectionTrait, DbUrl, Dialect, Store, StoreError, StoreOptions, users};

use crate::harness::{TestDatabase, add_user, dialects, on_each};

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

/// While all connections that the server grants are ours and one of them is slow, which makes us look
/// with another one, everybody goes on.
#[tokio::test]
async fn a_server_that_grants_no_further_connection_is_there() {
    if !dialects().contains(&Dialect::Postgres) {
        return;
    }
    let database = TestDatabase::create(Dialect::Postgres).await;
    let open = async |url: &str| {
        let options = StoreOptions {
            max_connections: 3,
            ..StoreOptions::default()
        };
        let url = DbUrl::parse(url).unwrap();
        Store::open(&url, options).await.unwrap()
    };
    let admin = open(&database.url).await;
    let (before, after) = database.url.split_once("://").unwrap();
    let (_, place) = after.split_once('@').unwrap();
    let role = &format!("limited_{}", place.rsplit_once('/').unwrap().1);
    let granted = admin.write(|txn| async move {
        for sql in [
            format!("CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 3"),
            format!("GRANT ALL ON SCHEMA public TO {role}"),
            format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"),
        ] {
            txn.execute_unprepared(&sql).await?;
        }
        Ok::<_, StoreError>(())
    });
    granted.await.unwrap();

    let store = open(&format!("{before}://{role}:few@{place}")).await;
    let sleep = |seconds: f32| {
        let sql = format!("SELECT pg_sleep({seconds})");
        let reader = store.read().clone();
        async move {
            let statement = sea_orm::Statement::from_string(reader.get_database_backend(), sql);
            reader.query_all_raw(statement).await
        }
    };
    for slept in futures((0..3).map(|_| sleep(0.2))).await {
        slept.unwrap();
    }
    let slow = tokio::spawn(sleep(1.5));
    while !slow.is_finished() {
        users::find(store.read(), "ada").await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    slow.await.unwrap().unwrap();

    store.close().await;
    let dropped = admin.write(|txn| async move {
        txn.execute_unprepared(&format!("DROP OWNED BY {role}"))
            .await?;
        txn.execute_unprepared(&format!("DROP ROLE {role}")).await?;
        Ok::<_, StoreError>(())
    });
    dropped.await.unwrap();
    admin.close().await;
    database.remove().await;
}
