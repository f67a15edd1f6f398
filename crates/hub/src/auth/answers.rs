//! Answers to lists, kept along with what is known of the credentials that asked.
//!
//! What is known of credentials holds for one state of the database, so an answer that was made from that
//! state holds as well, for whoever asks the same with the same credentials. What is not in the database
//! yet is activity: an answer says how far that had come.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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

/// The bytes of all answers that are kept.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// The answers that are kept for one token or cookie, in one state of the database.
#[derive(Debug, Default)]
pub struct Answers(Mutex<Vec<Kept>>);

#[derive(Debug)]
struct Kept {
    question: String,
    /// See [`crate::servers::Engine::activity_generation`].
    generation: u64,
    headers: HeaderMap,
    body: Bytes,
}

impl Drop for Kept {
    fn drop(&mut self) {
        HELD.fetch_sub(self.body.len(), Ordering::Relaxed);
    }
}

impl Answers {
    fn get(&self, question: &str, generation: u64) -> Option<(HeaderMap, Bytes)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|kept| kept.question == question && kept.generation == generation)
            .map(|kept| (kept.headers.clone(), kept.body.clone()))
    }

    fn put(&self, question: String, generation: u64, headers: HeaderMap, body: Bytes) {
        if HELD.fetch_add(body.len(), Ordering::Relaxed) + body.len() > ALL {
            HELD.fetch_sub(body.len(), Ordering::Relaxed);
            return;
        }
        let kept = Kept {
            question,
            generation,
            headers,
            body,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|old| old.question != kept.question);
        if all.len() >= MOST {
            all.remove(0);
        }
        all.push(kept);
    }
}

/// Around a handler whose answer depends on the credentials, the address, the `Accept` header, the
/// database and activity alone, and that does nothing else: answers from memory where it can.
pub async fn keep(request: Request, next: Next) -> Response {
    let Some(requester) = request.extensions().get::<Arc<Requester>>().cloned() else {
        return next.run(request).await;
    };
    let question = question(&requester, &request);
    let generation = requester.activity_generation();
    if let Some((headers, body)) = requester.answers.get(&question, generation) {
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = headers;
        return response;
    }
    let response = next.run(request).await;
    let is_small = (response.body().size_hint().exact())
        .is_some_and(|length| usize::try_from(length).is_ok_and(|length| length <= LARGEST));
    if response.status() != StatusCode::OK || !is_small {
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
    let answers = &requester.answers;
    answers.put(question, generation, parts.headers.clone(), body.clone());
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

    fn put(answers: &Answers, question: &str, generation: u64, length: usize) {
        let body = Bytes::from(vec![b'x'; length]);
        answers.put(question.to_owned(), generation, HeaderMap::new(), body);
    }

    #[test]
    fn an_answer_is_given_to_its_question_until_there_is_newer_activity() {
        let answers = Answers::default();
        put(&answers, "a", 1, 10);
        assert!(answers.get("a", 1).is_some());
        assert!(answers.get("a", 2).is_none());
        assert!(answers.get("b", 1).is_none());
        put(&answers, "a", 2, 20);
        assert!(answers.get("a", 1).is_none());
        assert_eq!(answers.get("a", 2).map(|(_, body)| body.len()), Some(20));
    }

    #[test]
    fn only_so_many_answers_are_kept() {
        let answers = Answers::default();
        for number in 0..=MOST {
            put(&answers, &number.to_string(), 1, 1);
        }
        assert!(answers.get("0", 1).is_none());
        assert!(answers.get("1", 1).is_some());
        assert!(answers.get(&MOST.to_string(), 1).is_some());
        for number in 0..2 * ALL / LARGEST {
            put(&Answers::default(), &number.to_string(), 1, LARGEST);
        }
        put(&answers, "after those that are gone", 1, LARGEST);
        assert!(answers.get("after those that are gone", 1).is_some());
    }
}
