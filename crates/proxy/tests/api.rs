//! The REST API, the state file and the metrics: what programs see of the proxy.
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

#[expect(dead_code, reason = "other tests need more of it")]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions, Token};
use serde_json::{Value, json};
use support::{Origin, Proxy, TOKEN, dead_url, eventually, raw_exchange};
use tokio_tungstenite::tungstenite::Message;

async fn proxy() -> Proxy {
    Proxy::start(Options::default()).await
}

async fn put(proxy: &Proxy, body: &Value) -> support::Answer {
    proxy.api("PUT", "/api/routes", &body.to_string()).await
}

async fn table(proxy: &Proxy) -> Value {
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

#[tokio::test]
async fn a_replaced_table_is_in_the_state_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let options = || Options {
        ours: OurOptions {
            state_file: Some(path.clone()),
            ..OurOptions::default()
        },
        ..Options::default()
    };
    let proxy = Proxy::start(options()).await;
    proxy.add("/old", "http://h:1").await;
    let wanted: serde_json::Map<String, Value> = (0..3000)
        .map(|number| (format!("/user/{number}"), json!({"target": "http://h:1"})))
        .collect();
    assert_eq!(put(&proxy, &Value::Object(wanted)).await.status, 204);
    proxy.add("/new", "http://h:1").await;
    let before = table(&proxy).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3001);
    // Nothing is written at the end: this is as sudden as a kill.
    let written = fs::read(&path).unwrap();
    drop(proxy);
    fs::write(&path, written).unwrap();
    assert_eq!(table(&Proxy::start(options()).await).await, before);
}

#[tokio::test]
async fn changes_while_the_state_file_is_written_are_kept() {
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
    let wanted: serde_json::Map<String, Value> = (0..2000)
        .map(|number| (format!("/user/{number}"), json!({"target": "http://h:1"})))
        .collect();
    let wanted = Value::Object(wanted).to_string();
    // Each replacement writes the whole file; changes come in between.
    let replacing = async {
        for _ in 0..5 {
            let tag = proxy.api("GET", "/api/routes", "").await.headers("etag")[0].clone();
            let request = format!(
                "PUT /api/routes HTTP/1.1\r\nHost: h\r\nConnection: close\r\nIf-Match: {tag}\r\n\
                 Authorization: token {TOKEN}\r\nContent-Length: {}\r\n\r\n{wanted}",
                wanted.len()
            );
            raw_exchange(proxy.api_address(), &request).await;
        }
    };
    let adding = async {
        for number in 0..200 {
            proxy.add(&format!("/new/{number}"), "http://h:1").await;
            if number % 2 == 0 {
                let path = format!("/api/routes/new/{number}");
                proxy.api("DELETE", &path, "").await;
            }
        }
    };
    tokio::join!(replacing, adding);
    let before = table(&proxy).await;
    let copy = folder.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let again = Proxy::start(Options {
        ours: OurOptions {
            state_file: Some(copy),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    assert_eq!(table(&again).await, before);
}

/// As after a kill: a proxy of its own reads a copy.
async fn table_in(file: &Path) -> Value {
    let copy = file.with_extension("copy");
    fs::copy(file, &copy).unwrap();
    let again = Proxy::start(Options {
        ours: OurOptions {
            state_file: Some(copy),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    table(&again).await
}

#[tokio::test]
async fn a_proxy_that_drains_leaves_the_state_file_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let origin = Origin::start().await;
    let options = || Options {
        ours: OurOptions {
            state_file: Some(path.clone()),
            drain_timeout: Some(60_000),
            ..OurOptions::default()
        },
        ..Options::default()
    };
    let old = Proxy::start(options()).await;
    old.add("/user/old", &origin.url()).await;
    let mut held = old.websocket("/user/old/ws/x").await.unwrap();
    let ending = tokio::spawn(old.handle.shutdown());
    // It waits for the file, not for the websocket.
    let next = Proxy::start(options()).await;
    assert!(table(&next).await.get("/user/old").is_some());
    next.add("/user/new", &origin.url()).await;
    next.api("DELETE", "/api/routes/user/old", "").await;
    held.send(Message::text("x")).await.unwrap();
    assert!(matches!(held.next().await, Some(Ok(_))), "it drains still");
    drop(held);
    tokio::time::timeout(Duration::from_secs(20), ending)
        .await
        .unwrap()
        .unwrap();
    next.add("/user/newer", &origin.url()).await;
    assert_eq!(table_in(&path).await, table(&next).await);
}

#[tokio::test]
async fn a_state_file_that_cannot_be_written_is_tried_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let (there, gone) = (folder.path().join("there"), folder.path().join("gone"));
    fs::create_dir(&there).unwrap();
    let path = there.join("routes");
    let proxy = Proxy::start(Options {
        ours: OurOptions {
            state_file: Some(path.clone()),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    proxy.add("/user/old", "http://h:1").await;
    fs::rename(&there, &gone).unwrap();
    let before = fs::read_to_string(gone.join("routes")).unwrap();
    let wanted = json!({"/user/new": {"target": "http://h:1"}});
    assert_eq!(put(&proxy, &wanted).await.status, 204);
    proxy.add("/user/new2", "http://h:1").await;
    let after = fs::read_to_string(gone.join("routes")).unwrap();
    assert_eq!(after, before, "nothing is added to what does not hold");

    fs::rename(&gone, &there).unwrap();
    let is_whole = || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 2);
    eventually("the file is whole", is_whole).await;
    proxy.add("/user/new3", "http://h:1").await;
    assert_eq!(table_in(&path).await, table(&proxy).await);
}

/// Adds are not slower with many routes, while the state file is written anew.
#[tokio::test]
async fn routes_are_added_while_all_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(Options {
        ours: OurOptions {
            state_file: Some(folder.path().join("routes")),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
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

// === After a kill ===

/// The proxy as a program: this test's own binary, told by its environment to be one.
struct Program {
    child: Child,
    public: String,
    api: String,
}

impl Program {
    fn start(state_file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_proxy_as_a_program", "--nocapture"])
            .env("ORRERY_TEST_STATE_FILE", state_file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut place = |name: &str| {
            let line = lines.find_map(|line| {
                let line = line.unwrap();
                Some(line.split_once(name)?.1.to_owned())
            });
            line.unwrap()
        };
        let (public, api) = (place("PUBLIC "), place("API "));
        Self { child, public, api }
    }

    /// One request without a runtime, so that its time is its own.
    fn ask(address: &str, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn api(&self, method: &str, path: &str, body: &str) -> String {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
             Authorization: token {TOKEN}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Self::ask(&self.api, &request)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SIGKILL: the program can write nothing any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of its own: what [`Program`] runs.
#[tokio::test]
async fn the_proxy_as_a_program() {
    let Some(state_file) = std::env::var_os("ORRERY_TEST_STATE_FILE") else {
        return;
    };
    let handle = orrery_proxy::start(Options {
        ip: Some("127.0.0.1".to_owned()),
        port: Some(0),
        auth_token: Token::new(TOKEN),
        ours: OurOptions {
            state_file: Some(state_file.into()),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await
    .unwrap();
    let mut out = std::io::stdout();
    writeln!(out, "\nPUBLIC {}", handle.address().unwrap()).unwrap();
    writeln!(out, "API {}", handle.api_address().unwrap()).unwrap();
    out.flush().unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_all_routes_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let origin = Origin::start().await;
    let program = Program::start(&path);
    let wanted: serde_json::Map<String, Value> = (0..5000)
        .map(|number| (format!("/user/{number}"), json!({"target": origin.url()})))
        .collect();
    let body = Value::Object(wanted).to_string();
    assert!(program.api("PUT", "/api/routes", &body).contains("204"));
    let one = json!({"target": origin.url()}).to_string();
    assert!(
        program
            .api("POST", "/api/routes/last", &one)
            .contains("201")
    );
    drop(program);
    // The kill came while a line was written.
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"path\":\"/torn").unwrap();

    let program = Program::start(&path);
    for path in ["/user/0", "/user/4999", "/last"] {
        let request = format!("GET {path}/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let answer = Program::ask(&program.public, &request);
        assert!(answer.ends_with(&format!("GET {path}/x")), "{answer}");
    }
    let listed = program.api("GET", "/api/routes", "");
    let listed: Value = serde_json::from_str(listed.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(listed.as_object().unwrap().len(), 5001);
    // The half line has gone in the end.
    eventually("the file is whole", || {
        fs::read_to_string(&path).is_ok_and(|text| !text.contains("/torn\n"))
    })
    .await;
}

// === The access log ===

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

// === Limits ===

#[tokio::test]
async fn a_silent_websocket_is_closed_and_a_busy_one_is_not() {
    let origin = Origin::start().await;
    let proxy = Proxy::start(Options {
        default_target: Some(origin.url()),
        ours: OurOptions {
            websocket_timeout: Some(1000),
            ..OurOptions::default()
        },
        ..Options::default()
    })
    .await;
    let mut silent = proxy.websocket("/ws/silent").await.unwrap();
    let mut busy = proxy.websocket("/ws/busy").await.unwrap();
    let end = async {
        while let Some(Ok(_)) = silent.next().await {}
        Instant::now()
    };
    let begin = Instant::now();
    tokio::pin!(end);
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                busy.send(Message::text("x")).await.unwrap();
                assert!(matches!(busy.next().await, Some(Ok(_))), "it is open");
            }
        }
    };
    let taken = ended - begin;
    assert!(taken < Duration::from_secs(15), "{taken:?}");
    busy.send(Message::text("x")).await.unwrap();
    assert!(matches!(busy.next().await, Some(Ok(_))), "it is open");
}
