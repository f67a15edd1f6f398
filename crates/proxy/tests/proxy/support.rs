//! A proxy, a server behind it, and clients that see every byte.
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use orrery_proxy::{Options, OurOptions, ProxyHandle, Token};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, handshake::derive_accept_key, protocol::Role},
};

pub(crate) const TOKEN: &str = "the-token";

/// No step of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, wait).await.is_ok(),
        "never: {what}"
    );
}

/// The URL of a port that nobody listens on.
pub(crate) fn dead_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

// === The proxy ===

/// Options with a state file.
pub(crate) fn keeping_routes_in(path: &Path) -> Options {
    Options {
        ours: OurOptions {
            state_file: Some(path.to_owned()),
            ..OurOptions::default()
        },
        ..Options::default()
    }
}

pub(crate) struct Proxy {
    pub(crate) handle: ProxyHandle,
}

impl Proxy {
    pub(crate) async fn start(mut options: Options) -> Self {
        options.auth_token = Token::new(TOKEN);
        Self::start_without_token(options).await
    }

    pub(crate) async fn start_without_token(mut options: Options) -> Self {
        options.ip = Some("127.0.0.1".to_owned());
        options.port = Some(0);
        let handle = orrery_proxy::start(options).await.unwrap();
        Self { handle }
    }

    /// A proxy whose root route leads to `origin`.
    pub(crate) async fn with_root(origin: &Origin) -> Self {
        Self::start(Options {
            default_target: Some(origin.url()),
            ..Options::default()
        })
        .await
    }

    /// The same with one worker, and so with one pool of connections.
    pub(crate) async fn with_one_worker(origin: &Origin) -> Self {
        Self::start(Options {
            default_target: Some(origin.url()),
            ours: OurOptions {
                threads: Some(1),
                ..OurOptions::default()
            },
            ..Options::default()
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.address().unwrap()
    }

    pub(crate) fn api_address(&self) -> SocketAddr {
        self.handle.api_address().unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    /// Sends these bytes on a new connection and reads the answer.
    pub(crate) async fn raw(&self, request: &str) -> Answer {
        raw_exchange(self.address(), request).await
    }

    pub(crate) async fn api(&self, method: &str, path: &str, body: &str) -> Answer {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Authorization: token {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw_exchange(self.api_address(), &request).await
    }

    pub(crate) async fn add(&self, path: &str, target: &str) {
        let body = format!(r#"{{"target":"{target}"}}"#);
        let answer = self.api("POST", &format!("/api/routes{path}"), &body).await;
        assert_eq!(answer.status, 201);
    }

    pub(crate) async fn websocket(
        &self,
        path: &str,
    ) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, tungstenite::Error> {
        let url = format!("ws://{}{path}", self.address());
        tokio::time::timeout(DEADLINE, tokio_tungstenite::connect_async(url))
            .await
            .unwrap()
            .map(|(socket, _)| socket)
    }
}

// === Clients ===

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let matching = self.headers.iter().filter(|(other, _)| other == name);
        matching.map(|(_, value)| value.clone()).collect()
    }
}

/// Sends these bytes and reads one answer: to the end of its body when that is known, else to the
/// end of the connection.
pub(crate) async fn raw_exchange(address: SocketAddr, request: &str) -> Answer {
    exchange(Raw::connect_to(address).await, request).await
}

/// The same on a connection that is there.
pub(crate) async fn exchange(mut raw: Raw, request: &str) -> Answer {
    raw.send(request).await;
    let head = raw.until("\r\n\r\n").await;
    let (head, _) = head.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut answer = Answer {
        status: status.parse().unwrap(),
        headers,
        body: Vec::new(),
    };
    let length = answer
        .headers("content-length")
        .first()
        .map(|length| length.parse().unwrap());
    let has_body = !request.starts_with("HEAD");
    answer.body = match length {
        _ if !has_body => raw.rest_bytes().await,
        Some(length) => raw.exactly(length).await,
        None if answer.headers("transfer-encoding").is_empty() => raw.rest_bytes().await,
        None => {
            let chunks = raw.until("0\r\n\r\n").await;
            unchunk(&chunks)
        }
    };
    answer
}

fn unchunk(mut chunks: &str) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&rest.as_bytes()[..length]);
        chunks = &rest[length + 2..];
    }
}

/// Bytes in both directions, plain or in TLS.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection whose bytes the test writes and reads itself.
pub(crate) struct Raw {
    stream: Box<dyn Duplex>,
    /// Received, not yet looked at.
    received: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(proxy: &Proxy) -> Self {
        Self::connect_to(proxy.address()).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }

    pub(crate) fn over(stream: impl Duplex + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            received: Vec::new(),
        }
    }

    /// An answer may come, and the connection close, before all is sent.
    pub(crate) async fn send(&mut self, bytes: &str) {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let received = &mut self.received;
        let read = async {
            let mut buffer = vec![0; 65536];
            loop {
                match reader.read(&mut buffer).await {
                    Ok(0) | Err(_) => return std::future::pending::<()>().await,
                    Ok(length) => received.extend_from_slice(&buffer[..length]),
                }
            }
        };
        tokio::select! {
            biased;
            _ = async {
                let _ = writer.write_all(bytes.as_bytes()).await;
                writer.flush().await
            } => {}
            () = read => {}
            () = tokio::time::sleep(DEADLINE) => panic!("the request is not taken"),
        }
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads until `text` has come, and returns all up to its end.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self
                .received
                .windows(text.len())
                .position(|window| window == text.as_bytes());
            if let Some(position) = found {
                let rest = self.received.split_off(position + text.len());
                let seen = std::mem::replace(&mut self.received, rest);
                return String::from_utf8(seen).unwrap();
            }
            let more = self.more().await;
            let seen = String::from_utf8_lossy(&self.received);
            assert!(
                more,
                "the connection closed before {text:?}; there was {seen:?}"
            );
        }
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            assert!(self.more().await, "the body is too short");
        }
        let rest = self.received.split_off(length);
        std::mem::replace(&mut self.received, rest)
    }

    /// Everything until the connection closes.
    pub(crate) async fn rest(&mut self) -> String {
        String::from_utf8(self.rest_bytes().await).unwrap()
    }

    pub(crate) async fn rest_bytes(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.received)
    }

    async fn more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.received);
        let read = tokio::time::timeout(DEADLINE, read).await;
        read.expect("the other side is silent")
            .is_ok_and(|length| length > 0)
    }
}

// === The server behind the proxy ===

type Body = BoxBody<Bytes, std::io::Error>;

/// A server that tells in its answers what it got, or misbehaves as the path asks.
pub(crate) struct Origin {
    pub(crate) address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    open: AtomicUsize,
    paths: Mutex<Vec<String>>,
}

struct OpenConnection(Arc<State>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    /// A server that speaks TLS.
    pub(crate) async fn start_tls(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, shared).await;
                    }
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn start_unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address: path.display().to_string(),
            state,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.paths().len()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.state.paths.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    state.connections.fetch_add(1, Ordering::SeqCst);
    state.open.fetch_add(1, Ordering::SeqCst);
    let open = Arc::new(OpenConnection(Arc::clone(&state)));
    let close_next = Arc::new(AtomicUsize::new(0));
    let service = service_fn(move |request: Request<Incoming>| {
        let open = Arc::clone(&open);
        let close_next = Arc::clone(&close_next);
        async move {
            let path = request.uri().path().to_owned();
            open.0.paths.lock().unwrap().push(path.clone());
            if close_next.load(Ordering::SeqCst) > 0 || path.ends_with("/vanish") {
                return Err(std::io::Error::other("closed as announced"));
            }
            if path.ends_with("/close-next") {
                close_next.store(1, Ordering::SeqCst);
            }
            Ok(answer(request, &path, open).await)
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

async fn answer(
    mut request: Request<Incoming>,
    path: &str,
    open: Arc<OpenConnection>,
) -> Response<Body> {
    let line = format!("{} {}", request.method(), request.uri());
    match path.rsplit('/').next().unwrap() {
        "headers" => {
            let mut response = Response::new(text(&list(request.headers())));
            let headers = response.headers_mut();
            for (name, value) in [
                (header::SET_COOKIE, "a=1"),
                (header::SET_COOKIE, "b=2"),
                (header::CONNECTION, "x-hop"),
            ] {
                headers.append(name, value.parse().unwrap());
            }
            headers.insert("x-hop", "1".parse().unwrap());
            headers.insert("keep-alive", "timeout=5".parse().unwrap());
            response
        }
        "echo" => Response::new(request.into_body().map_err(std::io::Error::other).boxed()),
        "read" => {
            let _ = request.into_body().collect().await;
            Response::new(text("read"))
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(700)).await;
            Response::new(text(&line))
        }
        "hang" => std::future::pending().await,
        "die" => {
            let pieces =
                stream::iter([Ok(Frame::data("half".into()))]).chain(stream::once(async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(std::io::Error::other("died"))
                }));
            Response::new(BodyExt::boxed(StreamBody::new(pieces)))
        }
        "missing" => status(404, &line),
        "refuse" => {
            let mut response = status(403, "no");
            response
                .headers_mut()
                .insert("x-reason", "closed".parse().unwrap());
            response
        }
        "upgrade" => upgrade(request, open, false),
        _ if path.contains("/ws") => {
            let key = request.headers_mut().remove("sec-websocket-key");
            let key = key.expect("a websocket has a key");
            let mut response = upgrade(request, open, true);
            let accept = derive_accept_key(key.as_bytes()).parse().unwrap();
            response
                .headers_mut()
                .insert("sec-websocket-accept", accept);
            response
        }
        _ => {
            let mut response = Response::new(text(&line));
            let plain = "text/plain".parse().unwrap();
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        }
    }
}

/// Changes to echoing, of websocket messages or of plain bytes.
fn upgrade(
    request: Request<Incoming>,
    open: Arc<OpenConnection>,
    messages: bool,
) -> Response<Body> {
    tokio::spawn(async move {
        let _open = open;
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut io = TokioIo::new(upgraded);
        if messages {
            let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            while let Some(Ok(message)) = socket.next().await {
                if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err()
                {
                    break;
                }
            }
        } else {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = io.read(&mut buffer).await {
                let _ = io.write_all(&buffer[..length]).await;
            }
        }
    });
    let mut response = Response::new(text(""));
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, "Upgrade".parse().unwrap());
    headers.insert(header::UPGRADE, "websocket".parse().unwrap());
    response
}

fn list(headers: &HeaderMap) -> String {
    let line = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        format!("{name}: {}\n", value.to_str().unwrap())
    };
    headers.iter().map(line).collect()
}

fn status(code: u16, content: &str) -> Response<Body> {
    let mut response = Response::new(text(content));
    *response.status_mut() = code.try_into().unwrap();
    response
}

fn text(content: &str) -> Body {
    let body = Full::new(Bytes::from(content.to_owned()));
    body.map_err(|never: Infallible| match never {}).boxed()
}

/// A server that answers as soon as it has a head, and closes without reading the body.
pub(crate) async fn hasty_origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
            let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    url
}
