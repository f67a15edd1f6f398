//! A request's way: look up its route, send it to the server, pass the answer back.

use std::{borrow::Cow, cell::RefCell, rc::Rc, sync::atomic::Ordering, time::Instant};

use http::StatusCode;

use crate::{
    access_log::Record,
    answer::{Answer, ConnectionHeader, Page},
    client::{Client, Connection, Next, Phase},
    edge_cache::{self, Noting},
    error::{Fault, UpstreamFault},
    error_page,
    heads::Heads,
    http1::{
        framing::{Decoder, Framing},
        head::{Kind, RequestHead, ResponseHead},
    },
    pool::Leased,
    relay::{self, Broken, Outcome, Relay, Rules, Tally},
    routes::{Match, Route, RouteClass},
    settings::Settings,
    tunnel,
};

/// What is known of one request, and how its heads are written.
struct Exchange<'a> {
    client: &'a Client,
    settings: &'a Settings,
    head: &'a RequestHead,
    body: Framing,
    wants_websocket: bool,
    found: Option<Match>,
    /// The answer as it passes, when others may get it too.
    noting: RefCell<Option<Box<Noting>>>,
}

/// What the access log says of a request whose client left; no status of HTTP's.
const LEFT: u16 = 499;

/// Answers one request of a client.
pub(crate) async fn handle(
    client: &Client,
    connection: &mut Connection,
    head: &RequestHead,
) -> Next {
    let begin = Instant::now();
    let counters = client.worker.counters();
    if head.raw_target() == b"/_chp_healthz" {
        return health(client, connection, head).await;
    }
    let wants_websocket = head.wants_websocket();
    let count = if wants_websocket {
        &counters.ws
    } else {
        &counters.web
    };
    count.fetch_add(1, Ordering::Relaxed);
    let body = match head.framing() {
        Ok(body) => body,
        Err(reason) => {
            let exchange = Exchange::new(client, head, Framing::None, wants_websocket);
            let fault = Fault::Downstream(reason);
            let (tally, next) = exchange.answer_fault(connection, &fault, false).await;
            exchange.log(begin, tally);
            return next;
        }
    };
    let mut exchange = Exchange::new(client, head, body, wants_websocket);
    exchange.found = exchange.find_route();
    let mut logged = Logged {
        exchange: &exchange,
        begin,
        tally: Tally {
            status: LEFT,
            bytes: 0,
        },
    };
    let (tally, next) = exchange.run(connection).await;
    logged.tally = tally;
    next
}

/// Logs an exchange at its end. A stream of HTTP/2 that its client resets ends in the middle, by being
/// dropped.
struct Logged<'a> {
    exchange: &'a Exchange<'a>,
    begin: Instant,
    tally: Tally,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        self.exchange.log(self.begin, self.tally);
    }
}

async fn health(client: &Client, connection: &mut Connection, head: &RequestHead) -> Next {
    let exchange = Exchange::new(client, head, Framing::None, false);
    let answer = Answer {
        status: StatusCode::OK,
        headers: &[(b"Content-Type", b"application/json")],
        body: b"{\"status\":\"OK\"}",
        is_head: head.method() == b"HEAD",
        connection: exchange.connection_header(head.keeps_alive()),
    };
    // Nobody sends a body along; who does has to come again on another connection.
    let has_body = head.framing() != Ok(Framing::None);
    match client.send(connection, &answer).await {
        true if head.keeps_alive() && !has_body => Next::Request,
        true => Next::Close,
        false => Next::Cut,
    }
}

impl<'a> Exchange<'a> {
    fn new(
        client: &'a Client,
        head: &'a RequestHead,
        body: Framing,
        wants_websocket: bool,
    ) -> Self {
        Self {
            client,
            settings: &client.worker.shared.settings,
            head,
            body,
            wants_websocket: wants_websocket && body == Framing::None,
            found: None,
            noting: RefCell::default(),
        }
    }

    fn find_route(&self) -> Option<Match> {
        let shared = &self.client.worker.shared;
        let begin = self.settings.metrics.is_some().then(Instant::now);
        let host = self.settings.host_routing.then(|| {
            let host = self.head.host().unwrap_or_default();
            String::from_utf8_lossy(without_port(host))
        });
        let path = String::from_utf8_lossy(self.head.target().path);
        let found = shared.routes.find(host.as_deref(), &path);
        if let Some(begin) = begin {
            self.client.worker.counters().count_lookup(begin.elapsed());
        }
        found
    }

    async fn run(&self, connection: &mut Connection) -> (Tally, Next) {
        let Some(found) = &self.found else {
            return self.fail(connection, &Fault::NoRoute).await;
        };
        let route = &found.route;
        tracing::debug!(
            "PROXY {} {} to {}",
            if self.wants_websocket { "WS" } else { "WEB" },
            self.shown_path(),
            route.target_url
        );
        if let Some(answer) = self.look_into_cache(route) {
            return self.repeat(connection, &answer).await;
        }
        let mut kept = self.client.worker.pool.take(&route.target.upstream);
        loop {
            let mut leased = match kept.take() {
                Some(leased) => leased,
                None => match self.connect(route).await {
                    Ok(leased) => leased,
                    Err(fault) => return self.fail(connection, &fault).await,
                },
            };
            let mut head = self.client.worker.outboxes.take();
            self.heads().write_request(&mut head.bytes, found);
            let request = relay::Request {
                route,
                rules: self,
                head,
                body: self.body,
                is_awaited: self.head.fields.first(Kind::Expect).is_some(),
            };
            let relay = Relay::new(self.client, connection, leased.stream(), request);
            match relay.run().await {
                Ok(outcome) => return self.finish(connection, leased, outcome).await,
                // A pooled connection may have been closed by the server meanwhile. The next one is
                // new, so this happens once.
                Err(Broken::Upstream {
                    is_silent: true, ..
                }) if leased.is_used && self.is_repeatable() => {}
                Err(broken) => return self.broken(connection, route, broken).await,
            }
        }
    }

    /// The hub's answer for a server that does not run, if it is known; otherwise the hub's is noted
    /// as it passes.
    fn look_into_cache(&self, route: &Route) -> Option<Rc<edge_cache::Answer>> {
        let mut cache = self.client.worker.edge_cache.borrow_mut();
        let target = self.head.raw_target();
        if self.body != Framing::None || !cache.concerns(self.head.method(), target) {
            return None;
        }
        let values = |names: [&'static [u8]; 2]| {
            let fields = self.head.fields.iter();
            let wanted = move |name: &[u8]| names.iter().any(|own| name.eq_ignore_ascii_case(own));
            fields
                .filter(move |field| wanted(field.name))
                .map(|field| field.value)
        };
        let accept = values([b"accept", b""]).collect::<Vec<_>>().join(&b',');
        let key = cache.key(
            self.head.method(),
            target,
            &route.path,
            self.wants_websocket,
            Some(&accept),
            values([b"cookie", b"authorization"]),
        )?;
        let answer = cache.get(&key, Instant::now());
        if answer.is_none() {
            *self.noting.borrow_mut() = Some(Box::new(Noting::new(key)));
        }
        answer
    }

    /// Says again what the hub said.
    async fn repeat(
        &self,
        connection: &mut Connection,
        repeated: &edge_cache::Answer,
    ) -> (Tally, Next) {
        let counters = self.client.worker.counters();
        counters.edge_cache_hits.fetch_add(1, Ordering::Relaxed);
        self.count_status(repeated.status);
        let keeps_alive = self.may_keep_alive();
        let headers: Vec<(&[u8], &[u8])> = repeated
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let answer = Answer {
            status: StatusCode::from_u16(repeated.status).unwrap_or(StatusCode::FAILED_DEPENDENCY),
            headers: &headers,
            body: &repeated.body,
            is_head: false,
            connection: self.connection_header(keeps_alive),
        };
        let tally = Tally {
            status: repeated.status,
            bytes: repeated.body.len() as u64,
        };
        let next = match self.client.send(connection, &answer).await {
            true if keeps_alive => Next::Request,
            true => Next::Close,
            false => Next::Cut,
        };
        (tally, next)
    }

    async fn connect(&self, route: &Route) -> Result<Leased, Fault> {
        let Client {
            worker, control, ..
        } = self.client;
        control.enter(Phase::Connect, worker);
        let connecting = worker.pool.connect(&route.target.upstream);
        connecting.await.map_err(Fault::Upstream)
    }

    /// Whether sending the request twice does the same as sending it once.
    fn is_repeatable(&self) -> bool {
        self.body == Framing::None
            && matches!(
                self.head.method(),
                b"GET" | b"HEAD" | b"OPTIONS" | b"PUT" | b"DELETE"
            )
    }

    async fn finish(
        &self,
        connection: &mut Connection,
        leased: Leased,
        outcome: Outcome,
    ) -> (Tally, Next) {
        let tally = Tally {
            status: outcome.status,
            bytes: outcome.bytes,
        };
        self.count_status(tally.status);
        if let Some(noting) = self.noting.take() {
            let mut cache = self.client.worker.edge_cache.borrow_mut();
            noting.finish(&mut cache, Instant::now());
        }
        if let Some(received) = outcome.upgraded {
            let route = self.found.as_ref().map(|found| found.route.clone());
            let opened = tunnel::Opened {
                upstream: leased.into_stream(),
                received,
                route: route.expect("what was forwarded has a route"),
            };
            return (tally, Next::Tunnel(opened));
        }
        if outcome.upstream_is_reusable {
            leased.put_back();
        } else {
            drop(leased);
        }
        let mut next = if outcome.client_is_reusable {
            Next::Request
        } else {
            Next::Close
        };
        if let Some(mut rest) = outcome.rest
            && (rest.is_awaited || !connection.drain(self.client, &mut rest.decoder).await)
        {
            next = Next::Close;
        }
        (tally, next)
    }

    async fn broken(
        &self,
        connection: &mut Connection,
        route: &Route,
        broken: Broken,
    ) -> (Tally, Next) {
        let address = || route.target.upstream.address.to_string();
        let fault = match broken {
            Broken::Client => {
                return (
                    Tally {
                        status: LEFT,
                        bytes: 0,
                    },
                    Next::Cut,
                );
            }
            Broken::HalfAnswer(tally) => {
                tracing::warn!(
                    "upstream: {} broke off in the middle of an answer, and so did the answer",
                    address()
                );
                return (tally, Next::Cut);
            }
            Broken::BadBody => Fault::Downstream("a chunk that is none"),
            Broken::BadAnswer(reason) => Fault::Upstream(UpstreamFault::Exchange {
                address: address(),
                reason: Cow::Borrowed(reason),
            }),
            Broken::Upstream { error, .. } => Fault::Upstream(UpstreamFault::Exchange {
                address: address(),
                reason: match error.kind() {
                    std::io::ErrorKind::UnexpectedEof => {
                        Cow::Borrowed("it closed the connection before an answer")
                    }
                    std::io::ErrorKind::TimedOut => Cow::Borrowed("it was silent for too long"),
                    _ => Cow::Owned(error.to_string()),
                },
            }),
        };
        // How much of a body was read is not known any more.
        let may_continue = self.body == Framing::None;
        self.answer_fault(connection, &fault, may_continue).await
    }

    /// Answers a request of which no byte of a body has been read.
    async fn fail(&self, connection: &mut Connection, fault: &Fault) -> (Tally, Next) {
        // Who waits to be asked for a body may send it, or the next request.
        let may_continue =
            self.body == Framing::None || self.head.fields.first(Kind::Expect).is_none();
        let (tally, mut next) = self.answer_fault(connection, fault, may_continue).await;
        let mut body = Decoder::new(self.body);
        if matches!(next, Next::Request) && !connection.drain(self.client, &mut body).await {
            next = Next::Close;
        }
        (tally, next)
    }

    /// `may_continue`: whether it is known where the next request begins.
    async fn answer_fault(
        &self,
        connection: &mut Connection,
        fault: &Fault,
        may_continue: bool,
    ) -> (Tally, Next) {
        self.log_fault(fault);
        let status = fault.status();
        self.count_status(status.as_u16());
        let page = match fault {
            Fault::Downstream(reason) => Page {
                headers: vec![("Content-Type".into(), "text/plain".into())],
                body: format!("Bad request: {reason}\n").into(),
            },
            // Who asked for a websocket does not look at pages.
            _ if self.wants_websocket => Page::default(),
            _ => {
                self.client
                    .control
                    .enter(Phase::Connect, &self.client.worker);
                let target = String::from_utf8_lossy(self.head.raw_target());
                error_page::get(&self.client.worker, status, &target).await
            }
        };
        let keeps_alive = may_continue && self.may_keep_alive();
        let headers: Vec<(&[u8], &[u8])> = page
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let answer = Answer {
            status,
            headers: &headers,
            body: &page.body,
            is_head: self.head.method() == b"HEAD",
            connection: self.connection_header(keeps_alive),
        };
        let tally = Tally {
            status: status.as_u16(),
            bytes: page.body.len() as u64,
        };
        let next = match self.client.send(connection, &answer).await {
            true if keeps_alive => Next::Request,
            true => Next::Close,
            false => Next::Cut,
        };
        (tally, next)
    }

    /// Whether the client's connection may stay open after an answer of our own.
    fn may_keep_alive(&self) -> bool {
        // After a request for a websocket another protocol may follow.
        self.keeps_alive() && !self.wants_websocket && !self.client.worker.is_leaving()
    }

    fn connection_header(&self, keeps_alive: bool) -> ConnectionHeader {
        self.heads().connection_header(keeps_alive)
    }

    fn heads(&self) -> Heads<'_> {
        Heads {
            settings: self.settings,
            peer: self.client.peer,
            head: self.head,
            wants_websocket: self.wants_websocket,
            found: self.found.as_ref(),
        }
    }

    fn count_status(&self, status: u16) {
        if let Ok(status) = StatusCode::from_u16(status) {
            self.client.worker.counters().count_status(status);
        }
    }

    /// One line for a request that its server did not answer, in the form of
    /// configurable-http-proxy's, without the query, which may hold secrets.
    fn log_fault(&self, fault: &Fault) {
        let status = fault.status().as_u16();
        let (method, path) = (shown(self.head.method()), self.shown_path());
        match fault {
            Fault::NoRoute | Fault::Downstream(_) => {
                tracing::warn!("{status} {method} {path} {fault}");
            }
            Fault::Upstream(_) => {
                tracing::error!("{status} {method} {path} {fault}");
            }
        }
    }

    fn shown_path(&self) -> String {
        shown(self.head.target().path)
    }

    fn log(&self, begin: Instant, tally: Tally) {
        let duration = begin.elapsed();
        let class = self
            .found
            .as_ref()
            .map_or(RouteClass::Other, |found| found.route.class);
        let counters = self.client.worker.counters();
        counters.count_latency(class, duration);
        if let Some(log) = &self.settings.access_log {
            log.write(&Record {
                peer: self.client.peer,
                method: self.head.method(),
                target: self.head.raw_target(),
                version: match (self.client.is_http2, self.head.is_http_11) {
                    (true, _) => "HTTP/2.0",
                    (false, true) => "HTTP/1.1",
                    (false, false) => "HTTP/1.0",
                },
                status: tally.status,
                bytes: tally.bytes,
                referer: self.head.fields.named(b"referer"),
                user_agent: self.head.fields.named(b"user-agent"),
                duration,
                route: self.found.as_ref().map(|found| &*found.route.path),
            });
        }
    }
}

impl Rules for Exchange<'_> {
    fn note(&self, piece: &[u8]) {
        if let Some(noting) = &mut *self.noting.borrow_mut() {
            noting.body(piece);
        }
    }

    fn method(&self) -> &[u8] {
        self.head.method()
    }

    fn wants_websocket(&self) -> bool {
        self.wants_websocket
    }

    fn client_is_http_11(&self) -> bool {
        self.head.is_http_11
    }

    fn keeps_alive(&self) -> bool {
        self.head.keeps_alive()
    }

    fn write_head(
        &self,
        out: &mut Vec<u8>,
        head: &ResponseHead,
        is_chunked: bool,
        keeps_alive: bool,
    ) {
        if let Some(noting) = &mut *self.noting.borrow_mut() {
            let cache = self.client.worker.edge_cache.borrow();
            let fields = head.fields.iter().filter(|field| !field.is_listed);
            noting.head(
                &cache,
                head.status,
                fields.map(|field| (field.name, field.value)),
            );
        }
        self.heads()
            .write_answer(out, head, is_chunked, keeps_alive);
    }
}

/// Bytes of a client as the log may show them.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.escape_debug().take(300).collect()
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if host[colon + 1..].iter().all(u8::is_ascii_digit) => &host[..colon],
        _ => host,
    }
}
