//! Servers of the hub's own user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::config::ConfigClass as _;
use orrery_core::phase::Failure;
use orrery_core::spawner::{Event, Events, Resources, ServerSpec, Spawner, Started, Status};
use orrery_core::{Secret, ServerName, UserName};
use orrery_spawners::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};
use orrery_spawners::local::Simple;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::servers::eventually;

mod ends;
mod starts;

struct Site {
    folder: TempDir,
    spawner: Arc<Simple>,
}

impl Site {
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut LocalProcessSpawner, &mut SimpleLocalProcessSpawner)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut local = LocalProcessSpawner::with_defaults();
        let mut simple = SimpleLocalProcessSpawner::with_defaults();
        simple.home_dir_template = format!("{}/home/{{username}}", folder.path().display());
        local.interrupt_timeout = 10;
        local.term_timeout = 10;
        change(&mut local, &mut simple);
        let logs = folder.path().join("logs");
        let spawner = Arc::new(Simple::new(&local, &simple, logs).ok().unwrap());
        Self { folder, spawner }
    }

    async fn start(&self, command: &[&str]) -> Result<Started, Failure> {
        self.start_with(command, |_| {}).await
    }

    async fn start_with(
        &self,
        command: &[&str],
        change: impl FnOnce(&mut ServerSpec),
    ) -> Result<Started, Failure> {
        let mut spec = spec(command);
        change(&mut spec);
        let (events, _kept) = Events::channel();
        self.spawner.start(spec, events).await
    }

    async fn shell(&self, script: &str) -> Started {
        self.start(&["sh", "-c", script]).await.unwrap()
    }

    async fn logs(&self, state: &Value) -> Vec<String> {
        self.spawner.logs(state, 100).await
    }

    /// Waits until the server has written a line that contains `text`.
    async fn said(&self, state: &Value, text: &str) -> String {
        eventually(text, async || {
            let lines = self.logs(state).await;
            lines.into_iter().find(|line| line.contains(text))
        })
        .await
    }

    async fn exited(&self, state: &Value) -> Option<i32> {
        eventually("the server's end", async || {
            match self.spawner.poll(state).await.unwrap() {
                Status::Running => None,
                Status::Exited(code) => Some(code),
            }
        })
        .await
    }
}

fn spec(command: &[&str]) -> ServerSpec {
    ServerSpec {
        run_id: 7,
        user: UserName::parse("ada").unwrap(),
        server: ServerName::default_server(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::from([
            (
                "PATH".to_owned(),
                Secret::new(std::env::var("PATH").unwrap()),
            ),
            (
                "JUPYTERHUB_SERVICE_PREFIX".to_owned(),
                Secret::new("/user/ada/"),
            ),
            ("JUPYTERHUB_USER".to_owned(), Secret::new("ada")),
        ]),
        tls: None,
        ip: "127.0.0.1".to_owned(),
        port: 0,
        base_url: "/user/ada/".to_owned(),
        notebook_dir: None,
        resources: Resources::default(),
        user_options: json!({}),
        start_timeout: Duration::from_mins(1),
    }
}

fn pid(state: &Value) -> i64 {
    state["pid"].as_i64().unwrap()
}

/// Whether a process exists and has not ended.
fn is_alive(pid: i64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim().starts_with('Z'))
}

fn states(reports: &mut UnboundedReceiver<Event>) -> Vec<Value> {
    let mut states = Vec::new();
    while let Ok(event) = reports.try_recv() {
        if let Event::State(state) = event {
            states.push(state);
        }
    }
    states
}
