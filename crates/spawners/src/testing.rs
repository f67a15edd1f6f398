//! Spawners in memory, named by how they behave, for the tests of what drives spawners.
//!
//! Each of their servers is a small HTTP listener of its own that answers 200 to everything.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{Events, ServerSpec, Spawner, Started, Status, spawner_failure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Starts servers in memory at once, and stops them at once. A clone is the same spawner.
#[derive(Clone, Default)]
pub struct MemorySpawner(Arc<Inner>);

#[derive(Default)]
struct Inner {
    servers: Mutex<Servers>,
    answers: Answers,
}

#[derive(Default)]
struct Servers {
    last: u64,
    running: HashMap<u64, (ServerSpec, AbortHandle)>,
    ended: HashMap<u64, Option<i32>>,
    started: Vec<ServerSpec>,
    logs: Vec<String>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Answers {
    #[default]
    Everything,
    Nothing,
}

impl MemorySpawner {
    /// A spawner without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many servers run.
    pub fn running(&self) -> usize {
        self.servers().running.len()
    }

    /// Every start so far, in order.
    pub fn started(&self) -> Vec<ServerSpec> {
        self.servers().started.clone()
    }

    /// What [`Spawner::logs`] answers for every server.
    pub fn set_logs(&self, lines: &[&str]) {
        self.servers().logs = lines.iter().map(ToString::to_string).collect();
    }

    /// Ends the servers of a user by themselves, with this exit code.
    pub fn crash(&self, user: &str, exit_code: Option<i32>) {
        let mut servers = self.servers();
        let of_user: Vec<u64> = servers
            .running
            .iter()
            .filter(|(_, (spec, _))| spec.user.as_str() == user)
            .map(|(id, _)| *id)
            .collect();
        for id in of_user {
            servers.end(id, exit_code);
        }
    }

    async fn launch(&self, spec: ServerSpec, events: &Events) -> Result<Started, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, spec.port))
            .await
            .map_err(|error| spawner_failure(error.to_string()))?;
        let address = listener
            .local_addr()
            .map_err(|error| spawner_failure(error.to_string()))?;
        let task = match self.0.answers {
            Answers::Everything => tokio::spawn(serve(listener)),
            Answers::Nothing => tokio::spawn(async move {
                let _open = listener;
                std::future::pending::<()>().await;
            }),
        };
        let mut servers = self.servers();
        servers.last += 1;
        let id = servers.last;
        servers.started.push(spec.clone());
        servers.running.insert(id, (spec, task.abort_handle()));
        let state = json!({ "id": id });
        events.state(state.clone());
        events.progress(20, "The server runs in memory.");
        Ok(Started {
            url: format!("http://{address}"),
            state,
        })
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.0
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    fn end(&mut self, id: u64, exit_code: Option<i32>) {
        if let Some((_, task)) = self.running.remove(&id) {
            task.abort();
            self.ended.insert(id, exit_code);
        }
    }
}

fn id_of(state: &Value) -> Option<u64> {
    state.get("id")?.as_u64()
}

#[async_trait]
impl Spawner for MemorySpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.launch(spec, &events).await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        let servers = self.servers();
        Ok(match id_of(state) {
            Some(id) if servers.running.contains_key(&id) => Status::Running,
            Some(id) => Status::Exited(servers.ended.get(&id).copied().flatten()),
            None => Status::Exited(None),
        })
    }

    async fn stop(&self, state: &Value, _grace: Option<Duration>) -> Result<(), Failure> {
        if let Some(id) = id_of(state) {
            self.servers().end(id, Some(0));
        }
        Ok(())
    }

    async fn logs(&self, _state: &Value, lines: usize) -> Vec<String> {
        let servers = self.servers();
        let first = servers.logs.len().saturating_sub(lines);
        servers.logs[first..].to_vec()
    }
}

/// Starts a server only when the test lets it: each [`SlowSpawner::release`] lets one through.
#[derive(Clone)]
pub struct SlowSpawner {
    /// Where its servers are.
    pub memory: MemorySpawner,
    gate: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl SlowSpawner {
    /// A spawner whose gate is closed.
    pub fn new() -> Self {
        Self {
            memory: MemorySpawner::new(),
            gate: Arc::new(Semaphore::new(0)),
            waiting: Arc::default(),
        }
    }

    /// Lets `count` starts through, now or later.
    pub fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// How many starts wait at the gate.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }
}

impl Default for SlowSpawner {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a start while it waits, also when its future is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Spawner for SlowSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(&self.waiting);
        events.progress(10, "Waiting at the gate.");
        self.gate
            .acquire()
            .await
            .map_err(|error| spawner_failure(error.to_string()))?
            .forget();
        drop(waiting);
        self.memory.launch(spec, &events).await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        self.memory.poll(state).await
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        self.memory.stop(state, grace).await
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        self.memory.logs(state, lines).await
    }
}

/// Fails every start with the same failure.
#[derive(Clone)]
pub struct FailingSpawner(pub Failure);

impl FailingSpawner {
    /// A spawner that fails for this cause.
    pub fn new(cause: Cause, message: &str) -> Self {
        Self(Failure::new(cause, message))
    }
}

#[async_trait]
impl Spawner for FailingSpawner {
    async fn start(&self, _spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        events.progress(10, "About to fail.");
        Err(self.0.clone())
    }

    async fn poll(&self, _state: &Value) -> Result<Status, Failure> {
        Ok(Status::Exited(self.0.exit_code))
    }

    async fn stop(&self, _state: &Value, _grace: Option<Duration>) -> Result<(), Failure> {
        Ok(())
    }

    async fn logs(&self, _state: &Value, lines: usize) -> Vec<String> {
        let tail = &self.0.log_tail;
        tail[tail.len().saturating_sub(lines)..].to_vec()
    }
}

/// Makes a server, reports its state, and then never returns from its start.
#[derive(Clone, Default)]
pub struct NeverStartsSpawner {
    /// Where its servers are.
    pub memory: MemorySpawner,
}

#[async_trait]
impl Spawner for NeverStartsSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.memory.launch(spec, &events).await?;
        std::future::pending().await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        self.memory.poll(state).await
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        self.memory.stop(state, grace).await
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        self.memory.logs(state, lines).await
    }
}

/// Starts servers that listen and accept, but never answer.
#[derive(Clone)]
pub struct SilentSpawner {
    /// Where its servers are.
    pub memory: MemorySpawner,
}

impl SilentSpawner {
    /// A spawner without servers.
    pub fn new() -> Self {
        Self {
            memory: MemorySpawner(Arc::new(Inner {
                answers: Answers::Nothing,
                ..Inner::default()
            })),
        }
    }
}

impl Default for SilentSpawner {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Spawner for SilentSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.memory.start(spec, events).await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        self.memory.poll(state).await
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        self.memory.stop(state, grace).await
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        self.memory.logs(state, lines).await
    }
}

/// Starts servers at once, and never returns from a stop.
#[derive(Clone, Default)]
pub struct NeverStopsSpawner {
    /// Where its servers are.
    pub memory: MemorySpawner,
}

#[async_trait]
impl Spawner for NeverStopsSpawner {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.memory.start(spec, events).await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        self.memory.poll(state).await
    }

    async fn stop(&self, _state: &Value, _grace: Option<Duration>) -> Result<(), Failure> {
        std::future::pending().await
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        self.memory.logs(state, lines).await
    }
}

async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream));
    }
}

/// Answers one request with 200 and closes.
async fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(read) if read > 0 && request.len() < 64 * 1024 => {
                request.extend_from_slice(&buffer[..read]);
            }
            _ => return,
        }
    }
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
        Connection: close\r\n\r\n{}";
    if stream.write_all(answer).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}
