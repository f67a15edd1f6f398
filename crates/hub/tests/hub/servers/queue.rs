//! Starts beyond `concurrent_spawn_limit`.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use orrery_core::phase::Phase;
use orrery_hub::servers::{QueuePlace, StartRequest, StopOutcome};

use super::bench::{Bench, SOON, eventually, named, start, until, view};
use super::fakes::Start;

#[tokio::test]
async fn the_queue_is_fair_between_users() {
    let mut bench = Bench::new(Start::WaitsForGate).await;
    bench.settings.concurrent_spawn_limit = 1;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    for server in ["one", "two", "three"] {
        start(&engine, &ada, server).await;
    }
    start(&engine, &bob, "").await;
    assert_eq!(view(&engine, &ada, "two").await.phase, Phase::Queued);
    assert_eq!(
        view(&engine, &bob, "").await.queue,
        Some(QueuePlace {
            position: 1,
            eta_seconds: None
        })
    );
    assert_eq!(
        view(&engine, &ada, "three")
            .await
            .queue
            .map(|place| place.position),
        Some(3)
    );
    assert_eq!(view(&engine, &bob, "").await.pending(), Some("spawn"));

    bench.spawner.gate.add_permits(4);
    for (user, server) in [(&ada, "one"), (&bob, ""), (&ada, "two"), (&ada, "three")] {
        until(&engine, user, server, Phase::Ready).await;
    }
    assert_eq!(
        *bench.spawner.started.lock().expect("no panic under a lock"),
        ["ada/one", "bob/", "ada/two", "ada/three"]
    );
    assert_eq!(bench.spawner.most_at_once.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_waits_is_told_the_place_and_may_leave() {
    let mut bench = Bench::new(Start::WaitsForGate).await;
    bench.settings.concurrent_spawn_limit = 1;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    start(&engine, &ada, "").await;
    let run = start(&engine, &bob, "").await;
    let events = engine
        .events(&bob, &named(""))
        .await
        .expect("a database")
        .expect("a stream");
    let told: Vec<_> = tokio::time::timeout(SOON, events.take(2).collect())
        .await
        .expect("two events");
    assert_eq!(told[0].message, "Server requested");
    assert_eq!(
        told[1].queue,
        Some(QueuePlace {
            position: 1,
            eta_seconds: None
        })
    );

    assert_eq!(
        engine.stop(&bob, &named("")).await.expect("a stop"),
        StopOutcome::Cancelled(run)
    );
    assert_eq!(view(&engine, &bob, "").await.phase, Phase::Stopped);
    bench.spawner.gate.add_permits(2);
    until(&engine, &ada, "", Phase::Ready).await;
    assert_eq!(
        *bench.spawner.started.lock().expect("no panic under a lock"),
        ["ada/"]
    );
}

#[tokio::test]
async fn a_crowd_starts_within_the_limit_and_nobody_is_refused() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.concurrent_spawn_limit = 4;
    let engine = bench.life().await;
    let mut crowd = Vec::new();
    for number in 0..24 {
        crowd.push(bench.user(&format!("user{number}")).await);
    }
    let server = named("");
    let requests = crowd
        .iter()
        .map(|user| engine.start(user, &server, StartRequest::default()));
    for answer in futures_util::future::join_all(requests).await {
        let run = answer.expect("nobody is refused");
        assert_eq!(engine.wait(run, SOON).await.expect("a phase"), Phase::Ready);
    }
    assert!(bench.spawner.most_at_once.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn those_who_waited_when_the_hub_went_are_called_by_its_next_life() {
    let mut bench = Bench::new(Start::WaitsForGate).await;
    bench.settings.concurrent_spawn_limit = 1;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    start(&engine, &ada, "").await;
    start(&engine, &bob, "").await;
    eventually("ada's start", || {
        bench
            .spawner
            .started
            .lock()
            .expect("no panic under a lock")
            .len()
            == 1
    })
    .await;
    engine.shutdown(false).await;
    bench.spawner.gate.add_permits(2);
    let engine = bench.life().await;
    until(&engine, &bob, "", Phase::Ready).await;
    // Ada's start was cut off before anything of it was known.
    assert_eq!(
        until(&engine, &ada, "", Phase::Failed).await.url,
        "/user/ada/"
    );
}

#[tokio::test]
async fn limits_hold_however_many_ask_at_once() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.named_server_limit_per_user = 1;
    bench.settings.active_server_limit = 3;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let names: Vec<_> = (0..8).map(|number| named(&format!("s{number}"))).collect();
    let starts = names
        .iter()
        .map(|server| engine.start(&ada, server, StartRequest::default()));
    let answers = futures_util::future::join_all(starts).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let refused = answers
        .iter()
        .find_map(|answer| answer.as_ref().err())
        .expect("a refusal");
    assert!(refused.to_string().contains("maximum of 1"), "{refused}");
    let creations = names
        .iter()
        .map(|server| engine.create_server(&ada, server, None, None));
    for answer in futures_util::future::join_all(creations).await {
        assert!(answer.is_err());
    }
    assert_eq!(engine.views(&ada).await.expect("a database").len(), 1);

    let mut crowd = Vec::new();
    for number in 0..8 {
        crowd.push(bench.user(&format!("user{number}")).await);
    }
    let server = named("");
    let starts = crowd
        .iter()
        .map(|user| engine.start(user, &server, StartRequest::default()));
    let answers = futures_util::future::join_all(starts).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 2);
}
