use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use orrery_store::{
    ALEMBIC_REVISION, Claim, ConnectionTrait, DbUrl, Store, StoreError, StoreOptions,
};
use sqlx::{Connection, Executor, Row, SqliteConnection};

use crate::harness::{add_user, on_each, on_each_url};

const REFERENCE: &str = include_str!("jupyterhub-6.1.1-schema.sql");

async fn open(url: &DbUrl) -> Result<Store, StoreError> {
    Store::open(url, StoreOptions::default()).await
}

/// What an operator reads when it cannot be opened.
async fn refusal(path: &Path) -> String {
    match open(&DbUrl::file(path)).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn the_sqlite_schema_is_upstreams() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    open(&DbUrl::file(&path)).await.unwrap().close().await;
    let mut connection = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    let rows = connection
        .fetch_all("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'orrery%' AND tbl_name NOT LIKE 'orrery%' AND name NOT LIKE 'sqlite%'")
        .await
        .unwrap();
    let mut ours: Vec<String> = rows.iter().map(|row| normal(row.get(0))).collect();
    let mut theirs: Vec<String> = REFERENCE
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect::<Vec<_>>()
        .join("\n")
        .split(';')
        .map(normal)
        .filter(|statement| !statement.is_empty())
        .collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

fn normal(statement: &str) -> String {
    statement.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_second_opening_changes_nothing() {
    on_each_url(
        |url| async move { url },
        |url| async move {
            let url = DbUrl::parse(&url).unwrap();
            let first = open(&url).await.unwrap();
            let ada = add_user(&first, "ada").await;
            first.close().await;
            let second = open(&url).await.unwrap();
            let found = orrery_store::users::find(second.read(), "ada")
                .await
                .unwrap();
            assert_eq!(found, Some(ada));
            assert_eq!(crate::users::count(&second, "roles").await, 4);
            assert_eq!(crate::users::count(&second, "alembic_version").await, 1);
            assert_eq!(crate::users::count(&second, "orrery_schema").await, 1);
            second.close().await;
        },
    )
    .await;
}

#[tokio::test]
async fn two_hubs_may_make_the_tables_at_once() {
    on_each_url(
        |url| async move { url },
        |url| async move {
            let url = DbUrl::parse(&url).unwrap();
            let (first, second) = tokio::join!(open(&url), open(&url));
            let (first, second) = (first.unwrap(), second.unwrap());
            assert_eq!(crate::users::count(&first, "roles").await, 4);
            first.close().await;
            second.close().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_missing_table_of_ours_is_made() {
    on_each_url(
        |url| async move { url },
        |url| async move {
            let url = DbUrl::parse(&url).unwrap();
            let store = open(&url).await.unwrap();
            store
                .write(|txn| async move {
                    txn.execute_unprepared("DROP TABLE orrery_runs").await?;
                    Ok::<_, StoreError>(())
                })
                .await
                .unwrap();
            store.close().await;
            let store = open(&url).await.unwrap();
            assert_eq!(crate::users::count(&store, "orrery_runs").await, 0);
            store.close().await;
        },
    )
    .await;
}

#[tokio::test]
async fn other_versions_are_refused_with_the_cure() {
    for (change, expected) in [
        (
            format!(
                "UPDATE alembic_version SET version_num = '{}'",
                "4621fec11365"
            ),
            "an older JupyterHub made it",
        ),
        (
            "UPDATE alembic_version SET version_num = 'ffffffffffff'".to_owned(),
            "a newer JupyterHub or another program",
        ),
        (
            "DELETE FROM alembic_version".to_owned(),
            "schema version none",
        ),
        (
            "DROP TABLE alembic_version".to_owned(),
            "before 1.0 or of another program",
        ),
        (
            "UPDATE orrery_schema SET version = 2".to_owned(),
            "another version of this program",
        ),
    ] {
        on_each_url(
            |url| {
                let change = change.clone();
                async move { (url, change) }
            },
            move |(url, change)| async move {
                let url = DbUrl::parse(&url).unwrap();
                let store = open(&url).await.unwrap();
                store
                    .write(|txn| {
                        let change = change.clone();
                        async move {
                            txn.execute_unprepared(&change).await?;
                            Ok::<_, StoreError>(())
                        }
                    })
                    .await
                    .unwrap();
                store.close().await;
                let Err(error) = open(&url).await else {
                    panic!("{change}: it was opened");
                };
                assert!(
                    matches!(error, StoreError::SchemaVersion { .. }),
                    "{error:?}"
                );
                let text = error.to_string();
                assert!(text.contains(expected), "{text}");
                assert!(
                    !text.contains(":***@") || !text.contains("orrery:orrery"),
                    "{text}"
                );
            },
        )
        .await;
    }
    assert_eq!(ALEMBIC_REVISION, "f460b0348206");
}

#[tokio::test]
async fn a_new_file_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let store = open(&DbUrl::file(&path)).await.unwrap();
    add_user(&store, "ada").await;
    for name in ["hub.sqlite", "hub.sqlite-wal", "hub.sqlite-shm"] {
        let mode = fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text_file = folder.path().join("notes.txt");
    fs::write(&text_file, "these are notes, not a database\n".repeat(100)).unwrap();
    let read_only = folder.path().join("read-only.sqlite");
    open(&DbUrl::file(&read_only)).await.unwrap().close().await;
    fs::set_permissions(&read_only, fs::Permissions::from_mode(0o400)).unwrap();
    for (path, expected) in [
        (folder.path().join("no/such/hub.sqlite"), "make its folder"),
        (folder.path().to_path_buf(), "it is a folder"),
        (text_file, "some other kind of file"),
        (read_only, "it is read-only"),
    ] {
        let text = refusal(&path).await;
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_another_program_holds_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    open(&DbUrl::file(&path)).await.unwrap().close().await;
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    let options = StoreOptions {
        busy_timeout: Duration::from_millis(20),
        ..StoreOptions::default()
    };
    let Err(error) = Store::open(&DbUrl::file(&path), options).await else {
        panic!("it was opened");
    };
    assert!(
        error.to_string().contains("another program holds it"),
        "{error}"
    );
    other.execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_password() {
    // A port that was free a moment ago: nobody listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for scheme in ["postgresql", "mysql"] {
        let url = DbUrl::parse(&format!("{scheme}://hub:s3cret@127.0.0.1:{port}/hub")).unwrap();
        let options = StoreOptions {
            acquire_timeout: Duration::from_secs(2),
            ..StoreOptions::default()
        };
        let Err(error) = Store::open(&url, options).await else {
            panic!("it was opened");
        };
        let text = format!("{error} {error:?}");
        assert!(
            text.contains(&format!("{scheme}://hub:***@127.0.0.1:{port}/hub")),
            "{text}"
        );
        assert!(text.contains("see that it runs"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn unknown_arguments_are_refused() {
    for url in [
        "postgresql://h/d?sslmod=require",
        "mysql://h/d?sslmode=require",
        "postgresql://h/d?sslmode=maybe",
        "mysql://h/d?charset=latin1",
    ] {
        let error = open(&DbUrl::parse(url).unwrap())
            .await
            .map(drop)
            .unwrap_err();
        assert!(matches!(error, StoreError::Url(_)), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn a_database_in_memory_works_alone() {
    let store = open(&DbUrl::memory()).await.unwrap();
    let other = open(&DbUrl::memory()).await.unwrap();
    add_user(&store, "ada").await;
    assert!(
        orrery_store::users::find(store.read(), "ada")
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        orrery_store::users::find(other.read(), "ada")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn it_answers_a_ping_until_it_is_closed() {
    on_each(|store| async move {
        store.ping().await.unwrap();
        store.close().await;
        let error = store.ping().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_clean_stop_left_data_in_the_write_ahead_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let store = open(&DbUrl::file(&path)).await.unwrap();
    add_user(&store, "ada").await;
    // Somebody looks into the database and stays.
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    other.fetch_all("SELECT * FROM users").await.unwrap();
    let handle = store.clone();
    store.close().await;
    let log = fs::metadata(folder.path().join("hub.sqlite-wal"));
    assert_eq!(log.map_or(0, |log| log.len()), 0);
    // The file alone has everything.
    let copy = folder.path().join("copy.sqlite");
    fs::copy(&path, &copy).unwrap();
    let copy = open(&DbUrl::file(&copy)).await.unwrap();
    let found = orrery_store::users::find(copy.read(), "ada").await.unwrap();
    assert!(found.is_some());
    assert!(handle.freshness().await.unwrap_err().is_unavailable());

    // With nobody left, there is no log at all.
    other.close().await.unwrap();
    copy.close().await;
    assert!(!folder.path().join("copy.sqlite-wal").exists());
}

#[test]
fn a_second_hub_took_the_database_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.sqlite");
    let url = DbUrl::file(&path);
    let first = Claim::take(&url).unwrap();
    let refused = Claim::take(&url).unwrap_err().to_string();
    let process = format!("another hub, process {}, uses it", std::process::id());
    assert!(refused.contains(&process), "{refused}");
    assert!(refused.contains("stop that hub first"), "{refused}");
    // By another name it is the same file.
    fs::write(&path, "").unwrap();
    std::os::unix::fs::symlink(&path, folder.path().join("link")).unwrap();
    Claim::take(&DbUrl::file(folder.path().join("link"))).unwrap_err();
    Claim::take(&DbUrl::file(folder.path().join("other.sqlite"))).unwrap();
    drop(first);
    Claim::take(&url).unwrap();
}

/// Whom a test's files are given to where it can: as root, nobody.
fn give_away(path: &Path) -> u32 {
    let own = fs::metadata(path).unwrap().uid();
    if own == 0 {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    fs::metadata(path).unwrap().uid()
}

#[test]
fn a_lock_that_root_makes_belongs_to_whom_the_database_belongs() {
    let folder = tempfile::tempdir().unwrap();
    let owner = |name: &str| fs::metadata(folder.path().join(name)).unwrap().uid();
    let path = folder.path().join("hub.sqlite");
    fs::write(&path, "").unwrap();
    let given = give_away(&path);
    drop(Claim::take(&DbUrl::file(&path)).unwrap());
    assert_eq!(owner("hub.sqlite-lock"), given);
    // Somebody else's, who could hold it for ever, is not taken.
    let lock = folder.path().join("foreign.sqlite-lock");
    fs::write(&lock, "").unwrap();
    if give_away(&lock) != fs::metadata(folder.path()).unwrap().uid() {
        let refused = Claim::take(&DbUrl::file(folder.path().join("foreign.sqlite")));
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("another account"), "{refused}");
    }
    // While there is no database, its folder tells.
    let given = give_away(folder.path());
    drop(Claim::take(&DbUrl::file(folder.path().join("new.sqlite"))).unwrap());
    assert_eq!(owner("new.sqlite-lock"), given);
}

#[test]
fn a_link_in_the_locks_place_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "much").unwrap();
    std::os::unix::fs::symlink(&precious, folder.path().join("hub.sqlite-lock")).unwrap();
    let claim = Claim::take(&DbUrl::file(folder.path().join("hub.sqlite")));
    claim.unwrap_err();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "much");
}

#[tokio::test]
async fn a_hub_that_was_killed_keeps_nobody_out() {
    let folder = tempfile::tempdir().unwrap();
    let url = DbUrl::file(folder.path().join("hub.sqlite"));
    drop(Claim::take(&url).unwrap());
    let lock = folder.path().join("hub.sqlite-lock");
    assert_eq!(
        fs::metadata(&lock).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut holder = std::process::Command::new("flock")
        .arg("--no-fork")
        .arg(&lock)
        .args(["sleep", "60"])
        .spawn()
        .unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while Claim::take(&url).is_ok() {
        assert!(std::time::Instant::now() < end, "it is never locked");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    Claim::take(&url).unwrap();
}
