//! Answers to lists, kept along with what is known of the credentials that asked.
//!
//! What is known of credentials holds for one state of the database, so an answer that was made from that
//! state holds as well, for whoever asks the same with the same credentials. What is not in the database
//! yet is activity: an answer says how far that had come.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;

use super::Requester;

/// Different questions whose answers are kept for one token or cookie.
const MOST: usize = 16;
/// The largest answer that is kept, in bytes.
const LARGEST: usize = 256 * 1024;
/// All answers that are kept, in bytes; what is beyond is made anew each time.
const ALL: usize = 64 * 1024 * 1024;
/// The longest question whose answer is kept, in bytes.
const LONGEST: usize = 2048;
/// How long to wait for somebody else who asked the same; then it is made a second time.
const PATIENCE: Duration = Duration::from_millis(500);

/// The bytes of all answers that are kept.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// The answers that are kept for one token or cookie, in one state of the database.
#[derive(Debug, Default)]
pub struct Answers(Mutex<Vec<(String, Arc<Slot>)>>);

/// The answer to one question. It is locked while it is made, so that all who ask the same meanwhile
/// have it made once.
type Slot = tokio::sync::Mutex<Answer>;

#[derive(Debug, Default)]
enum Answer {
    /// Nobody has asked yet, or it was an error.
    #[default]
    Missing,
    /// It is larger than what is kept.
    TooLarge,
    Kept(Kept),
}

#[derive(Debug)]
struct Kept {
    /// See [`crate::servers::Engine::activity_generation`].
    generation: u64,
    headers: HeaderMap,
    body: Bytes,
}

impl Kept {
    /// `None` when there is no room.
    fn new(generation: u64, headers: HeaderMap, body: Bytes) -> Option<Self> {
        if HELD.fetch_add(body.len(), Ordering::Relaxed) + body.len() > ALL {
            HELD.fetch_sub(body.len(), Ordering::Relaxed);
            return None;
        }
        Some(Self {
            generation,
            headers,
            body,
        })
    }

    fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body.clone()));
        *response.headers_mut() = self.headers.clone();
        response
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        HELD.fetch_sub(self.body.len(), Ordering::Relaxed);
    }
}

/// Whether more than half of the room is taken.
pub(super) fn are_many() -> bool {
    HELD.load(Ordering::Relaxed) > ALL / 2
}

impl Answers {
    /// The place of the answer to a question; a new one takes that of the oldest.
    fn slot(&self, question: String) -> Arc<Slot> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = all.iter().find(|(asked, _)| *asked == question) {
            return Arc::clone(slot);
        }
        if all.len() >= MOST {
            all.remove(0);
        }
        let slot = Arc::<Slot>::default();
        all.push((question, Arc::clone(&slot)));
        slot
    }
}

/// Around a handler whose answer depends on the credentials, the address, the `Accept` header, the
/// database and activity alone, and that does nothing else: answers from memory where it can.
pub async fn keep(request: Request, next: Next) -> Response {
    let Some(requester) = request.extensions().get::<Arc<Requester>>().cloned() else {
        return next.run(request).await;
    };
    let question = question(&requester, &request);
    if question.len() > LONGEST {
        return next.run(request).await;
    }
    let generation = requester.activity_generation();
    let slot = requester.answers.slot(question);
    answer(&slot, generation, next.run(request)).await
}

/// What is kept in the slot if it has all activity up to `generation`, else what `make` gives.
async fn answer(slot: &Slot, generation: u64, make: impl Future<Output = Response>) -> Response {
    let Ok(mut answer) = tokio::time::timeout(PATIENCE, slot.lock()).await else {
        return make.await;
    };
    match &*answer {
        Answer::Kept(kept) if kept.generation >= generation => return kept.response(),
        Answer::TooLarge => {
            drop(answer);
            return make.await;
        }
        Answer::Missing | Answer::Kept(_) => {}
    }
    let response = make.await;
    if response.status() != StatusCode::OK {
        return response;
    }
    let is_small = (response.body().size_hint().exact())
        .is_some_and(|length| usize::try_from(length).is_ok_and(|length| length <= LARGEST));
    if !is_small {
        *answer = Answer::TooLarge;
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LARGEST).await else {
        // A body of known length is in memory: it cannot fail to come.
        parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        return Response::from_parts(parts, Body::empty());
    };
    let tag = crate::etag::of(&body);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, tag);
    }
    *answer = Kept::new(generation, parts.headers.clone(), body.clone())
        .map_or(Answer::Missing, Answer::Kept);
    Response::from_parts(parts, Body::from(body))
}

/// What an answer depends on, beside the credentials and the database: pages name the next one by a whole
/// address, as the browser wrote it.
fn question(requester: &Requester, request: &Request) -> String {
    let accept = request.headers().get_all(header::ACCEPT);
    let accept: Vec<_> = accept.iter().map(HeaderValue::as_bytes).collect();
    let browser = &requester.browser;
    let path = request.uri().path_and_query().map_or("", |it| it.as_str());
    format!("{} {} {accept:?} {path}", browser.scheme, browser.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(length: usize) -> Option<Kept> {
        Kept::new(1, HeaderMap::new(), Bytes::from(vec![b'x'; length]))
    }

    /// Asks and says what came; what is made is as long as told and takes its time.
    async fn ask(slot: &Slot, generation: u64, made: &AtomicUsize, length: usize) -> Bytes {
        let make = async {
            made.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
            Response::new(Body::from(vec![b'x'; length]))
        };
        let response = answer(slot, generation, make).await;
        (axum::body::to_bytes(response.into_body(), usize::MAX).await).expect("a body")
    }

    #[tokio::test]
    async fn who_asks_the_same_at_once_has_it_made_once_until_there_is_newer_activity() {
        let (slot, made) = (Slot::default(), AtomicUsize::new(0));
        let (one, other) = tokio::join!(ask(&slot, 1, &made, 10), ask(&slot, 1, &made, 10));
        assert_eq!((one.len(), other.len()), (10, 10));
        assert_eq!(made.load(Ordering::Relaxed), 1);
        ask(&slot, 2, &made, 20).await;
        assert_eq!(made.load(Ordering::Relaxed), 2);
        assert_eq!(ask(&slot, 1, &made, 10).await.len(), 20);
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_is_not_kept_is_made_for_each() {
        let (slot, made) = (Slot::default(), AtomicUsize::new(0));
        for _ in 0..2 {
            assert_eq!(ask(&slot, 1, &made, LARGEST + 1).await.len(), LARGEST + 1);
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
        let slot = Slot::default();
        let begun = tokio::time::Instant::now();
        let held = slot.lock().await;
        assert_eq!(ask(&slot, 1, &made, 1).await.len(), 1);
        assert!(begun.elapsed() < 2 * PATIENCE);
        drop(held);
    }

    #[tokio::test]
    async fn only_so_many_answers_are_kept() {
        let answers = Answers::default();
        for number in 0..=MOST {
            *answers.slot(number.to_string()).lock().await = Answer::TooLarge;
        }
        let is_there = |answer: &Answer| matches!(answer, Answer::TooLarge);
        assert!(is_there(&*answers.slot("1".to_owned()).lock().await));
        assert!(is_there(&*answers.slot(MOST.to_string()).lock().await));
        assert!(!is_there(&*answers.slot("0".to_owned()).lock().await));
    }

    #[test]
    fn only_so_many_bytes_are_kept() {
        let many: Vec<_> = (0..2 * ALL / LARGEST).map(|_| kept(LARGEST)).collect();
        let room = many.iter().flatten().count();
        assert!(room > 0 && room <= ALL / LARGEST, "{room}");
        drop(many);
        assert!(kept(LARGEST).is_some());
    }
}
