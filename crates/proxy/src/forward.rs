//! A request's way: look up its route, send it to the server, pass the answer back.

use std::{
    convert::Infallible,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};
use hyper::body::{Body, Incoming};

use crate::{
    body::{RequestBody, ResponseBody, Streamed},
    client::Client,
    error::Fault,
    error_page::{self, Page},
    headers,
    routes::Match,
    target::Target,
    tunnel,
};

/// Answers one request of a client.
pub(crate) async fn handle(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    client.exchange_begins();
    if request.uri() == "/_chp_healthz" {
        return Ok(health(client));
    }
    let websocket = *request.method() == Method::GET && headers::wants_websocket(request.headers());
    let counters = client.worker.counters();
    let count = if websocket {
        &counters.ws
    } else {
        &counters.web
    };
    count.fetch_add(1, Ordering::Relaxed);

    let (mut parts, body) = request.into_parts();
    if client.flags.has_both_lengths() {
        // Read no further: what follows on this connection cannot be trusted.
        return Ok(refuse(
            &client,
            &parts,
            "both Content-Length and Transfer-Encoding",
        ));
    }
    if body.is_end_stream() {
        client.flags.expect_head();
    }
    if let Err(reason) = check(&mut parts) {
        return Ok(refuse(&client, &parts, reason));
    }
    let method = parts.method.clone();
    let uri = parts.uri.clone();
    match forward(&client, parts, body, websocket).await {
        Ok(response) => {
            counters_of(&client, response.status());
            Ok(response)
        }
        Err(fault) => Ok(answer_fault(client, &fault, &method, &uri, websocket).await),
    }
}

async fn forward(
    client: &Rc<Client>,
    mut parts: Parts,
    body: Incoming,
    websocket: bool,
) -> Result<Response<ResponseBody>, Fault> {
    let found = find_route(client, &parts).ok_or(Fault::NoRoute)?;
    let client_upgrade = websocket
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    prepare_head(client, &mut parts, &found, websocket)?;
    let route = found.route;
    let is_expected = parts.headers.contains_key(EXPECT);
    let body = RequestBody::new(body, Arc::clone(&route), is_expected);
    let pool = &client.worker.pool;
    let sent = pool.send(&route.target.upstream, Request::from_parts(parts, body));
    let (mut response, sender) = sent.await.map_err(Fault::Upstream)?;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_upgrade) = client_upgrade else {
            return Err(Fault::Internal("the server changed protocols unasked"));
        };
        let upstream_upgrade = hyper::upgrade::on(&mut response);
        tunnel::spawn(&client.worker, client_upgrade, upstream_upgrade, route);
        let (mut head, _) = response.into_parts();
        let protocol = head.headers.get(UPGRADE).cloned();
        headers::strip_hop_by_hop(&mut head.headers);
        let protocol = protocol.unwrap_or_else(|| HeaderValue::from_static("websocket"));
        headers::set_upgrade(&mut head.headers, protocol);
        head.extensions.clear();
        let body = ResponseBody::own(Rc::clone(client), Bytes::new());
        return Ok(Response::from_parts(head, body));
    }
    let (mut head, incoming) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    // The version is a matter of each connection.
    head.version = Version::HTTP_11;
    let streamed = Streamed::new(incoming, sender, Rc::clone(pool), head.status, route);
    let body = ResponseBody::streamed(Rc::clone(client), streamed);
    Ok(Response::from_parts(head, body))
}

fn find_route(client: &Client, parts: &Parts) -> Option<Match> {
    let shared = &client.worker.shared;
    let begin = shared.settings.metrics.is_some().then(Instant::now);
    let host = shared.settings.host_routing.then(|| {
        let host = parts.headers.get(HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        without_port(host)
    });
    let found = shared.routes.find(host, parts.uri.path());
    if let Some(begin) = begin {
        client.worker.counters().count_lookup(begin.elapsed());
    }
    found
}

/// Makes the head of the request that the server gets from the one that the client sent.
fn prepare_head(
    client: &Client,
    parts: &mut Parts,
    found: &Match,
    websocket: bool,
) -> Result<(), Fault> {
    let settings = &client.worker.shared.settings;
    let target = &found.route.target;
    parts.version = Version::HTTP_11;
    parts.uri = upstream_uri(
        &parts.uri,
        target,
        found,
        settings.prepend_path,
        settings.include_prefix,
    )
    .ok_or(Fault::Internal(
        "the path and the target's path do not fit together",
    ))?;

    let protocol = if websocket {
        parts.headers.get(UPGRADE).cloned()
    } else {
        None
    };
    headers::strip_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = protocol {
        headers::set_upgrade(&mut parts.headers, protocol);
    }
    let host = parts.headers.get(HOST).cloned();
    if settings.x_forward {
        headers::add_x_forwarded(
            &mut parts.headers,
            client.peer.as_ref(),
            host.as_ref(),
            websocket,
            settings.tls.is_public(),
        );
    }
    if host.is_none() {
        parts.headers.insert(HOST, target.upstream.host.clone());
    }
    for (name, value) in &settings.custom_headers {
        parts.headers.insert(name, value.clone());
    }
    Ok(())
}

/// The URI for the server. Usually it is the client's, untouched to the last byte.
fn upstream_uri(
    uri: &Uri,
    target: &Target,
    found: &Match,
    prepend_path: bool,
    include_prefix: bool,
) -> Option<Uri> {
    let base_path = if prepend_path { &*target.base_path } else { "" };
    let base_query = if prepend_path {
        target.query.as_deref()
    } else {
        None
    };
    if base_path.is_empty() && base_query.is_none() && include_prefix {
        if uri.authority().is_none() {
            return Some(uri.clone());
        }
        let path = uri.path_and_query().cloned();
        return Some(Uri::from(
            path.unwrap_or_else(|| PathAndQuery::from_static("/")),
        ));
    }
    let path = if include_prefix {
        uri.path().into()
    } else {
        crate::path::without_prefix(uri.path(), found.depth)
    };
    let needs_slash = !path.starts_with('/') && (base_path.is_empty() || !path.is_empty());
    let slash = if needs_slash { "/" } else { "" };
    let mut joined = format!("{base_path}{slash}{path}");
    let queries = base_query.into_iter().chain(uri.query());
    for (query, separator) in queries.zip(['?', '&']) {
        joined.push(separator);
        joined.push_str(query);
    }
    joined.parse().ok()
}

/// Refuses what must not be forwarded, and brings the rest into the form that is.
fn check(parts: &mut Parts) -> Result<(), &'static str> {
    if parts.method == Method::CONNECT {
        return Err("CONNECT is not for this proxy");
    }
    if let Some(authority) = parts.uri.authority() {
        // RFC 9112 section 3.2.2: the host in the request line counts.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let host = HeaderValue::from_str(host).map_err(|_| "a bad host in the request line")?;
        parts.headers.insert(HOST, host);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err("more than one Host header"),
        (None, None) if parts.version == Version::HTTP_11 => Err("no Host header"),
        _ => Ok(()),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn health(client: Rc<Client>) -> Response<ResponseBody> {
    let body = ResponseBody::own(client, Bytes::from_static(b"{\"status\":\"OK\"}"));
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// 400, and the connection closes.
fn refuse(client: &Rc<Client>, parts: &Parts, reason: &'static str) -> Response<ResponseBody> {
    let fault = Fault::Downstream(reason);
    log(&fault, &parts.method, &parts.uri);
    counters_of(client, fault.status());
    let text = format!("Bad request: {reason}\n");
    let mut response = Response::new(ResponseBody::own(Rc::clone(client), text.into()));
    *response.status_mut() = fault.status();
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn answer_fault(
    client: Rc<Client>,
    fault: &Fault,
    method: &Method,
    uri: &Uri,
    websocket: bool,
) -> Response<ResponseBody> {
    log(fault, method, uri);
    let status = fault.status();
    counters_of(&client, status);
    // Who asked for a websocket does not look at pages.
    let page = if websocket {
        Page::default()
    } else {
        error_page::get(&client.worker, status, uri).await
    };
    let mut response = Response::new(ResponseBody::own(client, page.body));
    *response.status_mut() = status;
    *response.headers_mut() = page.headers;
    response
}

fn counters_of(client: &Client, status: StatusCode) {
    client.worker.counters().count_status(status);
}

/// One line for a request that its server did not answer, in the form of
/// configurable-http-proxy's, without the query, which may hold secrets.
fn log(fault: &Fault, method: &Method, uri: &Uri) {
    let status = fault.status().as_u16();
    let path: String = uri.path().escape_debug().take(300).collect();
    match fault {
        Fault::NoRoute | Fault::Downstream(_) => tracing::warn!("{status} {method} {path} {fault}"),
        Fault::Upstream(_) | Fault::Internal(_) => {
            tracing::error!("{status} {method} {path} {fault}");
        }
    }
}
