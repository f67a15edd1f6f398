//! The access log.

use std::fs;

use h2::Reason;
use http::Method;
use orrery_proxy::{Options, OurOptions};
use serde_json::{Value, json};

use crate::{
    http2::Site,
    support::{Origin, Proxy, eventually},
};

#[tokio::test]
async fn each_request_is_in_the_access_log_without_its_query() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ours: OurOptions {
            access_log: Some(path.clone()),
            access_log_format: Some("json".to_owned()),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    proxy.get("/first?token=secret").await;
    eventually("it is written", || path.metadata().unwrap().len() > 0).await;
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    proxy.handle.reopen_access_log();
    proxy.get("/missing").await;
    proxy.handle.shutdown().await;
    let first = fs::read_to_string(moved).unwrap();
    assert!(!first.contains("secret"), "{first}");
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!(
        (
            &first["path"],
            &first["status"],
            &first["route"],
            &first["peer"]
        ),
        (
            &json!("/first"),
            &json!(200),
            &json!("/"),
            &json!("127.0.0.1")
        )
    );
    let second = fs::read_to_string(path).unwrap();
    let second: Value = serde_json::from_str(&second).unwrap();
    assert_eq!(
        (&second["path"], &second["status"]),
        (&json!("/missing"), &json!(404))
    );
}

#[tokio::test]
async fn a_request_that_its_client_takes_back_is_in_the_access_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let origin = Origin::start().await;
    let site = Site::start(|options, _| {
        options.default_target = Some(origin.url());
        options.ours.access_log = Some(path.clone());
        options.ours.access_log_format = Some("json".to_owned());
    })
    .await;
    let client = site.client().await;
    let request = client.request(Method::GET, "/hang").body(()).unwrap();
    let (answer, mut upload) = client.send(request, true).await;
    eventually("the request arrives", || origin.requests() == 1).await;
    upload.send_reset(Reason::CANCEL);
    drop(answer);
    eventually("it is written", || path.metadata().unwrap().len() > 0).await;
    let line: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(
        (&line["path"], &line["status"], &line["version"]),
        (&json!("/hang"), &json!(499), &json!("HTTP/2.0"))
    );
}
