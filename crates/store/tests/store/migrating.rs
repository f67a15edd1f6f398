//! Databases of JupyterHub 1.0, 2.3, 4.1 and 5.2, migrated by us and by upstream itself.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use orrery_store::{
    ALEMBIC_REVISION, DbUrl, Dialect, Store, StoreError, StoreOptions, api_tokens,
    migrate::{self, Progress, Standing},
    token_hash,
};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, Row, SqliteConnection};

use crate::{
    harness::{TestDatabase, at, dialects},
    upstream::upstream,
};

const UPSTREAM: &str = include_str!("migrating.py");

fn dump(version: &str, dialect: Dialect) -> &'static str {
    macro_rules! dumps {
        ($($version:literal)*) => {
            match (version, dialect) {
                $(
                    ($version, Dialect::Sqlite) =>
                        include_str!(concat!("../fixtures/jupyterhub-", $version, "-sqlite.sql")),
                    ($version, Dialect::Postgres) =>
                        include_str!(concat!("../fixtures/jupyterhub-", $version, "-postgres.sql")),
                    ($version, Dialect::MySql) =>
                        include_str!(concat!("../fixtures/jupyterhub-", $version, "-mysql.sql")),
                )*
                _ => panic!("there is no dump of {version}"),
            }
        };
    }
    dumps!("1.0" "2.3" "2.3-by-4.1" "4.1" "5.2")
}

/// A database as that version of JupyterHub left it.
async fn old(version: &str, dialect: Dialect) -> TestDatabase {
    let database = TestDatabase::create(dialect).await;
    database.run(dump(version, dialect)).await;
    database
}

fn url(database: &TestDatabase) -> DbUrl {
    DbUrl::parse(&database.url).unwrap()
}

async fn look(url: &DbUrl) -> Result<Standing, StoreError> {
    migrate::look(url, &StoreOptions::default()).await
}

async fn upgrade(url: &DbUrl) -> Result<Standing, StoreError> {
    migrate::upgrade(url, &StoreOptions::default(), at(0), &|_| {}).await
}

async fn refusal(url: &DbUrl) -> String {
    let looked = look(url).await.unwrap_err().to_string();
    let upgraded = upgrade(url).await.unwrap_err().to_string();
    assert_eq!(looked, upgraded);
    looked
}

async fn found(url: &DbUrl) -> Option<String> {
    match look(url).await.unwrap() {
        Standing::Older(plan) => plan.found,
        other => panic!("{other:?}"),
    }
}

/// Migrates, and is killed before each statement that leads somewhere: on MySQL before every one.
async fn upgrade_with_kills(url: &DbUrl) -> Standing {
    let before = found(url).await;
    let mut kill_at = 0;
    let mut last = Vec::new();
    for run in 0..200 {
        let statements = Arc::new(Mutex::new(Vec::new()));
        let (told, target) = (Arc::clone(&statements), url.clone());
        let done = tokio::spawn(async move {
            let tell = move |progress: Progress<'_>| {
                if let Progress::Statement(sql) = progress {
                    let mut told = told.lock().unwrap();
                    told.push(sql.to_owned());
                    if told.len() > kill_at {
                        // Like a panic, but without its message.
                        std::panic::resume_unwind(Box::new("killed"));
                    }
                }
            };
            migrate::upgrade(&target, &StoreOptions::default(), at(run), &tell).await
        })
        .await;
        match done {
            Ok(standing) => {
                assert!(run > 0, "it was never killed");
                return standing.unwrap();
            }
            Err(error) => assert!(error.is_panic()),
        }
        let told = statements
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        if url.dialect() == Dialect::MySql {
            // What was done stays done: the next run begins later, unless it did what is done each time.
            kill_at = if told == last { kill_at + 1 } else { 1 };
        } else {
            assert_eq!(found(url).await, before, "the transaction left something");
            // Wherever it ends, it is all or nothing; some places will do.
            kill_at += 6;
        }
        last = told;
    }
    panic!("it never ends: {last:?}");
}

/// Compares what the two made, and that upstream can work with ours.
async fn compare(theirs: &TestDatabase, ours: &TestDatabase, has_tokens: bool) {
    let store = Store::open(&url(ours), StoreOptions::default())
        .await
        .unwrap();
    for token in ["ada-of-old-0123456789abcdef", "service-0123456789abcdef"] {
        let found = api_tokens::find_candidates(store.read(), token_hash::prefix(token), at(0))
            .await
            .unwrap();
        let matching = found
            .iter()
            .filter(|row| token_hash::verify_token(&row.hashed, token));
        let scopes: Vec<_> = matching.map(|row| row.scopes.clone()).collect();
        let expected: &[&[&str]] = if has_tokens { &[&["inherit"]] } else { &[] };
        assert_eq!(scopes, expected, "{token}");
    }
    store.close().await;
    let seen = upstream(UPSTREAM, "compare", &[&theirs.url, &ours.url]).await;
    let (theirs, ours) = (&seen["theirs"], &seen["ours"]);
    for (name, table) in theirs.as_object().unwrap() {
        for (part, described) in table.as_object().into_iter().flatten() {
            assert_eq!(&ours[name][part], described, "{part} of {name}");
        }
        assert_eq!(&ours[name], table, "{name}");
    }
    assert_eq!(
        ours.as_object().unwrap().keys().collect::<Vec<_>>(),
        theirs.as_object().unwrap().keys().collect::<Vec<_>>()
    );
    let (token, service) = if has_tokens {
        (seen["work"]["token"].clone(), json!("cull"))
    } else {
        (Value::Null, Value::Null)
    };
    if has_tokens {
        assert_eq!(token[0], "bob");
        assert!(token[1].as_array().unwrap().contains(&json!("list:users")));
    }
    let client = if has_tokens {
        json!("service-report")
    } else {
        Value::Null
    };
    assert_eq!(
        seen["work"],
        json!({"token": token, "service": service, "groups": ["class-a"], "client": client, "left": 4})
    );
}

/// What upstream begins with. JupyterHub 6.1.1's `upgrade-db` fails on a database of 2.x whose servers have
/// OAuth clients (`no such column: users.user_info`), so there the first steps are those of its 4.1.
fn by_upstream(version: &str) -> &str {
    match version {
        "2.3" => "2.3-by-4.1",
        other => other,
    }
}

async fn becomes_the_same(version: &str, dialect: Dialect) {
    if !dialects().contains(&dialect) {
        return;
    }
    let theirs = old(by_upstream(version), dialect).await;
    let ours = old(version, dialect).await;
    let Standing::Older(plan) = upgrade_with_kills(&url(&ours)).await else {
        panic!("there was nothing to do");
    };
    assert_eq!(plan.steps.last().unwrap().to, ALEMBIC_REVISION);
    let now = look(&url(&ours)).await.unwrap();
    assert!(matches!(now, Standing::Current));
    compare(&theirs, &ours, version != "1.0").await;
    theirs.remove().await;
    ours.remove().await;
}

macro_rules! becomes_what_upstream_makes_of_it {
    ($($name:ident: $version:literal)*) => {
        $(mod $name {
            use super::{Dialect, becomes_the_same};

            #[tokio::test]
            async fn on_sqlite() {
                becomes_the_same($version, Dialect::Sqlite).await;
            }

            #[tokio::test]
            async fn on_postgresql() {
                becomes_the_same($version, Dialect::Postgres).await;
            }

            #[tokio::test]
            async fn on_mariadb() {
                becomes_the_same($version, Dialect::MySql).await;
            }
        })*
    };
}

becomes_what_upstream_makes_of_it! {
    a_database_of_1_0: "1.0"
    a_database_of_2_3: "2.3"
    a_database_of_4_1: "4.1"
    a_database_of_5_2: "5.2"
}

async fn revision_becomes_the_same(version: &str, revision: &str) {
    let theirs = old(version, Dialect::Sqlite).await;
    let ours = TestDatabase::create(Dialect::Sqlite).await;
    if version == "2.3-by-4.1" {
        // One revision back.
        let back = "ALTER TABLE groups DROP COLUMN properties; \
                    UPDATE alembic_version SET version_num = '651f5419b74d'";
        theirs.run(back).await;
    } else {
        upstream(UPSTREAM, "partial", &[&theirs.url, revision]).await;
    }
    fs::copy(theirs.file(), ours.file()).unwrap();
    assert_eq!(found(&url(&ours)).await.as_deref(), Some(revision));
    upgrade(&url(&ours)).await.unwrap();
    compare(&theirs, &ours, version != "1.0").await;
    theirs.remove().await;
    ours.remove().await;
}

#[tokio::test]
async fn revisions_between_1_0_and_5_2_become_the_same() {
    revision_becomes_the_same("1.0", "833da8570507").await;
    revision_becomes_the_same("2.3-by-4.1", "651f5419b74d").await;
    revision_becomes_the_same("4.1", "3c2384c5aae1").await;
}

#[tokio::test]
async fn revisions_after_5_2_become_the_same() {
    for revision in ["be8ecf03ddac", "afd65840b69e", "ff1860e38070"] {
        revision_becomes_the_same("5.2", revision).await;
    }
}

#[tokio::test]
async fn upstreams_own_upgrade_had_failed_halfway() {
    let ours = old("2.3", Dialect::Sqlite).await;
    let before = fs::read(ours.file()).unwrap();
    upstream(UPSTREAM, "fail", &[&ours.url]).await;
    assert!(fs::read(ours.file()).unwrap() != before);
    let theirs = old("2.3-by-4.1", Dialect::Sqlite).await;
    upgrade(&url(&ours)).await.unwrap();
    compare(&theirs, &ours, true).await;
    theirs.remove().await;
    ours.remove().await;
}

/// Everything in a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn looking_changes_nothing() {
    let database = old("1.0", Dialect::Sqlite).await;
    let folder = database.file().parent().unwrap().to_owned();
    let before = files(&folder);
    let Standing::Older(plan) = look(&url(&database)).await.unwrap() else {
        panic!("there is nothing to do");
    };
    assert_eq!(plan.found.as_deref(), Some("4dc2d5a8c53c"));
    assert_eq!((plan.steps.len(), plan.ending_tokens), (9, 6));
    assert!(files(&folder) == before);
    let missing = DbUrl::file(folder.join("missing.sqlite"));
    assert!(matches!(look(&missing).await.unwrap(), Standing::Empty));
    assert!(files(&folder) == before);
    database.remove().await;
}

#[tokio::test]
async fn the_copy_has_what_was_only_in_the_write_ahead_log() {
    let database = old("5.2", Dialect::Sqlite).await;
    let path = database.file();
    let mut other = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    other.execute("PRAGMA journal_mode = WAL").await.unwrap();
    other
        .execute("UPDATE users SET name = 'ada-renamed' WHERE name = 'ada'")
        .await
        .unwrap();
    // Copies of the same second keep what stands there.
    let folder = path.parent().unwrap();
    let taken = folder.join("hub.sqlite.2026-11-21-000000");
    fs::write(&taken, "a copy of before").unwrap();
    let told = AtomicUsize::new(0);
    let standing = migrate::upgrade(
        &url(&database),
        &StoreOptions::default(),
        at(0),
        &|progress| {
            if let Progress::Backup(_) = progress {
                told.fetch_add(1, Ordering::Relaxed);
            }
        },
    )
    .await
    .unwrap();
    let Standing::Older(plan) = standing else {
        panic!("there was nothing to do");
    };
    assert_eq!(told.into_inner(), 1);
    let copy = plan.backup.unwrap();
    assert_eq!(copy, folder.join("hub.sqlite.2026-11-21-000000.1"));
    assert_eq!(fs::read(&taken).unwrap(), b"a copy of before");
    let mode = fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let copied = DbUrl::file(&copy);
    assert_eq!(found(&copied).await.as_deref(), Some("4621fec11365"));
    let mut copy = SqliteConnection::connect(copy.to_str().unwrap())
        .await
        .unwrap();
    let names = copy
        .fetch_all("SELECT name FROM users ORDER BY id")
        .await
        .unwrap();
    assert_eq!(names[0].get::<String, _>(0), "ada-renamed");
    // The copy can be migrated in its turn.
    copy.close().await.unwrap();
    upgrade(&copied).await.unwrap();
    other.close().await.unwrap();
    database.remove().await;
}

#[tokio::test]
async fn without_a_copy_nothing_is_changed() {
    let database = old("4.1", Dialect::Sqlite).await;
    // The copy's name would be longer than names can be; that of SQLite's own files is not.
    let path = database.file().with_file_name("n".repeat(240));
    fs::rename(database.file(), &path).unwrap();
    let before = fs::read(&path).unwrap();
    let error = upgrade(&DbUrl::file(&path)).await.unwrap_err().to_string();
    assert!(error.contains("the backup copy"), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    let names: Vec<_> = files(path.parent().unwrap());
    assert_eq!(names.len(), 1);
    database.remove().await;
}

#[tokio::test]
async fn somebody_else_writes() {
    let database = old("4.1", Dialect::Sqlite).await;
    let mut other = SqliteConnection::connect(database.file().to_str().unwrap())
        .await
        .unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let error = upgrade(&url(&database)).await.unwrap_err().to_string();
    assert!(error.contains("another program holds it locked"), "{error}");
    other.close().await.unwrap();
    assert_eq!(files(database.file().parent().unwrap()).len(), 1);
    database.remove().await;
}

#[tokio::test]
async fn what_cannot_be_migrated_is_refused() {
    for (change, expected) in [
        (
            "UPDATE alembic_version SET version_num = 'ffffffffffff'",
            "a newer JupyterHub or another program",
        ),
        (
            "UPDATE alembic_version SET version_num = '896818069c98'",
            "JupyterHub 1.5's `jupyterhub upgrade-db` first",
        ),
        ("DELETE FROM alembic_version", "schema version none"),
        ("DROP TABLE alembic_version", "schema version none"),
        (
            "DROP TABLE alembic_version; ALTER TABLE spawners RENAME TO gone",
            "schema version none",
        ),
    ] {
        for dialect in dialects() {
            let database = old("5.2", dialect).await;
            database.run(change).await;
            let refused = refusal(&url(&database)).await;
            assert!(refused.contains(expected), "{refused}");
            database.remove().await;
        }
    }
}

#[tokio::test]
async fn an_older_one_is_not_opened_and_the_command_is_named() {
    for dialect in dialects() {
        let database = old("2.3", dialect).await;
        let Err(error) = Store::open(&url(&database), StoreOptions::default()).await else {
            panic!("it was opened");
        };
        assert!(error.to_string().contains("`orrery upgrade-db`"), "{error}");
        assert_eq!(
            found(&url(&database)).await.as_deref(),
            Some("833da8570507")
        );
        database.remove().await;
    }
}

#[tokio::test]
async fn one_that_only_does_not_say_its_revision_is_taken() {
    for dialect in dialects() {
        let database = TestDatabase::create(dialect).await;
        let target = url(&database);
        assert!(matches!(look(&target).await.unwrap(), Standing::Empty));
        let store = Store::open(&target, StoreOptions::default()).await.unwrap();
        store.close().await;
        database.run("DROP TABLE alembic_version").await;
        let Standing::Older(plan) = upgrade(&target).await.unwrap() else {
            panic!("there was nothing to do");
        };
        assert_eq!((plan.found, plan.steps.len()), (None, 0));
        assert!(matches!(upgrade(&target).await.unwrap(), Standing::Current));
        database.remove().await;
    }
}
