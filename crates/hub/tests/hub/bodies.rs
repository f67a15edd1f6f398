//! Requests whose body comes late, and those whose sender does not wait for the answer.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use futures_util::stream;
use orrery_core::UserName;
use orrery_core::authenticator::{
    AddUserError, Authenticator, AuthenticatorError, Credentials, Identity,
};
use serde_json::json;
use tokio::sync::{Notify, oneshot};

use crate::test_hub::{PATIENCE, TestHub};

/// A request of unknown length whose body goes on when told.
fn slow(path: &str, token: &str, body: [&'static str; 2]) -> (Request<Body>, oneshot::Sender<()>) {
    let (go_on, told) = oneshot::channel::<()>();
    let [first, last] = body.map(|part| Ok::<_, io::Error>(Bytes::from_static(part.as_bytes())));
    let rest = stream::once(async move {
        let _ = told.await;
        last
    });
    let chunks = futures_util::StreamExt::chain(stream::iter([first]), rest);
    let request = Request::post(format!("/hub/api{path}"))
        .header(header::AUTHORIZATION, format!("token {token}"))
        .body(Body::from_stream(chunks))
        .expect("a request");
    (request, go_on)
}

#[tokio::test]
async fn credentials_that_end_while_the_body_comes_are_worth_nothing() {
    let hub = TestHub::new().await.with_user("ada").await;
    let token = hub.token("ada").await;
    let (request, go_on) = slow("/users/ada/tokens", &token, [r#"{"note":"#, r#""mine"}"#]);
    let asking = hub.raw(request);
    let ending = async {
        let tokens = hub.get("/users/ada/tokens", &token).await.ok(200);
        let id = tokens["api_tokens"][0]["id"].as_str().expect("an id");
        hub.delete(&format!("/users/ada/tokens/{id}"), &token)
            .await
            .empty(204);
        go_on.send(()).expect("somebody waits");
    };
    let (answer, ()) = tokio::join!(asking, ending);
    answer.refused(403);
    let again = hub.token("ada").await;
    let tokens = hub.get("/users/ada/tokens", &again).await.ok(200);
    assert_eq!(tokens["api_tokens"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_body_of_unknown_length_may_be_as_large_as_any_but_not_a_strangers() {
    let hub = TestHub::new().await.with_admin("ada").await;
    let token = hub.token("ada").await;
    let padding: &'static str = Box::leak(" ".repeat(100_000).into_boxed_str());
    let large = [padding, r#"{"usernames":["bob"]}"#];
    let (request, go_on) = slow("/users", &token, large);
    go_on.send(()).expect("somebody waits");
    hub.raw(request).await.ok(201);
    let (request, _go_on) = slow("/users", "nobody's", large);
    let answer = hub.raw(request).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.headers[header::CONNECTION], "close");
}

/// Takes as long to add somebody as the test wants.
#[derive(Default)]
struct Slow {
    begun: Notify,
    go_on: Notify,
}

#[async_trait]
impl Authenticator for Slow {
    async fn authenticate(&self, _: &Credentials) -> Result<Option<Identity>, AuthenticatorError> {
        Ok(None)
    }

    async fn add_user(&self, _: &UserName) -> Result<(), AddUserError> {
        self.begun.notify_one();
        self.go_on.notified().await;
        Ok(())
    }
}

#[tokio::test]
async fn what_was_begun_is_done_and_recorded_when_its_sender_has_gone() {
    let slow = Arc::new(Slow::default());
    let hub = TestHub::with_authenticator(Arc::clone(&slow) as _).await;
    let hub = hub.with_admin("ada").await;
    let token = hub.token("ada").await;
    tokio::select! {
        _ = hub.post("/users/bob", &token, json!({})) => panic!("it was answered"),
        () = slow.begun.notified() => {}
    }
    slow.go_on.notify_one();
    let recorded = async {
        loop {
            let path = "/audit?action=user.create&target=bob";
            let rows = hub.get(path, &token).await.ok(200);
            if rows["items"]
                .as_array()
                .is_some_and(|rows| !rows.is_empty())
            {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, recorded)
        .await
        .expect("a row in time");
    hub.get("/users/bob", &token).await.ok(200);
}
