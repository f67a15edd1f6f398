//! The way of requests and answers through the proxy.

use std::{
    io::{Read, Write},
    time::Duration,
};

use orrery_proxy::Options;

use crate::support::{Origin, Proxy, Raw, hasty_origin};

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
