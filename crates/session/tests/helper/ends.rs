//! How servers end, and what is left of requests that nobody waits for.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use orrery_session::protocol::{Answer, Fault, Request, Signal};
use orrery_session::testing::{Account, is_root};

use crate::asking::{By, Server, ask, eventually, failed, helper, shell};

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
            // On a busy machine it was once found to have ended; it must not be there in either case.
            let answer = ask(&Request::Signal(kill));
            assert!(
                matches!(answer, Answer::Signalled | Answer::Gone),
                "{answer:?}"
            );
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
