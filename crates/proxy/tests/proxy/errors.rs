//! What people see when something fails.

use std::fs;

use orrery_proxy::Options;

use crate::support::{self, Origin, Proxy};

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
