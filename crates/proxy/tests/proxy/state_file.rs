//! Routes over a restart, and over a kill.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use orrery_proxy::{Options, OurOptions, Token};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    api::{put, table},
    support::{Origin, Proxy, TOKEN, eventually, keeping_routes_in, raw_exchange},
};

#[tokio::test]
async fn routes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let origin = Origin::start().await;
    let options = || keeping_routes_in(&path);
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
    let proxy = Proxy::start(keeping_routes_in(&path)).await;
    for _ in 0..1200 {
        proxy.add("/user/ada", "http://127.0.0.1:9").await;
    }
    eventually("it is written anew", || {
        fs::read_to_string(&path).is_ok_and(|text| text.lines().count() < 1100)
    })
    .await;
}

#[tokio::test]
async fn a_replaced_table_is_in_the_state_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes");
    let options = || keeping_routes_in(&path);
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
    let proxy = Proxy::start(keeping_routes_in(&path)).await;
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
    let again = Proxy::start(keeping_routes_in(&copy)).await;
    assert_eq!(table(&again).await, before);
}

/// As after a kill: a proxy of its own reads a copy.
async fn table_in(file: &Path) -> Value {
    let copy = file.with_extension("copy");
    fs::copy(file, &copy).unwrap();
    let again = Proxy::start(keeping_routes_in(&copy)).await;
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
    let proxy = Proxy::start(keeping_routes_in(&path)).await;
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

/// The proxy as a program: this test's own binary, told by its environment to be one.
struct Program {
    child: Child,
    public: String,
    api: String,
}

impl Program {
    fn start(state_file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "state_file::the_proxy_as_a_program",
                "--nocapture",
            ])
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
