//! The listeners beside the public one: the REST API, metrics, and redirects to HTTPS.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, header::CONNECTION};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use crate::{
    api,
    listen::{BACKLOG, Listener},
    redirect,
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

/// How long a client may take for its handshake, and for its request's head.
const HEAD_DEADLINE: Duration = Duration::from_mins(1);

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
            tracing::error!("internal: cannot listen for the API: {error}");
            return;
        }
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.closed() => break,
        };
        match accepted.and_then(|(accepted, _)| accepted.into_socket()) {
            Ok(socket) => {
                tasks.spawn(serve(Arc::clone(&shared), socket, listening));
            }
            Err(error) => {
                tracing::error!("internal: cannot accept API connections for now: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    if shared.retire.is_cancelled() && !shared.stop.is_cancelled() {
        // The successor accepts what waits.
        return;
    }
    // The kernel has accepted these, and would reset them.
    for _ in 0..BACKLOG {
        let Some(Ok((accepted, _))) = listener.accept_waiting().await else {
            break;
        };
        if let Ok(socket) = accepted.into_socket() {
            tasks.spawn(serve(Arc::clone(&shared), socket, listening));
        }
    }
}

async fn serve(shared: Arc<Shared>, socket: Socket, listening: Listening) {
    let tls = shared.tls.api.as_ref();
    let stream = match tls.filter(|_| matches!(listening, Listening::Api)) {
        None => Stream::Plain(socket),
        Some(tls) => match tokio::time::timeout(HEAD_DEADLINE, tls.accept(socket)).await {
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
        .header_read_timeout(HEAD_DEADLINE)
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
    let result = tokio::select! {
        result = &mut connection => result,
        () = closing => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("downstream: an API connection ended early: {error}");
    }
}
