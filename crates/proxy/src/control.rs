//! The listeners beside the public one: the REST API, metrics, and redirects to HTTPS. Each takes a
//! bounded number of connections at a time, so that none takes the others' file descriptors, or the
//! users'; more wait in the kernel.

use std::{
    convert::Infallible,
    fs::File,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, header::CONNECTION};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    api,
    listen::{BACKLOG, Listener},
    overload, redirect,
    server::Shared,
    transport::{Socket, Stream},
};

/// What a listener is for.
#[derive(Clone, Copy)]
pub(crate) enum Listening {
    Api,
    Metrics,
    Redirect,
}

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections to the API that are accepted when there are no file descriptors left.
const RESERVE: usize = 4;

/// What a listener's clients may have.
struct Limits {
    /// Connections at a time.
    connections: usize,
    /// For a request's head, also the first; a connection is idle no longer.
    head: Duration,
    /// For one request and its answer, with which the connection ends. `None` where it goes on.
    life: Option<Duration>,
}

impl Listening {
    /// `users` is how many connections of users there may be.
    fn limits(self, users: usize) -> Limits {
        match self {
            Listening::Api => Limits {
                connections: (users / 8).clamp(32, 1024),
                head: Duration::from_mins(1),
                life: None,
            },
            Listening::Metrics => Limits {
                connections: 16,
                head: Duration::from_secs(10),
                life: Some(Duration::from_mins(1)),
            },
            Listening::Redirect => Limits {
                connections: (users / 16).clamp(16, 1024),
                head: Duration::from_secs(10),
                life: Some(Duration::from_secs(20)),
            },
        }
    }

    fn name(self) -> &'static str {
        match self {
            Listening::Api => "the API",
            Listening::Metrics => "metrics",
            Listening::Redirect => "redirects to HTTPS",
        }
    }
}

/// How long a client that was accepted just before the end has to send its request.
const SETTLE: Duration = Duration::from_millis(100);

/// After an upgrade, how long connections that wait for a request may still send one.
const LAST_REQUEST: Duration = Duration::from_secs(2);

/// Accepts connections until another process does or the proxy stops.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    listener: Listener,
    listening: Listening,
    tasks: TaskTracker,
) {
    let listener = match listener.into_tokio() {
        Ok(listener) => listener,
        Err(error) => {
            let name = listening.name();
            tracing::error!("internal: cannot listen for {name}: {error}");
            return;
        }
    };
    let limits = listening.limits(shared.settings.max_connections);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut reported: Option<Instant> = None;
    let mut reserve = Vec::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accept => accepted,
            () = shared.closed() => break,
        };
        if matches!(listening, Listening::Api) {
            refill(&mut reserve);
        }
        match accepted.and_then(|(accepted, _)| accepted.into_socket()) {
            Ok(socket) => {
                tasks.spawn(serve(Arc::clone(&shared), socket, listening, place));
            }
            // The client has left.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                let now = Instant::now();
                if reported.is_none_or(|at| now - at > overload::REPORT) {
                    reported = Some(now);
                    let name = listening.name();
                    tracing::error!(
                        "internal: cannot accept connections to {name} for now: {error}"
                    );
                }
                // The hub must be able to take routes away even then.
                if reserve.pop().is_some()
                    && let Some(Ok((accepted, _))) = listener.accept_waiting().await
                    && let Ok(socket) = accepted.into_socket()
                {
                    tasks.spawn(serve(Arc::clone(&shared), socket, listening, place));
                    continue;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    if shared.is_succeeded() {
        return;
    }
    // The kernel has accepted these, and would reset them.
    for _ in 0..BACKLOG {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            break;
        };
        let Some(Ok((accepted, _))) = listener.accept_waiting().await else {
            break;
        };
        if let Ok(socket) = accepted.into_socket() {
            tasks.spawn(serve(Arc::clone(&shared), socket, listening, place));
        }
    }
}

/// File descriptors for when the users have all others.
fn refill(reserve: &mut Vec<File>) {
    while reserve.len() < RESERVE
        && let Ok(file) = File::open("/dev/null")
    {
        reserve.push(file);
    }
}

/// Serves a connection to its end, and keeps its place for so long.
async fn serve(
    shared: Arc<Shared>,
    socket: Socket,
    listening: Listening,
    _place: OwnedSemaphorePermit,
) {
    let limits = listening.limits(shared.settings.max_connections);
    let tls = shared.tls.api.as_ref();
    let stream = match tls.filter(|_| matches!(listening, Listening::Api)) {
        None => Stream::Plain(socket),
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!("downstream: no TLS with an API client: {error}");
                return;
            }
            Err(_) => {
                tracing::debug!("downstream: no TLS with an API client in time");
                return;
            }
        },
    };
    let has_asked = Arc::new(AtomicBool::new(false));
    let service = {
        let shared = Arc::clone(&shared);
        let has_asked = Arc::clone(&has_asked);
        service_fn(move |request: Request<Incoming>| {
            has_asked.store(true, Ordering::Relaxed);
            let shared = Arc::clone(&shared);
            async move {
                let mut response = match listening {
                    Listening::Api => api::handle(Arc::clone(&shared), request).await?,
                    Listening::Metrics => api::metrics(&shared, &request),
                    Listening::Redirect => redirect::answer(&shared, &request),
                };
                if shared.retire.is_cancelled() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(limits.life.is_none())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let closing = async {
        shared.closed().await;
        // A request may be on its way.
        if !shared.stop.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(LAST_REQUEST) => {}
                () = shared.stop.cancelled() => {}
            }
        }
        if !has_asked.load(Ordering::Relaxed) {
            tokio::time::sleep(SETTLE).await;
        }
    };
    let too_long = async {
        match limits.life {
            Some(life) => tokio::time::sleep(life).await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = &mut connection => result,
        () = too_long => return,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        let name = listening.name();
        tracing::debug!("downstream: a connection to {name} ended early: {error}");
    }
}
