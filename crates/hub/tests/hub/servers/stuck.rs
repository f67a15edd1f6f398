//! Spawners whose start, stop or poll never returns, as people meet them: by the API, on the pages,
//! while the hub shuts down, and in its next life. Nobody waits for them and nobody restarts the hub.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, header};
use orrery_core::phase::Phase;
use serde_json::{Value, json};

use super::bench::{Bench, SOON, eventually, named, start, until, view};
use super::fakes::{FakeSpawner, Start};
use crate::pages::Browser;
use crate::test_hub::{Answer, TestHub};

/// What a person who cancels, or stops, feels as at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After this a spawner's stop is given up in these tests.
const STOP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Makes a spawner get stuck.
type MakeStuck = fn(&FakeSpawner);

/// How a spawner gets stuck while a server starts.
const STUCK: &[(&str, MakeStuck)] = &[
    ("start", |spawner| set(spawner, Start::NeverReturns)),
    ("start, which tells nothing", |spawner| {
        set(spawner, Start::NeverReturnsNorTells);
    }),
    ("poll", |spawner| {
        set(spawner, Start::NeverAnswers);
        spawner.poll_hangs.set(true);
    }),
    ("start and stop", |spawner| {
        set(spawner, Start::NeverReturns);
        spawner.stop_hangs.set(true);
    }),
    ("start, poll and stop", |spawner| {
        set(spawner, Start::NeverReturns);
        spawner.poll_hangs.set(true);
        spawner.stop_hangs.set(true);
    }),
];

fn set(spawner: &FakeSpawner, start: Start) {
    spawner.start.set(start);
}

fn has_started(spawner: &FakeSpawner) -> bool {
    let started = spawner.started.lock().expect("no panic under a lock");
    !started.is_empty()
}

/// A hub on a fake spawner that gives up a stop soon.
async fn hub() -> (Arc<FakeSpawner>, TestHub) {
    let spawner = FakeSpawner::new(Start::Answers);
    let hub = TestHub::on_spawner(Arc::clone(&spawner) as _, |settings| {
        settings.stop_timeout = STOP_TIMEOUT;
        settings.grace = Duration::from_millis(500);
        settings.tick = Duration::from_millis(50);
        settings.poll_interval = Duration::from_millis(50);
    });
    (spawner, hub.await.with_user("ada").await)
}

async fn until_not_pending(hub: &TestHub, token: &str) -> Value {
    let looking = async {
        loop {
            let user = hub.get("/users/ada", token).await.ok(200);
            if user["pending"].is_null() {
                return user;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, looking)
        .await
        .expect("the phase's end by its deadline")
}

/// Sends a request as one of the hub's pages does.
async fn as_page(hub: &TestHub, browser: &Browser<'_>, method: &str, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "hub.example")
        .header("sec-fetch-mode", "cors")
        .header("sec-fetch-site", "same-origin")
        .header(header::COOKIE, browser.cookie_header())
        .header("x-xsrftoken", browser.cookie("_xsrf").unwrap_or_default())
        .body(Body::empty())
        .expect("a request");
    hub.raw(request).await
}

#[tokio::test]
async fn a_start_that_is_stuck_is_cancelled_at_once_by_the_api_and_the_next_one_works() {
    for (what, make_stuck) in STUCK {
        let (spawner, hub) = hub().await;
        let token = hub.token("ada").await;
        make_stuck(&spawner);
        let asking = hub.post("/users/ada/server", &token, json!({}));
        let cancelling = async {
            eventually("the start", || has_started(&spawner)).await;
            // Time for the task to come to where it is stuck.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let begun = Instant::now();
            let answer = hub.delete("/users/ada/server", &token).await;
            assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
            assert!(
                [202, 204].contains(&answer.status.as_u16()),
                "{what}: {}",
                answer.text()
            );
            let user = hub.get("/users/ada", &token).await.ok(200);
            assert_ne!(user["pending"], "spawn", "{what}");
        };
        let (asked, ()) = tokio::join!(asking, cancelling);
        assert_ne!(asked.status, 201, "{what}");
        until_not_pending(&hub, &token).await;
        spawner.heal();
        let again = hub.post("/users/ada/server", &token, json!({})).await;
        assert_eq!(again.status, 201, "{what}: {}", again.text());
        eventually("what the first start left is gone", || {
            spawner.running() == 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_start_that_is_stuck_is_cancelled_at_once_on_its_page_and_the_next_one_works() {
    for (what, make_stuck) in STUCK {
        let (spawner, hub) = hub().await;
        let browser = Browser::of(&hub, "ada").await;
        make_stuck(&spawner);
        let begun = Instant::now();
        let asked = browser.get("/hub/spawn/ada").await;
        assert_eq!(asked.status, 302, "{what}: {}", asked.text());
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        let page = browser.get("/hub/spawn-pending/ada").await;
        assert_eq!(page.status, 200, "{what}");
        assert!(page.text().contains("stop-server-btn"), "{what}");
        eventually("the start", || has_started(&spawner)).await;
        let begun = Instant::now();
        let answer = as_page(&hub, &browser, "DELETE", "/hub/api/users/ada/server").await;
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        assert!(answer.status.is_success(), "{what}: {}", answer.text());
        let page = browser.get("/hub/spawn-pending/ada").await;
        assert!(!page.text().contains("stop-server-btn"), "{what}");
        browser.settled("ada", "").await;
        spawner.heal();
        let again = browser.get("/hub/spawn/ada").await;
        assert_eq!(again.status, 302, "{what}: {}", again.text());
        assert_eq!(browser.settled("ada", "").await, Phase::Ready, "{what}");
    }
}

#[tokio::test]
async fn a_stop_that_is_stuck_ends_by_its_deadline_for_the_api_and_the_next_start_works() {
    let (spawner, hub) = hub().await;
    let token = hub.token("ada").await;
    let started = hub.post("/users/ada/server", &token, json!({})).await;
    assert_eq!(started.status, 201, "{}", started.text());
    spawner.stop_hangs.set(true);
    let begun = Instant::now();
    let answer = hub.delete("/users/ada/server", &token).await;
    assert!([202, 204].contains(&answer.status.as_u16()));
    let user = until_not_pending(&hub, &token).await;
    assert!(user["server"].is_null());
    assert!(begun.elapsed() < STOP_TIMEOUT * 3, "{:?}", begun.elapsed());
    spawner.heal();
    let again = hub.post("/users/ada/server", &token, json!({})).await;
    assert_eq!(again.status, 201, "{}", again.text());
    eventually("the one that was stuck is gone", || spawner.running() == 1).await;
}

#[tokio::test]
async fn a_stop_that_is_stuck_is_shown_and_ends_by_its_deadline_on_the_pages() {
    let (spawner, hub) = hub().await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/spawn/ada").await;
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
    spawner.stop_hangs.set(true);
    let stopping = as_page(&hub, &browser, "DELETE", "/hub/api/users/ada/server");
    let looking = async {
        loop {
            let page = browser.get("/hub/spawn-pending/ada").await;
            if page.text().contains("id=\"stop-pending\"") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let (answer, shown) = tokio::join!(stopping, tokio::time::timeout(STOP_TIMEOUT, looking));
    assert!(answer.status.is_success(), "{}", answer.text());
    shown.expect("the page says that the server is being stopped");
    assert_eq!(browser.settled("ada", "").await, Phase::Failed);
    let page = browser.get("/hub/spawn-pending/ada").await;
    assert!(!page.text().contains("id=\"stop-pending\""));
    spawner.heal();
    browser.get("/hub/spawn/ada").await;
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
}

#[tokio::test]
async fn a_poll_that_is_stuck_keeps_nobody_from_stopping_at_once() {
    let (spawner, hub) = hub().await;
    let token = hub.token("ada").await;
    let started = hub.post("/users/ada/server", &token, json!({})).await;
    assert_eq!(started.status, 201, "{}", started.text());
    spawner.poll_hangs.set(true);
    // The task that watches is in a poll now, which would be given up after ten seconds.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let user = hub.get("/users/ada", &token).await.ok(200);
    assert_eq!(user["server"], "/user/ada/");
    let begun = Instant::now();
    hub.delete("/users/ada/server", &token).await.empty(204);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(spawner.running(), 0);
    spawner.heal();
    let again = hub.post("/users/ada/server", &token, json!({})).await;
    assert_eq!(again.status, 201, "{}", again.text());
}

#[tokio::test]
async fn a_hub_that_shuts_down_does_not_wait_for_what_is_stuck() {
    for (what, make_stuck) in STUCK {
        for cleanup_servers in [false, true] {
            let mut bench = Bench::new(Start::Answers).await;
            bench.settings.stop_timeout = STOP_TIMEOUT;
            bench.settings.grace = Duration::from_millis(500);
            make_stuck(&bench.spawner);
            let engine = bench.life().await;
            let ada = bench.user("ada").await;
            start(&engine, &ada, "").await;
            eventually("the start", || has_started(&bench.spawner)).await;
            let begun = Instant::now();
            engine.shutdown(cleanup_servers).await;
            let limit = if cleanup_servers {
                STOP_TIMEOUT * 2
            } else {
                AT_ONCE
            };
            assert!(begun.elapsed() < limit, "{what}: {:?}", begun.elapsed());

            // And its next life ends what there is, and starts anew.
            bench.spawner.heal();
            let next = bench.life().await;
            let looking = async {
                while view(&next, &ada, "").await.phase.is_active() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            if *what != "poll" || cleanup_servers {
                tokio::time::timeout(SOON, looking)
                    .await
                    .expect("the end of what was stuck");
                start(&next, &ada, "").await;
            } else {
                // This one had an address, and its next life goes on waiting for it: it is cancelled.
                next.stop(&ada, &named("")).await.expect("a stop");
                tokio::time::timeout(SOON, looking)
                    .await
                    .expect("the end of what was stuck");
                start(&next, &ada, "").await;
            }
            until(&next, &ada, "", Phase::Ready).await;
            eventually("what was stuck is gone", || bench.spawner.running() == 1).await;
        }
    }
}

#[tokio::test]
async fn what_is_stuck_in_the_next_life_too_is_cancelled_at_once() {
    for (what, make_stuck) in STUCK {
        let mut bench = Bench::new(Start::Answers).await;
        bench.settings.stop_timeout = STOP_TIMEOUT;
        bench.settings.grace = Duration::from_millis(500);
        bench.settings.poll_timeout = Duration::from_secs(10);
        make_stuck(&bench.spawner);
        let first = bench.life().await;
        let ada = bench.user("ada").await;
        let run = start(&first, &ada, "").await;
        eventually("the start", || has_started(&bench.spawner)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        first.shutdown(false).await;

        let begun = Instant::now();
        let second = bench.life().await;
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        let begun = Instant::now();
        // Its end may have been asked for by the new life itself.
        second.stop(&ada, &named("")).await.expect("a stop");
        assert!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        let phase = second.wait(run, SOON).await.expect("a phase");
        assert!(!phase.is_active(), "{what}: {phase:?}");
        assert!(
            begun.elapsed() < STOP_TIMEOUT * 3,
            "{what}: {:?}",
            begun.elapsed()
        );
        bench.spawner.heal();
        start(&second, &ada, "").await;
        until(&second, &ada, "", Phase::Ready).await;
        eventually("what was stuck is gone", || bench.spawner.running() == 1).await;
    }
}

#[tokio::test]
async fn servers_of_an_earlier_life_are_stopped_at_once_though_polls_are_stuck() {
    let mut bench = Bench::new(Start::Answers).await;
    bench.settings.poll_timeout = Duration::from_secs(10);
    let first = bench.life().await;
    let ada = bench.user("ada").await;
    start(&first, &ada, "").await;
    until(&first, &ada, "", Phase::Ready).await;
    first.shutdown(false).await;
    bench.spawner.poll_hangs.set(true);

    let second = bench.life().await;
    assert!(view(&second, &ada, "").await.ready());
    let begun = Instant::now();
    second.stop(&ada, &named("")).await.expect("a stop");
    until(&second, &ada, "", Phase::Stopped).await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(bench.spawner.running(), 0);
}
