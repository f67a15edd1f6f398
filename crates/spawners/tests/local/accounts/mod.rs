//! Servers of system accounts, with the real session helper. These tests must run as root.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use orrery_core::config::ConfigClass as _;
use orrery_core::phase::Failure;
use orrery_core::spawner::{Events, Resources, ServerSpec, Spawner, Started, Status};
use orrery_core::{Secret, ServerName, UserName};
use orrery_session::client::Helper;
use orrery_session::testing::Account;
use orrery_spawners::config::LocalProcessSpawner;
use orrery_spawners::local::LocalProcess;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::eventually;

mod limits;
mod lives;
mod starts;
mod sudo;

/// The helper that was built with this test.
fn helper() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let beside = test.ancestors().nth(2).unwrap().join("orrery-session");
    assert!(
        beside.exists(),
        "{} is missing: build it with `cargo build -p orrery-session`",
        beside.display()
    );
    beside
}

struct Site {
    folder: TempDir,
    spawner: LocalProcess,
}

impl Site {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LocalProcessSpawner)) -> Self {
        Self::by(&[helper().to_str().unwrap()], change)
    }

    fn by(helper: &[&str], change: impl FnOnce(&mut LocalProcessSpawner)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = LocalProcessSpawner::with_defaults();
        options.interrupt_timeout = 10;
        options.term_timeout = 10;
        change(&mut options);
        let helper = Helper::new(helper.iter().map(ToString::to_string).collect());
        let logs = folder.path().join("logs");
        let spawner = LocalProcess::new(&options, helper, logs).ok().unwrap();
        Self { folder, spawner }
    }

    /// The spawner of the hub's next life: it remembers nothing.
    fn next_life() -> Self {
        Self::new()
    }

    async fn start(&self, account: &Account, command: &[&str]) -> Result<Started, Failure> {
        self.start_spec(spec(&account.name, command)).await
    }

    async fn start_spec(&self, spec: ServerSpec) -> Result<Started, Failure> {
        let (events, _kept) = Events::channel();
        self.spawner.start(spec, events).await
    }

    async fn shell(&self, account: &Account, script: &str) -> Started {
        self.start(account, &["sh", "-c", script]).await.unwrap()
    }

    async fn logs(&self, state: &Value) -> Vec<String> {
        self.spawner.logs(state, 100).await
    }

    async fn said(&self, state: &Value, text: &str) {
        eventually(text, async || {
            let lines = self.logs(state).await;
            lines.iter().any(|line| line.contains(text)).then_some(())
        })
        .await;
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

fn spec(user: &str, command: &[&str]) -> ServerSpec {
    ServerSpec {
        run_id: 7,
        user: UserName::parse(user).unwrap(),
        server: ServerName::default_server(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::from([
            (
                "PATH".to_owned(),
                Secret::new("/usr/local/bin:/usr/bin:/bin"),
            ),
            (
                "JUPYTERHUB_SERVICE_PREFIX".to_owned(),
                Secret::new("/user/ada/"),
            ),
            ("JUPYTERHUB_USER".to_owned(), Secret::new(user)),
        ]),
        ip: "127.0.0.1".to_owned(),
        port: 0,
        base_url: "/user/ada/".to_owned(),
        notebook_dir: None,
        resources: Resources::default(),
        user_options: json!({}),
        tls: None,
        start_timeout: Duration::from_mins(1),
    }
}

fn with_mark(mut spec: ServerSpec, mark: &str) -> ServerSpec {
    spec.environment
        .insert("ORRERY_RUN".to_owned(), Secret::new(mark));
    spec
}

fn pid(state: &Value) -> i32 {
    i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
}
