//! The local spawner with real processes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orrery_core::config::{Command, ConfigClass as _};
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{Event, Events, Resources, ServerSpec, Spawner, Started, Status};
use orrery_core::{Secret, ServerName, UserName};
use orrery_spawners::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};
use orrery_spawners::local::Simple;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

/// A server that answers HTTP on the address the environment names.
const SERVER: &str = r#"
import http.server, os, sys, urllib.parse
url = urllib.parse.urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
print("listening on", url.port, flush=True)
http.server.HTTPServer((url.hostname, url.port), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

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

async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
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

fn get(url: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap())?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
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

#[tokio::test]
async fn a_server_is_reached_at_the_address_it_was_given_until_it_is_stopped() {
    let site = Site::new();
    let started = site.start(&["python3", "-c", SERVER]).await.unwrap();
    site.said(&started.state, "listening").await;
    let answer = eventually("an answer", async || get(&started.url).ok()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));

    site.spawner.stop(&started.state, None).await.unwrap();
    assert!(!is_alive(pid(&started.state)));
    assert!(get(&started.url).is_err());
    assert!(matches!(
        site.spawner.poll(&started.state).await,
        Ok(Status::Exited(Some(_)))
    ));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_server_gets_its_own_environment_and_home_and_nothing_of_the_hubs() {
    let site = Site::new();
    let started = site
        .shell("pwd; env; id -u; umask; wc -c < /dev/stdin")
        .await;
    assert_eq!(site.exited(&started.state).await, Some(0));
    let home = site.folder.path().join("home/ada");
    let lines = site.logs(&started.state).await;
    let port = started.url.rsplit_once(':').unwrap().1;
    for expected in [
        home.display().to_string(),
        format!("HOME={}", home.display()),
        "USER=ada".to_owned(),
        "SHELL=/bin/bash".to_owned(),
        "JUPYTERHUB_SERVICE_PREFIX=/user/ada/".to_owned(),
        format!("JUPYTERHUB_SERVICE_URL=http://127.0.0.1:{port}/user/ada/"),
        "0".to_owned(),
    ] {
        assert!(lines.contains(&expected), "{expected} in {lines:?}");
    }
    assert!(
        !lines.iter().any(|line| line.starts_with("CARGO_")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_server_inherits_no_descriptor_and_leads_a_group_of_its_own() {
    let site = Site::new();
    // What a hub has open: files, sockets, listeners, other servers' logs.
    let _file = std::fs::File::open("/dev/null").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inherited: Vec<u64> = descriptors("self")
        .into_iter()
        .filter(|number| survives_exec(*number))
        .collect();
    let others: Vec<Started> = [site.shell("exec sleep 60").await].into();
    let started = site
        .start_with(&["sh", "-c", "sleep 60 & echo ready; wait"], |spec| {
            spec.user = UserName::parse("bob").unwrap();
        })
        .await
        .unwrap();
    site.said(&started.state, "ready").await;

    let pid = pid(&started.state).to_string();
    for number in descriptors(&pid) {
        assert!(
            number <= 2 || inherited.contains(&number),
            "descriptor {number} was inherited: {:?}",
            std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
        );
    }
    let target = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
    assert_eq!(target(0), Path::new("/dev/null"));
    let log = site.folder.path().join("logs/bob.log");
    assert_eq!((target(1), target(2)), (log.clone(), log));

    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2);
    assert_eq!(group, Some(pid.as_str()));
    for started in others.iter().chain([&started]) {
        site.spawner.stop(&started.state, None).await.unwrap();
    }
}

fn descriptors(pid: &str) -> Vec<u64> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether a descriptor that the test itself was started with lacks close-on-exec.
fn survives_exec(number: u64) -> bool {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).is_ok_and(|info| {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        u32::from_str_radix(flags.unwrap().trim(), 8).unwrap() & CLOSE_ON_EXEC == 0
    })
}

#[tokio::test]
async fn logs_are_for_the_hubs_user_alone_and_the_run_before_is_kept() {
    let site = Site::new();
    let logs = site.folder.path().join("logs");
    for word in ["first", "second", "third"] {
        let started = site.shell(&format!("echo {word}; echo oops >&2")).await;
        site.exited(&started.state).await;
        assert_eq!(site.logs(&started.state).await, [word, "oops"]);
        assert_eq!(site.spawner.logs(&started.state, 1).await, ["oops"]);
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&logs), 0o700);
    assert_eq!(mode(&logs.join("ada.log")), 0o600);
    let before = std::fs::read_to_string(logs.join("ada.log.1")).unwrap();
    assert_eq!(before, "second\noops\n");
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 2);
}

#[tokio::test]
async fn a_log_that_grows_too_large_is_put_aside_while_its_server_runs() {
    let site = Site::new();
    let started = site
        .shell("yes x | head -c 11000000; echo full; read line < wake; echo later; exec sleep 60")
        .await;
    site.said(&started.state, "full").await;
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    let log = site.folder.path().join("logs/ada.log");
    assert_eq!(log.metadata().unwrap().len(), 0);
    let aside = site.folder.path().join("logs/ada.log.1");
    assert!(aside.metadata().unwrap().len() > 10_000_000);
    assert_eq!(
        aside.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_log_that_only_looks_huge_costs_the_hub_no_more() {
    let site = Site::new();
    let script = "truncate -s 1G /proc/self/fd/1; echo; echo grown; exec sleep 60";
    let started = site.shell(script).await;
    site.said(&started.state, "grown").await;
    let begun = Instant::now();
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    assert!(begun.elapsed() < Duration::from_secs(10));
    let log = site.folder.path().join("logs/ada.log");
    assert_eq!(log.metadata().unwrap().len(), 0);
    let aside = site.folder.path().join("logs/ada.log.1");
    assert!(aside.metadata().unwrap().len() <= 10 * 1024 * 1024);
    let kept = std::fs::read(&aside).unwrap();
    assert!(kept.ends_with(b"grown\n"));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn named_servers_and_odd_names_have_logs_of_their_own() {
    let site = Site::new();
    let long = "ü".repeat(100);
    for (user, server, file) in [
        ("a.b", "", "a.b.log"),
        ("a", "b", "a+b.log"),
        ("a+b", "", "a%2Bb.log"),
        (".hidden", "", "run-7.log"),
        (long.as_str(), "", "run-7.log"),
    ] {
        let started = site
            .start_with(&["sh", "-c", "echo hello"], |spec| {
                spec.user = UserName::parse(user).unwrap();
                spec.server = ServerName::parse(server).unwrap();
            })
            .await
            .unwrap();
        site.exited(&started.state).await;
        assert_eq!(started.state["log"], file);
        assert_eq!(site.logs(&started.state).await, ["hello"]);
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why() {
    let site = Site::new();
    let folder = site.folder.path();
    let write = |name: &str, text: &str, mode| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = write("plain", "#!/bin/sh\n", 0o644);
    let lost = write("lost", "#!/no/such/interpreter\n", 0o755);
    for (command, expected) in [
        ("jupyterhub-nothing", "not found in PATH ("),
        ("/no/such/program", "/no/such/program does not exist"),
        (plain.as_str(), "not an executable file"),
        (lost.as_str(), "interpreter"),
        ("/tmp", "not an executable file"),
    ] {
        let failure = site.start(&[command]).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Command);
        assert!(failure.message.contains(expected), "{}", failure.message);
        assert!(failure.message.contains(command), "{}", failure.message);
    }
    let failure = site.start(&["sh", "-c", "a\0b"]).await.unwrap_err();
    assert!(failure.message.contains("zero byte"), "{}", failure.message);
    assert!(site.start(&[]).await.is_err());
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let site = Site::with(|local, _| {
        let folder = json!("/no/such/folder");
        local.popen_kwargs.insert("cwd".to_owned(), folder);
    });
    let failure = site.start(&["sh"]).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Command);
    assert!(failure.message.contains("/no/such/folder"));

    let site = Site::with(|_, simple| simple.home_dir_template = "/dev/null/{username}".into());
    let failure = site.start(&["sh"]).await.unwrap_err();
    assert!(failure.message.contains("/dev/null/ada"));
}

#[tokio::test]
async fn how_a_server_ended_is_known() {
    let site = Site::new();
    for (script, code) in [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)] {
        let started = site.shell(script).await;
        assert_eq!(site.exited(&started.state).await, Some(code), "{script}");
        assert!(!Path::new(&format!("/proc/{}", pid(&started.state))).exists());
    }
}

#[tokio::test]
async fn a_taken_port_is_a_failed_start_with_its_reason_in_the_log() {
    let site = Site::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let started = site
        .start_with(&["python3", "-c", SERVER], |spec| {
            spec.port = taken.local_addr().unwrap().port();
        })
        .await
        .unwrap();
    assert_eq!(site.exited(&started.state).await, Some(1));
    let lines = site.logs(&started.state).await;
    assert!(
        lines.last().unwrap().contains("Address already in use"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_stop_grows_firmer_until_the_server_is_gone() {
    let site = Site::with(|local, _| {
        local.interrupt_timeout = 1;
        local.term_timeout = 1;
    });
    for (script, code) in [
        (
            "trap 'exit 42' INT; echo ready; while :; do sleep 0.02; done",
            42,
        ),
        (
            "trap '' INT; trap 'exit 43' TERM; echo ready; while :; do sleep 0.02; done",
            43,
        ),
        (
            "trap '' INT TERM; echo ready; while :; do sleep 0.02; done",
            137,
        ),
    ] {
        let started = site.shell(script).await;
        site.said(&started.state, "ready").await;
        site.spawner.stop(&started.state, None).await.unwrap();
        assert_eq!(
            site.spawner.poll(&started.state).await,
            Ok(Status::Exited(Some(code))),
            "{script}"
        );
    }
}

#[tokio::test]
async fn a_short_grace_is_stronger_than_the_settings() {
    let site = Site::new();
    let started = site
        .shell("trap '' INT TERM; echo ready; while :; do sleep 0.02; done")
        .await;
    site.said(&started.state, "ready").await;
    let begun = Instant::now();
    let grace = Some(Duration::from_millis(50));
    site.spawner.stop(&started.state, grace).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(!is_alive(pid(&started.state)));
}

#[tokio::test]
async fn a_stop_leaves_nothing_of_the_servers_group() {
    let site = Site::new();
    let started = site
        .shell("(trap '' INT TERM; echo child $(sh -c 'echo $PPID'); while :; do sleep 0.02; done) & wait")
        .await;
    let line = site.said(&started.state, "child ").await;
    let child: i64 = line.strip_prefix("child ").unwrap().parse().unwrap();
    assert!(is_alive(child));
    site.spawner.stop(&started.state, None).await.unwrap();
    eventually("the child's end", async || (!is_alive(child)).then_some(())).await;
}

#[tokio::test]
async fn another_hub_finds_a_running_server_by_its_state() {
    let site = Site::new();
    let started = site.shell("echo ready; exec sleep 60").await;
    site.said(&started.state, "ready").await;
    let other = Simple::new(
        &LocalProcessSpawner::with_defaults(),
        &SimpleLocalProcessSpawner::with_defaults(),
        site.folder.path().join("logs"),
    )
    .ok()
    .unwrap();
    assert_eq!(other.poll(&started.state).await, Ok(Status::Running));
    assert_eq!(other.logs(&started.state, 5).await, ["ready"]);

    let upstream = json!({"pid": pid(&started.state)});
    assert_eq!(other.poll(&upstream).await, Ok(Status::Exited(None)));
    let adopted = other.adopt(&upstream, "ada", "/user/ada/").await;
    for key in ["start_time", "boot_id"] {
        assert_eq!(adopted[key], started.state[key]);
    }
    assert_eq!(other.poll(&adopted).await, Ok(Status::Running));
    for (user, base_url) in [("bob", "/user/ada/"), ("ada", "/user/ada/lab/")] {
        let reused = other.adopt(&upstream, user, base_url).await;
        assert_eq!(other.poll(&reused).await, Ok(Status::Exited(None)));
        other.stop(&reused, None).await.unwrap();
        assert!(is_alive(pid(&started.state)));
    }

    let mut reused = started.state.clone();
    reused["start_time"] = json!(reused["start_time"].as_u64().unwrap() - 1);
    assert_eq!(other.poll(&reused).await, Ok(Status::Exited(None)));
    other.stop(&reused, None).await.unwrap();
    assert!(
        is_alive(pid(&started.state)),
        "another process was signalled"
    );

    other.stop(&started.state, None).await.unwrap();
    assert!(!is_alive(pid(&started.state)));
    assert_eq!(other.poll(&started.state).await, Ok(Status::Exited(None)));
    assert_eq!(other.poll(&json!({})).await, Ok(Status::Exited(None)));
    other.stop(&json!({}), None).await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_no_single_user_server_is_left_alone_without_its_start_time() {
    let site = Site::new();
    let mut stranger = tokio::process::Command::new("sleep")
        .arg("60")
        .env_remove("JUPYTERHUB_SERVICE_PREFIX")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let state = json!({"pid": stranger.id().unwrap()});
    assert_eq!(site.spawner.poll(&state).await, Ok(Status::Exited(None)));
    site.spawner.stop(&state, None).await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none());
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_nothing_unnamed() {
    let site = Site::new();
    let mut pids = Vec::new();
    for round in 0..30 {
        let (events, mut reports) = Events::channel();
        let mut start = site
            .spawner
            .start(spec(&["sh", "-c", "exec sleep 600.125"]), events);
        // Drop it ever later: before its process exists, while it is made, after.
        for _ in 0..round {
            if poll_briefly(&mut start).await {
                break;
            }
        }
        drop(start);
        let named = states(&mut reports);
        for state in &named {
            site.spawner.stop(state, None).await.unwrap();
            pids.push(pid(state));
        }
    }
    let leftover = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok())
        .filter(|line| line.windows(7).any(|part| part == b"600.125"))
        .count();
    assert_eq!(leftover, 0);
    assert!(!pids.is_empty(), "no round came as far as a process");
}

/// Goes on with a start for a moment; true when it is finished.
async fn poll_briefly<F: Future + Unpin>(future: &mut F) -> bool {
    tokio::time::timeout(Duration::from_micros(300), future)
        .await
        .is_ok()
}

#[tokio::test]
async fn the_shell_and_the_umask_are_put_before_the_command() {
    let site = Site::with(|local, _| {
        local.shell_cmd = Command::of(["sh", "-c"]);
        local.popen_kwargs.insert("umask".to_owned(), 0o27.into());
    });
    let started = site
        .start(&["sh", "-c", "umask; echo \"$1\"", "sh", "it's $HOME"])
        .await
        .unwrap();
    assert_eq!(site.exited(&started.state).await, Some(0));
    assert_eq!(site.logs(&started.state).await, ["0027", "it's $HOME"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_servers_start_at_once_each_on_a_port_of_its_own() {
    let site = Site::new();
    let mut starts = tokio::task::JoinSet::new();
    for number in 0..100 {
        let spawner = Arc::clone(&site.spawner);
        starts.spawn(async move {
            let mut spec = spec(&["sleep", "60"]);
            spec.user = UserName::parse(&format!("user-{number}")).unwrap();
            let (events, _kept) = Events::channel();
            spawner.start(spec, events).await.unwrap()
        });
    }
    let started = starts.join_all().await;
    let urls: std::collections::BTreeSet<_> = started.iter().map(|one| &one.url).collect();
    assert_eq!(urls.len(), 100);
    for one in &started {
        site.spawner.stop(&one.state, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_state_was_lost_is_found_by_its_mark_and_can_be_stopped() {
    let site = Site::new();
    let mark = format!("7-{}", std::process::id());
    let with_mark = |spec: &mut ServerSpec| {
        spec.environment
            .insert("ORRERY_RUN".to_owned(), Secret::new(mark.as_str()));
    };
    // The child has the mark too, and must not be taken for the server.
    let script = "sleep 60 & echo ready; wait";
    let started = site
        .start_with(&["sh", "-c", script], with_mark)
        .await
        .unwrap();
    site.said(&started.state, "ready").await;
    // As another life of the hub does: without any memory of its own.
    let later = Site::new();
    let found = later.spawner.find(&mark, "ada").await.unwrap().unwrap();
    assert_eq!(pid(&found), pid(&started.state));
    assert_eq!(found["start_time"], started.state["start_time"]);
    assert_eq!(
        later
            .spawner
            .find(&mark[..mark.len() - 1], "ada")
            .await
            .unwrap(),
        None
    );
    later.spawner.stop(&found, None).await.unwrap();
    assert_eq!(later.spawner.find(&mark, "ada").await.unwrap(), None);
}
