//! Requests and answers that end before their end.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Site, piece, read, scripted::scripted, within};
use crate::support::{Origin, eventually, hasty_origin};

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
