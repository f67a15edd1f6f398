//! Servers that outlive their hub, and how they end.

use std::time::Duration;

use orrery_core::spawner::{Spawner, Status};
use orrery_session::testing::{Account, is_root};
use serde_json::json;

use super::{Site, pid, spec, with_mark};
use crate::servers::eventually;

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
