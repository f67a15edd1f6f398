//! Spawners and proxies named by how they behave.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use orrery_core::phase::{Cause, Failure};
use orrery_core::routes::{Route, RouteError, RouteTable};
use orrery_core::spawner::{Events, RUN_VARIABLE, ServerSpec, Spawner, Started, Status};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// How a fake spawner starts a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It answers at once.
    Answers,
    /// It runs, listens, and never says a word.
    NeverAnswers,
    /// It answers every request with 500.
    AnswersWithErrors,
    /// Its process ends at once with this code.
    ExitsWith(i32),
    /// `start` tells the state and then never returns.
    NeverReturns,
    /// `start` never returns and tells nothing.
    NeverReturnsNorTells,
    /// The same, but the server runs.
    RunsButNeverTells,
    /// The spawner refuses.
    Refuses,
    /// It answers once the test opened the gate.
    WaitsForGate,
}

/// What a test sets and a fake goes by.
#[derive(Default)]
pub(crate) struct Knob<T>(Mutex<T>);

impl<T: Clone> Knob<T> {
    fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.lock().expect("no panic under a lock") = value;
    }

    fn get(&self) -> T {
        self.0.lock().expect("no panic under a lock").clone()
    }
}

/// A spawner whose servers live inside the test.
pub(crate) struct FakeSpawner {
    pub(crate) start: Knob<Start>,
    /// `stop` never returns.
    pub(crate) stop_hangs: Knob<bool>,
    /// `poll` never returns.
    pub(crate) poll_hangs: Knob<bool>,
    /// How often `poll` has answered.
    pub(crate) polls: AtomicUsize,
    pub(crate) gate: Semaphore,
    /// Whose servers were started, in order: `ada/lab`.
    pub(crate) started: Mutex<Vec<String>>,
    /// Environments of all that were started.
    pub(crate) environments: Mutex<Vec<BTreeMap<String, String>>>,
    servers: Mutex<HashMap<i32, FakeServer>>,
    next: AtomicI32,
    starting: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    /// `stop` answers with an error.
    pub(crate) stop_fails: Knob<bool>,
    /// How long a server holds out against a `stop`, unless that has a grace.
    pub(crate) stop_takes: Knob<Duration>,
    /// What it says of that.
    pub(crate) stop_patience: Knob<Duration>,
    /// `find` answers with an error.
    pub(crate) find_fails: Knob<bool>,
    /// Where there is one, `find` waits for a permit.
    pub(crate) find_gate: Knob<Option<Arc<Semaphore>>>,
    pub(crate) finding: AtomicUsize,
}

struct FakeServer {
    status: Status,
    mark: Option<String>,
    listener: Option<tokio::task::JoinHandle<()>>,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FakeSpawner {
    pub(crate) fn new(start: Start) -> Arc<Self> {
        Arc::new(Self {
            start: Knob::new(start),
            stop_hangs: Knob::new(false),
            poll_hangs: Knob::new(false),
            polls: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            started: Mutex::default(),
            environments: Mutex::default(),
            servers: Mutex::default(),
            next: AtomicI32::new(100),
            starting: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            stop_fails: Knob::new(false),
            stop_takes: Knob::default(),
            stop_patience: Knob::default(),
            find_fails: Knob::new(false),
            find_gate: Knob::default(),
            finding: AtomicUsize::new(0),
        })
    }

    /// A server that something else started; gives its state.
    pub(crate) fn plant(&self) -> Value {
        json!({ "pid": self.enter(Status::Running, None, None) })
    }

    /// Ends the server of `state` as if it had crashed or left.
    pub(crate) fn kill(&self, state: &Value, code: Option<i32>) {
        let id = id_of(state).expect("a state of this spawner");
        let mut servers = self.servers.lock().expect("no panic under a lock");
        let server = servers.get_mut(&id).expect("a server of this spawner");
        server.status = Status::Exited(code);
        if let Some(listener) = server.listener.take() {
            listener.abort();
        }
    }

    /// Everything works from now on.
    pub(crate) fn heal(&self) {
        self.start.set(Start::Answers);
        for hangs in [
            &self.stop_hangs,
            &self.poll_hangs,
            &self.stop_fails,
            &self.find_fails,
        ] {
            hangs.set(false);
        }
    }

    pub(crate) fn running(&self) -> usize {
        self.servers
            .lock()
            .expect("no panic under a lock")
            .values()
            .filter(|server| server.status == Status::Running)
            .count()
    }

    fn enter(
        &self,
        status: Status,
        listener: Option<tokio::task::JoinHandle<()>>,
        mark: Option<String>,
    ) -> i32 {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        self.servers.lock().expect("no panic under a lock").insert(
            id,
            FakeServer {
                status,
                mark,
                listener,
            },
        );
        id
    }
}

fn id_of(state: &Value) -> Option<i32> {
    i32::try_from(state.get("pid")?.as_i64()?).ok()
}

/// Listens as a server; gives its port.
pub(crate) async fn listen(start: Start) -> (u16, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let task = tokio::spawn(async move {
        let mut silent = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            if start == Start::NeverAnswers {
                silent.push(stream);
                continue;
            }
            let status = if start == Start::AnswersWithErrors {
                "500 No"
            } else {
                "200 OK"
            };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 {status}\r\nX-JupyterHub-Version: 6.1.1\r\nContent-Length: 0\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, task)
}

#[async_trait]
impl Spawner for FakeSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        let start = self.start.get();
        self.started
            .lock()
            .expect("no panic under a lock")
            .push(format!("{}/{}", spec.user, spec.server));
        let environment = spec.environment("127.0.0.1", 1);
        let mark = environment
            .get(RUN_VARIABLE)
            .map(|mark| mark.expose().to_owned());
        let environment = environment
            .into_iter()
            .map(|(name, value)| (name, value.expose().to_owned()));
        self.environments
            .lock()
            .expect("no panic under a lock")
            .push(environment.collect());
        let now = self.starting.fetch_add(1, Ordering::SeqCst) + 1;
        let _counted = Counted(&self.starting);
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        events.progress(30, "Looking for a place");
        match start {
            Start::Refuses => return Err(Failure::new(Cause::Quota, "No place left.")),
            Start::NeverReturnsNorTells => std::future::pending().await,
            Start::WaitsForGate => self.gate.acquire().await.expect("an open gate").forget(),
            _ => {}
        }
        let (port, listener) = listen(start).await;
        let (status, listener) = match start {
            Start::ExitsWith(code) => {
                listener.abort();
                (Status::Exited(Some(code)), None)
            }
            _ => (Status::Running, Some(listener)),
        };
        let state = json!({ "pid": self.enter(status, listener, mark) });
        if start == Start::RunsButNeverTells {
            std::future::pending::<()>().await;
        }
        events.state(state.clone());
        if start == Start::NeverReturns {
            std::future::pending::<()>().await;
        }
        Ok(Started {
            url: format!("http://127.0.0.1:{port}"),
            state,
        })
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        if self.poll_hangs.get() {
            std::future::pending::<()>().await;
        }
        let servers = self.servers.lock().expect("no panic under a lock");
        let known = id_of(state).and_then(|id| servers.get(&id));
        self.polls.fetch_add(1, Ordering::SeqCst);
        Ok(known.map_or(Status::Exited(None), |server| server.status))
    }

    fn stop_patience(&self) -> Duration {
        self.stop_patience.get()
    }

    async fn adopt(&self, state: &Value, user: &str, base_url: &str) -> Value {
        let mut known = state.clone();
        known["adopted"] = json!([user, base_url]);
        known
    }

    async fn find(&self, mark: &str, _user: &str) -> Result<Option<Value>, Failure> {
        if self.find_fails.get() {
            return Err(Failure::new(Cause::Spawner, "The helper is away."));
        }
        let gate = self.find_gate.get();
        if let Some(gate) = gate {
            self.finding.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.expect("an open gate").forget();
        }
        let servers = self.servers.lock().expect("no panic under a lock");
        let found = servers.iter().find(|(_, server)| {
            server.status == Status::Running && server.mark.as_deref() == Some(mark)
        });
        Ok(found.map(|(id, _)| json!({ "pid": id })))
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        if self.stop_fails.get() {
            return Err(Failure::new(Cause::Spawner, "The backend is away."));
        }
        if self.stop_hangs.get() {
            std::future::pending::<()>().await;
        }
        let takes = self.stop_takes.get();
        if !takes.is_zero() && grace.is_none() {
            tokio::time::sleep(takes).await;
        }
        if let Some(id) = id_of(state)
            && let Some(server) = self
                .servers
                .lock()
                .expect("no panic under a lock")
                .get_mut(&id)
        {
            if server.status == Status::Running {
                server.status = Status::Exited(Some(0));
            }
            if let Some(listener) = server.listener.take() {
                listener.abort();
            }
        }
        Ok(())
    }

    async fn logs(&self, _state: &Value, lines: usize) -> Vec<String> {
        let all = ["reading the settings", "cannot go on: no such kernel"];
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .map(ToString::to_string)
            .collect()
    }
}

/// A proxy's table in memory, which can be away.
#[derive(Default)]
pub(crate) struct FakeTable {
    pub(crate) routes: Mutex<BTreeMap<String, Route>>,
    pub(crate) is_away: Knob<bool>,
    /// How often all routes were asked for, and how often one.
    pub(crate) asked_for_all: AtomicUsize,
    pub(crate) asked_for_one: AtomicUsize,
    /// How many routes were deleted one by one.
    pub(crate) deleted: AtomicUsize,
    /// Whether many changes can be made in one step.
    pub(crate) can_change: Knob<bool>,
    /// Where there is one, telling all routes waits for a permit.
    pub(crate) gate: Knob<Option<Arc<Semaphore>>>,
}

impl FakeTable {
    pub(crate) fn target(&self, spec: &str) -> Option<String> {
        self.routes
            .lock()
            .expect("no panic under a lock")
            .get(spec)
            .map(|route| route.target.clone())
    }

    fn answer(&self) -> Result<(), RouteError> {
        if self.is_away.get() {
            return Err(RouteError {
                what: "is away".to_owned(),
                why: "the test says so".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl RouteTable for FakeTable {
    async fn routes(&self) -> Result<BTreeMap<String, Route>, RouteError> {
        self.asked_for_all.fetch_add(1, Ordering::SeqCst);
        let gate = self.gate.get();
        if let Some(gate) = gate {
            gate.acquire().await.expect("an open gate").forget();
        }
        self.answer()?;
        Ok(self.routes.lock().expect("no panic under a lock").clone())
    }

    async fn has(&self, spec: &str) -> Result<bool, RouteError> {
        self.asked_for_one.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        Ok(self.target(spec).is_some())
    }

    async fn add(&self, spec: &str, route: &Route) -> Result<(), RouteError> {
        self.answer()?;
        self.routes
            .lock()
            .expect("no panic under a lock")
            .insert(spec.to_owned(), route.clone());
        Ok(())
    }

    async fn change(
        &self,
        add: &[(&String, &Route)],
        delete: &[&String],
    ) -> Result<bool, RouteError> {
        self.answer()?;
        let can_change = self.can_change.get();
        if can_change {
            let mut routes = self.routes.lock().expect("no panic under a lock");
            routes.retain(|spec, _| !delete.contains(&spec));
            routes.extend(
                add.iter()
                    .map(|(spec, route)| ((*spec).clone(), (*route).clone())),
            );
        }
        Ok(can_change)
    }

    async fn delete(&self, spec: &str) -> Result<(), RouteError> {
        self.answer()?;
        self.deleted.fetch_add(1, Ordering::SeqCst);
        self.routes
            .lock()
            .expect("no panic under a lock")
            .remove(spec);
        Ok(())
    }
}
