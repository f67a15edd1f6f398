//! A server that is killed for memory long after its start.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use orrery_core::phase::{Cause, Failure, Phase};
use orrery_core::spawner::{Events, ServerSpec, Spawner, Started, Status};
use serde_json::{Value, json};

use super::bench::{eventually, until};
use super::fakes::{FakeSpawner, Start};
use crate::pages::Browser;
use crate::test_hub::TestHub;

/// Knows of every server that has ended that it was killed for memory.
struct ShortOfMemory(Arc<FakeSpawner>);

#[async_trait]
impl Spawner for ShortOfMemory {
    async fn start(&self, spec: ServerSpec, events: Events) -> Result<Started, Failure> {
        self.0.start(spec, events).await
    }

    async fn poll(&self, state: &Value) -> Result<Status, Failure> {
        self.0.poll(state).await
    }

    async fn why_ended(&self, _state: &Value) -> Option<Failure> {
        Some(Failure::new(
            Cause::OutOfMemory,
            "The server needed more memory than its limit of 64 MiB.",
        ))
    }

    async fn stop(&self, state: &Value, grace: Option<Duration>) -> Result<(), Failure> {
        self.0.stop(state, grace).await
    }

    async fn logs(&self, state: &Value, lines: usize) -> Vec<String> {
        self.0.logs(state, lines).await
    }
}

async fn hub(start: Start) -> (Arc<FakeSpawner>, TestHub) {
    let spawner = FakeSpawner::new(start);
    let short = Arc::new(ShortOfMemory(Arc::clone(&spawner)));
    let hub = TestHub::on_spawner(short, |settings| {
        settings.tick = Duration::from_millis(50);
        settings.poll_interval = Duration::from_millis(50);
    });
    (spawner, hub.await.with_user("ada").await)
}

#[tokio::test]
async fn its_page_says_so_with_the_limit_until_the_next_start() {
    let (spawner, hub) = hub(Start::Answers).await;
    let browser = Browser::of(&hub, "ada").await;
    browser.get("/hub/spawn/ada").await;
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
    let user = hub.user("ada").await;
    let row = orrery_store::spawners::find(hub.state.store.read(), user.id, "").await;
    let state = row.expect("an answer").expect("a server").state;
    spawner.kill(&state, Some(137));
    let ended = until(&hub.state.servers, &user, "", Phase::Failed).await;
    let failure = ended.failure.expect("a failure");
    assert_eq!(failure.cause, Cause::OutOfMemory);
    assert_eq!(failure.exit_code, Some(137));
    let page = browser.get("/hub/user/ada/").await.text();
    assert!(page.contains("its limit of 64 MiB"), "{page}");
    assert!(page.contains("out of memory"), "{page}");

    eventually("the end", || spawner.running() == 0).await;
    browser.get("/hub/spawn/ada").await;
    assert_eq!(browser.settled("ada", "").await, Phase::Ready);
    let page = browser.get("/hub/home").await.text();
    assert!(!page.contains("64 MiB"), "{page}");
}

#[tokio::test]
async fn a_start_that_fails_for_memory_says_so_as_well() {
    let (_spawner, hub) = hub(Start::ExitsWith(137)).await;
    let token = hub.token("ada").await;
    let answer = hub.post("/users/ada/server", &token, json!({})).await;
    assert!(!answer.status.is_success());
    let ended = until(
        &hub.state.servers,
        &hub.user("ada").await,
        "",
        Phase::Failed,
    )
    .await;
    let failure = ended.failure.expect("a failure");
    assert_eq!(failure.cause, Cause::OutOfMemory);
    assert!(!failure.log_tail.is_empty());
}
