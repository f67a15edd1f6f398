//! Servers and spawners that misbehave: each ends in time, says why, and can be started again.

use std::time::Duration;

use orrery_core::phase::{Cause, Phase};
use orrery_hub::servers::{StartRequest, StopOutcome};
use orrery_store::{runs, spawners};

use super::bench::{Bench, SOON, eventually, named, start, until, view};
use super::fakes::Start;

/// Cancelling must be felt at once.
const AT_ONCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_server_that_exits_at_once_says_why() {
    let bench = Bench::new(Start::ExitsWith(3)).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&engine, &ada, "").await;
    // Long before `http_timeout`, which is 15 seconds here.
    assert_eq!(
        engine
            .wait(run, Duration::from_secs(5))
            .await
            .expect("a phase"),
        Phase::Failed
    );
    let failure = view(&engine, &ada, "").await.failure.expect("a failure");
    assert_eq!((failure.cause, failure.exit_code), (Cause::Exited, Some(3)));
    assert_eq!(
        failure.log_tail.last().map(String::as_str),
        Some("cannot go on: no such kernel")
    );
    assert_eq!(failure.message, "The server ended by itself (exit code 3).");
    assert!(bench.tokens(&ada).await.is_empty());
    assert_eq!(engine.consecutive_failures(), 1);

    bench.spawner.start.set(Start::Answers);
    start(&engine, &ada, "").await;
    let ready = until(&engine, &ada, "", Phase::Ready).await;
    assert!(ready.failure.is_none());
    eventually("the count begins anew", || {
        engine.consecutive_failures() == 0
    })
    .await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_ended_after_http_timeout() {
    for (behaviour, trouble) in [
        (Start::NeverAnswers, "did not answer"),
        (Start::AnswersWithErrors, "500"),
    ] {
        let mut bench = Bench::new(behaviour).await;
        bench.settings.http_timeout = Duration::from_millis(300);
        let engine = bench.life().await;
        let ada = bench.user("ada").await;
        start(&engine, &ada, "").await;
        let failed = until(&engine, &ada, "", Phase::Failed)
            .await
            .failure
            .expect("a failure");
        assert_eq!(failed.cause, Cause::Unreachable);
        assert!(failed.message.contains(trouble), "{}", failed.message);
        assert_eq!(bench.spawner.running(), 0, "what was started is stopped");
        assert_eq!(bench.table.target("/user/ada/"), None);
    }
}

#[tokio::test]
async fn a_start_that_never_returns_ends_after_start_timeout() {
    let mut bench = Bench::new(Start::NeverReturns).await;
    bench.settings.start_timeout = Duration::from_millis(300);
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    let failed = until(&engine, &ada, "", Phase::Failed)
        .await
        .failure
        .expect("a failure");
    assert_eq!(failed.cause, Cause::Timeout);
    assert_eq!(
        bench.spawner.running(),
        0,
        "the half-started server is stopped by its last state"
    );
}

#[tokio::test]
async fn a_spawner_that_refuses_is_quoted() {
    let bench = Bench::new(Start::Refuses).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    let failed = until(&engine, &ada, "", Phase::Failed)
        .await
        .failure
        .expect("a failure");
    assert_eq!(
        (failed.cause, failed.message.as_str()),
        (Cause::Quota, "No place left.")
    );
    assert_eq!(
        engine.consecutive_failures(),
        0,
        "a refusal is not the spawner's failure"
    );
}

#[tokio::test]
async fn a_start_can_be_cancelled_wherever_it_stands() {
    for behaviour in [
        Start::NeverReturns,
        Start::NeverReturnsNorTells,
        Start::NeverAnswers,
        Start::WaitsForGate,
    ] {
        let bench = Bench::new(behaviour).await;
        let engine = bench.life().await;
        let ada = bench.user("ada").await;
        let run = start(&engine, &ada, "").await;
        eventually("the start", || {
            !bench
                .spawner
                .started
                .lock()
                .expect("no panic under a lock")
                .is_empty()
        })
        .await;
        let begun = std::time::Instant::now();
        assert_eq!(
            engine.stop(&ada, &named("")).await.expect("a stop"),
            StopOutcome::Cancelled(run)
        );
        assert_eq!(
            engine.wait(run, AT_ONCE).await.expect("a phase"),
            Phase::Stopped,
            "{behaviour:?}"
        );
        assert!(begun.elapsed() < AT_ONCE, "{behaviour:?}");
        assert_eq!(bench.spawner.running(), 0, "{behaviour:?}");
        assert!(view(&engine, &ada, "").await.failure.is_none());
        assert!(bench.tokens(&ada).await.is_empty());
        bench.spawner.start.set(Start::Answers);
        start(&engine, &ada, "").await;
        until(&engine, &ada, "", Phase::Ready).await;
    }
}

#[tokio::test]
async fn a_stop_that_never_returns_ends_by_its_deadline() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.stop_timeout = Duration::from_millis(300);
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
    bench.spawner.stop_hangs.set(true);
    engine.stop(&ada, &named("")).await.expect("a stop");
    eventually("the route is gone first", || {
        bench.table.target("/user/ada/").is_none()
    })
    .await;
    assert_eq!(view(&engine, &ada, "").await.phase, Phase::Stopping);
    let failed = until(&engine, &ada, "", Phase::Failed)
        .await
        .failure
        .expect("a failure");
    assert_eq!(failed.cause, Cause::Timeout);
    bench.spawner.stop_hangs.set(false);
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
}

#[tokio::test]
async fn a_cancelled_start_whose_stop_hangs_ends_too() {
    let mut bench = Bench::new(Start::NeverReturns).await;
    bench.settings.stop_timeout = Duration::from_millis(300);
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&engine, &ada, "").await;
    eventually("the start", || bench.spawner.running() == 1).await;
    bench.spawner.stop_hangs.set(true);
    engine.stop(&ada, &named("")).await.expect("a stop");
    let phase = engine.wait(run, SOON).await.expect("a phase");
    assert!(!phase.is_active(), "{phase:?}");
}

#[tokio::test]
async fn a_server_that_dies_is_noticed() {
    for (code, phase) in [
        (Some(137), Phase::Failed),
        (Some(0), Phase::Stopped),
        (None, Phase::Stopped),
    ] {
        let bench = Bench::new(Start::Answers).await;
        let engine = bench.life().await;
        let ada = bench.user("ada").await;
        start(&engine, &ada, "").await;
        let ready = until(&engine, &ada, "", Phase::Ready).await;
        bench.spawner.kill(&ready.state, code);
        let ended = until(&engine, &ada, "", phase).await;
        assert_eq!(
            ended.failure.and_then(|failure| failure.exit_code),
            code.filter(|code| *code != 0)
        );
        assert_eq!(bench.table.target("/user/ada/"), None);
        let row = spawners::find(bench.store.read(), ada.id, "")
            .await
            .expect("a database")
            .expect("a row");
        assert_eq!(row.server_id, None);
    }
}

#[tokio::test]
async fn a_server_that_died_unnoticed_can_be_started_at_once() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.poll_interval = Duration::ZERO;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let first = start(&engine, &ada, "").await;
    let ready = until(&engine, &ada, "", Phase::Ready).await;
    bench.spawner.kill(&ready.state, Some(1));
    let second = engine
        .start(&ada, &named(""), StartRequest::default())
        .await
        .expect("a start");
    assert_ne!(first, second);
    assert_eq!(
        engine.wait(second, SOON).await.expect("a phase"),
        Phase::Ready
    );
}

#[tokio::test]
async fn a_spawner_that_cannot_tell_ends_nothing() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.poll_timeout = Duration::from_millis(20);
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
    bench.spawner.poll_hangs.set(true);
    assert!(engine.poll_now(&ada, &named("")).await.expect("a database"));
    assert!(view(&engine, &ada, "").await.ready());
}

#[tokio::test]
async fn an_overdue_phase_is_ended_whatever_its_task_does() {
    let bench = Bench::new(Start::NeverReturnsNorTells).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&engine, &ada, "").await;
    let past = chrono::NaiveDateTime::default();
    bench
        .store
        .write(|transaction| async move {
            runs::set_deadline(&transaction, run.0, Phase::Starting, Some(past)).await
        })
        .await
        .expect("a deadline");
    let failed = until(&engine, &ada, "", Phase::Failed)
        .await
        .failure
        .expect("a failure");
    assert_eq!(
        (failed.cause, failed.message.as_str()),
        (Cause::Timeout, "The server did not start in time.")
    );
}

#[tokio::test]
async fn a_server_becomes_ready_though_the_proxy_is_away() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    bench.table.is_away.set(true);
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
    assert_eq!(bench.table.target("/user/ada/"), None);
    bench.table.is_away.set(false);
    bench.keeper().check().await.expect("a check");
    assert!(bench.table.target("/user/ada/").is_some());
}

#[tokio::test]
async fn what_cannot_be_stopped_is_tried_again_also_by_the_next_life() {
    let bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    let set_fails = |fails: bool| {
        bench.spawner.stop_fails.set(fails);
    };
    set_fails(true);
    first.stop(&ada, &named("")).await.expect("a stop");
    let failed = until(&first, &ada, "", Phase::Failed).await;
    let failure = failed.failure.expect("a failure");
    assert!(
        failure.message.starts_with("The backend is away.")
            && failure.message.contains("goes on trying"),
        "{}",
        failure.message
    );
    assert!(failure.left_running.is_some());
    assert_eq!(bench.spawner.running(), 1);
    // Its user is not kept from a new server.
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    assert_eq!(bench.spawner.running(), 2);
    first.shutdown(false).await;

    let second = bench.life().await;
    set_fails(false);
    eventually("the old server is gone", || bench.spawner.running() == 1).await;
    assert!(view(&second, &ada, "").await.ready(), "the new one is not");
    let run = failed.run.expect("a run").0;
    let looking = async {
        loop {
            let row = runs::find(bench.store.read(), run)
                .await
                .expect("a database")
                .expect("a row");
            if row
                .failure
                .is_some_and(|failure| failure.left_running.is_none())
            {
                return row.deadline;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let deadline = tokio::time::timeout(SOON, looking)
        .await
        .expect("it is noted");
    assert_eq!(deadline, None);
}

#[tokio::test]
async fn a_start_asked_for_while_the_last_one_comes_down_waits_for_its_end() {
    let mut bench = Bench::new(Start::NeverAnswers).await;
    bench.settings.http_timeout = Duration::from_millis(200);
    bench.settings.stop_timeout = Duration::from_secs(1);
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    bench.spawner.stop_hangs.set(true);
    start(&engine, &ada, "").await;
    let coming_down = until(&engine, &ada, "", Phase::Stopping).await;
    assert!(coming_down.failing());
    bench.spawner.start.set(Start::Answers);
    // Not refused as pending.
    let run = start(&engine, &ada, "").await;
    assert_ne!(Some(run), coming_down.run);
    assert_eq!(engine.wait(run, SOON).await.expect("a phase"), Phase::Ready);
}
