//! A fresh database of each kind for each test.

use std::{env, future::Future, path::PathBuf};

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
use orrery_store::{
    DbUrl, Dialect, Store, StoreOptions, oauth_clients, spawners, spawners::NewSpawner,
    spawners::Spawner, token_hash, users, users::NewUser, users::User,
};
use sqlx::{
    Connection, Executor, MySqlConnection, PgConnection, SqliteConnection,
    sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;

/// One empty database, removed by [`TestDatabase::remove`].
pub(crate) struct TestDatabase {
    pub(crate) dialect: Dialect,
    /// As SQLAlchemy reads it.
    pub(crate) url: String,
    admin_url: String,
    name: String,
    folder: Option<TempDir>,
}

/// Runs `test` on an empty database of each kind.
pub(crate) async fn on_each<F, W>(test: W)
where
    W: Fn(Store) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    on_each_url(
        |url| {
            let url = DbUrl::parse(&url).unwrap();
            async move { Store::open(&url, StoreOptions::default()).await.unwrap() }
        },
        test,
    )
    .await;
}

/// Runs `test` with the URL of an empty database of each kind, passed through `prepare`.
pub(crate) async fn on_each_url<T, P, PF, W, F>(prepare: P, test: W)
where
    P: Fn(String) -> PF,
    PF: Future<Output = T>,
    W: Fn(T) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    for dialect in dialects() {
        let database = TestDatabase::create(dialect).await;
        let subject = prepare(database.url.clone()).await;
        let outcome = tokio::spawn(test(subject)).await;
        database.remove().await;
        if let Err(error) = outcome {
            panic!("failed on {dialect:?}: {error}");
        }
    }
}

pub(crate) fn dialects() -> Vec<Dialect> {
    match env::var("ORRERY_TEST_DATABASES").as_deref() {
        Ok("sqlite") => vec![Dialect::Sqlite],
        Ok(other) => panic!("ORRERY_TEST_DATABASES can be \"sqlite\" or unset, not {other:?}"),
        Err(_) => vec![Dialect::Sqlite, Dialect::Postgres, Dialect::MySql],
    }
}

fn server_url(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set. Run `eval \"$(tests/databases/start.sh)\"` first, \
             or set ORRERY_TEST_DATABASES=sqlite to leave PostgreSQL and MariaDB out"
        )
    })
}

impl TestDatabase {
    pub(crate) async fn create(dialect: Dialect) -> Self {
        let name = format!("orrery_{}", token_hash::generate_token().unwrap().expose());
        let (admin_url, url, folder) = match dialect {
            Dialect::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                let url = format!("sqlite:///{}", folder.path().join("hub.sqlite").display());
                (String::new(), url, Some(folder))
            }
            Dialect::Postgres => {
                let admin = server_url("ORRERY_TEST_POSTGRES_URL");
                let mut connection = PgConnection::connect(&admin).await.unwrap();
                connection
                    .execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
                    .await
                    .unwrap();
                let base = admin.rsplit_once('/').unwrap().0.to_owned();
                let url = format!(
                    "{}/{name}",
                    base.replace("postgresql://", "postgresql+psycopg2://")
                );
                (admin, url, None)
            }
            Dialect::MySql => {
                let admin = server_url("ORRERY_TEST_MYSQL_URL");
                let mut connection = MySqlConnection::connect(&admin).await.unwrap();
                connection
                    .execute(sqlx::AssertSqlSafe(format!(
                        "CREATE DATABASE {name} CHARACTER SET utf8mb4"
                    )))
                    .await
                    .unwrap();
                let base = admin.rsplit_once('/').unwrap().0.to_owned();
                let url = format!(
                    "{}/{name}?charset=utf8mb4",
                    base.replace("mysql://", "mysql+pymysql://")
                );
                (admin, url, None)
            }
        };
        Self {
            dialect,
            url,
            admin_url,
            name,
            folder,
        }
    }

    /// Runs a dump's statements.
    pub(crate) async fn run(&self, sql: &'static str) {
        let url = &self.url;
        match self.dialect {
            Dialect::Sqlite => {
                let options = SqliteConnectOptions::new()
                    .filename(self.file())
                    .create_if_missing(true)
                    // A dump's order is not that of the references.
                    .foreign_keys(false);
                let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
                connection.execute(sqlx::raw_sql(sql)).await.unwrap();
                connection.close().await.unwrap();
            }
            Dialect::Postgres => {
                let url = url.replace("postgresql+psycopg2://", "postgresql://");
                let mut connection = PgConnection::connect(&url).await.unwrap();
                connection.execute(sqlx::raw_sql(sql)).await.unwrap();
                connection.close().await.unwrap();
            }
            Dialect::MySql => {
                let url = url.replace("mysql+pymysql://", "mysql://");
                let mut connection = MySqlConnection::connect(&url).await.unwrap();
                connection.execute(sqlx::raw_sql(sql)).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// The file of a SQLite database.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.as_ref().unwrap().path().join("hub.sqlite")
    }

    pub(crate) async fn remove(self) {
        let name = &self.name;
        match self.dialect {
            Dialect::Sqlite => self.folder.unwrap().close().unwrap(),
            Dialect::Postgres => {
                let mut connection = PgConnection::connect(&self.admin_url).await.unwrap();
                let drop = format!("DROP DATABASE {name} WITH (FORCE)");
                connection.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
            }
            Dialect::MySql => {
                let mut connection = MySqlConnection::connect(&self.admin_url).await.unwrap();
                let drop = format!("DROP DATABASE {name}");
                connection.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
            }
        }
    }
}

/// A point in time: `seconds` after a fixed midnight.
pub(crate) fn at(seconds: i64) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2026, 11, 21)
        .unwrap()
        .and_hms_opt(0, 0, 0)
        .unwrap()
        + TimeDelta::seconds(seconds)
}

pub(crate) async fn add_user(store: &Store, name: &str) -> User {
    let new = &NewUser {
        name: name.to_owned(),
        admin: false,
        created: at(0),
        cookie_id: token_hash::generate_token().unwrap().expose().to_owned(),
    };
    store
        .write(|txn| async move { users::insert(&txn, new).await })
        .await
        .unwrap()
}

pub(crate) async fn add_spawner(store: &Store, user: &User, name: &str) -> Spawner {
    let new = &NewSpawner {
        user_id: user.id,
        name: name.to_owned(),
        state: serde_json::json!({}),
        ..NewSpawner::default()
    };
    store
        .write(|txn| async move { spawners::insert(&txn, new).await })
        .await
        .unwrap()
}

pub(crate) async fn add_client(store: &Store, identifier: &str) {
    let new = &oauth_clients::NewOauthClient {
        identifier: identifier.to_owned(),
        description: "a client".to_owned(),
        secret: String::new(),
        redirect_uri: "/oauth_callback".to_owned(),
        allowed_scopes: vec!["self".to_owned()],
    };
    store
        .write(|txn| async move { oauth_clients::upsert(&txn, new).await })
        .await
        .unwrap();
}
