//! How servers end, and how they are found again.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orrery_core::config::{Command, ConfigClass as _};
use orrery_core::spawner::{Events, ServerSpec, Spawner, Status};
use orrery_core::{Secret, UserName};
use orrery_spawners::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};
use orrery_spawners::local::Simple;
use serde_json::json;

use super::{Site, is_alive, pid, spec, states};
use crate::servers::{SERVER, eventually};

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
