//! The spawner of system accounts, with the real session helper and real accounts. It must run as root.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use orrery_core::config::{Command, ConfigClass as _};
use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{Events, Resources, ServerSpec, Spawner, Started, Status};
use orrery_core::{Secret, ServerName, UserName};
use orrery_session::client::Helper;
use orrery_session::protocol;
use orrery_session::testing::{Account, is_root};
use orrery_spawners::config::LocalProcessSpawner;
use orrery_spawners::local::LocalProcess;
use serde_json::{Value, json};
use tempfile::TempDir;

const SERVER: &str = r#"
import http.server, os, urllib.parse
url = urllib.parse.urlparse(os.environ["JUPYTERHUB_SERVICE_URL"])
print("listening", flush=True)
http.server.HTTPServer((url.hostname, url.port), http.server.SimpleHTTPRequestHandler).serve_forever()
"#;

/// Names the account whose servers the test of an unprivileged hub starts, in the process that is it.
const UNPRIVILEGED: &str = "ORRERY_TEST_UNPRIVILEGED";

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

fn pid(state: &Value) -> i32 {
    i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
}

fn get(url: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap())?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[tokio::test]
async fn a_server_runs_as_its_owner_until_it_is_stopped() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.spawner.check().await.unwrap();
    let mut ada = Account::new();
    let (_, group) = ada.join_new_group();
    let started = site.start(&ada, &["python3", "-c", SERVER]).await.unwrap();
    site.said(&started.state, "listening").await;
    let answer = eventually("an answer", async || get(&started.url).ok()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    assert_eq!(started.state["user"], ada.name);

    let process = format!("/proc/{}", pid(&started.state));
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let (uid, gid) = (ada.uid, ada.gid);
    for line in [
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
        format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}\n"),
        format!("Groups:\t{gid} {group} \n"),
    ] {
        assert!(status.contains(&line), "{line} in {status}");
    }
    assert_eq!(
        std::fs::read_link(format!("{process}/cwd")).unwrap(),
        ada.home
    );

    site.spawner.stop(&started.state, None).await.unwrap();
    assert!(ada.processes().is_empty());
    assert!(get(&started.url).is_err());
    assert!(matches!(
        site.spawner.poll(&started.state).await,
        Ok(Status::Exited(Some(_)))
    ));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_server_gets_its_owners_environment_and_sees_nothing_of_the_hub() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::with(&["--create-home", "--shell", "/bin/sh"]);
    // A descriptor that the hub let be inherited by mistake.
    let leak = std::fs::File::open("/etc/shadow").unwrap();
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let log = site.folder.path().join(format!("logs/{}.log", ada.name));
    let script = format!(
        "env; ls -l /proc/$$/fd | grep -o '[0-9]* -> .*'; cat {} || echo no log; wc -c",
        log.display()
    );
    let started = site.shell(&ada, &script).await;
    assert_eq!(site.exited(&started.state).await, Some(0));
    drop(leak);
    let lines = site.logs(&started.state).await;
    let port = started.url.rsplit_once(':').unwrap().1;
    let mut expected = vec![
        format!("HOME={}", ada.home.display()),
        format!("USER={}", ada.name),
        "SHELL=/bin/sh".to_owned(),
        "JUPYTERHUB_SERVICE_PREFIX=/user/ada/".to_owned(),
        format!("JUPYTERHUB_USER={}", ada.name),
        format!("JUPYTERHUB_SERVICE_URL=http://127.0.0.1:{port}/user/ada/"),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        format!("PWD={}", ada.home.display()),
    ];
    let (mut environment, rest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.contains('=') && !line.contains("->"));
    environment.sort();
    expected.sort();
    assert_eq!(environment, expected);
    let log = log.display();
    assert_eq!(rest[0], "0 -> /dev/null");
    assert_eq!(rest[1], format!("1 -> {log}"));
    assert_eq!(rest[2], format!("2 -> {log}"));
    assert!(rest[3].contains("Permission denied"), "{rest:?}");
    assert_eq!(rest[4..], ["no log", "0"]);
}

#[tokio::test]
async fn the_next_hub_finds_its_servers_by_id_and_start() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    // What ignores its parent's end, in a session of its own, ends with the server too.
    let script = "setsid sleep 1000 & sleep 1000 & echo ready; wait";
    let started = site.shell(&ada, script).await;
    site.said(&started.state, "ready").await;
    let next = Site::next_life();
    assert_eq!(next.spawner.poll(&started.state).await, Ok(Status::Running));

    let start_time = started.state["start_time"].as_u64().unwrap();
    for (key, value) in [
        ("start_time", json!(start_time + 1)),
        ("start_time", json!(1)),
    ] {
        let mut reused = started.state.clone();
        reused[key] = value;
        assert_eq!(
            next.spawner.poll(&reused).await,
            Ok(Status::Exited(None)),
            "{reused}"
        );
        next.spawner.stop(&reused, None).await.unwrap();
    }
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    eventually("all processes", async || {
        (ada.processes().len() == 3).then_some(())
    })
    .await;

    next.spawner.stop(&started.state, None).await.unwrap();
    assert_eq!(ada.processes(), [0; 0]);
    assert_eq!(
        next.spawner.poll(&started.state).await,
        Ok(Status::Exited(None))
    );
}

#[tokio::test]
async fn a_server_that_jupyterhub_started_is_adopted_and_another_process_is_not() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    let server = site.shell(&ada, "echo ready; exec sleep 1000").await;
    site.said(&server.state, "ready").await;
    let upstreams = json!({"pid": pid(&server.state)});
    let next = Site::next_life();
    // The same id, but of another person's server, another of this one's, or of one that only says so.
    let bob = Account::new();
    for (user, base_url) in [
        (&bob.name, "/user/ada/"),
        (&ada.name, "/user/ada/lab/"),
        (&ada.name, "/user/"),
    ] {
        let reused = next.spawner.adopt(&upstreams, user, base_url).await;
        assert!(reused.get("start_time").is_none(), "{reused}");
        next.spawner.stop(&reused, None).await.unwrap();
        assert_eq!(next.spawner.poll(&reused).await, Ok(Status::Exited(None)));
    }
    // The id alone proves nothing.
    next.spawner.stop(&upstreams, None).await.unwrap();
    assert_eq!(
        next.spawner.poll(&upstreams).await,
        Ok(Status::Exited(None))
    );
    assert_eq!(site.spawner.poll(&server.state).await, Ok(Status::Running));

    // A helper that is away when the hub starts does not make it forget the server.
    let helpless = Site::by(&["/no/such/orrery-session"], |_| {});
    for spawner in [&helpless.spawner, &next.spawner] {
        let adopted = spawner.adopt(&upstreams, &ada.name, "/user/ada/").await;
        assert_eq!(adopted["pid"], upstreams["pid"]);
        assert_eq!(adopted["user"], ada.name);
        assert_eq!(next.spawner.poll(&adopted).await, Ok(Status::Running));
    }
    let adopted = next
        .spawner
        .adopt(&upstreams, &ada.name, "/user/ada/")
        .await;
    for key in ["start_time", "boot_id"] {
        assert_eq!(adopted[key], server.state[key], "{adopted}");
    }
    let again = next.spawner.adopt(&adopted, &ada.name, "/user/ada/").await;
    assert_eq!(again, adopted);
    next.spawner.stop(&adopted, None).await.unwrap();
    assert_eq!(next.spawner.poll(&adopted).await, Ok(Status::Exited(None)));
    assert!(ada.processes().is_empty());
}

#[tokio::test]
async fn a_server_of_an_earlier_boot_is_gone_and_nothing_is_signalled() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    let server = site.shell(&ada, "exec sleep 1000").await;
    let mut before = server.state.clone();
    before["boot_id"] = json!("another");
    let next = Site::next_life();
    assert_eq!(next.spawner.poll(&before).await, Ok(Status::Exited(None)));
    next.spawner.stop(&before, None).await.unwrap();
    assert_eq!(next.spawner.poll(&server.state).await, Ok(Status::Running));
    site.spawner.stop(&server.state, None).await.unwrap();
}

#[tokio::test]
async fn a_server_without_a_state_is_found_by_its_mark() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    let mark = format!("7-{}", std::process::id());
    let command = ["sh", "-c", "sleep 1000 & echo ready; wait"];
    let started = site
        .start_spec(with_mark(spec(&ada.name, &command), &mark))
        .await
        .unwrap();
    site.said(&started.state, "ready").await;
    let next = Site::next_life();
    let found = next.spawner.find(&mark, &ada.name).await.unwrap().unwrap();
    for key in ["pid", "start_time", "user"] {
        assert_eq!(found[key], started.state[key]);
    }
    next.spawner.stop(&found, None).await.unwrap();
    assert_eq!(next.spawner.find(&mark, &ada.name).await, Ok(None));
    assert!(ada.processes().is_empty());
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_nothing_that_cannot_be_found() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    for round in 0..40 {
        let mark = format!("{round}-{}", std::process::id());
        let command = ["sh", "-c", "setsid sleep 1000 & sleep 1000"];
        let start = site.start_spec(with_mark(spec(&ada.name, &command), &mark));
        let patience = Duration::from_micros(150 * round);
        if let Ok(started) = tokio::time::timeout(patience, start).await {
            site.spawner
                .stop(&started.unwrap().state, None)
                .await
                .unwrap();
        } else if let Some(found) = site.spawner.find(&mark, &ada.name).await.unwrap() {
            site.spawner.stop(&found, None).await.unwrap();
        }
        eventually("the end of all", async || {
            ada.processes().is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_stop_grows_firmer_and_ends_all_that_the_server_started() {
    if !is_root() {
        return;
    }
    let site = Site::with(|options| {
        options.interrupt_timeout = 1;
        options.term_timeout = 1;
    });
    let ada = Account::new();
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
            "trap '' INT TERM; setsid sleep 1000 & echo ready; while :; do sleep 0.02; done",
            137,
        ),
    ] {
        let started = site.shell(&ada, script).await;
        site.said(&started.state, "ready").await;
        site.spawner.stop(&started.state, None).await.unwrap();
        assert_eq!(site.exited(&started.state).await, Some(code));
        assert_eq!(ada.processes(), [0; 0]);
    }
}

#[tokio::test]
async fn a_server_whose_keeper_was_killed_is_still_seen_and_stopped() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    let started = site.shell(&ada, "echo ready; exec sleep 1000").await;
    site.said(&started.state, "ready").await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid(&started.state))).unwrap();
    let keeper = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1);
    let keeper = nix::unistd::Pid::from_raw(keeper.unwrap().parse().unwrap());
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually("the keeper's end", async || {
        nix::sys::signal::kill(keeper, None).is_err().then_some(())
    })
    .await;
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    site.spawner.stop(&started.state, None).await.unwrap();
    eventually("the end", async || ada.processes().is_empty().then_some(())).await;
    assert_eq!(
        site.spawner.poll(&started.state).await,
        Ok(Status::Exited(None))
    );
}

#[tokio::test]
async fn shell_umask_and_folder_are_as_configured() {
    if !is_root() {
        return;
    }
    let site = Site::with(|options| {
        options.shell_cmd = Command::of(["bash", "-l", "-c"]);
        options
            .popen_kwargs
            .insert("umask".to_owned(), 0o027.into());
        options.popen_kwargs.insert("cwd".to_owned(), json!("/usr"));
    });
    let ada = Account::new();
    // A login shell reads what the owner wrote there.
    let profile = ada.home.join(".bash_profile");
    std::fs::write(&profile, "export FROM_PROFILE=yes\n").unwrap();
    let command = [
        "sh",
        "-c",
        "umask; pwd; echo \"$FROM_PROFILE $1\"",
        "sh",
        "it's $HOME",
    ];
    let started = site.start(&ada, &command).await.unwrap();
    assert_eq!(site.exited(&started.state).await, Some(0));
    assert_eq!(
        site.logs(&started.state).await,
        ["0027", "/usr", "yes it's $HOME"]
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    for (user, command, cause, expected) in [
        (
            "nobody-of-that-name",
            "sh",
            Cause::Spawner,
            "no system user nobody-of-that-name",
        ),
        (
            ada.name.as_str(),
            "jupyterhub-nothing",
            Cause::Command,
            "jupyterhub-nothing was not found in PATH",
        ),
        (
            ada.name.as_str(),
            "/etc/passwd",
            Cause::Command,
            "/etc/passwd may not be run",
        ),
    ] {
        let failure = site.start_spec(spec(user, &[command])).await.unwrap_err();
        assert_eq!(failure.cause, cause, "{}", failure.message);
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
    assert!(ada.processes().is_empty());
}

#[tokio::test]
async fn a_helper_that_cannot_work_is_told_at_the_start_with_what_to_do() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    for (command, expected) in [
        (
            vec!["/no/such/orrery-session"],
            "/no/such/orrery-session cannot be run",
        ),
        (
            vec![
                "sh",
                "-c",
                "echo 'sudo: a password is required' >&2; exit 1",
            ],
            "sudo: a password is required",
        ),
        (vec!["echo", "hello"], "not understood"),
        (vec!["true"], "without an answer"),
    ] {
        let site = Site::by(&command, |_| {});
        let failure = site.spawner.check().await.unwrap_err();
        for text in [
            expected,
            "docs/unprivileged-hub.md",
            "c.JupyterHub.session_helper",
            command[0],
        ] {
            assert!(failure.message.contains(text), "{}", failure.message);
        }
        let failure = site.start(&ada, &["sh"]).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Spawner);
        assert!(failure.message.contains(expected), "{}", failure.message);
        // Nobody knows whether a server runs.
        let state = json!({"pid": 12345});
        let state = site.spawner.adopt(&state, &ada.name, "/user/ada/").await;
        assert!(site.spawner.poll(&state).await.is_err());
        assert!(site.spawner.find("7-7", &ada.name).await.is_err());
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_left_when_the_start_has_lasted_long_enough() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let site = Site::by(&["sh", "-c", "cat >/dev/null; sleep 5"], |_| {});
    let mut late = spec(&ada.name, &["sh"]);
    late.start_timeout = Duration::from_millis(200);
    let began = Instant::now();
    let failure = site.start_spec(late).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Timeout);
    assert!(began.elapsed() < Duration::from_secs(4));
}

/// Lets an account run a copy of the helper by sudo, for as long as this lives.
struct Sudo {
    folder: TempDir,
    rule: PathBuf,
}

impl Sudo {
    fn allow(hub: &Account) -> Self {
        // Build folders may be closed to other users.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = || std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open()).unwrap();
        for (from, name) in [
            (helper(), "orrery-session"),
            (std::env::current_exe().unwrap(), "test"),
        ] {
            let copy = folder.path().join(name);
            std::fs::copy(from, &copy).unwrap();
            std::fs::set_permissions(&copy, open()).unwrap();
        }
        let rule = Path::new("/etc/sudoers.d").join(&hub.name);
        let helper = folder.path().join("orrery-session");
        let text = format!(
            "{} ALL=(root) NOPASSWD: {} \"\"\n",
            hub.name,
            helper.display()
        );
        std::fs::write(&rule, text).expect("sudo is installed (scripts/install-test-deps.sh)");
        std::fs::set_permissions(&rule, std::fs::Permissions::from_mode(0o440)).unwrap();
        Self { folder, rule }
    }
}

impl Drop for Sudo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.rule);
    }
}

#[test]
fn a_hub_that_is_an_ordinary_user_does_all_of_it_by_sudo() {
    if !is_root() {
        return;
    }
    let (hub, ada) = (Account::new(), Account::new());
    let sudo = Sudo::allow(&hub);
    let as_hub = |allowed: &str| {
        std::process::Command::new("setpriv")
            .args(["--reuid", &hub.name, "--regid", &hub.name, "--init-groups"])
            .arg(sudo.folder.path().join("test"))
            .args(["--exact", "an_unprivileged_hub", "--nocapture"])
            .current_dir(&hub.home)
            .env_clear()
            .env("HOME", &hub.home)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("RUST_BACKTRACE", "0")
            .env("ORRERY_TEST_WITHOUT_ROOT", "1")
            .env(
                "ORRERY_TEST_HELPER",
                sudo.folder.path().join("orrery-session"),
            )
            .env(UNPRIVILEGED, format!("{}:{allowed}", ada.name))
            .output()
            .unwrap()
    };
    let run = as_hub("allowed");
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
    assert!(ada.processes().is_empty());

    // Without the rule it is told what to do.
    std::fs::remove_file(&sudo.rule).unwrap();
    let run = as_hub("refused");
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}

/// The other half of the test above: it runs as an ordinary user.
#[tokio::test]
async fn an_unprivileged_hub() {
    let Ok(order) = std::env::var(UNPRIVILEGED) else {
        return;
    };
    let (user, allowed) = order.split_once(':').unwrap();
    let helper = std::env::var("ORRERY_TEST_HELPER").unwrap();
    assert!(!nix::unistd::geteuid().is_root());
    let site = Site::by(&["sudo", "-n", &helper], |_| {});
    if allowed == "refused" {
        let failure = site.spawner.check().await.unwrap_err();
        assert!(failure.message.contains("sudo: "), "{}", failure.message);
        let failure = site.start_spec(spec(user, &["sh"])).await.unwrap_err();
        assert!(failure.message.contains("sudo: "), "{}", failure.message);
        return;
    }
    site.spawner.check().await.unwrap();
    let uid = nix::unistd::User::from_name(user).unwrap().unwrap().uid;
    let owner = |pid: i32| {
        let data = std::fs::metadata(format!("/proc/{pid}"));
        data.ok().map(|data| data.uid())
    };

    let mark = format!("7-{}", std::process::id());
    let command = [
        "sh",
        "-c",
        "id -un; env; setsid sleep 1000 & echo ready; wait",
    ];
    let started = site
        .start_spec(with_mark(spec(user, &command), &mark))
        .await
        .unwrap();
    site.said(&started.state, "ready").await;
    let lines = site.logs(&started.state).await;
    assert_eq!(lines[0], user);
    assert!(
        !lines.iter().any(|line| line.starts_with("SUDO")),
        "{lines:?}"
    );
    assert_eq!(owner(pid(&started.state)), Some(uid.as_raw()));
    // The hub's next life, which remembers nothing.
    let next = Site::by(&["sudo", "-n", &helper], |_| {});
    assert_eq!(next.spawner.poll(&started.state).await, Ok(Status::Running));
    let upstreams = json!({"pid": pid(&started.state)});
    let adopted = next.spawner.adopt(&upstreams, user, "/user/ada/").await;
    assert_eq!(adopted["start_time"], started.state["start_time"]);
    assert_eq!(next.spawner.poll(&adopted).await, Ok(Status::Running));
    let found = next.spawner.find(&mark, user).await.unwrap().unwrap();
    assert_eq!(pid(&found), pid(&started.state));
    next.spawner.stop(&found, None).await.unwrap();
    assert_eq!(owner(pid(&started.state)), None);
    assert_eq!(site.exited(&started.state).await, Some(130));

    let failure = site.start_spec(spec("root", &["sh"])).await.unwrap_err();
    assert!(
        failure.message.contains("root's account"),
        "{}",
        failure.message
    );
    // Nor does the helper end what is not a person's.
    let init = json!({"pid": 2, "start_time": 0});
    let _ = site.spawner.stop(&init, None).await;
}

/// Keeps more in memory than the tests' limit.
const HOG: &str = "head -c 150000000 /dev/zero | tail -c 150000000 >/dev/null";

fn limited(mut spec: ServerSpec, mark: &str) -> ServerSpec {
    spec.resources.mem_limit = Some(64 << 20);
    with_mark(spec, mark)
}

/// Whether this machine holds servers to limits of memory; on one that does not, servers run without.
async fn is_able() -> bool {
    let helper = Helper::new(vec![helper().to_str().unwrap().to_owned()]);
    let request = protocol::Request::Abilities;
    match helper.ask(&request, Duration::from_secs(20)).await.unwrap() {
        protocol::Answer::Abilities(abilities) => abilities.memory,
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn a_server_that_was_killed_for_memory_says_so_with_its_limit() {
    if !is_root() {
        return;
    }
    let able = is_able().await;
    let site = Site::new();
    let ada = Account::new();
    for (script, number, for_memory) in [(HOG, 1, able), ("kill -9 $$", 2, false)] {
        let spec = spec(&ada.name, &["sh", "-c", script]);
        let mark = format!("{}-{number}", std::process::id());
        let started = site.start_spec(limited(spec, &mark)).await.unwrap();
        assert_eq!(started.state["mem_limit"], json!(64 << 20));
        let code = site.exited(&started.state).await;
        let why = site.spawner.why_ended(&started.state).await;
        assert_eq!(why.is_some(), for_memory, "{why:?}");
        if let Some(why) = why {
            assert_eq!((code, why.exit_code), (Some(137), Some(137)));
            assert_eq!(why.cause, Cause::OutOfMemory);
            assert!(why.message.contains("64 MiB"), "{}", why.message);
        }
    }
}

#[tokio::test]
async fn the_next_hub_hears_how_a_server_ended_while_there_was_none() {
    if !is_root() {
        return;
    }
    let able = is_able().await;
    let ada = Account::new();
    for (script, number, expected, for_memory) in [
        ("exit 3", 1, 3, false),
        (HOG, 2, if able { 137 } else { 0 }, able),
    ] {
        let site = Site::new();
        let go = tempfile::tempdir().unwrap();
        let wait = format!("while [ -e {} ]; do sleep 0.02; done", go.path().display());
        let spec = spec(&ada.name, &["sh", "-c", &format!("{wait}; {script}")]);
        let mark = format!("{}-next-{number}", std::process::id());
        // A runtime of its own, which ends with the hub: nobody listens to the keeper any more.
        let Site { folder, spawner } = site;
        let started = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let (events, _kept) = Events::channel();
                spawner.start(limited(spec, &mark), events).await.unwrap()
            })
        })
        .join()
        .unwrap();
        let options = LocalProcessSpawner::with_defaults();
        let logs = folder.path().join("logs");
        let helper = Helper::new(vec![helper().to_str().unwrap().to_owned()]);
        let next = Site {
            spawner: LocalProcess::new(&options, helper, logs).ok().unwrap(),
            folder,
        };
        assert_eq!(next.spawner.poll(&started.state).await, Ok(Status::Running));
        drop(go);
        assert_eq!(next.exited(&started.state).await, Some(expected));
        let why = next.spawner.why_ended(&started.state).await;
        assert_eq!(why.is_some(), for_memory, "{why:?}");
        assert!(why.is_none_or(|why| why.message.contains("64 MiB")));
    }
}
