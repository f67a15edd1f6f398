//! The whole proxy over real sockets: clients on one side, servers on the other.

mod support;
mod tls;

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions};
use support::{Origin, Proxy, Raw, TOKEN, eventually, hasty_origin, raw_exchange};
use tokio_tungstenite::tungstenite::{self, Message};

// === Forwarding ===

#[tokio::test]
async fn a_request_reaches_the_server_of_the_longest_prefix() {
    let (hub, ada) = (Origin::start().await, Origin::start().await);
    let proxy = Proxy::start(Options::default()).await;
    proxy.add("/", &hub.url()).await;
    proxy.add("/user/ada", &ada.url()).await;

    assert_eq!(proxy.get("/hub/login").await.text(), "GET /hub/login");
    assert_eq!(
        proxy.get("/user/ada/lab?a=%20b").await.text(),
        "GET /user/ada/lab?a=%20b"
    );
    assert_eq!(ada.requests(), 1);
    assert_eq!(hub.requests(), 1);
}

#[tokio::test]
async fn the_path_arrives_byte_for_byte() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    for path in [
        "/user/a%40b/../c",
        "//host/path",
        "/x?",
        "/a'b\"c|d",
        "/%zz/%ff",
        "/constructor",
        "//",
        "/a//b/./c",
        "/q?a=1&a=2&&b",
    ] {
        assert_eq!(proxy.get(path).await.text(), format!("GET {path}"));
    }
}

#[tokio::test]
async fn escaped_names_reach_the_same_route() {
    let (root, user) = (Origin::start().await, Origin::start().await);
    let proxy = Proxy::with_root(&root).await;
    proxy.add("/user/a%40b", &user.url()).await;
    for path in [
        "/user/a@b/x",
        "/user/a%40b/x",
        "/%75ser/%61%40b",
        "/user%2fa%40b/x",
    ] {
        proxy.get(path).await;
    }
    assert_eq!((user.requests(), root.requests()), (4, 0));
}

#[tokio::test]
async fn headers_pass_in_order_and_hop_by_hop_ones_do_not() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let answer = proxy
        .raw(
            "GET /headers HTTP/1.1\r\nHost: example.org:8000\r\nX-B: 1\r\nConnection: keep-alive, X-Secret\r\n\
             Cookie: a=1\r\nX-A: 2\r\nX-Secret: 3\r\nX-B: 4\r\nKeep-Alive: 9\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n",
        )
        .await;
    assert_eq!(
        answer.text(),
        "host: example.org:8000\nx-b: 1\nx-b: 4\ncookie: a=1\nx-a: 2\n\
         x-forwarded-for: 9.9.9.9,127.0.0.1\nx-forwarded-port: 8000\nx-forwarded-proto: http\n\
         x-forwarded-host: example.org:8000\n"
    );
    assert_eq!(answer.headers("set-cookie"), ["a=1", "b=2"]);
    assert!(
        answer.headers("x-hop").is_empty(),
        "listed in Connection by the server"
    );
    assert!(answer.headers("keep-alive").is_empty());
}

#[tokio::test]
async fn options_change_what_the_server_gets() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        no_x_forward: true,
        no_include_prefix: true,
        custom_header: vec!["X-Site: here".to_owned()],
        ..Options::default()
    })
    .await;
    proxy
        .add("/user/ada", &format!("{}/base/", origin.url()))
        .await;
    assert_eq!(proxy.get("/user/%61da/x?y").await.text(), "GET /base/x?y");
    assert_eq!(proxy.get("/user/ada").await.text(), "GET /base");
    let headers = proxy.get("/user/ada/headers").await.text();
    assert!(
        headers.contains("x-site: here\n") && !headers.contains("x-forwarded"),
        "{headers}"
    );

    let proxy = Proxy::start(Options {
        no_prepend_path: true,
        ..Options::default()
    })
    .await;
    proxy.add("/", &format!("{}/base", origin.url())).await;
    assert_eq!(proxy.get("/x").await.text(), "GET /x");
}

#[tokio::test]
async fn hosts_are_routed_by() {
    let (hub, ada) = (Origin::start().await, Origin::start().await);
    let proxy = Proxy::start(Options {
        host_routing: true,
        default_target: Some(hub.url()),
        ..Options::default()
    })
    .await;
    proxy.add("/ada.example.org/user", &ada.url()).await;
    let request = |host: &str| format!("GET /user/x HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert_eq!(
        proxy.raw(&request("Ada.Example.org:8000")).await.status,
        200
    );
    assert_eq!(proxy.raw(&request("bob.example.org")).await.status, 200);
    assert_eq!((ada.requests(), hub.requests()), (1, 1));
    let route = proxy
        .api("GET", "/api/routes/ada.example.org/user", "")
        .await
        .json();
    assert_eq!(route["host"], "ada.example.org");
}

#[tokio::test]
async fn bodies_stream_in_both_directions() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    // The origin echoes each piece; the first must be back before the second is sent.
    let mut raw = Raw::connect(&proxy).await;
    raw.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    raw.until("abc").await;
    raw.send("4\r\ndefg\r\n0\r\n\r\n").await;
    raw.until("defg").await;
    raw.until("0\r\n\r\n").await;

    let long = "x".repeat(3_000_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{long}",
        long.len()
    );
    assert_eq!(proxy.raw(&request).await.text().len(), long.len());
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_arrives() {
    let url = hasty_origin().await;
    let proxy = Proxy::start(Options {
        default_target: Some(url),
        ..Options::default()
    })
    .await;
    let length = 50_000_000;
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    // As a client does that reads no answer before it has sent everything.
    for _ in 0..5 {
        let address = proxy.address();
        let request = request.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let limit = Some(Duration::from_secs(20));
            stream.set_write_timeout(limit).unwrap();
            stream.set_read_timeout(limit).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            String::from_utf8(answer.to_vec()).unwrap()
        });
        assert_eq!(answer.await.unwrap(), "HTTP/1.1 413");
    }
    // And as one that reads meanwhile.
    let answer = proxy.raw(&request).await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
}

#[tokio::test]
async fn a_body_is_taken_no_faster_than_its_server_takes_it() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let address = proxy.address();
    // The origin reads nothing: what the proxy takes is in its memory or in the sockets' buffers.
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = b"POST /hang HTTP/1.1\r\nHost: h\r\nContent-Length: 150000000\r\n\r\n";
        stream.write_all(head).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while sent < 150_000_000
            && let Ok(length) = stream.write(&piece)
        {
            sent += length;
        }
        sent
    });
    let sent = sent.await.unwrap();
    assert!(sent < 32 << 20, "{sent} bytes were taken");

    let body = "x".repeat(150_000_000);
    let request = format!(
        "POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(proxy.raw(&request).await.text(), "read");
}

#[tokio::test]
async fn head_and_old_clients_are_served() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let head = proxy
        .raw("HEAD /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(
        (head.status, head.headers("content-length")),
        (200, vec!["7".to_owned()])
    );
    assert!(head.body.is_empty());
    let old = proxy.raw("GET /headers HTTP/1.0\r\n\r\n").await;
    assert!(
        old.text().starts_with(&format!("host: {}", origin.address))
            || old.text().contains("host: ")
    );
}

#[tokio::test]
async fn a_client_may_ask_before_it_sends_its_body() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let mut raw = Raw::connect(&proxy).await;
    // The server is asked, which sends its consent when it begins to read.
    raw.send("POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        .await;
    raw.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    raw.send("hello").await;
    raw.until("\r\n\r\nread").await;
}

// === Connections ===

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

// === Websockets ===

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

// === Errors ===

#[tokio::test]
async fn missing_and_dead_servers_have_pages() {
    let proxy = Proxy::start(Options::default()).await;
    let missing = proxy.get("/nowhere").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.headers("content-type"), ["text/html"]);
    assert!(missing.text().contains("404"));
    proxy.add("/dead", &support::dead_url()).await;
    let dead = proxy.get("/dead").await;
    assert_eq!(dead.status, 503);
    assert!(dead.text().contains("503"));
}

#[tokio::test]
async fn error_pages_come_from_the_error_target() {
    let hub = Origin::start().await;
    let proxy = Proxy::start(Options {
        error_target: Some(format!("{}/hub/error", hub.url())),
        ..Options::default()
    })
    .await;
    let page = proxy.get("/user/a%40b?x=1").await;
    assert_eq!(page.status, 404);
    assert_eq!(
        page.text(),
        "GET /hub/error/404?url=%2Fuser%2Fa%2540b%3Fx%3D1"
    );
    assert_eq!(page.headers("content-type"), ["text/plain"]);
    proxy.add("/dead", &support::dead_url()).await;
    assert_eq!(
        proxy.get("/dead/x").await.text(),
        "GET /hub/error/503?url=%2Fdead%2Fx"
    );

    let proxy = Proxy::start(Options {
        error_target: Some(support::dead_url()),
        ..Options::default()
    })
    .await;
    let page = proxy.get("/x").await;
    assert_eq!(page.status, 404);
    assert!(page.text().contains("404: Not found"), "our page instead");
}

#[tokio::test]
async fn error_pages_come_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("404.html"), "none here").unwrap();
    fs::write(folder.path().join("error.html"), "any error").unwrap();
    let proxy = Proxy::start(Options {
        error_path: Some(folder.path().to_owned()),
        ..Options::default()
    })
    .await;
    assert_eq!(proxy.get("/x").await.text(), "none here");
    proxy.add("/dead", &support::dead_url()).await;
    assert_eq!(proxy.get("/dead").await.text(), "any error");
}

#[tokio::test]
async fn health_is_told() {
    let proxy = Proxy::start(Options::default()).await;
    assert_eq!(proxy.get("/_chp_healthz").await.json()["status"], "OK");
}

// === Smuggling ===

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let cases = [
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: h\r\nX-Folded: a\r\n b\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: h\r\nBad Name: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\nhello",
        "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
        "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for case in cases {
        let answer = proxy.raw(case).await;
        assert_eq!(answer.status, 400, "{case}");
        assert!(answer.body.len() < 200, "one answer and no more: {case}");
    }
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn heads_are_limited() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let head = |length| {
        format!(
            "GET /x HTTP/1.1\r\nHost: h\r\nCookie: {}\r\n\r\n",
            "c".repeat(length)
        )
    };
    assert_eq!(proxy.raw(&head(40_000)).await.status, 200);
    assert_eq!(proxy.raw(&head(80_000)).await.status, 431);
}

#[tokio::test]
async fn bad_chunks_do_not_become_requests() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    for chunks in [
        "zz\r\nabc\r\n",
        "5\r\nabc",
        "3\r\nabcGET /smuggled HTTP/1.1\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&proxy).await;
        raw.send(&format!(
            "POST /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        ))
        .await;
        raw.finish().await;
        raw.rest().await;
    }
    assert!(
        origin.paths().iter().all(|path| path == "/read"),
        "{:?}",
        origin.paths()
    );
}

#[tokio::test]
async fn text_about_headers_in_a_body_is_no_attack() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let text = "GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = format!(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let mut raw = Raw::connect(&proxy).await;
    for _ in 0..3 {
        raw.send(&request).await;
        raw.until(text).await;
    }
    raw.send(
        "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    )
    .await;
    raw.until("ok").await;
}

// === The REST API ===

#[tokio::test]
async fn routes_are_managed_by_the_api() {
    let proxy = Proxy::start(Options::default()).await;
    let body = r#"{"target":"http://127.0.0.1:9","user":"ada","server_name":"","n":1.5,"last_activity":"no"}"#;
    assert_eq!(
        proxy
            .api("POST", "/api/routes/user/a%40b/", body)
            .await
            .status,
        201
    );
    let one = proxy.api("GET", "/api/routes/user/a@b", "").await;
    assert_eq!(one.headers("content-type"), ["application/json"]);
    let one = one.json();
    assert_eq!((&one["user"], &one["n"]), (&"ada".into(), &1.5.into()));
    assert!(one["last_activity"].as_str().unwrap().ends_with('Z'));
    let all = proxy.api("GET", "/api/routes", "").await.json();
    assert_eq!(all["/user/a@b"]["target"], "http://127.0.0.1:9");
    for (parameter, count) in [
        ("inactive_since=1999-01-01T00:00:00.000Z", 0),
        ("inactiveSince=2999-01-01T00:00:00.000Z", 1),
    ] {
        let all = proxy
            .api("GET", &format!("/api/routes?{parameter}"), "")
            .await
            .json();
        assert_eq!(all.as_object().unwrap().len(), count, "{parameter}");
    }
    assert_eq!(
        proxy.api("DELETE", "/api/routes/user/a@b", "").await.status,
        204
    );
    assert_eq!(
        proxy.api("DELETE", "/api/routes/user/a@b", "").await.status,
        404
    );
    assert_eq!(
        proxy.api("GET", "/api/routes/user/a@b", "").await.status,
        404
    );
}

#[tokio::test]
async fn bad_api_requests_are_answered() {
    let proxy = Proxy::start(Options::default()).await;
    let long = format!(r#"{{"target":"{}"}}"#, "x".repeat(2_000_000));
    for (method, path, body, status) in [
        ("POST", "/api/routes/x", "not json", 400),
        ("POST", "/api/routes/x", "\u{0}", 400),
        ("POST", "/api/routes/x", "{}", 400),
        ("POST", "/api/routes/x", "null", 400),
        ("POST", "/api/routes/x", r#"{"target":5}"#, 400),
        ("POST", "/api/routes/x", r#"{"target":"nonsense"}"#, 400),
        ("POST", "/api/routes/x", &*long, 413),
        ("PATCH", "/api/routes/x", "", 405),
        ("GET", "/api/routes?inactive_since=yesterday", "", 400),
        ("GET", "/api/routes/%ff", "", 400),
        ("GET", "/api/routesx", "", 404),
        ("GET", "/", "", 404),
    ] {
        assert_eq!(
            proxy.api(method, path, body).await.status,
            status,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn the_api_wants_its_token() {
    let proxy = Proxy::start(Options::default()).await;
    let request = |authorization: &str| {
        format!(
            "GET /api/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{authorization}\r\n\r\n"
        )
    };
    let status = async |authorization: &str| {
        raw_exchange(proxy.api_address(), &request(authorization))
            .await
            .status
    };
    assert_eq!(status(&format!("Authorization: token {TOKEN}")).await, 200);
    assert_eq!(status(&format!("Authorization: Token  {TOKEN}")).await, 200);
    assert_eq!(status("X-Nothing: 1").await, 403);
    assert_eq!(status("Authorization: token wrong").await, 403);
    assert_eq!(
        status(&format!("Authorization: x token {TOKEN}")).await,
        403
    );
    assert_eq!(status(&format!("Authorization: token {TOKEN}x")).await, 403);
    // Refused before a body is read: the body promised here never comes.
    let promise = "POST /api/routes/x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n";
    let mut raw = Raw::connect_to(proxy.api_address()).await;
    raw.send(promise).await;
    raw.until("HTTP/1.1 403").await;

    let open = Proxy::start_without_token(Options::default()).await;
    let answer = raw_exchange(open.api_address(), &request("X-Nothing: 1")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn success_counts_as_activity_and_failure_does_not() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    let activity = async || {
        let route = proxy.api("GET", "/api/routes/x", "").await.json();
        route["last_activity"].as_str().unwrap().to_owned()
    };
    proxy.add("/x", &origin.url()).await;
    let added = activity().await;
    // Times are in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(proxy.get("/x/missing").await.status, 404);
    assert_eq!(activity().await, added);
    assert_eq!(proxy.get("/x/page").await.status, 200);
    let used = activity().await;
    assert!(used > added);
    let mut socket = proxy.websocket("/x/ws").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    socket.send(Message::text("hello")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    assert!(activity().await > used);
}

#[tokio::test]
async fn routes_change_while_requests_run() {
    let origin = Origin::start().await;
    let proxy = Proxy::with_root(&origin).await;
    proxy.add("/stable", &origin.url()).await;
    let changes = async {
        for round in 0..200 {
            let path = format!("/api/routes/user/u{}", round % 20);
            let body = format!(r#"{{"target":"{}"}}"#, origin.url());
            assert_eq!(proxy.api("POST", &path, &body).await.status, 201);
            if round % 3 == 0 {
                assert_eq!(proxy.api("DELETE", &path, "").await.status, 204);
            }
        }
    };
    let requests = async {
        for _ in 0..200 {
            assert_eq!(proxy.get("/stable/x").await.text(), "GET /stable/x");
        }
    };
    tokio::join!(changes, requests);
}

// === Starting and stopping ===

#[tokio::test]
async fn routes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let origin = Origin::start().await;
    let options = || Options {
        ours: OurOptions {
            state_file: Some(path.clone()),
            ..OurOptions::default()
        },
        ..Options::default()
    };
    let proxy = Proxy::start(options()).await;
    proxy.add("/user/ada", &origin.url()).await;
    proxy.add("/user/bob", &origin.url()).await;
    proxy.api("DELETE", "/api/routes/user/bob", "").await;
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let before = proxy.api("GET", "/api/routes", "").await.json();
    // Nothing is written at the end: this is as sudden as a kill.
    let written = fs::read(&path).unwrap();
    drop(proxy);
    fs::write(&path, [&written[..], b"{\"path\":\"/torn"].concat()).unwrap();

    let proxy = Proxy::start(options()).await;
    assert_eq!(proxy.get("/user/ada/x").await.text(), "GET /user/ada/x");
    assert_eq!(proxy.get("/user/bob/x").await.status, 404);
    let route = proxy.api("GET", "/api/routes/user/ada", "").await.json();
    assert_eq!(route["target"], before["/user/ada"]["target"]);
    proxy.handle.shutdown().await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn a_state_file_is_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let proxy = Proxy::start(Options {
        ours: OurOptions {
            state_file: Some(path.clone()),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    for _ in 0..1200 {
        proxy.add("/user/ada", "http://127.0.0.1:9").await;
    }
    eventually("it is written anew", || {
        fs::read_to_string(&path).is_ok_and(|text| text.lines().count() < 1100)
    })
    .await;
}

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

#[tokio::test]
async fn metrics_have_their_names() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        metrics_ip: Some("127.0.0.1".to_owned()),
        metrics_port: Some(0),
        default_target: Some(origin.url()),
        ..Options::default()
    })
    .await;
    proxy.get("/x").await;
    proxy.get("/missing").await;
    drop(proxy.websocket("/ws/x").await.unwrap());
    proxy.api("GET", "/api/routes", "").await;
    let address = proxy.handle.metrics_address().unwrap();
    let page = raw_exchange(
        address,
        "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await
    .text();
    for line in [
        "requests_web 2",
        "requests_ws 1",
        "requests_proxy{status=\"200\"} 1",
        "requests_proxy{status=\"404\"} 1",
        "requests_proxy{status=\"101\"} 1",
        "requests_api{status=\"200\"} 1",
        "api_route_get 1",
        "find_target_for_req_count 3",
        "orrery_proxy_routes 1",
    ] {
        assert!(page.lines().any(|other| other == line), "{line} in\n{page}");
    }
}
