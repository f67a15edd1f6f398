//! `/api/events`: what changes of users and servers, as it happens, for dashboards and cullers.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use orrery_core::scopes::{Access, Memberships, Scope, ScopeSet};
use orrery_store::events::{self, Event, Kind};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::event_models::{self, SEEN_BY};
use crate::auth::{self, Asking, Identity, Requester};
use crate::changes::{Busy, PAGE, Pauses, Reach, Used, Watcher};
use crate::error::{Error, Result};
use crate::openapi::{Answer, Operation, Tag};
use crate::router::{ApiRoutes, Needs};
use crate::state::AppState;

/// How long one stream lasts at most; clients go on where it ended.
const LONGEST: Duration = Duration::from_hours(12);
/// How many pieces may wait for a slow client.
const BUFFER: usize = 8;
/// How large a piece grows before the next one is begun, in bytes.
const PIECE: usize = 16 * 1024;
/// How soon a client that lost the stream asks again, in milliseconds.
const RETRY: u32 = 2000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const NO_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) fn routes() -> ApiRoutes {
    ApiRoutes::default().get("/api/events", Needs::SomeScopes(SEEN_BY), &EVENTS, events)
}

const EVENTS: Operation = Operation::new("get-events", Tag::Hub, "Follow changes of users and servers")
    .about(
        "Server-sent events without end, of those users and servers that the requester may read. A client that \
         sends the last id it got as `Last-Event-ID` is told what it missed, or `reset` if that is not known any \
         more.",
    )
    .answers(&[Answer::text(200, "The events, each a JSON object.", "text/event-stream")])
    .refuses(&[429]);

/// `GET /api/events`.
async fn events(
    State(hub): State<AppState>,
    Asking(requester): Asking,
    headers: HeaderMap,
) -> Result<Response> {
    let who = match &requester.identity {
        Some(Identity::User(user)) => format!("user {}", user.name),
        Some(Identity::Service(service)) => format!("service {}", service.fields.name),
        None => return Err(Error::forbidden("Missing or invalid credentials.")),
    };
    let reach = reach(&requester);
    let watcher = hub.changes.watch(&who, reach).map_err(|busy| match busy {
        Busy::Hub => Error::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "The hub has as many streams of events as it takes.",
        ),
        Busy::Requester => Error::new(
            StatusCode::TOO_MANY_REQUESTS,
            "You have as many streams of events as one may have.",
        ),
    });
    let watcher = watcher
        .map_err(|error| error.with_header(header::RETRY_AFTER, HeaderValue::from_static("10")))?;
    let span = events::span(&hub.store).await?;
    let asked = headers
        .get(LAST_EVENT_ID)
        .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    let (position, greeting) = match asked {
        None => (span.last, "open"),
        Some(Some(position)) if span.covers(position) => (position, "open"),
        // Also what is no id of ours: the client believes that it knows something, which may be old.
        Some(_) => (span.last, "reset"),
    };
    let (sender, receiver) = mpsc::channel(BUFFER);
    let telling = Telling {
        pauses: hub.changes.pauses(),
        scopes: requester.scopes.clone(),
        hub,
        requester,
        watcher,
        sender,
        position,
        told: position,
        replayed_to: span.last,
    };
    tokio::spawn(telling.run(greeting));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // What nginx asks for, should one stand before the proxy.
        (NO_BUFFERING, HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(pieces(receiver))).into_response())
}

/// How much of the hub somebody sees. Servers that others share with them are counted as their own: whoever
/// shares could otherwise give more streams away.
fn reach(requester: &Requester) -> Reach {
    let all = [Scope::ListUsers, Scope::ReadUsers, Scope::ReadServers];
    if all.into_iter().any(|scope| requester.scopes.has(scope)) {
        return Reach::All;
    }
    let Some(Identity::User(user)) = &requester.identity else {
        return Reach::Some;
    };
    let is_own = SEEN_BY
        .iter()
        .filter_map(|scope| requester.scopes.access(*scope))
        .all(|access| match access {
            Access::All => false,
            Access::Only(filters) => {
                filters.groups.is_empty() && filters.users.iter().all(|name| name == user.name)
            }
        });
    if is_own { Reach::Own } else { Reach::Some }
}

/// The stream's pieces. It ends early for a client that was too slow: it goes on after the last id it read.
fn pieces(
    receiver: mpsc::Receiver<Bytes>,
) -> impl Stream<Item = std::result::Result<Bytes, Infallible>> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok(piece), receiver))
    })
}

/// Why a stream ends.
enum End {
    /// The client went away or did not read, the hub stops, or it lasted long enough.
    Over,
    /// The requester may not watch any more.
    NoRights,
}

/// One client's stream.
struct Telling {
    hub: AppState,
    requester: Arc<Requester>,
    scopes: ScopeSet,
    watcher: Watcher,
    pauses: Pauses,
    sender: mpsc::Sender<Bytes>,
    /// Up to where events were looked at.
    position: i64,
    /// The last position that the client was told.
    told: i64,
    /// The last position when the stream began: up to here, names may have been another's.
    replayed_to: i64,
}

impl Telling {
    async fn run(mut self, greeting: &'static str) {
        let closing = self.hub.changes.closing().clone();
        let replaced = self.hub.replaced.clone();
        let sender = self.sender.clone();
        let ended = tokio::select! {
            () = closing.cancelled() => Ok(End::Over),
            // The client asks again, and is told then what the new configuration shows it.
            () = replaced.cancelled() => Ok(End::Over),
            () = sender.closed() => Ok(End::Over),
            () = tokio::time::sleep(LONGEST) => Ok(End::Over),
            ended = self.tell_all(greeting) => ended,
        };
        match ended {
            Ok(End::Over) => {}
            Ok(End::NoRights) => {
                tracing::info!(
                    by = self.requester.name(),
                    "a stream of events ended with its requester's rights"
                );
            }
            // The client asks again, and is told then how it stands.
            Err(error) => tracing::warn!(%error, "a stream of events was broken off"),
        }
    }

    async fn tell_all(&mut self, greeting: &str) -> Result<End> {
        let greeting = format!(
            "retry: {RETRY}\n{}",
            self.encode(&json!({ "type": greeting }))
        );
        if !self.send(greeting).await {
            return Ok(End::Over);
        }
        let mut is_behind = true;
        let mut rights_at = Instant::now() + self.pauses.rights;
        let mut silent_at = Instant::now() + self.pauses.silence;
        loop {
            let batch = if is_behind {
                let page = events::after(&self.hub.store, self.position, PAGE).await?;
                if page.has_gap {
                    self.position = events::span(&self.hub.store).await?.last;
                    let reset = self.encode(&json!({ "type": "reset" }));
                    if !self.send(reset).await {
                        return Ok(End::Over);
                    }
                    continue;
                }
                is_behind = page.events.len() == PAGE as usize;
                page.events.into_iter().map(Arc::new).collect()
            } else if let Some(batch) = self.watcher.after(self.position) {
                batch
            } else {
                is_behind = true;
                continue;
            };
            if !batch.is_empty() {
                if !self.has_rights().await? {
                    return Ok(End::NoRights);
                }
                rights_at = Instant::now() + self.pauses.rights;
                match self.tell(&batch).await? {
                    Told::Something => silent_at = Instant::now() + self.pauses.silence,
                    Told::Nothing => {}
                    Told::NobodyReads => return Ok(End::Over),
                }
                continue;
            }
            if is_behind {
                continue;
            }
            match self.wake(rights_at, silent_at).await {
                Wake::Moved => {}
                Wake::Closed => return Ok(End::Over),
                Wake::Used(round) => {
                    if !self.has_rights().await? {
                        return Ok(End::NoRights);
                    }
                    if !self.tell_used(&round).await? {
                        return Ok(End::Over);
                    }
                }
                Wake::Rights => {
                    if !self.has_rights().await? {
                        return Ok(End::NoRights);
                    }
                    rights_at = Instant::now() + self.pauses.rights;
                }
                Wake::Silence => {
                    // Where nothing was for this client, the id alone: it need not be looked at again.
                    let line = if self.told < self.position {
                        self.told = self.position;
                        format!("id: {}\n\n", self.position)
                    } else {
                        ":\n\n".to_owned()
                    };
                    if !self.send(line).await {
                        return Ok(End::Over);
                    }
                    silent_at = Instant::now() + self.pauses.silence;
                }
            }
        }
    }

    /// Waits for something to do.
    async fn wake(&mut self, rights_at: Instant, silent_at: Instant) -> Wake {
        let position = self.position;
        let Watcher { head, rounds, .. } = &mut self.watcher;
        tokio::select! {
            moved = async { head.wait_for(|head| *head > position).await.is_ok() } => {
                if moved { Wake::Moved } else { Wake::Closed }
            }
            round = rounds.recv() => match round {
                Ok(round) => Wake::Used(round),
                // Too slow for these, which is no harm: servers in use are told again.
                Err(RecvError::Lagged(_)) => Wake::Moved,
                Err(RecvError::Closed) => Wake::Closed,
            },
            () = tokio::time::sleep_until(rights_at) => Wake::Rights,
            () = tokio::time::sleep_until(silent_at) => Wake::Silence,
        }
    }

    /// Looks again who asks and what they may see now.
    async fn has_rights(&mut self) -> Result<bool> {
        let Some(known) = auth::again(&self.hub, &self.requester).await? else {
            return Ok(false);
        };
        self.scopes = known.scopes;
        Ok(SEEN_BY.iter().any(|scope| self.scopes.has_some(*scope)))
    }

    async fn tell(&mut self, batch: &[Arc<Event>]) -> Result<Told> {
        let users = batch.iter().flat_map(|event| event_models::users_of(event));
        let known = event_models::memberships(&self.hub, &self.scopes, users).await?;
        let held = self.held_since(batch, &known).await?;
        let mut piece = String::new();
        let mut told = Told::Nothing;
        for event in batch {
            self.position = event.position;
            if self.is_about_another(event, &held) {
                continue;
            }
            if let Some(shown) = event_models::shown(&self.scopes, &known, event) {
                piece.push_str(&self.encode(&shown));
                told = Told::Something;
            }
            if piece.len() >= PIECE && !self.send(std::mem::take(&mut piece)).await {
                return Ok(Told::NobodyReads);
            }
        }
        if !piece.is_empty() && !self.send(piece).await {
            return Ok(Told::NobodyReads);
        }
        Ok(told)
    }

    /// Since when the names in what would be told of the past are those of the people who have them now.
    async fn held_since(
        &self,
        batch: &[Arc<Event>],
        known: &Memberships,
    ) -> Result<HashMap<String, i64>> {
        if self.position >= self.replayed_to {
            return Ok(HashMap::new());
        }
        let names: BTreeSet<&str> = batch
            .iter()
            .filter(|event| event_models::shown(&self.scopes, known, event).is_some())
            .flat_map(|event| event_models::users_of(event))
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        Ok(events::held_since(&self.hub.store, &names, self.position).await?)
    }

    /// Whether an event is about whoever had a name before. Those who see somebody by the name alone, as people
    /// see themselves, are not told of it.
    fn is_about_another(&self, event: &Event, held: &HashMap<String, i64>) -> bool {
        let sees_all = match event.server {
            Some(_) => self.scopes.has(Scope::ReadServers),
            None => self.scopes.has(Scope::ListUsers) || self.scopes.has(Scope::ReadUsers),
        };
        let is_before = |name: &str| {
            held.get(name)
                .is_some_and(|position| event.position < *position)
        };
        let is_own = |name: &str| self.requester.user().is_some_and(|user| user.name == name);
        !sees_all
            && event_models::users_of(event).any(|name| {
                // Others are told that somebody is gone, also where the name is there again.
                let is_gone = matches!(event.kind, Some(Kind::UserDeleted)) || name != event.user;
                is_before(name) && (is_own(name) || !is_gone)
            })
    }

    async fn tell_used(&mut self, round: &[Used]) -> Result<bool> {
        let users = round.iter().map(|used| used.user.as_str());
        let known = event_models::memberships(&self.hub, &self.scopes, users).await?;
        let mut piece = String::new();
        for used in round {
            if let Some(shown) = event_models::used(&self.scopes, &known, used) {
                // Without an id: these are not told again.
                push_data(&mut piece, &shown);
            }
            if piece.len() >= PIECE && !self.send(std::mem::take(&mut piece)).await {
                return Ok(false);
            }
        }
        Ok(piece.is_empty() || self.send(piece).await)
    }

    fn encode(&mut self, event: &Value) -> String {
        self.told = self.position;
        let mut text = format!("id: {}\n", self.position);
        push_data(&mut text, event);
        text
    }

    /// Hands text to the client's connection; whether it takes it in time.
    async fn send(&self, text: String) -> bool {
        let sent = tokio::time::timeout(self.pauses.write, self.sender.send(text.into())).await;
        if sent.is_err() {
            tracing::info!(
                by = self.requester.name(),
                "a stream of events ended because its client did not read it"
            );
        }
        matches!(sent, Ok(Ok(())))
    }
}

/// Why a stream goes on.
enum Wake {
    /// There are new events.
    Moved,
    /// Servers were used.
    Used(Arc<Vec<Used>>),
    /// It is time to look at the requester's rights.
    Rights,
    /// The client has not been told anything for long.
    Silence,
    /// Nothing will come any more.
    Closed,
}

/// What came of a batch of events.
enum Told {
    /// The client was sent some of it.
    Something,
    /// None of it was for this client.
    Nothing,
    /// The client does not read.
    NobodyReads,
}

fn push_data(text: &mut String, event: &Value) {
    // JSON has no line break outside of its escapes.
    write!(text, "data: {event}\n\n").expect("writing to a text cannot fail");
}
