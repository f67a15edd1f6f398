//! What is sent and received over HTTP/2.

use std::{
    fmt::Write,
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::{Site, piece, read, scripted::scripted, send_all, within};
use crate::support::{Origin, Raw, exchange};

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
