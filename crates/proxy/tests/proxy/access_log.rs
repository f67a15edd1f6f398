//! The access log.

use std::fs;

use orrery_proxy::{Options, OurOptions};
use serde_json::{Value, json};

use crate::support::{Origin, Proxy, eventually};

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
