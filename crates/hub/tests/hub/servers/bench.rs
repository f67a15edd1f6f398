//! A database, a fake spawner, a fake proxy, and engines on top of them, one life after another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::phase::Phase;
use orrery_core::scopes::Definitions;
use orrery_core::spawner::Spawner;
use orrery_core::{Clock as _, ServerName, SystemClock};
use orrery_hub::routes::{Keeper, KeeperParts};
use orrery_hub::servers::{Engine, EngineParts, RunId, ServerView, Settings, StartRequest};
use orrery_hub::urls::Urls;
use orrery_store::api_tokens::{self, ApiToken, Owner};
use orrery_store::oauth_clients::{self, NewOauthClient};
use orrery_store::users::{self, NewUser, User};
use orrery_store::{DbUrl, Store, StoreError, StoreOptions, roles};

use super::fakes::{FakeSpawner, FakeTable, Start};

/// Longer than anything that is awaited takes, shorter than a patience.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) spawner: Arc<FakeSpawner>,
    pub(crate) table: Arc<FakeTable>,
    pub(crate) settings: Settings,
    /// The hub's name.
    pub(crate) replica: String,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new(start: Start) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = DbUrl::file(folder.path().join("hub.sqlite"));
        let store = Store::open(&url, StoreOptions::default())
            .await
            .expect("a database");
        store
            .write(|transaction| async move {
                let scopes = ["users:activity!user", "access:servers!server"].map(str::to_owned);
                roles::upsert(&transaction, "server", None, &scopes, false).await?;
                let hub = NewOauthClient {
                    identifier: "jupyterhub".to_owned(),
                    description: "JupyterHub".to_owned(),
                    secret: String::new(),
                    redirect_uri: String::new(),
                    allowed_scopes: Vec::new(),
                };
                oauth_clients::upsert(&transaction, &hub).await?;
                Ok::<_, StoreError>(())
            })
            .await
            .expect("rows");
        let settings = Settings {
            tick: Duration::from_millis(50),
            poll_interval: Duration::from_millis(50),
            poll_timeout: Duration::from_millis(500),
            start_timeout: Duration::from_secs(15),
            http_timeout: Duration::from_secs(15),
            stop_timeout: Duration::from_secs(5),
            allow_named_servers: true,
            ..Settings::default()
        };
        Self {
            store,
            spawner: FakeSpawner::new(start),
            table: Arc::default(),
            settings,
            replica: "bench".to_owned(),
            _folder: folder,
        }
    }

    pub(crate) async fn user(&self, name: &str) -> User {
        self.store
            .write(|transaction| async move {
                let role =
                    roles::upsert(&transaction, "user", None, &["self".to_owned()], false).await?;
                let new = NewUser {
                    name: name.to_owned(),
                    admin: false,
                    created: SystemClock.now(),
                    cookie_id: format!("cookie-of-{name}"),
                };
                let user = users::insert(&transaction, &new).await?;
                roles::assign(&transaction, roles::Holder::User(user.id), role.id, false).await?;
                Ok::<_, StoreError>(user)
            })
            .await
            .expect("a user")
    }

    /// All tokens of a user.
    pub(crate) async fn tokens(&self, user: &User) -> Vec<ApiToken> {
        api_tokens::list(self.store.read(), Owner::User(user.id))
            .await
            .expect("a database")
    }

    pub(crate) fn keeper(&self) -> Keeper {
        Keeper::new(KeeperParts {
            store: self.store.clone(),
            table: self.table.clone(),
            hub_routespec: "/".to_owned(),
            hub_target: "http://127.0.0.1:8081".to_owned(),
            extra_routes: BTreeMap::new(),
            urls: orrery_hub::urls::Urls::new("/"),
            check_interval: Duration::from_millis(100),
        })
    }

    /// An engine that nobody sees to.
    pub(crate) fn idle_engine(&self) -> Engine {
        self.idle_engine_on(self.spawner.clone())
    }

    /// The same on another spawner.
    pub(crate) fn idle_engine_on(&self, spawner: Arc<dyn Spawner>) -> Engine {
        Engine::new(EngineParts {
            internal: None,
            store: self.store.clone(),
            spawner,
            clock: Arc::new(SystemClock),
            settings: self.settings.clone(),
            urls: Urls::new("/"),
            definitions: Definitions::default(),
            routes: self.keeper(),
            replica: self.replica.clone(),
        })
    }

    /// A life of the hub. [`Engine::shutdown`] without cleaning up cuts it off at any await, as far as
    /// the rows can tell a `kill -9`.
    pub(crate) async fn life(&self) -> Engine {
        self.life_on(self.spawner.clone()).await
    }

    /// The same on another spawner.
    pub(crate) async fn life_on(&self, spawner: Arc<dyn Spawner>) -> Engine {
        let engine = self.idle_engine_on(spawner);
        engine.reconcile().await.expect("a database");
        let running = engine.clone();
        tokio::spawn(async move { running.run().await });
        engine
    }
}

pub(crate) fn named(name: &str) -> ServerName {
    ServerName::parse(name).expect("a name")
}

pub(crate) async fn start(engine: &Engine, user: &User, server: &str) -> RunId {
    engine
        .start(user, &named(server), StartRequest::default())
        .await
        .expect("a start")
}

pub(crate) async fn view(engine: &Engine, user: &User, server: &str) -> ServerView {
    engine
        .view(user, &named(server))
        .await
        .expect("a database")
        .expect("a server")
}

/// Waits until the server stands there, and gives it as it is then.
pub(crate) async fn until(engine: &Engine, user: &User, server: &str, phase: Phase) -> ServerView {
    let looking = async {
        loop {
            let view = view(engine, user, server).await;
            if view.phase == phase {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if let Ok(view) = tokio::time::timeout(SOON, looking).await {
        return view;
    }
    let view = view(engine, user, server).await;
    panic!("never became {phase:?}: {view:?}")
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(SOON, looking).await.is_ok(),
        "never came about: {what}"
    );
}
