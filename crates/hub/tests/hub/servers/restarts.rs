//! A hub that is cut off in each phase, and its next life.

use std::time::Duration;

use orrery_core::phase::{Cause, Phase};
use orrery_core::{Clock as _, SystemClock};
use orrery_hub::servers::Engine;
use orrery_store::servers::{self, NewServer};
use orrery_store::spawners::{self, NewSpawner, SpawnerChanges};
use orrery_store::users::User;
use orrery_store::{StoreError, runs};
use serde_json::{Value, json};

use super::bench::{Bench, SOON, eventually, named, start, until, view};
use super::fakes::{Start, listen};

async fn state_of(bench: &Bench, user: &User) -> Value {
    spawners::find(bench.store.read(), user.id, "")
        .await
        .expect("a database")
        .map(|row| row.state)
        .unwrap_or_default()
}

#[tokio::test]
async fn a_ready_server_lives_on_and_keeps_its_token_and_route() {
    let bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    let tokens = bench.tokens(&ada).await;
    first.shutdown(false).await;
    bench
        .table
        .routes
        .lock()
        .expect("no panic under a lock")
        .clear();

    let second = bench.idle_engine();
    let found = second.reconcile().await.expect("a database");
    assert_eq!((found.resumed, found.adopted), (1, 0));
    bench.keeper().check().await.expect("a check");
    let server = view(&second, &ada, "").await;
    assert!(server.ready());
    assert_eq!(server.run, Some(run));
    assert!(bench.table.target("/user/ada/").is_some());
    assert_eq!(bench.tokens(&ada).await, tokens);
    assert_eq!(bench.spawner.running(), 1);
}

#[tokio::test]
async fn a_server_that_died_meanwhile_is_cleaned() {
    let bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    first.shutdown(false).await;
    bench.spawner.kill(&state_of(&bench, &ada).await, Some(9));

    let second = bench.life().await;
    let failure = until(&second, &ada, "", Phase::Failed)
        .await
        .failure
        .expect("a failure");
    assert_eq!(failure.exit_code, Some(9));
    assert!(bench.tokens(&ada).await.is_empty());
    start(&second, &ada, "").await;
    until(&second, &ada, "", Phase::Ready).await;
}

#[tokio::test]
async fn a_server_that_was_waited_for_becomes_ready() {
    let bench = Bench::new(Start::NeverAnswers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    let run = start(&first, &ada, "").await;
    let address = wait_for_address(&bench, &ada).await;
    first.shutdown(false).await;
    assert_eq!(view(&first, &ada, "").await.phase, Phase::Starting);

    // Meanwhile the server has come up, at another port so that the silent one is out of the way.
    let (port, _server) = listen(Start::Answers).await;
    move_to(&bench, address, port).await;
    let second = bench.life().await;
    assert_eq!(second.wait(run, SOON).await.expect("a phase"), Phase::Ready);
    assert_eq!(
        bench.table.target("/user/ada/"),
        Some(format!("http://127.0.0.1:{port}"))
    );
}

async fn wait_for_address(bench: &Bench, user: &User) -> servers::Server {
    let looking = async {
        loop {
            let row = spawners::find(bench.store.read(), user.id, "")
                .await
                .expect("a database");
            if let Some(id) = row.and_then(|row| row.server_id)
                && let Some(address) = servers::find(bench.store.read(), id)
                    .await
                    .expect("a database")
                && address.port > 0
            {
                return address;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, looking)
        .await
        .expect("an address")
}

async fn move_to(bench: &Bench, address: servers::Server, port: u16) {
    let moved = &NewServer {
        proto: address.proto,
        ip: address.ip,
        port: i32::from(port),
        base_url: address.base_url,
        cookie_name: address.cookie_name,
    };
    let id = address.id;
    bench
        .store
        .write(|transaction| async move { servers::update(&transaction, id, moved).await })
        .await
        .expect("an address");
}

#[tokio::test]
async fn a_start_cut_off_inside_the_spawner_is_cleaned_and_can_be_repeated() {
    for behaviour in [Start::NeverReturns, Start::NeverReturnsNorTells] {
        let bench = Bench::new(behaviour).await;
        let first = bench.life().await;
        let ada = bench.user("ada").await;
        start(&first, &ada, "").await;
        eventually("the start", || {
            !bench
                .spawner
                .started
                .lock()
                .expect("no panic under a lock")
                .is_empty()
        })
        .await;
        if behaviour == Start::NeverReturns {
            wait_for_state(&bench, &ada).await;
        }
        first.shutdown(false).await;

        let second = bench.life().await;
        let failure = until(&second, &ada, "", Phase::Failed)
            .await
            .failure
            .expect("a failure");
        assert_eq!(failure.cause, Cause::Internal, "{behaviour:?}");
        assert_eq!(bench.spawner.running(), 0, "{behaviour:?}");
        assert!(bench.tokens(&ada).await.is_empty());
        bench.spawner.start.set(Start::Answers);
        start(&second, &ada, "").await;
        until(&second, &ada, "", Phase::Ready).await;
    }
}

#[tokio::test]
async fn a_server_that_ran_before_its_state_was_kept_is_found_and_stopped() {
    // The hub is cut off; or the start is cancelled, or takes too long, in that very moment.
    for end in ["cut off", "cancelled", "late"] {
        let mut bench = Bench::new(Start::RunsButNeverTells).await;
        if end == "late" {
            bench.settings.start_timeout = Duration::from_millis(500);
        }
        let first = bench.life().await;
        let ada = bench.user("ada").await;
        start(&first, &ada, "").await;
        eventually("the server", || bench.spawner.running() == 1).await;
        assert!(state_of(&bench, &ada).await["pid"].is_null());
        match end {
            "cut off" => {
                first.shutdown(false).await;
                let second = bench.life().await;
                until(&second, &ada, "", Phase::Failed).await;
            }
            "cancelled" => {
                first.stop(&ada, &named("")).await.expect("a stop");
                until(&first, &ada, "", Phase::Stopped).await;
            }
            _ => {
                until(&first, &ada, "", Phase::Failed).await;
            }
        }
        assert_eq!(bench.spawner.running(), 0, "{end}");
    }
}

#[tokio::test]
async fn a_server_is_not_ended_because_the_hub_was_away_for_long() {
    for phase in [Phase::Starting, Phase::Stopping] {
        let bench = Bench::new(if phase == Phase::Starting {
            Start::NeverAnswers
        } else {
            Start::Answers
        })
        .await;
        let first = bench.life().await;
        let ada = bench.user("ada").await;
        let run = start(&first, &ada, "").await;
        let address = wait_for_address(&bench, &ada).await;
        if phase == Phase::Stopping {
            until(&first, &ada, "", Phase::Ready).await;
            set_stop_hangs(&bench, true);
            first.stop(&ada, &named("")).await.expect("a stop");
        }
        first.shutdown(false).await;
        let long_ago = SystemClock.now() - Duration::from_hours(1);
        bench
            .store
            .write(|transaction| async move {
                runs::set_deadline(&transaction, run.0, phase, Some(long_ago)).await
            })
            .await
            .expect("a deadline");
        let (port, _server) = listen(Start::Answers).await;
        move_to(&bench, address, port).await;
        set_stop_hangs(&bench, false);

        let second = bench.life().await;
        let expected = if phase == Phase::Starting {
            Phase::Ready
        } else {
            Phase::Stopped
        };
        assert_eq!(second.wait(run, SOON).await.expect("a phase"), expected);
    }
}

fn set_stop_hangs(bench: &Bench, hangs: bool) {
    bench.spawner.stop_hangs.set(hangs);
}

async fn wait_for_state(bench: &Bench, user: &User) {
    let looking = async {
        while state_of(bench, user).await["pid"].is_null() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, looking).await.expect("a state");
}

#[tokio::test]
async fn a_stop_that_was_cut_off_goes_on() {
    let bench = Bench::new(Start::Answers).await;
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    bench.spawner.stop_hangs.set(true);
    first.stop(&ada, &named("")).await.expect("a stop");
    first.shutdown(false).await;
    assert_eq!(view(&first, &ada, "").await.phase, Phase::Stopping);

    bench.spawner.stop_hangs.set(false);
    let second = bench.life().await;
    until(&second, &ada, "", Phase::Stopped).await;
    assert_eq!(bench.spawner.running(), 0);
}

/// Writes the rows of a running server as JupyterHub leaves them, without a run of ours.
async fn upstreams_server(bench: &Bench, user: &User, state: Value, port: u16) {
    let state = &state;
    bench
        .store
        .write(|transaction| async move {
            let new = NewSpawner {
                user_id: user.id,
                state: state.clone(),
                ..NewSpawner::default()
            };
            let spawner = spawners::insert(&transaction, &new).await?;
            let address = NewServer {
                proto: "http".to_owned(),
                ip: "127.0.0.1".to_owned(),
                port: i32::from(port),
                base_url: format!("/user/{}/", user.name),
                cookie_name: "cookie".to_owned(),
            };
            let address = servers::insert(&transaction, &address).await?;
            let changes = SpawnerChanges {
                server_id: Some(Some(address.id)),
                started: Some(Some(SystemClock.now())),
                ..SpawnerChanges::default()
            };
            spawners::update(&transaction, spawner.id, &changes).await?;
            Ok::<_, StoreError>(())
        })
        .await
        .expect("rows");
}

#[tokio::test]
async fn servers_that_jupyterhub_left_running_are_taken_over() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.blocked_users = vec!["eve".to_owned()];
    let (ada, bob, eve) = (
        bench.user("ada").await,
        bench.user("bob").await,
        bench.user("eve").await,
    );
    upstreams_server(&bench, &ada, bench.spawner.plant(), 4001).await;
    upstreams_server(&bench, &bob, json!({ "pid": 1 }), 4002).await;
    upstreams_server(&bench, &eve, bench.spawner.plant(), 4003).await;
    let engine = bench.life().await;
    // Bob's has ended long ago, eve is blocked, ada's goes on.
    until(&engine, &bob, "", Phase::Stopped).await;
    until(&engine, &eve, "", Phase::Stopped).await;
    assert!(view(&engine, &ada, "").await.ready());
    assert_eq!(bench.spawner.running(), 1);
    // What its spawner found out of it is kept.
    let kept = state_of(&bench, &ada).await;
    assert_eq!(kept["adopted"], json!(["ada", "/user/ada/"]), "{kept}");
    bench.keeper().check().await.expect("a check");
    assert_eq!(
        bench.table.target("/user/ada/").as_deref(),
        Some("http://127.0.0.1:4001")
    );
    assert_eq!(bench.table.target("/user/eve/"), None);
}

#[tokio::test]
async fn another_replicas_run_is_left_alone_until_its_lease_ends() {
    let bench = Bench::new(Start::Answers).await;
    let ada = bench.user("ada").await;
    let engine: Engine = bench.life().await;
    start(&engine, &ada, "").await;
    let ready = until(&engine, &ada, "", Phase::Ready).await;
    let run = ready.run.expect("a run");
    let (now, ahead) = (SystemClock.now(), Duration::from_hours(1));
    bench
        .store
        .write(|transaction| async move {
            runs::take_over(&transaction, runs::TakeOver::All, "other", now, now + ahead).await
        })
        .await
        .expect("a lease");
    // Whoever lost a run does not move it any more, even if its server dies.
    tokio::time::sleep(bench.settings.tick * 4).await;
    bench.spawner.kill(&ready.state, Some(1));
    tokio::time::sleep(bench.settings.poll_interval * 4).await;
    assert!(view(&engine, &ada, "").await.ready());
    bench
        .store
        .write(|transaction| async move {
            runs::extend_lease(&transaction, run.0, "other", now - ahead).await
        })
        .await
        .expect("a lease");
    until(&engine, &ada, "", Phase::Failed).await;
}

#[tokio::test]
async fn shutting_down_stops_all_servers_when_asked_to() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    for user in [&ada, &bob] {
        start(&engine, user, "").await;
    }
    until(&engine, &ada, "", Phase::Ready).await;
    tokio::time::timeout(SOON, engine.shutdown(true))
        .await
        .expect("the end");
    assert_eq!(bench.spawner.running(), 0);
    for user in [&ada, &bob] {
        assert_eq!(view(&engine, user, "").await.phase, Phase::Stopped);
    }
}
