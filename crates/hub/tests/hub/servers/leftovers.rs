//! Servers that do not want to end, and spawners that cannot tell what runs: nothing is forgotten, and
//! force comes in the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orrery_core::config::ConfigClass as _;
use orrery_core::phase::Phase;
use orrery_hub::servers::Settings;
use orrery_spawners::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};
use orrery_spawners::local::Simple;
use orrery_store::runs;
use serde_json::json;
use tokio::sync::Semaphore;

use super::bench::{Bench, SOON, eventually, named, start, until, view};
use super::fakes::Start;

/// A spawner of real processes; `None` leaves its timeouts at their defaults.
fn simple(folder: &Path, timeout: Option<i64>) -> Arc<Simple> {
    let mut local = LocalProcessSpawner::with_defaults();
    if let Some(seconds) = timeout {
        local.interrupt_timeout = seconds;
        local.term_timeout = seconds;
        local.kill_timeout = 5;
    }
    let home = SimpleLocalProcessSpawner {
        home_dir_template: folder.join("{username}").display().to_string(),
    };
    Arc::new(Simple::new(&local, &home, folder.join("logs")).expect("settings"))
}

#[tokio::test]
async fn a_server_that_ignores_signals_is_killed_though_that_takes_longer_than_a_stop_usually_may()
{
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(Start::Answers).await;
    // As upstream's defaults are to the hub's: the spawner takes longer than the hub by itself waits.
    bench.settings.stop_timeout = Duration::from_secs(1);
    let stubborn = "trap '' INT TERM; while :; do sleep 0.1; done";
    bench.settings.command = ["/bin/sh", "-c", stubborn].map(str::to_owned).to_vec();
    let engine = bench.life_on(simple(folder.path(), Some(1))).await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    let looking = async {
        loop {
            let state = view(&engine, &ada, "").await.state;
            if let Some(pid) = state["pid"].as_i64() {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let pid = tokio::time::timeout(SOON, looking)
        .await
        .expect("a process");
    let traps = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        ignored.is_some_and(|mask| mask & 0x4002 == 0x4002)
    };
    eventually("it ignores SIGINT and SIGTERM", traps).await;
    engine.stop(&ada, &named("")).await.expect("a stop");
    let stopped = until(&engine, &ada, "", Phase::Stopped).await;
    assert!(stopped.failure.is_none(), "{:?}", stopped.failure);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_stop_may_take_as_long_as_the_spawners_defaults_ask_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings = Settings::default();
    let engine = bench.idle_engine_on(simple(folder.path(), None));
    let default = LocalProcessSpawner::with_defaults();
    let sum = default.interrupt_timeout + default.term_timeout + default.kill_timeout;
    assert_eq!(sum, 65);
    let limit = engine.settings().stop_timeout;
    assert!(limit > Duration::from_secs(65), "{limit:?}");
    assert!(engine.shutdown_limit() > limit);
}

#[tokio::test]
async fn another_try_to_stop_a_server_comes_to_force_soon() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.stop_timeout = Duration::from_millis(300);
    bench.spawner.stop_takes.set(Duration::from_hours(1));
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
    engine.stop(&ada, &named("")).await.expect("a stop");
    until(&engine, &ada, "", Phase::Failed).await;
    eventually("it is gone", || bench.spawner.running() == 0).await;
}

fn set_find_fails(bench: &Bench, fails: bool) {
    bench.spawner.find_fails.set(fails);
}

#[tokio::test]
async fn a_server_of_which_nobody_can_tell_is_not_forgotten() {
    for (what, cancelled) in [
        ("a start that fails", false),
        ("a start that is cancelled", true),
    ] {
        let mut bench = Bench::new(Start::RunsButNeverTells).await;
        if !cancelled {
            bench.settings.start_timeout = Duration::from_millis(300);
        }
        set_find_fails(&bench, true);
        let first = bench.life().await;
        let ada = bench.user("ada").await;
        let run = start(&first, &ada, "").await;
        eventually("the server", || bench.spawner.running() == 1).await;
        if cancelled {
            first.stop(&ada, &named("")).await.expect("a stop");
        }
        let phase = first.wait(run, SOON).await.expect("a phase");
        assert_eq!(phase, Phase::Failed, "{what}");
        let failure = view(&first, &ada, "").await.failure.expect("a failure");
        assert_eq!(failure.left_running, Some(json!({})), "{what}");
        // Nobody is kept from a new server meanwhile.
        bench.spawner.start.set(Start::Answers);
        start(&first, &ada, "").await;
        until(&first, &ada, "", Phase::Ready).await;
        assert_eq!(bench.spawner.running(), 2, "{what}");
        first.shutdown(false).await;

        let second = bench.life().await;
        set_find_fails(&bench, false);
        eventually("the old server is gone", || bench.spawner.running() == 1).await;
        assert!(view(&second, &ada, "").await.ready(), "{what}");
    }
}

#[tokio::test]
async fn what_a_dead_server_left_is_looked_for_until_somebody_can_tell() {
    let bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    first.shutdown(false).await;
    let ready = view(&first, &ada, "").await;

    set_find_fails(&bench, true);
    let second = bench.life().await;
    bench.spawner.kill(&ready.state, Some(0));
    let failed = until(&second, &ada, "", Phase::Failed).await;
    let run = failed.run.expect("a run").0;
    set_find_fails(&bench, false);
    let looking = async {
        loop {
            let row = runs::find(bench.store.read(), run)
                .await
                .expect("a database");
            let failure = row.and_then(|row| row.failure).expect("a failure");
            if failure.left_running.is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, looking)
        .await
        .expect("it is looked for");
}

#[tokio::test]
async fn what_could_not_be_stopped_is_known_to_a_hub_of_another_name() {
    let mut bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    bench.spawner.stop_fails.set(true);
    first.stop(&ada, &named("")).await.expect("a stop");
    until(&first, &ada, "", Phase::Failed).await;
    first.shutdown(false).await;
    assert_eq!(bench.spawner.running(), 1);

    bench.spawner.heal();
    bench.replica = "another-host:8081".to_owned();
    let _second = bench.life().await;
    eventually("it is gone", || bench.spawner.running() == 0).await;
}

#[tokio::test]
async fn the_end_of_a_run_does_not_take_the_next_ones_route() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.poll_interval = Duration::ZERO;
    bench.settings.poll_timeout = SOON;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    first.shutdown(false).await;
    let ready = view(&first, &ada, "").await;

    // An inherited run, whose end is noticed by two: each looks for what the dead server left.
    let polls = || {
        bench
            .spawner
            .polls
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    let before = polls();
    let second = bench.life().await;
    // It looks at the server itself, once; that must be over.
    eventually("the second life's own look", || polls() > before).await;
    let gate = Arc::new(Semaphore::new(0));
    bench.spawner.find_gate.set(Some(Arc::clone(&gate)));
    bench.spawner.kill(&ready.state, Some(0));
    let default = named("");
    let faster = second.poll_now(&ada, &default);
    let slower = async {
        eventually("the other looks", || finding(&bench) == 1).await;
        second.poll_now(&ada, &default).await
    };
    let meanwhile = async {
        eventually("both look", || finding(&bench) == 2).await;
        gate.add_permits(1);
        until(&second, &ada, "", Phase::Stopped).await;
        start(&second, &ada, "").await;
        until(&second, &ada, "", Phase::Ready).await;
        assert!(bench.table.target("/user/ada/").is_some());
        gate.add_permits(1);
    };
    let (faster, slower, ()) = tokio::join!(faster, slower, meanwhile);
    assert!(!faster.expect("a database") && !slower.expect("a database"));
    assert!(view(&second, &ada, "").await.ready());
    assert!(
        bench.table.target("/user/ada/").is_some(),
        "the route is gone"
    );
}

fn finding(bench: &Bench) -> usize {
    bench
        .spawner
        .finding
        .load(std::sync::atomic::Ordering::SeqCst)
}
