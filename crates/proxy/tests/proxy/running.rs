//! Starting and stopping.

use std::{fs, time::Duration};

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Origin, Proxy, Raw, eventually};

#[tokio::test]
async fn a_port_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let options = Options {
        ip: Some("127.0.0.1".to_owned()),
        port: Some(port),
        api_port: Some(0),
        ours: OurOptions {
            state_file: Some(path.clone()),
            ..OurOptions::default()
        },
        ..Options::default()
    };
    let error = orrery_proxy::start(options)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    assert!(error.contains("in use"), "{error}");
    assert!(!path.exists(), "nothing else has happened");
}

#[tokio::test]
async fn stopping_lets_requests_end_and_cuts_websockets_in_the_end() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ours: OurOptions {
            drain_timeout: Some(3000),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut socket = proxy.websocket("/ws/x").await.unwrap();
    let mut running = Raw::connect(&proxy).await;
    running.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut idle = Raw::connect(&proxy).await;
    idle.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.until("GET /x").await;
    eventually("all requests arrive", || origin.requests() == 3).await;
    let address = proxy.address();
    let shutdown = tokio::spawn(proxy.handle.shutdown());
    assert_eq!(idle.rest().await, "");
    assert!(running.rest().await.ends_with("GET /slow"));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap().into_text().unwrap(),
        "still here"
    );
    assert!(
        !matches!(socket.next().await, Some(Ok(_))),
        "cut at the deadline"
    );
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_signal_ends_the_program_in_good_order() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let running = orrery_proxy::run(Options {
        ip: Some("127.0.0.1".to_owned()),
        port: Some(0),
        pid_file: Some(pid_file.clone()),
        log_level: Some("error".to_owned()),
        ..Options::default()
    });
    let pid = std::process::id().to_string();
    let written = || fs::read_to_string(&pid_file).is_ok_and(|content| content == pid);
    let signal = async {
        eventually("the pid is written", written).await;
        let kill = std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status();
        assert!(kill.unwrap().success());
    };
    let running = tokio::time::timeout(Duration::from_secs(40), running);
    let (ended, ()) = tokio::join!(running, signal);
    ended.unwrap().unwrap();
    assert!(!pid_file.exists());
}
