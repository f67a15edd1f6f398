//! HTTP/2 over real sockets: a client of the h2 crate, and one that writes its frames itself.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[path = "tls/authority.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of TLS, which use all of it"
)]
mod authority;
#[expect(
    dead_code,
    reason = "shared with the proxy's other tests, which use all of it"
)]
mod support;

mod frames;

use std::{
    fmt::Write,
    future::poll_fn,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use authority::{Authority, Pair};
use bytes::Bytes;
use frames::{End, Frames};
use h2::{
    Reason, RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, Response};
use orrery_proxy::{Options, OurOptions};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use support::{Origin, Proxy, Raw, TOKEN, eventually, exchange, hasty_origin};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// No step of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

// === What is sent and received ===

#[tokio::test]
async fn a_page_comes_over_http2() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    for path in [
        "/user/a%40b/../c",
        "//host/path",
        "/x?",
        "/q?a=1&a=2&&b",
        "/%zz/%ff",
    ] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, format!("GET {path}")));
    }
    assert_eq!(client.get("/missing").await.status, 404);
    assert_eq!(client.get("/x").await.headers["content-type"], "text/plain");
}

#[tokio::test]
async fn every_escape_of_a_name_reaches_its_server() {
    const NAMES: [&str; 6] = ["ada", "a@b", "é ü", "100%", "x+y;z", "...z"];
    let hub = Origin::start().await;
    let site = Site::with_root(&hub.url()).await;
    let client = site.client().await;
    let mut origins = Vec::new();
    for name in NAMES {
        let origin = Origin::start().await;
        let path = format!("/user/{}", escape(name, u64::MAX));
        site.proxy.add(&path, &origin.url()).await;
        origins.push(origin);
    }
    // Numbers that differ in all bits, the same in each run.
    let mut choice: u64 = 0x9e37_79b9_7f4a_7c15;
    for (name, origin) in NAMES.iter().zip(&origins) {
        for round in 1..=20 {
            choice = choice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(round);
            let path = format!("/user/{}/lab", escape(name, choice));
            let answer = client.get(&path).await;
            assert_eq!((answer.status, answer.text()), (200, format!("GET {path}")));
            let stream = site.connect_to(site.proxy.address(), &["http/1.1"]).await;
            let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            let answer = exchange(Raw::over(stream), &request).await;
            assert_eq!(answer.text(), format!("GET {path}"));
        }
        assert_eq!(origin.requests(), 40, "{name}");
    }
    assert_eq!(hub.requests(), 0);
}

/// The name with those characters escaped that must be, and others as `choice` has it.
fn escape(name: &str, mut choice: u64) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        choice = choice.rotate_right(2);
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~@+;".contains(&byte);
        match choice & 3 {
            _ if is_plain && choice & 1 == 0 => escaped.push(char::from(byte)),
            2 | 3 => write!(escaped, "%{byte:02X}").unwrap(),
            _ => write!(escaped, "%{byte:02x}").unwrap(),
        }
    }
    escaped
}

#[tokio::test]
async fn headers_reach_the_server_as_http1_has_them() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client
        .request(Method::GET, "/headers")
        .header("x-b", "1")
        .header("cookie", "a=1")
        .header("x-a", "2")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .header("x-forwarded-for", "9.9.9.9")
        .body(())
        .unwrap();
    let answer = client.exchange(request).await;
    let port = site.proxy.address().port();
    assert_eq!(
        answer.text(),
        format!(
            "host: localhost:{port}\nx-b: 1\ncookie: a=1; b=2\nx-a: 2\n\
             x-forwarded-for: 9.9.9.9,127.0.0.1\nx-forwarded-port: {port}\n\
             x-forwarded-proto: https\nx-forwarded-host: localhost:{port}\n"
        )
    );
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    for hop_by_hop in ["connection", "keep-alive", "x-hop", "transfer-encoding"] {
        assert!(!answer.headers.contains_key(hop_by_hop), "{hop_by_hop}");
    }
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    // The origin echoes each piece; the first must be back before the second is sent.
    let request = client.request(Method::POST, "/echo").body(()).unwrap();
    let (answer, mut upload) = client.send(request, false).await;
    send_all(&mut upload, b"abc", false).await;
    let mut answer = within(answer).await.unwrap();
    assert_eq!(piece(answer.body_mut()).await.unwrap().unwrap(), "abc");
    send_all(&mut upload, b"defg", false).await;
    assert_eq!(piece(answer.body_mut()).await.unwrap().unwrap(), "defg");
    send_all(&mut upload, b"", true).await;
    assert!(piece(answer.body_mut()).await.is_none());

    // More than all windows, with its length and without.
    let long = "x".repeat(5_000_000);
    for length in [None, Some(long.len())] {
        let mut request = client.request(Method::PUT, "/echo");
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        let (answer, mut upload) = client.send(request.body(()).unwrap(), false).await;
        let (body, ()) = tokio::join!(
            async { read(within(answer).await.unwrap()).await.unwrap() },
            send_all(&mut upload, long.as_bytes(), true),
        );
        assert_eq!(body.text().len(), long.len());
    }
    // Bodies where one expects none.
    for method in [Method::GET, Method::DELETE] {
        let request = client.request(method, "/echo").body(()).unwrap();
        let (answer, mut upload) = client.send(request, false).await;
        send_all(&mut upload, b"odd", true).await;
        let answer = read(within(answer).await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), "odd");
    }
    assert_eq!(origin.requests(), 5);
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (url, mut requests) = scripted().await;
    let site = Site::with_root(&url).await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/events").body(()).unwrap();
    let (answer, _) = client.send(request, true).await;
    let mut server = requests.recv().await.unwrap();
    // The head comes before anything of the body.
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    server.send(head).await;
    let mut answer = within(answer).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    for _ in 0..3 {
        server.send("9\r\ndata: 1\n\n\r\n").await;
        let event = piece(answer.body_mut()).await.unwrap().unwrap();
        assert_eq!(event, "data: 1\n\n");
    }
    server.send("0\r\n\r\n").await;
    assert!(piece(answer.body_mut()).await.is_none());
}

#[tokio::test]
async fn answers_without_a_body() {
    let (url, mut requests) = scripted().await;
    let site = Site::with_root(&url).await;
    let client = site.client().await;
    for (method, head, status) in [
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            200,
        ),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", 204),
        (
            Method::GET,
            "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
            304,
        ),
        (
            Method::POST,
            "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
            201,
        ),
    ] {
        let request = client.request(method.clone(), "/x").body(()).unwrap();
        let (answer, _) = client.send(request, true).await;
        let mut server = requests.recv().await.unwrap();
        assert_eq!(
            server.head.contains("\r\ncontent-length: 0\r\n"),
            method == Method::POST,
            "{}",
            server.head
        );
        server.send(head).await;
        let answer = within(answer).await.unwrap();
        assert!(answer.body().is_end_stream(), "{status}");
        let answer = read(answer).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        if method == Method::HEAD {
            assert_eq!(answer.headers["content-length"], "7");
        }
    }
}

#[tokio::test]
async fn trailers_follow_in_both_directions() {
    let (url, mut requests) = scripted().await;
    let site = Site::with_root(&url).await;
    let client = site.client().await;
    let request = client
        .request(Method::POST, "/x")
        .header("trailer", "x-sum")
        .header("te", "trailers");
    let (answer, mut upload) = client.send(request.body(()).unwrap(), false).await;
    upload.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "17".parse().unwrap());
    upload.send_trailers(trailers).unwrap();
    let mut server = requests.recv().await.unwrap();
    let body = server.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(body.ends_with("0\r\nx-sum: 17\r\n\r\n"), "{body:?}");
    server
        .send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n\
             3\r\nabc\r\n0\r\nX-End: 4\r\n\r\n",
        )
        .await;
    let answer = read(within(answer).await.unwrap()).await.unwrap();
    assert_eq!(
        (answer.text().as_str(), &answer.trailers["x-end"]),
        ("abc", &"4".parse().unwrap())
    );
}

#[tokio::test]
async fn a_client_may_ask_before_it_sends_its_body() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client
        .request(Method::POST, "/read")
        .header("expect", "100-continue")
        .header("content-length", "5");
    let (mut answer, mut upload) = client.send(request.body(()).unwrap(), false).await;
    let interim = within(poll_fn(|cx| answer.poll_informational(cx))).await;
    assert_eq!(interim.unwrap().unwrap().status(), 100);
    send_all(&mut upload, b"hello", true).await;
    let answer = read(within(answer).await.unwrap()).await.unwrap();
    assert_eq!(answer.text(), "read");
}

#[tokio::test]
async fn many_requests_run_at_a_time() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let begun = Instant::now();
    let answers = (0..100).map(|index| {
        let client = &client;
        async move { client.get(&format!("/{index}/slow")).await.text() }
    });
    let answers = within(futures_util::future::join_all(answers)).await;
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer, &format!("GET /{index}/slow"));
    }
    // Each takes 0.7 seconds.
    assert!(begun.elapsed() < Duration::from_secs(15));
}

// === Ends before the end ===

#[tokio::test]
async fn a_client_that_resets_ends_its_request_alone() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/hang").body(()).unwrap();
    let (answer, mut upload) = client.send(request, true).await;
    eventually("the request arrives", || origin.requests() == 1).await;
    upload.send_reset(Reason::CANCEL);
    assert!(within(answer).await.is_err());
    eventually("the server is left", || origin.open_connections() == 0).await;

    // In the middle of an upload: the server must not take it for a whole one.
    let (url, mut requests) = scripted().await;
    site.proxy.add("/scripted", &url).await;
    let request = client
        .request(Method::POST, "/scripted/x")
        .body(())
        .unwrap();
    let (answer, mut upload) = client.send(request, false).await;
    upload.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut server = within(requests.recv()).await.unwrap();
    server.until("abc\r\n").await;
    drop((answer, upload));
    let mut rest = Vec::new();
    let _ = within(server.stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
    // And of a download.
    let request = client.request(Method::POST, "/echo").body(()).unwrap();
    let (answer, mut upload) = client.send(request, false).await;
    upload.send_data(Bytes::from_static(b"abc"), false).unwrap();
    let mut answer = within(answer).await.unwrap();
    assert_eq!(piece(answer.body_mut()).await.unwrap().unwrap(), "abc");
    drop((answer, upload));
    eventually("the server is left", || origin.open_connections() == 0).await;

    assert_eq!(client.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_client_that_closes_ends_its_requests() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/hang").body(()).unwrap();
    let sent = client.send(request, true).await;
    eventually("the request arrives", || origin.requests() == 1).await;
    client.connection.abort();
    drop(sent);
    eventually("the server is left", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn streams_count_as_connections() {
    let origin = Origin::start().await;
    let site = Site::start(|options, _| {
        options.default_target = Some(origin.url());
        options.ours.max_connections = Some(3);
    })
    .await;
    let client = site.client().await;
    let hang = || client.request(Method::GET, "/hang").body(()).unwrap();
    let _waiting = [
        client.send(hang(), true).await,
        client.send(hang(), true).await,
    ];
    eventually("both arrive", || origin.requests() == 2).await;
    let (answer, _) = client.send(hang(), true).await;
    let error = within(answer).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn a_server_that_dies_in_mid_body_resets_the_answer() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/die").body(()).unwrap();
    let (answer, _) = client.send(request, true).await;
    let mut answer = within(answer).await.unwrap();
    assert_eq!(piece(answer.body_mut()).await.unwrap().unwrap(), "half");
    let error = piece(answer.body_mut()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(client.get("/x").await.status, 200);
    // With a length, too.
    let (url, mut requests) = scripted().await;
    site.proxy.add("/scripted", &url).await;
    let request = client.request(Method::GET, "/scripted/x").body(()).unwrap();
    let (answer, _) = client.send(request, true).await;
    let mut server = requests.recv().await.unwrap();
    server
        .send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    drop(server);
    assert!(read(within(answer).await.unwrap()).await.is_err());
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_arrives() {
    let site = Site::with_root(&hasty_origin().await).await;
    let client = site.client().await;
    for _ in 0..5 {
        let request = client
            .request(Method::POST, "/x")
            .header("content-length", 50_000_000);
        let (answer, mut upload) = client.send(request.body(()).unwrap(), false).await;
        let sending = tokio::spawn(async move {
            let piece = vec![b'x'; 1 << 20];
            loop {
                upload.reserve_capacity(piece.len());
                match poll_fn(|cx| upload.poll_capacity(cx)).await {
                    Some(Ok(length)) => {
                        let data = Bytes::copy_from_slice(&piece[..length.min(piece.len())]);
                        if upload.send_data(data, false).is_err() {
                            break;
                        }
                    }
                    _ => break,
                }
            }
            poll_fn(|cx| upload.poll_reset(cx)).await
        });
        let answer = read(within(answer).await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
        // And the client is told to stop (RFC 9113 section 8.1).
        let reason = within(sending).await.unwrap();
        assert_eq!(reason.unwrap(), Reason::NO_ERROR);
    }
}

#[tokio::test]
async fn an_upload_is_taken_no_faster_than_its_server_takes_it() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = client.request(Method::POST, "/hang").body(()).unwrap();
    let (_answer, mut upload) = client.send(request, false).await;
    let mut sent = 0;
    loop {
        upload.reserve_capacity(1 << 16);
        let capacity = poll_fn(|cx| upload.poll_capacity(cx));
        match timeout(Duration::from_millis(500), capacity).await {
            Ok(Some(Ok(length))) => {
                upload.send_data(vec![0; length].into(), false).unwrap();
                sent += length;
            }
            Ok(_) => panic!("the upload was refused"),
            Err(_) => break,
        }
        assert!(sent < 32 << 20, "{sent} bytes were taken");
    }
    // It holds up nobody else.
    assert_eq!(client.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_download_is_read_no_faster_than_its_client_takes_it() {
    let (url, mut requests) = scripted().await;
    let site = Site::with_root(&url).await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/x").body(()).unwrap();
    let (answer, _) = client.send(request, true).await;
    let mut server = requests.recv().await.unwrap();
    server
        .send("HTTP/1.1 200 OK\r\nContent-Length: 150000000\r\n\r\n")
        .await;
    let answer = within(answer).await.unwrap();
    let mut sent = 0;
    let piece = vec![b'x'; 1 << 16];
    while let Ok(written) = timeout(Duration::from_millis(500), server.stream.write(&piece)).await {
        sent += written.unwrap();
        assert!(sent < 32 << 20, "{sent} bytes were taken");
    }
    drop(answer);
}

// === Connections ===

#[tokio::test]
async fn who_knows_only_http1_gets_it() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let request = "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for protocols in [&[][..], &["http/1.1"]] {
        let stream = site.connect_to(site.proxy.address(), protocols).await;
        assert_eq!(exchange(Raw::over(stream), request).await.text(), "GET /x");
    }
    // Browsers open a connection of its own for a websocket, without offering h2.
    let stream = site.connect_to(site.proxy.address(), &["http/1.1"]).await;
    let url = "wss://localhost/user/ws";
    let (mut socket, _) = within(Box::pin(tokio_tungstenite::client_async(url, stream)))
        .await
        .unwrap();
    let message = tokio_tungstenite::tungstenite::Message::text("hello");
    futures_util::SinkExt::send(&mut socket, message.clone())
        .await
        .unwrap();
    let answer = within(futures_util::StreamExt::next(&mut socket)).await;
    assert_eq!(answer.unwrap().unwrap(), message);
}

#[tokio::test]
async fn http2_can_be_turned_off_and_the_api_has_none() {
    let origin = Origin::start().await;
    let both = ["h2", "http/1.1"];
    let site = Site::start(|options, pair| {
        options.default_target = Some(origin.url());
        options.api_ssl_key = Some(pair.key.clone());
        options.api_ssl_cert = Some(pair.certificate.clone());
        options.ours.no_http2 = true;
    })
    .await;
    for address in [site.proxy.address(), site.proxy.api_address()] {
        let stream = site.connect_to(address, &both).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let request = format!(
            "GET /api/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Authorization: token {TOKEN}\r\n\r\n"
        );
        assert_eq!(exchange(Raw::over(stream), &request).await.status, 200);
    }
    let site = Site::start(|options, pair| {
        options.api_ssl_key = Some(pair.key.clone());
        options.api_ssl_cert = Some(pair.certificate.clone());
    })
    .await;
    let stream = site.connect_to(site.proxy.api_address(), &both).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let stream = site.connect_to(site.proxy.address(), &both).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn idle_connections_close() {
    let origin = Origin::start().await;
    let site = Site::start(|options, _| {
        options.default_target = Some(origin.url());
        options.keep_alive_timeout = Some(200);
    })
    .await;
    let client = site.client().await;
    // 0.7 seconds: a connection with a request is not idle.
    assert_eq!(client.get("/slow").await.status, 200);
    let end = within(client.connection).await.unwrap();
    assert!(is_in_order(&end), "{end:?}");
    // Nor is one kept that says nothing at all.
    let mut silent = site.connect_to(site.proxy.address(), &["h2"]).await;
    let mut received = Vec::new();
    let _ = within(silent.read_to_end(&mut received)).await;
}

#[tokio::test]
async fn a_client_that_has_vanished_is_left() {
    let origin = Origin::start().await;
    let site = Site::start(|options, _| {
        options.default_target = Some(origin.url());
        options.ours.tcp_keepalive = Some(200);
    })
    .await;
    // The h2 crate answers to pings, so this one stays.
    let client = site.client().await;
    let request = client.request(Method::GET, "/hang").body(()).unwrap();
    let _present = client.send(request, true).await;
    // This one never does, but the connection is open.
    let mut vanished = site.frames().await;
    vanished.headers(1, true, &frames::get("/hang")).await;
    eventually("both requests arrive", || origin.requests() == 2).await;
    eventually("one server is left", || origin.open_connections() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(origin.open_connections(), 1);
}

#[tokio::test]
async fn requests_end_before_the_proxy_does() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let idle = site.client().await;
    let request = client.request(Method::GET, "/slow").body(()).unwrap();
    let (answer, _) = client.send(request, true).await;
    eventually("the request arrives", || origin.requests() == 1).await;
    let begun = Instant::now();
    let (answer, ()) = tokio::join!(
        async { read(within(answer).await.unwrap()).await.unwrap() },
        within(site.proxy.handle.shutdown()),
    );
    assert_eq!(answer.text(), "GET /slow");
    // No connection waits for the deadline, which is five seconds.
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert!(is_in_order(&within(client.connection).await.unwrap()));
    assert!(is_in_order(&within(idle.connection).await.unwrap()));
}

// === What is refused ===

#[tokio::test]
async fn requests_broken_off_in_masses_close_the_connection() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let mut client = site.frames().await;
    let mut stream = 1;
    // Each is seen by the proxy before it is broken off.
    let error = loop {
        for _ in 0..50 {
            client.headers(stream, true, &frames::get("/hang")).await;
            stream += 2;
        }
        client.ping().await;
        for back in 1..=50 {
            client.reset(stream - 2 * back).await;
        }
        if let Some(error) = client.goaway_or_pong().await {
            break error;
        }
        assert!(stream < 20_000, "nobody minds");
    };
    assert_eq!(error, u32::from(Reason::ENHANCE_YOUR_CALM));
    assert!(origin.requests() < 2_000, "{}", origin.requests());
    eventually("the server is left", || origin.open_connections() == 0).await;
    assert_eq!(site.client().await.get("/x").await.status, 200);
}

#[tokio::test]
async fn malformed_requests_are_reset_and_reach_nobody() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let mut client = site.frames().await;
    let mut stream = 1;
    let mut requests = Vec::new();
    for extra in [
        &[("x-a", "b\r\nx-injected: 1")][..],
        &[("x-a", "b\nx-injected: 1")],
        &[("x-a\r\nx-injected", "1")],
        &[("x-a: b", "1")],
        &[("X-A", "b")],
        &[("x-a", "\0")],
        &[("connection", "close")],
        &[("transfer-encoding", "chunked")],
        &[("upgrade", "websocket")],
        &[("te", "gzip")],
        &[("content-length", "1"), ("content-length", "1")],
        &[("content-length", "5")],
        &[("content-length", "-1")],
        &[(":path", "/again")],
        &[(":unknown", "1")],
        &[(":status", "200")],
    ] {
        requests.push([&frames::get("/x")[..], extra].concat());
    }
    for (name, value) in [
        (":path", "/x y"),
        (":path", "/x\r\nx-injected: 1"),
        (":path", "x"),
        (":path", ""),
        (":path", "*"),
        (":authority", "h\r\nx-injected: 1"),
        (":authority", "user@h"),
        (":method", "G T"),
        (":method", "GET /y HTTP/1.1\r\n"),
    ] {
        let mut fields = frames::get("/x");
        let field = fields.iter_mut().find(|field| field.0 == name);
        field.unwrap().1 = value;
        requests.push(fields);
    }
    for fields in &requests {
        client.headers(stream, true, fields).await;
        match client.end_of(stream).await {
            End::Reset(reason) => {
                assert_eq!(reason, u32::from(Reason::PROTOCOL_ERROR), "{fields:?}");
                stream += 2;
            }
            // What is no field at all is an error of the connection.
            End::Goaway(_) => {
                client = site.frames().await;
                stream = 1;
            }
            End::Answer => panic!("{fields:?} was answered"),
        }
    }
    assert_eq!(origin.requests(), 0);
    // Those that HTTP/1.1 refuses as well are answered as there.
    for extra in [&[("host", "other")][..], &[("host", "h"), ("host", "i")]] {
        let fields = [&frames::get("/x")[..], extra].concat();
        client.headers(stream, true, &fields).await;
        assert_eq!(client.end_of(stream).await, End::Answer, "{extra:?}");
        stream += 2;
    }
    assert_eq!(origin.requests(), 0);
    // The connection is as good as before.
    client.headers(stream, true, &frames::get("/x")).await;
    assert_eq!(client.end_of(stream).await, End::Answer);
    assert_eq!(origin.requests(), 1);
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let mut client = site.frames().await;
    let fields = [&frames::get("/read")[..], &[("content-length", "5")]].concat();
    for (stream, body) in [(1, "four"), (3, "longer")] {
        client.headers(stream, false, &fields).await;
        client.data(stream, true, body.as_bytes()).await;
        let malformed = End::Reset(Reason::PROTOCOL_ERROR.into());
        assert_eq!(client.end_of(stream).await, malformed, "{body}");
    }
    client.headers(5, false, &fields).await;
    client.data(5, true, b"right").await;
    assert_eq!(client.end_of(5).await, End::Answer);
    eventually("the servers are left", || origin.open_connections() <= 1).await;
}

#[tokio::test]
async fn too_long_heads_are_refused() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let long = "x".repeat(1000);
    let mut request = client.request(Method::GET, "/x");
    for index in 0..80 {
        request = request.header(format!("x-{index}"), &long);
    }
    let (answer, _) = client.send(request.body(()).unwrap(), true).await;
    match within(answer).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(origin.requests(), 0);
    assert_eq!(site.client().await.get("/x").await.status, 200);
}

#[tokio::test]
async fn connect_is_refused() {
    let origin = Origin::start().await;
    let site = Site::with_root(&origin.url()).await;
    let client = site.client().await;
    let request = Request::connect("internal:22").body(()).unwrap();
    let (answer, _) = client.send(request, false).await;
    assert_eq!(within(answer).await.unwrap().status(), 400);
    assert_eq!(origin.requests(), 0);
}

// === The proxy and its clients ===

/// A proxy with a certificate for `localhost`.
struct Site {
    proxy: Proxy,
    roots: RootCertStore,
    _folder: TempDir,
}

impl Site {
    async fn start(change: impl FnOnce(&mut Options, &Pair)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path(), "authority");
        let pair = authority.sign("site", &["localhost"]);
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&authority.file).unwrap())
            .unwrap();
        let mut options = Options {
            ssl_key: Some(pair.key.clone()),
            ssl_cert: Some(pair.certificate.clone()),
            ours: OurOptions {
                threads: Some(1),
                ..OurOptions::default()
            },
            ..Options::default()
        };
        change(&mut options, &pair);
        Self {
            proxy: Proxy::start(options).await,
            roots,
            _folder: folder,
        }
    }

    async fn with_root(url: &str) -> Self {
        Self::start(|options, _| options.default_target = Some(url.to_owned())).await
    }

    async fn connect_to(&self, address: SocketAddr, protocols: &[&str]) -> TlsStream<TcpStream> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        within(connecting).await.unwrap()
    }

    async fn client(&self) -> Client {
        let stream = self
            .connect_to(self.proxy.address(), &["h2", "http/1.1"])
            .await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = within(h2::client::handshake(stream)).await.unwrap();
        Client {
            sender,
            connection: tokio::spawn(connection),
            origin: format!("https://localhost:{}", self.proxy.address().port()),
        }
    }

    async fn frames(&self) -> Frames {
        let stream = self.connect_to(self.proxy.address(), &["h2"]).await;
        Frames::start(stream).await
    }
}

struct Client {
    sender: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
    origin: String,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Client {
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.origin))
    }

    async fn get(&self, path: &str) -> Answer {
        self.exchange(self.request(Method::GET, path).body(()).unwrap())
            .await
    }

    async fn exchange(&self, request: Request<()>) -> Answer {
        let (answer, _) = self.send(request, true).await;
        read(within(answer).await.unwrap()).await.unwrap()
    }

    async fn send(&self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut sender = within(self.sender.clone().ready()).await.unwrap();
        sender.send_request(request, end).unwrap()
    }
}

/// Whether a connection closed without a complaint of the proxy. What the client still has to say
/// then, its own farewell above all, may come too late.
fn is_in_order(end: &Result<(), h2::Error>) -> bool {
    end.as_ref().err().is_none_or(h2::Error::is_io)
}

async fn within<F: Future>(future: F) -> F::Output {
    let result = timeout(DEADLINE, future).await;
    result.expect("the other side is silent")
}

async fn send_all(stream: &mut SendStream<Bytes>, mut data: &[u8], end: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = within(poll_fn(|cx| stream.poll_capacity(cx))).await;
        let (piece, rest) = data.split_at(capacity.unwrap().unwrap().min(data.len()));
        stream
            .send_data(Bytes::copy_from_slice(piece), false)
            .unwrap();
        data = rest;
    }
    if end {
        stream.send_data(Bytes::new(), true).unwrap();
    }
}

/// The next piece of a body.
async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let data = match within(body.data()).await? {
            Ok(data) => data,
            Err(error) => return Some(Err(error)),
        };
        body.flow_control().release_capacity(data.len()).unwrap();
        // The end may come in a frame of its own.
        if !data.is_empty() {
            return Some(Ok(data));
        }
    }
}

async fn read(answer: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(data) = piece(&mut stream).await {
        body.extend_from_slice(&data?);
    }
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        trailers: within(stream.trailers()).await?.unwrap_or_default(),
    })
}

/// A request at a server whose answers the test writes.
struct Scripted {
    stream: TcpStream,
    head: String,
}

impl Scripted {
    async fn send(&mut self, bytes: &str) {
        self.stream.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// What comes until `text` has come.
    async fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(text.as_bytes()) {
            seen.push(within(self.stream.read_u8()).await.unwrap());
        }
        String::from_utf8(seen).unwrap()
    }
}

/// A server that hands out each connection when the head of its first request has come. Each answer
/// ends its connection.
async fn scripted() -> (String, tokio::sync::mpsc::Receiver<Scripted>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, received) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut request = Scripted {
                stream,
                head: String::new(),
            };
            request.head = request.until("\r\n\r\n").await;
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    (url, received)
}
