//! The helper with real accounts, which are made for a test and removed again. It must run as root.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use orrery_session::protocol::{Answer, Fault, File, Find, Request, Secret, Signal, Start};
use orrery_session::testing::{Account, is_root};
use tempfile::TempDir;

const HELPER: &str = env!("CARGO_BIN_EXE_orrery-session");

/// How the helper is reached.
#[derive(Clone, Copy)]
enum By {
    Root,
    /// As sudo starts it.
    Sudo,
}

fn helper(by: By) -> Command {
    let mut command = Command::new(HELPER);
    command.env_clear();
    if matches!(by, By::Sudo) {
        command.env("SUDO_UID", "1000");
    }
    command
}

fn begin(mut command: Command, request: &Request, complaints: Stdio) -> (Child, ChildStdout) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(complaints)
        .spawn()
        .unwrap();
    let text = serde_json::to_vec(request).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = child.stdout.take().unwrap();
    (child, output)
}

fn ask_by(by: By, request: &Request) -> Answer {
    let (mut child, mut output) = begin(helper(by), request, Stdio::inherit());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ask(request: &Request) -> Answer {
    ask_by(By::Root, request)
}

/// A server that the helper was asked to start.
struct Server {
    answer: Answer,
    output: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Server {
    fn start(request: Start) -> Self {
        Self::start_by(helper(By::Root), request)
    }

    fn start_by(command: Command, request: Start) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let request = Request::Start(Box::new(request));
        let (mut child, output) = begin(command, &request, log.into());
        let mut output = BufReader::new(output);
        let answer = read(&mut output);
        // The helper itself ends at once.
        assert!(child.wait().unwrap().success());
        Self {
            answer,
            output,
            folder,
        }
    }

    fn pid(&self) -> i32 {
        match self.answer {
            Answer::Started { pid, .. } => pid,
            ref answer => panic!("{answer:?}"),
        }
    }

    fn start_time(&self) -> u64 {
        match self.answer {
            Answer::Started { start_time, .. } => start_time,
            ref answer => panic!("{answer:?}"),
        }
    }

    fn ended(&mut self) -> i32 {
        match read(&mut self.output) {
            Answer::Ended { exit_code, .. } => exit_code,
            answer => panic!("{answer:?}"),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn says(&self, text: &str) {
        eventually(text, || self.log().contains(text).then_some(()));
    }

    fn signal(&self, signal: i32) -> Signal {
        Signal {
            pid: self.pid(),
            start_time: Some(self.start_time()),
            given: Vec::new(),
            user: None,
            signal,
            group: true,
        }
    }
}

fn read(output: &mut BufReader<ChildStdout>) -> Answer {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        #[expect(clippy::disallowed_methods, reason = "a test without a runtime")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn request(account: &Account, command: &[&str]) -> Start {
    Start {
        user: account.name.clone(),
        command: command.iter().map(ToString::to_string).collect(),
        environment: BTreeMap::from([
            ("PATH".to_owned(), Secret::new("/usr/bin:/bin")),
            ("LC_ALL".to_owned(), Secret::new("C")),
        ]),
        folder: None,
        umask: None,
        session: None,
        limits: None,
        files: Vec::new(),
    }
}

fn shell(account: &Account, script: &str) -> Start {
    request(account, &["sh", "-c", script])
}

fn failed(answer: Answer) -> (Fault, String) {
    match answer {
        Answer::Failed { fault, message } => (fault, message),
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn a_server_is_its_accounts_with_all_groups_and_nothing_of_ours() {
    if !is_root() {
        return;
    }
    let mut ada = Account::new();
    let (_, extra) = ada.join_new_group();
    let script = "id -u; id -g; id -G; pwd; umask; env; ls /proc/self/fd; cat; \
                  grep -E '^(Cap...|SigIgn|SigBlk|NoNewPrivs)' /proc/self/status; \
                  cat /proc/self/oom_score_adj; ps -o sid=,pgid=,pid= -p $$";
    let mut start = shell(&ada, script);
    start.umask = Some(0o027);
    let secret = Secret::new("line one\nline two=ü");
    start.environment.insert("TOKEN".to_owned(), secret);
    let mut command = helper(By::Root);
    command.env("CONFIGPROXY_AUTH_TOKEN", "hush");
    let mut server = Server::start_by(command, start);
    assert_eq!(server.ended(), 0, "{}", server.log());

    let log = server.log();
    let groups = format!("{} {extra}", ada.gid);
    let pid = server.pid();
    let home = ada.home.display();
    let (uid, gid) = (ada.uid, ada.gid);
    let expected = format!("{uid}\n{gid}\n{groups}\n{home}\n0027\n");
    assert!(log.starts_with(&expected), "{log}");
    let environment = "LC_ALL=C\nPATH=/usr/bin:/bin\nTOKEN=line one\nline two=ü\n";
    let lines: Vec<&str> = log.lines().collect();
    for line in environment.lines() {
        assert!(lines.contains(&line), "{line} in {log}");
    }
    assert!(!log.contains("hush") && !log.contains("SUDO"), "{log}");
    // `ls` itself has the folder open.
    assert!(log.contains("\n0\n1\n2\n3\nSig"), "{log}");
    // 32 and 33 are the C library's own, which nobody can set.
    assert!(log.contains("SigIgn:\t0000000000000000") || log.contains("SigIgn:\t0000000180000000"));
    for sets in ["CapInh", "CapPrm", "CapEff", "CapAmb", "SigBlk"] {
        assert!(log.contains(&format!("{sets}:\t0000000000000000")), "{log}");
    }
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(lines[lines.len() - 2], score.trim());
    let ids: Vec<i32> = lines[lines.len() - 1]
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(ids, [pid; 3]);
}

#[test]
fn what_cannot_run_is_said_with_its_reason() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Root may run this one, which is not the question.
    let roots = write("roots", "#!/bin/sh\n", 0o700);
    let lost = write("lost", "#!/no/such/interpreter\n", 0o755);
    let odd = write("odd", "no program\n", 0o755);
    for (command, expected) in [
        (
            vec!["jupyterhub-nothing"],
            "jupyterhub-nothing was not found in PATH (/usr/bin:/bin)",
        ),
        (vec!["/no/such/program"], "/no/such/program does not exist"),
        (vec![roots.as_str()], "permission denied"),
        (
            vec![lost.as_str()],
            "the interpreter that its first line names",
        ),
        (vec![odd.as_str()], "neither a program nor a script"),
        (vec!["/tmp"], "/tmp may not be run"),
        (vec!["sh", "a\0b"], "zero byte"),
        (vec![], "no command"),
        (vec![""], "no command"),
    ] {
        let (fault, message) = failed(Server::start(request(&ada, &command)).answer);
        assert_eq!(fault, Fault::Command, "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let mut start = shell(&ada, "true");
    start.environment.insert("A=B".to_owned(), Secret::new(""));
    let (fault, message) = failed(Server::start(start).answer);
    assert!(
        fault == Fault::Command && message.contains("A=B"),
        "{message}"
    );
    assert!(ada.processes().is_empty());
}

#[test]
fn accounts_and_folders_that_are_missing_are_named() {
    if !is_root() {
        return;
    }
    let homeless = Account::with(&["--no-create-home", "--home-dir", "/no/such/home"]);
    // A folder of its own makes the home unnecessary.
    let mut start = shell(&homeless, "pwd");
    start.folder = Some("/usr".to_owned());
    let mut server = Server::start(start);
    assert_eq!((server.ended(), server.log().as_str()), (0, "/usr\n"));

    let mut start = shell(&homeless, "pwd");
    start.folder = Some("/root".to_owned());
    let (_, message) = failed(Server::start(start).answer);
    assert!(message.contains("/root cannot be entered"), "{message}");

    let mut start = shell(&homeless, "true");
    start.user = "nobody-of-that-name".to_owned();
    let (fault, message) = failed(Server::start(start).answer);
    assert_eq!(fault, Fault::Account);
    assert!(message.contains("nobody-of-that-name"), "{message}");
}

#[test]
fn without_a_home_the_server_starts_on_the_way_to_it_or_in_a_new_folder() {
    if !is_root() {
        return;
    }
    let homeless = Account::with(&["--no-create-home", "--home-dir", "/no/such/home"]);
    let mut server = Server::start(shell(&homeless, "pwd; stat -c '%U %a' ."));
    assert_eq!(server.ended(), 0, "{}", server.log());
    let log = server.log();
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].contains("home folder /no/such/home"), "{log}");
    assert!(lines[1].starts_with("/tmp/jupyter-"), "{log}");
    assert!(lines[0].contains(lines[1]), "{log}");
    assert_eq!(lines[2], format!("{} 700", homeless.name));
    fs::remove_dir(lines[1]).unwrap();

    let homeless = Account::with(&["--no-create-home", "--home-dir", "/usr/no/such/home"]);
    let mut server = Server::start(shell(&homeless, "pwd"));
    assert_eq!(server.ended(), 0, "{}", server.log());
    assert!(server.log().ends_with("\n/usr\n"), "{}", server.log());

    // A home that its owner may not enter is as good as none.
    let closed = Account::new();
    std::os::unix::fs::chown(&closed.home, Some(0), Some(0)).unwrap();
    fs::set_permissions(&closed.home, fs::Permissions::from_mode(0o700)).unwrap();
    let mut server = Server::start(shell(&closed, "pwd"));
    assert_eq!(server.ended(), 0, "{}", server.log());
    let log = server.log();
    assert!(log.contains("permission denied"), "{log}");
    let parent = closed.home.parent().unwrap().display();
    assert!(log.ends_with(&format!("\n{parent}\n")), "{log}");
}

#[test]
fn servers_share_no_keyring() {
    if !is_root() {
        return;
    }
    // As a service of systemd's has one, which all that it starts inherits.
    // SAFETY: a null pointer is allowed for the name.
    let ours = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    let script = format!(
        "import ctypes; print(ctypes.CDLL(None).syscall({}, {}, {}, 0))",
        libc::SYS_keyctl,
        libc::KEYCTL_GET_KEYRING_ID,
        libc::KEY_SPEC_SESSION_KEYRING
    );
    let (ada, bob) = (Account::new(), Account::new());
    let keyring_of = |account: &Account| {
        let mut server = Server::start(request(account, &["python3", "-c", &script]));
        assert_eq!(server.ended(), 0, "{}", server.log());
        server.log().trim().parse::<i64>().unwrap()
    };
    let keyrings = [ours, keyring_of(&ada), keyring_of(&bob), keyring_of(&ada)];
    if ours < 0 {
        // This kernel has none, or keeps us from them.
        assert_eq!(keyrings[1..], [-1; 3]);
        return;
    }
    for (place, one) in keyrings.iter().enumerate() {
        assert!(*one > 0, "{keyrings:?}");
        assert!(!keyrings[..place].contains(one), "{keyrings:?}");
    }
}

#[test]
fn the_end_is_told_after_everything_the_server_left_is_gone() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    // One left in the group, one in a session of its own, one whose parent is long gone.
    let script = "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &) ; \
                  echo ready; read line < go; exit 7";
    nix::unistd::mkfifo(
        &ada.home.join("go"),
        nix::sys::stat::Mode::from_bits_truncate(0o666),
    )
    .unwrap();
    let owner = Some(ada.uid.into());
    nix::unistd::chown(&ada.home.join("go"), owner, None).unwrap();
    let mut server = Server::start(shell(&ada, script));
    server.says("ready");
    eventually("all processes", || {
        (ada.processes().len() == 6).then_some(())
    });
    fs::write(ada.home.join("go"), "\n").unwrap();
    assert_eq!(server.ended(), 7);
    assert_eq!(ada.processes(), [0; 0]);
    assert!(!Path::new(&format!("/proc/{}", server.pid())).exists());
}

#[test]
fn how_a_server_ended_is_told() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    for (script, code) in [
        ("true", 0),
        ("exit 3", 3),
        ("kill -9 $$", 137),
        ("kill -PIPE $$", 141),
    ] {
        assert_eq!(Server::start(shell(&ada, script)).ended(), code, "{script}");
    }
}

#[test]
fn nothing_is_started_when_nobody_listens_any_more() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let (ours, theirs) = std::io::pipe().unwrap();
    drop(ours);
    let mut child = helper(By::Root)
        .stdin(Stdio::piped())
        .stdout(theirs)
        .spawn()
        .unwrap();
    let request = Request::Start(Box::new(shell(&ada, "touch ran; sleep 1000")));
    let text = serde_json::to_vec(&request).unwrap();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    child.wait().unwrap();
    assert!(!ada.home.join("ran").exists());
    assert!(ada.processes().is_empty());
}

#[test]
fn a_server_of_which_nobody_heard_is_ended() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let mut unheard = 0;
    for round in 0..60 {
        // Unlike a pipe, a socket that was shut down still shows what came before.
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut child = helper(By::Root)
            .stdin(Stdio::piped())
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let script = "setsid sleep 1000 & sleep 1000";
        let request = Request::Start(Box::new(shell(&ada, script)));
        let text = serde_json::to_vec(&request).unwrap();
        child.stdin.take().unwrap().write_all(&text).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the moment is what is tested")]
        std::thread::sleep(Duration::from_micros(100 * round));
        ours.shutdown(Shutdown::Read).unwrap();
        let mut heard = String::new();
        ours.read_to_string(&mut heard).unwrap();
        child.wait().unwrap();
        if heard.is_empty() {
            unheard += 1;
            eventually("the end", || ada.processes().is_empty().then_some(()));
        } else {
            let Answer::Started { pid, start_time } = serde_json::from_str(&heard).unwrap() else {
                panic!("{heard}");
            };
            let kill = Signal {
                pid,
                start_time: Some(start_time),
                given: Vec::new(),
                user: None,
                signal: 9,
                group: true,
            };
            assert_eq!(ask(&Request::Signal(kill)), Answer::Signalled);
            eventually("the end", || ada.processes().is_empty().then_some(()));
        }
    }
    assert!(unheard > 0);
}

#[test]
fn a_half_written_request_starts_nothing() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let text = serde_json::to_vec(&Request::Start(Box::new(shell(&ada, "sleep 1000")))).unwrap();
    let mut huge = text.clone();
    huge.resize(5 * 1024 * 1024, b' ');
    let cases: [&[u8]; 6] = [
        &text[..text.len() - 1],
        b"",
        b"{}",
        b"{\"Start\":{}}",
        b"{\"Signal\":{\"pid\":-1,\"signal\":9,\"start_time\":null,\"user\":null,\"group\":true}}",
        &huge,
    ];
    for case in cases {
        let mut child = helper(By::Root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(case);
        let output = child.wait_with_output().unwrap();
        let (fault, _) = failed(serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!(fault, Fault::Request);
    }
    assert!(ada.processes().is_empty());
}

#[test]
fn a_signal_reaches_the_server_and_its_group_and_never_a_reused_id() {
    if !is_root() {
        return;
    }
    let (ada, bob) = (Account::new(), Account::new());
    let script = "trap 'echo caught' USR1; (trap 'echo too' USR1; echo second; while :; do sleep 0.02; done) & \
                  echo ready; while :; do sleep 0.02; done";
    let mut server = Server::start(shell(&ada, script));
    server.says("ready");
    server.says("second");
    let usr1 = server.signal(10);
    // The same id at another time, or of somebody else, is another process.
    for other in [
        Signal {
            start_time: Some(server.start_time() + 1),
            ..usr1.clone()
        },
        Signal {
            user: Some(bob.name.clone()),
            ..usr1.clone()
        },
        // It was never told that it is a single-user server.
        Signal {
            start_time: None,
            ..usr1.clone()
        },
        Signal {
            signal: 9,
            start_time: Some(server.start_time() - 1),
            ..usr1.clone()
        },
    ] {
        assert_eq!(ask(&Request::Signal(other)), Answer::Gone);
    }
    let look = Signal {
        signal: 0,
        user: Some(ada.name.clone()),
        ..usr1.clone()
    };
    assert_eq!(ask(&Request::Signal(look)), Answer::Signalled);
    assert!(!server.log().contains("caught"));
    assert_eq!(ask(&Request::Signal(usr1)), Answer::Signalled);
    server.says("caught");
    server.says("too");
    let kill = Request::Signal(server.signal(9));
    assert_eq!(ask(&kill), Answer::Signalled);
    assert_eq!(server.ended(), 137);
    assert_eq!(ask(&kill), Answer::Gone);
    assert!(ada.processes().is_empty());
}

#[test]
fn a_server_of_jupyterhubs_is_known_by_its_environment() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let mut start = shell(&ada, "exec sleep 1000");
    for (name, value) in [
        ("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/"),
        ("JUPYTERHUB_USER", "ada"),
    ] {
        start
            .environment
            .insert(name.to_owned(), Secret::new(value));
    }
    let mut server = Server::start(start);
    let signal = |given: &[&str], user: &Account| {
        ask(&Request::Signal(Signal {
            start_time: None,
            given: given.iter().map(ToString::to_string).collect(),
            user: Some(user.name.clone()),
            ..server.signal(15)
        }))
    };
    let own = [
        "JUPYTERHUB_SERVICE_PREFIX=/user/ada/",
        "JUPYTERHUB_USER=ada",
    ];
    for other in [
        &[][..],
        &[
            "JUPYTERHUB_SERVICE_PREFIX=/user/bob/",
            "JUPYTERHUB_USER=ada",
        ],
        &[
            "JUPYTERHUB_SERVICE_PREFIX=/user/ada/",
            "JUPYTERHUB_USER=bob",
        ],
        &["JUPYTERHUB_SERVICE_PREFIX="],
    ] {
        assert_eq!(signal(other, &ada), Answer::Gone, "{other:?}");
    }
    assert_eq!(signal(&own, &Account::new()), Answer::Gone);
    assert_eq!(signal(&own, &ada), Answer::Signalled);
    assert_eq!(server.ended(), 143);
}

#[test]
fn a_server_is_found_by_its_mark_and_its_children_are_not() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let mark = format!("7-{}", std::process::id());
    let mut start = shell(&ada, "sleep 1000 & echo ready; wait");
    start
        .environment
        .insert("ORRERY_RUN".to_owned(), Secret::new(mark.as_str()));
    let mut server = Server::start(start);
    server.says("ready");
    let find_of = |value: &str, account: &Account| {
        ask_by(
            By::Sudo,
            &Request::Find(Find {
                variable: "ORRERY_RUN".to_owned(),
                value: value.to_owned(),
                user: account.name.clone(),
            }),
        )
    };
    let find = |value: &str| find_of(value, &ada);
    // Whoever carries the mark of another's run is not looked at.
    assert_eq!(find_of(&mark, &Account::new()), Answer::Gone);
    let found = Answer::Found {
        pid: server.pid(),
        start_time: server.start_time(),
        user: Some(ada.name.clone()),
    };
    assert_eq!(find(&mark), found);
    assert_eq!(find(&mark[1..]), Answer::Gone);
    ask(&Request::Signal(server.signal(9)));
    server.ended();
    assert_eq!(find(&mark), Answer::Gone);
}

#[test]
fn files_are_written_as_the_account_and_follow_no_link() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(&victim, "untouched").unwrap();
    let link = ada.home.join("link.pem");
    std::os::unix::fs::symlink(victim.path(), &link).unwrap();
    let path = ada.home.join("deep/down/key.pem");
    let file = |path: &Path, mode| File {
        path: path.to_str().unwrap().to_owned(),
        content: Secret::new("a key"),
        mode,
    };
    let mut start = shell(&ada, "cat deep/down/key.pem link.pem");
    start.umask = Some(0o077);
    start.files = vec![file(&path, 0o600), file(&link, 0o644)];
    let mut server = Server::start(start);
    assert_eq!((server.ended(), server.log().as_str()), (0, "a keya key"));
    let data = path.metadata().unwrap();
    assert_eq!(
        (data.uid(), data.gid(), data.mode() & 0o777),
        (ada.uid, ada.gid, 0o600)
    );
    assert_eq!(
        path.parent().unwrap().metadata().unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(link.symlink_metadata().unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");

    let mut start = shell(&ada, "true");
    start.files = vec![file(Path::new("/etc/orrery-test-file"), 0o600)];
    let (_, message) = failed(Server::start(start).answer);
    assert!(message.contains("/etc/orrery-test-file"), "{message}");
    assert!(!Path::new("/etc/orrery-test-file").exists());
}

#[test]
fn through_sudo_only_ordinary_people_are_served() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let mut server = Server::start_by(helper(By::Sudo), shell(&ada, "id -u; env; exec sleep 1000"));
    server.says("PWD");
    assert!(!server.log().contains("SUDO"));
    assert_eq!(ask_by(By::Sudo, &Request::Check), Answer::Able);
    for name in ["root", "daemon", "nobody"] {
        let mut start = shell(&ada, "true");
        start.user = name.to_owned();
        let (fault, message) = failed(Server::start_by(helper(By::Sudo), start).answer);
        assert_eq!(fault, Fault::Refused, "{message}");
        assert!(message.contains(name), "{message}");
    }
    // Nor does it signal anybody else's processes.
    let mut roots = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = i32::try_from(roots.id()).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_time = stat.split(' ').nth(21).unwrap().parse().unwrap();
    let signal = Signal {
        pid,
        start_time: Some(start_time),
        given: Vec::new(),
        user: None,
        signal: 9,
        group: false,
    };
    let (fault, _) = failed(ask_by(By::Sudo, &Request::Signal(signal.clone())));
    assert_eq!(fault, Fault::Refused);
    assert!(roots.try_wait().unwrap().is_none());
    assert_eq!(ask(&Request::Signal(signal)), Answer::Signalled);
    roots.wait().unwrap();

    assert_eq!(
        ask_by(By::Sudo, &Request::Signal(server.signal(9))),
        Answer::Signalled
    );
    assert_eq!(server.ended(), 137);
}

#[test]
fn without_rights_it_refuses_and_a_setuid_file_is_a_right_for_ordinary_people() {
    if !is_root() {
        return;
    }
    let (hub, ada) = (Account::new(), Account::new());
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("orrery-session");
    fs::copy(HELPER, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let as_hub = || {
        let mut command = Command::new("setpriv");
        let (uid, gid) = (hub.uid.to_string(), hub.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
        command.arg(&copy).env("LISTEN_PID", "1");
        command
    };
    let start = || shell(&ada, "id -u; id -G; umask; ulimit -f; env");
    let (fault, message) = failed(Server::start_by(as_hub(), start()).answer);
    assert!(
        fault == Fault::Refused && message.contains("must run as root"),
        "{message}"
    );

    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    // What the caller sets for itself must not make root's work fail, nor root's files everybody's.
    let mut limited = Command::new("sh");
    let line = "umask 0; ulimit -S -f 0; exec \"$@\"";
    limited.args(["-c", line, "sh"]).arg(as_hub().get_program());
    limited.args(as_hub().get_args()).env("LISTEN_PID", "1");
    let mut server = Server::start_by(limited, start());
    assert_eq!(server.ended(), 0);
    let log = server.log();
    assert!(
        log.starts_with(&format!("{}\n{}\n0022\nunlimited\n", ada.uid, ada.gid)),
        "{log}"
    );
    assert!(!log.contains("LISTEN_PID"), "{log}");
    let mut roots = start();
    roots.user = "root".to_owned();
    let (fault, _) = failed(Server::start_by(as_hub(), roots).answer);
    assert_eq!(fault, Fault::Refused);
}
