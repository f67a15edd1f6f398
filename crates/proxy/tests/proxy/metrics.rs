//! The metrics.

use orrery_proxy::Options;

use crate::support::{Origin, Proxy, raw_exchange};

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
