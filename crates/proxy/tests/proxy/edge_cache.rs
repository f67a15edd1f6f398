//! Tabs of servers that do not run, a hub that counts what it is asked, and the proxy between them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use orrery_proxy::{Options, OurOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Answer, Origin, Proxy};

const SESSION: &str = "Cookie: jupyterhub-session-id=0123456789abcdef0123456789abcdef\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Which hub answers.
#[derive(Clone, Copy)]
enum Kind {
    /// Marks its answers, as Orrery's.
    Marking,
    /// Sends everybody to `/hub/user/…`, and there whoever has no session to the login, as `JupyterHub`.
    Redirecting,
    /// Breaks off in the middle of its answer.
    Breaking,
}

/// A hub that counts its requests.
struct Hub {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Hub {
    async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, kind, Arc::clone(&count)));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::Relaxed)
    }

    async fn proxy(&self, edge_cache: Option<u64>) -> Proxy {
        Proxy::start(Options {
            default_target: Some(format!("http://{}", self.address)),
            ours: OurOptions {
                threads: Some(1),
                edge_cache,
                ..OurOptions::default()
            },
            ..Options::default()
        })
        .await
    }
}

async fn serve(mut stream: TcpStream, kind: Kind, asked: Arc<AtomicUsize>) {
    let mut received = Vec::new();
    loop {
        while !received.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(std::mem::take(&mut received)).unwrap();
        asked.fetch_add(1, Ordering::Relaxed);
        let target = head.split(' ').nth(1).unwrap();
        let path = target.split('?').next().unwrap();
        let answer = match (kind, path.strip_prefix("/hub")) {
            (Kind::Redirecting, Some(told)) if head.contains("jupyterhub-session-id=") => format!(
                "HTTP/1.1 424 Failed Dependency\r\nServer: hub\r\nContent-Type: application/json\r\n\
                 X-JupyterHub-Version: 6.1.1\r\nDate: now\r\nContent-Length: {}\r\n\r\n{}",
                sentence(told).len(),
                sentence(told),
            ),
            (Kind::Redirecting, Some(_)) => {
                "HTTP/1.1 302 Found\r\nLocation: /hub/login\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            (Kind::Redirecting, None) => {
                format!("HTTP/1.1 302 Found\r\nLocation: /hub{target}\r\nContent-Length: 0\r\n\r\n")
            }
            (Kind::Marking, _) => {
                "HTTP/1.1 424 Failed Dependency\r\nX-Orrery-Stopped: 300\r\nContent-Length: 7\r\n\r\nstopped"
                    .to_owned()
            }
            (Kind::Breaking, _) => {
                "HTTP/1.1 424 Failed Dependency\r\nX-Orrery-Stopped: 300\r\nContent-Length: 7\r\n\r\nsto"
                    .to_owned()
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || matches!(kind, Kind::Breaking) {
            return;
        }
    }
}

fn sentence(path: &str) -> String {
    format!(
        "{{\"message\": \"JupyterHub server no longer running at {path}. Restart the server at http://h/hub/spawn/ada\"}}"
    )
}

/// A tab's question on a connection of its own.
async fn ask(proxy: &Proxy, path: &str, headers: &str) -> Answer {
    let connection = if headers.contains("Upgrade") {
        ""
    } else {
        "Connection: close\r\n"
    };
    proxy
        .raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\n{connection}{headers}\r\n"
        ))
        .await
}

#[tokio::test]
async fn a_hub_that_marks_its_answer_is_asked_once_for_each_server() {
    let hub = Hub::start(Kind::Marking).await;
    let proxy = hub.proxy(None).await;
    for number in 0..50 {
        let path = format!("/user/ada/api/kernels?{number}");
        let answer = ask(&proxy, &path, "").await;
        assert_eq!((answer.status, answer.text()), (424, "stopped".to_owned()));
        assert_eq!(ask(&proxy, "/user/bob/api/sessions", "").await.status, 424);
        let path = "/user/ada/api/kernels/1/channels";
        assert_eq!(ask(&proxy, path, WEBSOCKET).await.status, 424);
    }
    assert_eq!(hub.asked(), 2);
    // People, other methods and the hub's own pages are for the hub.
    ask(&proxy, "/user/ada/api/kernels", "Accept: text/html\r\n").await;
    ask(&proxy, "/user/ada/lab", "").await;
    ask(&proxy, "/hub/user/ada/api/kernels", "").await;
    let post = "POST /user/ada/api/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    proxy.raw(post).await;
    assert_eq!(hub.asked(), 4);
}

#[tokio::test]
async fn what_jupyterhub_says_to_ada_is_repeated_to_ada_alone() {
    let hub = Hub::start(Kind::Redirecting).await;
    let proxy = hub.proxy(None).await;
    let first = ask(&proxy, "/user/ada/api/kernels?1", SESSION).await;
    assert_eq!(first.status, 302);
    let told = ask(&proxy, "/hub/user/ada/api/kernels?1", SESSION).await;
    assert_eq!(told.status, 424);
    assert_eq!(hub.asked(), 2);
    for number in 0..50 {
        let path = format!("/user/ada/api/kernels/{number}");
        let answer = ask(&proxy, &format!("{path}?x=1"), SESSION).await;
        assert_eq!((answer.status, answer.text()), (424, sentence(&path)));
        assert_eq!(answer.headers("server"), ["hub"]);
        assert!(answer.headers("date").is_empty());
        let path = "/user/ada/terminals/websocket/1";
        let answer = ask(&proxy, path, &format!("{SESSION}{WEBSOCKET}")).await;
        assert_eq!(answer.status, 424);
    }
    assert_eq!(hub.asked(), 0);
    for headers in ["", "Cookie: jupyterhub-session-id=00000000000000000000\r\n"] {
        let answer = ask(&proxy, "/user/ada/api/kernels", headers).await;
        assert_eq!(answer.status, 302);
    }
    assert_eq!(hub.asked(), 2);
}

#[tokio::test]
async fn a_server_that_has_come_up_is_not_hidden() {
    let hub = Hub::start(Kind::Marking).await;
    let proxy = hub.proxy(None).await;
    assert_eq!(ask(&proxy, "/user/ada/api/x", "").await.status, 424);
    let server = Origin::start().await;
    proxy.add("/user/ada", &server.url()).await;
    assert_eq!(ask(&proxy, "/user/ada/api/x", "").await.status, 200);
    assert_eq!(ask(&proxy, "/user/bob/api/x", "").await.status, 424);
    assert_eq!(hub.asked(), 2);
    proxy.api("DELETE", "/api/routes/user/ada", "").await;
    assert_eq!(ask(&proxy, "/user/ada/api/x", "").await.status, 424);
    assert_eq!(hub.asked(), 0);
}

#[tokio::test]
async fn without_a_lifetime_the_hub_is_asked_each_time() {
    let hub = Hub::start(Kind::Marking).await;
    let proxy = hub.proxy(Some(0)).await;
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "/user/ada/api/x", "").await.status, 424);
    }
    assert_eq!(hub.asked(), 3);
}

#[tokio::test]
async fn half_an_answer_is_repeated_to_nobody() {
    let hub = Hub::start(Kind::Breaking).await;
    let proxy = hub.proxy(None).await;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let request = "GET /user/ada/api/x HTTP/1.1\r\nHost: h\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The proxy cuts the connection, as the hub did.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("stopped"));
    }
    assert_eq!(hub.asked(), 3);
}

/// A repeated answer leaves the connection as the hub's would.
#[tokio::test]
async fn requests_in_a_row_are_answered_in_a_row() {
    let hub = Hub::start(Kind::Marking).await;
    let proxy = hub.proxy(None).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut requests = "GET /user/ada/api/x HTTP/1.1\r\nHost: h\r\n\r\n".repeat(20);
    requests += "GET /user/ada/api/last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(
        answers
            .matches("HTTP/1.1 424 Failed Dependency\r\n")
            .count(),
        21
    );
    assert_eq!(answers.matches("stopped").count(), 21);
    assert!(answers.ends_with("stopped"), "{answers}");
    assert_eq!(hub.asked(), 1);
}
