//! The stream of progress events.

use futures_util::StreamExt as _;
use orrery_core::phase::Phase;
use orrery_hub::servers::{Engine, ProgressEvent};
use orrery_store::users::User;

use super::bench::{Bench, SOON, eventually, named, start, until};
use super::fakes::Start;

async fn all_events(engine: &Engine, user: &User) -> Vec<ProgressEvent> {
    let events = engine
        .events(user, &named(""))
        .await
        .expect("a database")
        .expect("a stream");
    tokio::time::timeout(SOON, events.collect())
        .await
        .expect("the stream ends")
}

#[tokio::test]
async fn a_start_is_told_from_request_to_ready_and_again_to_who_comes_late() {
    let bench = Bench::new(Start::WaitsForGate).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    assert!(
        engine
            .events(&ada, &named(""))
            .await
            .expect("a database")
            .is_none()
    );
    start(&engine, &ada, "").await;
    let listener = tokio::spawn({
        let (engine, ada) = (engine.clone(), ada.clone());
        async move { all_events(&engine, &ada).await }
    });
    eventually("the start", || {
        !bench
            .spawner
            .started
            .lock()
            .expect("no panic under a lock")
            .is_empty()
    })
    .await;
    bench.spawner.gate.add_permits(1);
    let told = listener.await.expect("events");
    let late = all_events(&engine, &ada).await;
    for events in [told, late] {
        let steps: Vec<_> = events.iter().filter(|event| event.log.is_empty()).collect();
        assert_eq!(
            (steps[0].progress, steps[0].message.as_str()),
            (Some(0), "Server requested")
        );
        assert_eq!(
            (steps[1].progress, steps[1].message.as_str()),
            (Some(30), "Looking for a place")
        );
        let last = steps[steps.len() - 1];
        assert!(last.ready && !last.failed);
        assert_eq!(last.url.as_deref(), Some("/user/ada/"));
    }
    engine.stop(&ada, &named("")).await.expect("a stop");
    until(&engine, &ada, "", Phase::Stopped).await;
    assert!(
        engine
            .events(&ada, &named(""))
            .await
            .expect("a database")
            .is_none()
    );
}

#[tokio::test]
async fn the_servers_own_log_is_told_while_it_starts() {
    let bench = Bench::new(Start::NeverAnswers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    let mut events = Box::pin(
        engine
            .events(&ada, &named(""))
            .await
            .expect("a database")
            .expect("a stream"),
    );
    let lines = async {
        while let Some(event) = events.next().await {
            if !event.log.is_empty() {
                return event.log;
            }
        }
        Vec::new()
    };
    let lines = tokio::time::timeout(SOON, lines).await.expect("log lines");
    assert_eq!(
        lines,
        ["reading the settings", "cannot go on: no such kernel"]
    );
}

#[tokio::test]
async fn a_failure_ends_the_stream_with_exit_code_and_log() {
    let bench = Bench::new(Start::ExitsWith(3)).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    let last = all_events(&engine, &ada).await.pop().expect("an event");
    assert!(last.failed);
    assert_eq!(
        last.message,
        "Spawn failed: The server ended by itself (exit code 3)."
    );
    assert_eq!((last.exit_code, last.log.len()), (Some(3), 2));
}

#[tokio::test]
async fn a_cancelled_start_ends_the_stream() {
    let bench = Bench::new(Start::NeverReturns).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    eventually("the start", || bench.spawner.running() == 1).await;
    engine.stop(&ada, &named("")).await.expect("a stop");
    let last = all_events(&engine, &ada).await.pop().expect("an event");
    assert!(last.failed);
    assert_eq!(last.message, "Spawn cancelled");
}
