//! Servers that take more than they may.

use std::time::Duration;

use orrery_core::config::ConfigClass as _;
use orrery_core::phase::Cause;
use orrery_core::spawner::{Events, ServerSpec, Spawner, Status};
use orrery_session::client::Helper;
use orrery_session::protocol;
use orrery_session::testing::{Account, is_root};
use orrery_spawners::config::LocalProcessSpawner;
use orrery_spawners::local::LocalProcess;
use serde_json::json;

use super::{Site, helper, spec, with_mark};

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
