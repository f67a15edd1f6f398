//! The REST API.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{self, Origin, Proxy, Raw, TOKEN, dead_url, keeping_routes_in, raw_exchange};

async fn proxy() -> Proxy {
    Proxy::start(Options::default()).await
}

pub(crate) async fn put(proxy: &Proxy, body: &Value) -> support::Answer {
    proxy.api("PUT", "/api/routes", &body.to_string()).await
}

pub(crate) async fn table(proxy: &Proxy) -> Value {
    proxy.api("GET", "/api/routes", "").await.json()
}

#[tokio::test]
async fn answers_are_those_of_configurable_http_proxy() {
    let proxy = proxy().await;
    for (method, path, body, status, text) in [
        (
            "POST",
            "/api/routes/user/ada",
            r#"{"target":"http://h:1"}"#,
            201,
            "",
        ),
        (
            "POST",
            "/api/routes/x",
            r#"{"target":3}"#,
            400,
            "Must specify 'target' as string",
        ),
        (
            "POST",
            "/api/routes/x",
            "[]",
            400,
            "Must specify 'target' as string",
        ),
        (
            "POST",
            "/api/routes/x",
            "null",
            400,
            "Must specify 'target' as string",
        ),
        ("GET", "/api/routes/x", "", 404, ""),
        ("GET", "/api/nope", "", 404, "Not Found"),
        ("PATCH", "/api/nope", "", 404, "Not Found"),
        ("PATCH", "/api/routes", "", 405, "Method not supported"),
        ("OPTIONS", "/api/routes/x", "", 405, "Method not supported"),
        ("PUT", "/api/routes/x", "{}", 405, "Method not supported"),
        ("DELETE", "/api/routes/x", "", 404, ""),
        ("DELETE", "/api/routes/user/ada/", "", 204, ""),
        (
            "GET",
            "/api/routes?inactive_since=soon",
            "",
            400,
            "Invalid datestamp 'soon' must be ISO8601.",
        ),
    ] {
        let answer = proxy.api(method, path, body).await;
        assert_eq!(
            (answer.status, &*answer.text()),
            (status, text),
            "{method} {path}"
        );
    }
    let answer = proxy.api("POST", "/api/routes/x", "{").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("Body not valid JSON: "));
    let answer = proxy.api("GET", "/api/routes/", "").await;
    assert_eq!(answer.headers("content-type"), ["application/json"]);
    assert_eq!(answer.text(), "{}");
}

/// Who holds connections to one listener takes them from nobody else.
#[tokio::test]
async fn connections_to_the_api_and_to_metrics_are_bounded() {
    let proxy = Proxy::start(Options {
        metrics_port: Some(0),
        ours: OurOptions {
            max_connections: Some(20),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut metrics = proxy.handle.metrics_address().unwrap();
    metrics.set_ip([127, 0, 0, 1].into());
    let request = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";
    let answer = raw_exchange(metrics, request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers("connection"), ["close"]);
    let request = "GET /api/nope HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for (address, most) in [(metrics, 16), (proxy.api_address(), 32)] {
        let mut held = Vec::new();
        for _ in 0..most {
            held.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        let mut next = tokio::spawn(raw_exchange(address, request));
        let waited = tokio::time::timeout(Duration::from_millis(300), &mut next).await;
        assert!(waited.is_err(), "one more than {most} is served");
        assert_eq!(proxy.get("/user/nobody").await.status, 404);
        held.pop();
        let answer = tokio::time::timeout(Duration::from_secs(10), next).await;
        assert_eq!(answer.unwrap().unwrap().status, 404);
    }
}

#[tokio::test]
async fn data_come_back_as_stored_with_the_time_of_the_request() {
    let proxy = proxy().await;
    let body = json!({
        "target": "http://h:1", "jupyterhub": true, "user": "ada", "n": 1.5, "deep": {"a": [null]},
        "last_activity": "2001-01-01T00:00:00.000Z",
    });
    let path = "/api/routes/user/a%40b%2Fc";
    assert_eq!(proxy.api("POST", path, &body.to_string()).await.status, 201);
    let mut route = proxy.api("GET", path, "").await.json();
    let time = route
        .as_object_mut()
        .unwrap()
        .remove("last_activity")
        .unwrap();
    assert!(time.as_str().unwrap() > "2020" && time.as_str().unwrap().ends_with('Z'));
    let mut expected = body;
    expected.as_object_mut().unwrap().remove("last_activity");
    assert_eq!(route, expected);
    assert!(table(&proxy).await.get("/user/a@b/c").is_some());
    for (since, number) in [("2001-01-01", 0), ("2999-01-01T00:00:00Z", 1)] {
        for name in ["inactive_since", "inactiveSince"] {
            let path = format!("/api/routes?{name}={since}");
            let listed = proxy.api("GET", &path, "").await.json();
            assert_eq!(listed.as_object().unwrap().len(), number, "{path}");
        }
    }
}

#[tokio::test]
async fn the_token_is_asked_before_anything_else() {
    let proxy = proxy().await;
    for authorization in [
        "",
        "Authorization: token wrong\r\n",
        "Authorization: token\r\n",
        &format!("Authorization: Bearer {TOKEN}\r\n"),
        &format!("Authorization: x token {TOKEN}\r\n"),
    ] {
        for request in ["GET /api/routes", "PUT /api/routes", "POST /api/routes/x"] {
            // The body never comes.
            let request = format!(
                "{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 9\r\n\
                 {authorization}\r\n"
            );
            let answer = raw_exchange(proxy.api_address(), &request).await;
            assert_eq!((answer.status, &*answer.text()), (403, ""), "{request}");
        }
    }
}

#[tokio::test]
async fn put_replaces_the_whole_table() {
    let origin = Origin::start().await;
    let proxy = proxy().await;
    let used = "2001-02-03T04:05:06.007Z";
    let first = json!({"/user/ada": {"target": origin.url(), "last_activity": used}});
    assert_eq!(put(&proxy, &first).await.status, 204);
    proxy.add("/user/bob", "http://old:1").await;
    proxy.add("/user/eve", "http://old:1").await;
    let before = table(&proxy).await;

    let wanted = json!({
        "/user/ada": {"target": origin.url()},
        "/user/bob": {"target": dead_url()},
        "/user/cy/": {"target": "http://cy:1", "last_activity": used},
    });
    let answer = put(&proxy, &wanted).await;
    assert_eq!((answer.status, &*answer.text()), (204, ""));
    let after = table(&proxy).await;
    let paths: Vec<&String> = after.as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/user/ada", "/user/bob", "/user/cy"]);
    assert_eq!(
        after["/user/ada"], before["/user/ada"],
        "its activity is kept"
    );
    assert_eq!(after["/user/bob"]["target"], wanted["/user/bob"]["target"]);
    assert_eq!(before["/user/ada"]["last_activity"], used);
    assert_eq!(after["/user/cy"]["last_activity"], used);

    // What GET gives, PUT takes.
    assert_eq!(put(&proxy, &after).await.status, 204);
    assert_eq!(table(&proxy).await, after);
    assert_eq!(proxy.get("/user/ada/x").await.text(), "GET /user/ada/x");
    assert_eq!(proxy.get("/user/eve/x").await.status, 404);

    assert_eq!(put(&proxy, &json!({})).await.status, 204);
    assert_eq!(table(&proxy).await, json!({}));
}

#[tokio::test]
async fn a_bad_entry_is_named_and_changes_nothing() {
    let proxy = proxy().await;
    proxy.add("/user/ada", "http://h:1").await;
    let before = table(&proxy).await;
    for (body, named) in [
        (
            r#"{"/a":{"target":"http://h:1"},"/bad":{"target":"nonsense"}}"#,
            "/bad",
        ),
        (r#"{"/a":{"target":"http://h:1"},"/bad":{}}"#, "/bad"),
        (r#"{"/a":{"target":"http://h:1"},"/bad":7}"#, "/bad"),
        (
            r#"{"/a":{"target":"http://h:1"},"/a/":{"target":"http://h:2"}}"#,
            "/a/",
        ),
        (r#"[{"target":"http://h:1"}]"#, "object of routes"),
        (r#"{"/a":{"target":"http://h:1"}"#, "object of routes"),
        ("", "object of routes"),
    ] {
        let answer = proxy.api("PUT", "/api/routes", body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains(named), "{}", answer.text());
        assert_eq!(table(&proxy).await, before);
    }
}

#[tokio::test]
async fn a_table_that_has_changed_is_not_replaced() {
    let proxy = proxy().await;
    proxy.add("/a", "http://h:1").await;
    let tag = proxy.api("GET", "/api/routes", "").await.headers("etag")[0].clone();
    let put_if = async |tag: &str| {
        let request = format!(
            "PUT /api/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIf-Match: {tag}\r\n\
             Authorization: token {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
        );
        raw_exchange(proxy.api_address(), &request).await.status
    };
    proxy.add("/b", "http://h:1").await;
    assert_eq!(put_if(&tag).await, 412);
    assert_eq!(table(&proxy).await.as_object().unwrap().len(), 2);
    let tag = proxy.api("GET", "/api/routes", "").await.headers("etag")[0].clone();
    assert_eq!(put_if(&tag).await, 204);
    assert_eq!(put_if(&tag).await, 412);
    assert_eq!(put_if("*").await, 204);
}

/// Adds are not slower with many routes, while the state file is written anew.
#[tokio::test]
async fn routes_are_added_while_all_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(keeping_routes_in(&folder.path().join("routes"))).await;
    let wanted: serde_json::Map<String, Value> = (0..20_000)
        .map(|number| (format!("/user/{number}"), json!({"target": "http://h:1"})))
        .collect();
    let body = Value::Object(wanted).to_string();
    assert_eq!(proxy.api("PUT", "/api/routes", &body).await.status, 204);
    let rewriting = async { proxy.api("PUT", "/api/routes", &body).await };
    let adding = async {
        for number in 0..100 {
            proxy.add(&format!("/new/{number}"), "http://h:1").await;
        }
    };
    let (replaced, ()) = tokio::join!(rewriting, adding);
    assert_eq!(replaced.status, 204);
    // Those added after the replacement are there, in their order; those before went with the rest.
    let listed = proxy.api("GET", "/api/routes", "").await.json();
    let kept: Vec<bool> = (0..100)
        .map(|number| listed.get(format!("/new/{number}")).is_some())
        .collect();
    assert!(kept.is_sorted(), "{kept:?}");
    assert!(listed.get("/user/0").is_some() && listed.get("/user/19999").is_some());
}

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
