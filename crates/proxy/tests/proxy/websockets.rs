//! Websockets.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::support::{Origin, Proxy, Raw, eventually};

#[tokio::test]
async fn websockets_echo() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut socket = proxy.websocket("/ws/x").await.unwrap();
    for length in [0, 1, 125, 70_000, 1_000_000] {
        let message = Message::binary(vec![7u8; length]);
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    drop(socket);
    eventually("both sides are closed", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn websocket_data_sent_with_the_handshake_arrives() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send(
        "GET /upgrade HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly",
    )
    .await;
    let seen = raw.until("early").await;
    assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    assert!(seen.contains("upgrade: websocket\r\n"), "{seen}");
}

#[tokio::test]
async fn a_refused_websocket_gets_the_servers_answer() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    match proxy.websocket("/refuse").await {
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.status(), 403);
            assert_eq!(response.headers()["x-reason"], "closed");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(proxy.get("/x").await.status, 200);
    match Proxy::start(Options::default())
        .await
        .websocket("/none")
        .await
    {
        Err(tungstenite::Error::Http(response)) => assert_eq!(response.status(), 404),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn abandoned_websockets_are_closed_on_the_other_side() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(proxy.websocket("/ws/x").await.unwrap());
    }
    eventually("all are open", || origin.open_connections() == 50).await;
    drop(sockets);
    eventually("all are closed", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn other_upgrades_are_not_passed_on() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let answer = proxy
        .raw("GET /headers HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n")
        .await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains("upgrade") && !answer.text().contains("http2"));
}

#[tokio::test]
async fn a_silent_websocket_is_closed_and_a_busy_one_is_not() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ours: OurOptions {
            websocket_timeout: Some(1000),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut silent = proxy.websocket("/ws/silent").await.unwrap();
    let mut busy = proxy.websocket("/ws/busy").await.unwrap();
    let end = async {
        while let Some(Ok(_)) = silent.next().await {}
        Instant::now()
    };
    let begin = Instant::now();
    tokio::pin!(end);
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                busy.send(Message::text("x")).await.unwrap();
                assert!(matches!(busy.next().await, Some(Ok(_))), "it is open");
            }
        }
    };
    let taken = ended - begin;
    assert!(taken < Duration::from_secs(15), "{taken:?}");
    busy.send(Message::text("x")).await.unwrap();
    assert!(matches!(busy.next().await, Some(Ok(_))), "it is open");
}
