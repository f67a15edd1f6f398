//! Which processes are signalled and found.

use orrery_session::protocol::{Answer, Find, Request, Secret, Signal};
use orrery_session::testing::{Account, is_root};

use crate::asking::{By, Server, ask, ask_by, shell};

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
