//! Connections of HTTP/2: how they begin, idle and end.

use std::time::{Duration, Instant};

use http::Method;
use tokio::io::AsyncReadExt;

use super::{Site, is_in_order, read, within};
use crate::{
    frames,
    support::{Origin, Raw, TOKEN, eventually, exchange},
};

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
