//! A hub to test with: `TestHub::new().await.with_user("ada").await`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use axum::response::IntoResponse as _;
use futures_util::StreamExt as _;
use orrery_core::authenticator::{Authenticator, AuthenticatorError, Credentials, Identity};
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{Events, ServerSpec, Spawner, Started, Status};
use orrery_core::{Clock as _, Secret, SystemClock};
use orrery_hub::changes::{Feed, Pauses};
use orrery_hub::config::Config;
use orrery_hub::reload::{ReloadError, Site};
use orrery_hub::servers::{Engine, EngineParts, Settings};
use orrery_hub::state::AppState;
use orrery_hub::{Setup, build};
use orrery_store::api_tokens::{self, NewApiToken, Owner};
use orrery_store::roles::{self, Holder};
use orrery_store::services::{self, ServiceFields};
use orrery_store::token_hash::{self, Origin};
use orrery_store::users::{self, NewUser, User};
use orrery_store::{StoreError, groups};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

/// How long anything that a test waits for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The password of everybody.
pub(crate) const PASSWORD: &str = "open sesame";

/// A hub in a folder of its own.
pub(crate) struct TestHub {
    /// As it started.
    pub(crate) state: AppState,
    site: Arc<Site>,
    router: Router,
    engine: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl TestHub {
    pub(crate) async fn new() -> Self {
        Self::configured(|_| {}).await
    }

    /// A hub whose configuration differs from the default.
    pub(crate) async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = setup(folder.path(), &fake_proxy().await, change);
        let (state, _) = Box::pin(build(setup)).await.expect("a hub");
        Self::of(state, folder)
    }

    /// A hub with another authenticator, which alone lets people in.
    pub(crate) async fn with_authenticator(authenticator: Arc<dyn Authenticator>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let closed = |config: &mut Config| config.authenticator.allow_all = false;
        let mut setup = setup(folder.path(), &fake_proxy().await, closed);
        setup.authenticator = authenticator;
        let (state, _) = Box::pin(build(setup)).await.expect("a hub");
        Self::of(state, folder)
    }

    /// A hub on another spawner, with other settings of its engine.
    pub(crate) async fn on_spawner(
        spawner: Arc<dyn Spawner>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = setup(folder.path(), &fake_proxy().await, |_| {});
        let (mut state, _) = Box::pin(build(setup)).await.expect("a hub");
        let hub = Arc::get_mut(&mut state).expect("nobody else has it yet");
        let mut settings = hub.servers.settings().clone();
        change(&mut settings);
        hub.servers = Engine::new(EngineParts {
            store: hub.store.clone(),
            spawner,
            clock: Arc::new(SystemClock),
            settings,
            urls: hub.urls.clone(),
            definitions: hub.scopes.clone(),
            routes: hub.routes.clone(),
            replica: "test".to_owned(),
            internal: None,
        });
        Self::of(state, folder)
    }

    /// A hub that looks for changes at other times.
    pub(crate) async fn with_pauses(pauses: Pauses) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = setup(folder.path(), &fake_proxy().await, |_| {});
        let (mut state, _) = Box::pin(build(setup)).await.expect("a hub");
        let hub = Arc::get_mut(&mut state).expect("nobody else has it yet");
        hub.changes = Feed::new(hub.store.clone(), pauses);
        Self::of(state, folder)
    }

    /// A hub that was built already, in a folder of the test's own.
    pub(crate) fn of_state(state: AppState) -> Self {
        Self::of(state, tempfile::tempdir().expect("a folder"))
    }

    /// A hub that was built in that folder.
    pub(crate) fn of(state: AppState, folder: tempfile::TempDir) -> Self {
        let site = Site::new(Arc::clone(&state));
        let engine = state.servers.clone();
        Self {
            router: site.router(),
            site,
            engine: tokio::spawn(async move { engine.run().await }),
            state,
            _folder: folder,
        }
    }

    /// Takes a changed configuration, as after SIGHUP.
    pub(crate) async fn reload(&self, change: impl FnOnce(&mut Config)) -> Result<(), ReloadError> {
        let hub = self.site.hub().await;
        let mut config = hub.config.clone();
        change(&mut config);
        let authenticator = Arc::clone(&hub.authenticator);
        self.site.reload(config, authenticator).await
    }

    pub(crate) async fn with_user(self, name: &str) -> Self {
        self.add_user(name, false).await;
        self
    }

    pub(crate) async fn with_admin(self, name: &str) -> Self {
        self.add_user(name, true).await;
        self
    }

    pub(crate) async fn with_group(self, name: &str, members: &[&str]) -> Self {
        let mut ids = Vec::new();
        for member in members {
            ids.push(self.user(member).await.id);
        }
        let ids = &ids;
        self.state
            .store
            .write(|transaction| async move {
                let group = groups::insert(&transaction, name, &json!({})).await?;
                groups::add_members(&transaction, group.id, ids).await
            })
            .await
            .expect("a group");
        self
    }

    async fn add_user(&self, name: &str, admin: bool) {
        let new = NewUser {
            name: name.to_owned(),
            admin,
            created: SystemClock.now(),
            cookie_id: format!("cookie of {name}"),
        };
        let new = &new;
        self.state
            .store
            .write(|transaction| async move {
                let user = users::insert(&transaction, new).await?;
                orrery_hub::auth::people::assign_default_roles(&transaction, &user).await
            })
            .await
            .expect("a user");
    }

    pub(crate) async fn user(&self, name: &str) -> User {
        let found = users::find(self.state.store.read(), name)
            .await
            .expect("an answer");
        found.unwrap_or_else(|| panic!("there is no user {name}"))
    }

    /// A token with all that its user may do.
    pub(crate) async fn token(&self, user: &str) -> String {
        self.token_with(user, &["inherit"]).await
    }

    /// A token with these scopes, whether or not its user has them.
    pub(crate) async fn token_with(&self, user: &str, scopes: &[&str]) -> String {
        self.token_noted(user, "of a test", scopes).await
    }

    /// The same, with a note.
    pub(crate) async fn token_noted(&self, user: &str, note: &str, scopes: &[&str]) -> String {
        let owner = Owner::User(self.user(user).await.id);
        self.insert_token(owner, note, scopes).await
    }

    /// A service with a role that has these scopes; its token.
    pub(crate) async fn service(&self, name: &str, scopes: &[&str]) -> String {
        let fields = ServiceFields {
            name: name.to_owned(),
            ..ServiceFields::default()
        };
        let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let (fields, scopes) = (&fields, &scopes);
        let id = self
            .state
            .store
            .write(|transaction| async move {
                let service = services::insert(&transaction, fields).await?;
                let role = format!("role-of-{}", fields.name);
                let role = roles::upsert(&transaction, &role, None, scopes, false).await?;
                roles::assign(&transaction, Holder::Service(service.id), role.id, false).await?;
                Ok::<_, StoreError>(service.id)
            })
            .await
            .expect("a service");
        self.insert_token(Owner::Service(id), "of a test", &["inherit"])
            .await
    }

    async fn insert_token(&self, owner: Owner, note: &str, scopes: &[&str]) -> String {
        let secret = token_hash::generate_token().expect("a token");
        let new = NewApiToken {
            owner,
            hashed: token_hash::hash_token(secret.expose(), Origin::Generated).expect("a hash"),
            prefix: token_hash::prefix(secret.expose()).to_owned(),
            client_id: "jupyterhub".to_owned(),
            session_id: None,
            created: SystemClock.now(),
            expires_at: None,
            note: note.to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        let new = &new;
        let inserted = self
            .state
            .store
            .write(|transaction| async move { api_tokens::insert(&transaction, new).await })
            .await;
        inserted.expect("a token");
        secret.expose().to_owned()
    }

    /// Sends a request with a token and a JSON body, as far as they are given.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/hub/api{path}"));
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("token {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        self.raw(request.body(body).expect("a request")).await
    }

    /// Sends a request as it is.
    pub(crate) async fn raw(&self, request: Request<Body>) -> Answer {
        let answering = async {
            let response = self
                .router
                .clone()
                .oneshot(request)
                .await
                .expect("a router never fails");
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
            Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        };
        tokio::time::timeout(PATIENCE, answering)
            .await
            .expect("an answer in time")
    }

    /// Begins to read a stream of events.
    pub(crate) async fn open(&self, path: &str, token: &str) -> Open {
        let request = Request::get(format!("/hub/api{path}"))
            .header(header::AUTHORIZATION, format!("token {token}"));
        self.open_raw(request.body(Body::empty()).expect("a request"))
            .await
    }

    /// Begins to read what answers a request.
    pub(crate) async fn open_raw(&self, request: Request<Body>) -> Open {
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("a router never fails");
        assert_eq!(response.status(), StatusCode::OK);
        Open {
            pieces: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.send("GET", path, token, None).await
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send("POST", path, token, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, token: &str, body: Value) -> Answer {
        self.send("PATCH", path, token, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answer {
        self.send("DELETE", path, token, None).await
    }
}

/// An answer that comes piece by piece.
pub(crate) struct Open {
    pieces: BodyDataStream,
    text: String,
}

impl Open {
    /// Waits for `part` to come.
    pub(crate) async fn until(&mut self, part: &str) {
        self.until_told(|text| text.contains(part)).await;
    }

    /// Waits until what came so far is enough. Pieces that only keep the stream alive are no progress.
    pub(crate) async fn until_told(&mut self, is_enough: impl Fn(&str) -> bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        while !is_enough(&self.text) {
            let is_late = tokio::time::Instant::now() > end;
            assert!(!is_late, "not in time after {:?}", self.text);
            assert!(self.piece().await, "it ended after {:?}", self.text);
        }
    }

    /// What came so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Waits for the end.
    pub(crate) async fn end(&mut self) {
        while self.piece().await {}
    }

    async fn piece(&mut self) -> bool {
        let piece = tokio::time::timeout(PATIENCE, self.pieces.next())
            .await
            .expect("a piece or an end in time");
        let Some(piece) = piece else { return false };
        self.text
            .push_str(&String::from_utf8_lossy(&piece.expect("a piece")));
        true
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.engine.abort();
    }
}

pub(crate) fn setup(folder: &Path, proxy_api: &str, change: impl FnOnce(&mut Config)) -> Setup {
    let mut config = Config::with_defaults();
    let file = |name: &str| folder.join(name).display().to_string();
    config.hub.db_url = format!("sqlite:///{}", file("hub.sqlite"));
    config.hub.cookie_secret_file = file("cookie_secret");
    proxy_api.clone_into(&mut config.chp.api_url);
    config.chp.auth_token = Secret::new("proxy token");
    config.authenticator.allow_all = true;
    change(&mut config);
    Setup {
        config,
        spawner: Arc::new(InProcessSpawner::default()),
        authenticator: Arc::new(OnePassword),
        clock: Arc::new(SystemClock),
        program: "orrery".into(),
        hostname: "localhost".to_owned(),
        environment: BTreeMap::new(),
    }
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON, if the status is right.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.json()
    }

    /// The status, if it is right, of an answer whose body says nothing.
    #[track_caller]
    pub(crate) fn empty(&self, status: u16) {
        assert_eq!((self.status.as_u16(), self.text().as_str()), (status, ""));
    }

    /// The error's sentence, if the status is right.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16) -> String {
        let json = self.ok(status);
        assert_eq!(json["status"], status);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/json");
        json["message"].as_str().expect("a message").to_owned()
    }
}

/// Lets everybody in who knows the one password, and keeps of them what the form's `state` says, which
/// is JSON.
struct OnePassword;

#[async_trait]
impl Authenticator for OnePassword {
    async fn authenticate(
        &self,
        credentials: &Credentials,
    ) -> Result<Option<Identity>, AuthenticatorError> {
        let is_right = credentials.password.expose() == PASSWORD;
        let state = credentials.fields.iter().find(|(name, _)| name == "state");
        Ok(is_right.then(|| Identity {
            auth_state: state.map(|(_, value)| serde_json::from_str(value.expose()).expect("JSON")),
            ..Identity::named(credentials.username.clone())
        }))
    }
}

/// How long a server that lingers takes to stop.
const LINGERS: Duration = Duration::from_secs(1);

/// Runs servers as tasks of the test. The options may say `{"behave": "fail"}`, `"hang"` or
/// `"linger"`.
#[derive(Default)]
struct InProcessSpawner(Mutex<HashMap<u64, tokio::task::JoinHandle<()>>>);

#[async_trait]
impl Spawner for InProcessSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        events.progress(20, "Thinking about it");
        match spec.user_options["behave"].as_str() {
            Some("fail") => {
                return Err(Failure::new(
                    Cause::Quota,
                    "There is no room for this server.",
                ));
            }
            Some("hang") => std::future::pending().await,
            Some("linger") => {
                // Where nobody listens, so that it is given up, and slow to come down.
                return Ok(Started {
                    url: "http://127.0.0.1:9".to_owned(),
                    state: json!({ "lingers": true }),
                });
            }
            _ => {}
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let app = Router::new().fallback(|| async { [("x-jupyterhub-version", "6.1.1")] });
        let serving = tokio::spawn(async move {
            axum::serve(listener, app)
                .await
                .expect("serving never ends");
        });
        self.0
            .lock()
            .expect("no panics")
            .insert(u64::from(port), serving);
        Ok(Started {
            url: format!("http://127.0.0.1:{port}"),
            state: json!({ "port": port }),
        })
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        let runs = state["lingers"] == true
            || state["port"]
                .as_u64()
                .is_some_and(|port| self.0.lock().expect("no panics").contains_key(&port));
        Ok(if runs {
            Status::Running
        } else {
            Status::Exited(None)
        })
    }

    async fn stop(&self, state: &Value, _: Option<Duration>) -> Result<(), Failure> {
        if state["lingers"] == true {
            tokio::time::sleep(LINGERS).await;
        }
        if let Some(serving) = state["port"]
            .as_u64()
            .and_then(|port| self.0.lock().expect("no panics").remove(&port))
        {
            serving.abort();
        }
        Ok(())
    }

    async fn logs(&self, _: &Value, _: usize) -> Vec<String> {
        Vec::new()
    }
}

/// A proxy that keeps the routes it is told; where its API is.
pub(crate) async fn fake_proxy() -> String {
    let routes: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let app = Router::new().fallback(move |method: Method, uri: axum::http::Uri, body: Bytes| {
        let routes = Arc::clone(&routes);
        async move {
            let path = uri.path().trim_start_matches("/api/routes");
            let path = if path.len() > 1 {
                path.trim_end_matches('/')
            } else {
                "/"
            }
            .to_owned();
            let mut routes = routes.lock().expect("no panics");
            match method {
                Method::GET => axum::Json(routes.clone()).into_response(),
                Method::POST => {
                    routes.insert(path, serde_json::from_slice(&body).expect("JSON"));
                    StatusCode::CREATED.into_response()
                }
                _ => {
                    routes.remove(&path);
                    StatusCode::NO_CONTENT.into_response()
                }
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        axum::serve(listener, app)
            .await
            .expect("serving never ends");
    });
    format!("http://{address}")
}
