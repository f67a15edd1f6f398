//! Connections to users and to servers: kept, replaced, timed out.

use std::io::{Read, Write};

use orrery_proxy::{Options, OurOptions};

use crate::support::{self, Origin, Proxy, Raw, eventually};

#[tokio::test]
async fn upstream_connections_are_used_again() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_one_worker(&origin).await;
    for _ in 0..20 {
        // A client connection each, one after the other.
        proxy.get("/x").await;
    }
    assert_eq!(origin.requests(), 20);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_pooled_connection_that_the_server_closed_is_replaced() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_one_worker(&origin).await;
    for round in 1..=5 {
        // The origin answers, keeps the connection, and closes it at the next request.
        assert_eq!(proxy.get("/close-next").await.status, 200);
        assert_eq!(proxy.get("/x").await.text(), "GET /x", "round {round}");
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_one_worker(&origin).await;
    proxy.get("/close-next").await;
    let answer = proxy
        .raw("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        origin.requests(),
        2,
        "the one that closed the connection is the last"
    );
}

#[tokio::test]
async fn a_request_is_repeated_once_at_most() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_one_worker(&origin).await;
    // Many idle connections to the server.
    let slow = (0..8).map(|_| proxy.get("/slow"));
    futures_util::future::join_all(slow).await;
    let before = origin.requests();
    let answer = proxy
        .raw("DELETE /vanish HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(answer.status, 503);
    assert_eq!(origin.requests() - before, 2);
}

#[tokio::test]
async fn a_bad_chunk_behind_the_begin_of_an_answer_cuts_it() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    raw.until("abc").await;
    raw.send("zz\r\n").await;
    let rest = raw.rest().await;
    assert!(!rest.contains("HTTP/1.1"), "no second answer in it: {rest}");

    // Nor does the next request begin behind what is no chunk, when the body is read away.
    let proxy = Proxy::start(Options::default()).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("POST /none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX")
        .await;
    raw.until("</html>").await;
    raw.send("\r\n0\r\n\r\nGET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    let rest = raw.rest().await;
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}

#[tokio::test]
async fn what_an_answer_says_of_its_connection_holds() {
    let proxy = Proxy::start(Options::default()).await;
    proxy.add("/dead", &support::dead_url()).await;
    for request in [
        "POST /dead HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        "GET /none HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&proxy).await;
        raw.send(request).await;
        let head = raw.until("\r\n\r\n").await;
        assert!(head.contains("Connection: close\r\n"), "{head}");
        raw.rest().await;
    }
    // A body that is no more than the request says leaves the connection open.
    let mut raw = Raw::connect(&proxy).await;
    raw.send("POST /dead HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let head = raw.until("</html>").await;
    assert!(!head.contains("Connection: close"), "{head}");
    raw.send("GET /_chp_healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    raw.until("OK").await;
}

#[tokio::test]
async fn requests_sent_before_the_end_are_all_answered() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\nGET /second HTTP/1.1\r\nHost: h\r\n\r\n")
        .await;
    raw.finish().await;
    let rest = raw.rest().await;
    assert!(
        rest.contains("GET /slow") && rest.contains("GET /second"),
        "{rest}"
    );
}

#[tokio::test]
async fn a_server_that_dies_in_mid_body_ends_the_answer() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("GET /die HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.until("half").await;
    let rest = raw.rest().await;
    assert!(
        !rest.contains("0\r\n\r\n"),
        "the client must see that the body is not whole"
    );
    assert_eq!(proxy.get("/x").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("GET /hang HTTP/1.1\r\nHost: h\r\n\r\n").await;
    eventually("the request arrives", || origin.requests() == 1).await;
    drop(raw);
    eventually("its connection closes", || origin.open_connections() == 0).await;
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        keep_alive_timeout: Some(300),
        ours: OurOptions {
            header_timeout: Some(300),
            ..OurOptions::default()
        },
        default_target: Some(origin.url()),
        ..Options::default()
    })
    .await;
    let mut slow = Raw::connect(&proxy).await;
    slow.send("GET / HTTP/1.1\r\nHo").await;
    let answer = slow.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut idle = Raw::connect(&proxy).await;
    idle.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert!(idle.rest().await.ends_with("GET /x"));
    // Being slow to answer is the server's right.
    let mut raw = Raw::connect(&proxy).await;
    raw.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    raw.until("GET /slow").await;
}

#[tokio::test]
async fn servers_that_stay_silent_time_out() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        proxy_timeout: Some(200),
        default_target: Some(origin.url()),
        ..Options::default()
    })
    .await;
    assert_eq!(proxy.get("/hang").await.status, 503);

    let proxy = Proxy::start(Options {
        timeout: Some(200),
        default_target: Some(origin.url()),
        ..Options::default()
    })
    .await;
    let mut raw = Raw::connect(&proxy).await;
    raw.send("GET /hang HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(raw.rest().await, "", "the connection is dropped");
}

#[tokio::test]
async fn unix_sockets_work_on_all_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let origin = Origin::start_unix(&path("origin"));
    // A socket left behind by a proxy that was killed.
    drop(std::os::unix::net::UnixListener::bind(path("proxy")).unwrap());
    let options = Options {
        socket: Some(path("proxy")),
        api_socket: Some(path("api")),
        default_target: Some(format!(
            "http+unix://{}",
            path("origin").display().to_string().replace('/', "%2F")
        )),
        ..Options::default()
    };
    let handle = orrery_proxy::start(options.clone()).await.unwrap();
    let ask = |name: &str, target: &'static str| {
        let path = path(name);
        tokio::task::spawn_blocking(move || {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    };
    assert!(ask("proxy", "/x").await.unwrap().ends_with("GET /x"));
    assert!(
        ask("api", "/api/routes/")
            .await
            .unwrap()
            .contains("http+unix")
    );
    assert!(
        orrery_proxy::start(options).await.is_err(),
        "the socket is in use"
    );
    assert_eq!(origin.requests(), 1);
    handle.shutdown().await;
    assert!(!path("proxy").exists() && !path("api").exists());
}
