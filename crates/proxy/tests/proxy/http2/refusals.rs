//! What is refused over HTTP/2.

use h2::Reason;
use http::{Method, Request};

use super::{Site, within};
use crate::{
    frames::{self, End},
    support::{Origin, eventually},
};

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
