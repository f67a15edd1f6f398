//! Who may ask the helper for whom.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use orrery_session::protocol::{Answer, Fault, Request, Signal};
use orrery_session::testing::{Account, is_root};

use crate::asking::{By, HELPER, Server, ask, ask_by, failed, helper, shell};

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
