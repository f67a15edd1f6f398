//! How servers are started.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use orrery_session::protocol::{Fault, Secret};
use orrery_session::testing::{Account, is_root};

use crate::asking::{By, Server, failed, helper, request, shell};

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
