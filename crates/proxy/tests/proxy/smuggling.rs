//! Requests that could be understood in two ways.

use crate::support::{Origin, Proxy, Raw};

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
