//! The proxy's routes and its process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use orrery_core::Secret;
use orrery_core::phase::Phase;
use orrery_core::routes::{Route, RouteTable as _};
use orrery_hub::routes::{HttpRouteTable, ProxyCommand, ProxyError, ProxyProcess, ProxySettings};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::servers::bench::{Bench, SOON, eventually, named, start, until};
use crate::servers::fakes::Start;

fn route(target: &str, data: serde_json::Value) -> Route {
    Route {
        target: target.to_owned(),
        data,
    }
}

#[tokio::test]
async fn a_check_makes_every_difference_good() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let (ada, bob) = (bench.user("ada").await, bench.user("bob").await);
    for user in [&ada, &bob] {
        start(&engine, user, "").await;
        until(&engine, user, "", Phase::Ready).await;
    }
    bench.spawner.stop_hangs.set(true);
    engine.stop(&bob, &named("")).await.expect("a stop");
    eventually("bob's route is gone", || {
        bench.table.target("/user/bob/").is_none()
    })
    .await;
    let target = bench.table.target("/user/ada/").expect("ada's route");
    {
        let mut routes = bench.table.routes.lock().expect("no panic under a lock");
        routes.insert(
            "/".to_owned(),
            route("http://127.0.0.1:1", json!({"hub": true})),
        );
        routes.insert(
            "/user/ada/".to_owned(),
            route("http://127.0.0.1:2", json!({"user": "ada"})),
        );
        routes.insert(
            "/user/bob/".to_owned(),
            route("http://127.0.0.1:3", json!({"user": "bob"})),
        );
        routes.insert(
            "/user/gone/".to_owned(),
            route("http://127.0.0.1:4", json!({"user": "gone"})),
        );
    }
    let changes = bench.keeper().check().await.expect("a check");
    assert_eq!(changes.added, ["/", "/user/ada/"]);
    assert_eq!(changes.deleted, ["/user/gone/"]);
    assert_eq!(
        bench.table.target("/").as_deref(),
        Some("http://127.0.0.1:8081")
    );
    assert_eq!(bench.table.target("/user/ada/"), Some(target));
    // Bob's server is stopping: its route is its task's to remove.
    assert!(bench.table.target("/user/bob/").is_some());
    let again = bench.keeper().check().await.expect("a check");
    assert!(again.added.is_empty() && again.deleted.is_empty());
}

#[tokio::test]
async fn a_server_that_is_routed_during_a_check_keeps_its_route() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    let gate = Arc::new(Semaphore::new(0));
    bench.table.gate.set(Some(Arc::clone(&gate)));
    let keeper = bench.keeper();
    let checking = keeper.check();
    let meanwhile = async {
        let table = bench.table.clone();
        let asked = move || table.asked_for_all.load(Ordering::SeqCst) == 1;
        eventually("the proxy is asked", asked).await;
        start(&engine, &ada, "").await;
        until(&engine, &ada, "", Phase::Ready).await;
        gate.add_permits(1);
    };
    let (changes, ()) = tokio::join!(checking, meanwhile);
    let changes = changes.expect("a check");
    assert!(changes.deleted.is_empty(), "{:?}", changes.deleted);
    assert!(bench.table.target("/user/ada/").is_some());
}

#[tokio::test]
async fn the_keeper_comes_back_when_the_proxy_does() {
    let bench = Bench::new(Start::Answers).await;
    bench.table.is_away.set(true);
    let keeper = bench.keeper();
    let running = keeper.clone();
    tokio::spawn(async move { running.run().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!keeper.proxy_is_up());
    bench.table.is_away.set(false);
    keeper.wake();
    eventually("the hub's route", || bench.table.target("/").is_some()).await;
    assert!(keeper.proxy_is_up());
    keeper.close();
}

#[tokio::test]
async fn everything_is_compared_only_when_there_is_a_reason_to() {
    let bench = Bench::new(Start::Answers).await;
    let engine = bench.life().await;
    let ada = bench.user("ada").await;
    start(&engine, &ada, "").await;
    until(&engine, &ada, "", Phase::Ready).await;
    let keeper = bench.keeper();
    let running = keeper.clone();
    tokio::spawn(async move { running.run().await });
    let looked = |times: usize| {
        let table = bench.table.clone();
        move || table.asked_for_one.load(Ordering::SeqCst) >= times
    };
    eventually("five looks", looked(5)).await;
    assert_eq!(bench.table.asked_for_all.load(Ordering::SeqCst), 1);

    // A proxy that was started anew by somebody else answers, and knows nothing.
    bench
        .table
        .routes
        .lock()
        .expect("no panic under a lock")
        .clear();
    eventually("both routes again", || {
        bench.table.target("/").is_some() && bench.table.target("/user/ada/").is_some()
    })
    .await;
    assert_eq!(bench.table.asked_for_all.load(Ordering::SeqCst), 2);
    keeper.close();
}

/// A proxy of a few lines of Python, on free ports.
fn small_proxy(folder: &Path) -> ProxySettings {
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address")
            .port()
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub/routes/small_proxy.py");
    ProxySettings {
        should_start: true,
        command: ProxyCommand::Configured(vec!["python3".to_owned(), script.display().to_string()]),
        socket: None,
        ip: "127.0.0.1".to_owned(),
        port: free(),
        api_ip: "127.0.0.1".to_owned(),
        api_port: free(),
        error_target: "http://127.0.0.1:8081/hub/error".to_owned(),
        log_level: "info".to_owned(),
        host_routing: false,
        public_tls: None,
        internal_tls: None,
        token: Secret::new("a token"),
        pid_file: folder.join("proxy.pid"),
        umask: 0o007,
        environment: std::collections::BTreeMap::new(),
    }
}

fn table_of(settings: &ProxySettings, token: &str) -> Arc<HttpRouteTable> {
    let api = format!("http://{}:{}", settings.api_ip, settings.api_port);
    Arc::new(HttpRouteTable::new(&api, Secret::new(token), false, 10, None).expect("a table"))
}

#[tokio::test]
async fn a_table_over_http_adds_tells_and_deletes() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = small_proxy(folder.path());
    let table = table_of(&settings, "a token");
    let proxy = ProxyProcess::start(settings.clone(), table.clone())
        .await
        .expect("a proxy");
    let spec = "/user/ada@x.org/a%20b/";
    let wanted = route(
        "http://127.0.0.1:4567",
        json!({"user": "ada@x.org", "server_name": "a b"}),
    );
    table.add(spec, &wanted).await.expect("an answer");
    let routes = table.routes().await.expect("routes");
    assert_eq!(routes.get(spec), Some(&wanted));
    assert!(table.has(spec).await.expect("an answer"));
    assert!(!table.has("/user/bob/").await.expect("an answer"));
    table.delete(spec).await.expect("an answer");
    table
        .delete(spec)
        .await
        .expect("a route that is not there is no error");
    assert!(table.routes().await.expect("routes").is_empty());
    let refused = table_of(&settings, "wrong")
        .routes()
        .await
        .expect_err("the token is checked");
    assert!(refused.why.contains("token"), "{refused}");
    proxy.stop(true).await;
    assert!(!settings.pid_file.exists());
    assert!(table.routes().await.is_err(), "the proxy has ended");
}

/// Whether `change` did it, and the table after that. `bulk` is for the small proxy.
async fn changed(bulk: Option<&str>) -> (bool, BTreeMap<String, Route>) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = small_proxy(folder.path());
    if let Some(bulk) = bulk {
        let name = "SMALL_PROXY_BULK".to_owned();
        settings.environment.insert(name, bulk.into());
    }
    let table = table_of(&settings, "a token");
    let proxy = ProxyProcess::start(settings, table.clone())
        .await
        .expect("a proxy");
    let (old, new) = ("/user/old/".to_owned(), "/user/a@b/c%20d/".to_owned());
    let kept = route("http://127.0.0.1:1", json!({"user": "kept"}));
    let added = route("http://127.0.0.1:2", json!({"user": "a@b"}));
    for spec in [&old, "/user/kept/"] {
        table.add(spec, &kept).await.expect("an answer");
    }
    let done = table
        .change(&[(&new, &added)], &[&old])
        .await
        .expect("an answer");
    let mut routes = table.routes().await.expect("routes");
    assert_eq!(routes.get("/user/kept/"), Some(&kept));
    assert_eq!(routes.contains_key(&old), !done);
    assert_eq!(routes.get(&new), done.then_some(&added));
    routes.retain(|spec, _| spec == "/replaced/");
    proxy.stop(true).await;
    (done, routes)
}

#[tokio::test]
async fn many_changes_are_one_request_to_a_proxy_that_takes_them() {
    for others in ["0", "2"] {
        let (done, marks) = changed(Some(others)).await;
        assert!(done);
        assert_eq!(marks.len(), 1, "by one request for all");
    }
}

#[tokio::test]
async fn many_changes_are_left_undone_by_other_proxies() {
    // configurable-http-proxy, and a table that others change all the time.
    for bulk in [None, Some("99")] {
        let (done, _) = changed(bulk).await;
        assert!(!done, "{bulk:?}");
    }
}

#[tokio::test]
async fn a_check_makes_many_differences_good_with_and_without_one_request_for_all() {
    for can_change in [true, false] {
        let bench = Bench::new(Start::Answers).await;
        bench.table.can_change.set(can_change);
        for number in 0..30 {
            let stale = route("http://127.0.0.1:4", json!({"user": "gone"}));
            let mut routes = bench.table.routes.lock().expect("no panic under a lock");
            routes.insert(format!("/user/gone{number}/"), stale);
        }
        let changes = bench.keeper().check().await.expect("a check");
        assert_eq!(changes.deleted.len(), 30);
        assert!(bench.table.target("/user/gone7/").is_none());
        let deleted = bench.table.deleted.load(Ordering::SeqCst);
        assert_eq!(deleted, if can_change { 0 } else { 30 });
    }
}

#[tokio::test]
async fn a_proxy_that_is_killed_is_back_with_its_routes() {
    let bench = Bench::new(Start::Answers).await;
    let folder = tempfile::tempdir().expect("a folder");
    let settings = small_proxy(folder.path());
    let table = table_of(&settings, "a token");
    let proxy = ProxyProcess::start(settings.clone(), table.clone())
        .await
        .expect("a proxy");
    let keeper = orrery_hub::routes::Keeper::new(orrery_hub::routes::KeeperParts {
        store: bench.store.clone(),
        table: table.clone(),
        hub_routespec: "/".to_owned(),
        hub_target: "http://127.0.0.1:8081".to_owned(),
        extra_routes: [("/docs/".to_owned(), "http://docs.example".to_owned())].into(),
        urls: orrery_hub::urls::Urls::new("/"),
        check_interval: Duration::from_mins(1),
    });
    let running = keeper.clone();
    tokio::spawn(async move { running.run().await });
    proxy.supervise(keeper.clone());
    let both = async |but_not: Option<i32>| {
        let looking = async {
            loop {
                let pid = proxy.pid();
                if pid != but_not && table.routes().await.is_ok_and(|routes| routes.len() == 2) {
                    return pid;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, looking)
            .await
            .expect("both routes")
    };
    let first = both(None).await.expect("a process");
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("a process");
    let second = both(Some(first)).await.expect("a process");
    assert_ne!(first, second);
    keeper.close();
    proxy.stop(true).await;
}

#[tokio::test]
async fn a_hub_that_starts_again_finds_its_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = small_proxy(folder.path());
    let table = table_of(&settings, "a token");
    let first = ProxyProcess::start(settings.clone(), table.clone())
        .await
        .expect("a proxy");
    let pid = first.pid();
    table
        .add("/", &route("http://127.0.0.1:8081", json!({"hub": true})))
        .await
        .expect("an answer");
    first.stop(false).await;

    let second = ProxyProcess::start(settings.clone(), table.clone())
        .await
        .expect("the proxy");
    assert_eq!(second.pid(), pid);
    assert_eq!(table.routes().await.expect("routes").len(), 1);
    second.stop(false).await;

    // With other options it is another proxy.
    let changed = ProxySettings {
        log_level: "debug".to_owned(),
        ..settings
    };
    let third = ProxyProcess::start(changed, table.clone())
        .await
        .expect("a proxy");
    assert_ne!(third.pid(), pid);
    third.stop(true).await;
}

#[tokio::test]
async fn the_pid_file_is_there_before_the_proxy_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let silent = ProxySettings {
        command: ProxyCommand::Configured(vec![
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            "exec sleep 60".to_owned(),
        ]),
        ..small_proxy(folder.path())
    };
    let table = table_of(&silent, "a token");
    let starting = tokio::spawn(ProxyProcess::start(silent.clone(), table));
    let written = || {
        let text = std::fs::read_to_string(&silent.pid_file).ok()?;
        text.parse().ok().map(Pid::from_raw)
    };
    eventually("the pid file", || written().is_some()).await;
    assert!(!starting.is_finished(), "it does not answer");
    kill(written().expect("a pid"), Signal::SIGKILL).expect("a process");
    let error = starting.await.expect("no panic").err();
    assert!(matches!(error, Some(ProxyError::Ended(_))));
    assert!(!silent.pid_file.exists(), "its process has ended");
}

#[tokio::test]
async fn a_proxy_that_cannot_start_is_explained() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = small_proxy(folder.path());
    let missing = ProxySettings {
        command: ProxyCommand::Configured(vec!["no-such-proxy".to_owned()]),
        ..settings.clone()
    };
    let error = ProxyProcess::start(missing, table_of(&settings, "a token"))
        .await
        .err()
        .expect("an error");
    assert!(error.to_string().contains("no-such-proxy"), "{error}");

    let taken = std::net::TcpListener::bind(("127.0.0.1", settings.port)).expect("the port");
    let error = ProxyProcess::start(settings.clone(), table_of(&settings, "a token"))
        .await
        .err()
        .expect("an error");
    assert!(
        matches!(&error, ProxyError::Taken { address, .. } if address.ends_with(&settings.port.to_string())),
        "{error}"
    );
    drop(taken);

    // The proxy of another hub in this folder, which goes on running.
    let first = ProxyProcess::start(settings.clone(), table_of(&settings, "a token"))
        .await
        .expect("a proxy");
    let other = ProxySettings {
        token: Secret::new("another"),
        pid_file: folder.path().join("other.pid"),
        ..settings.clone()
    };
    let error = ProxyProcess::start(other, table_of(&settings, "another"))
        .await
        .err()
        .expect("an error");
    assert!(matches!(error, ProxyError::Stranger(_)), "{error}");
    let pid = first.pid().expect("a process");
    assert!(kill(Pid::from_raw(pid), None).is_ok(), "it was ended");
    first.stop(true).await;

    // Somebody else's proxy, in a folder of its own and with another token.
    let ports = [settings.port, settings.api_port].map(|port| port.to_string());
    let mut strange = tokio::process::Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hub/routes/small_proxy.py"))
        .args(["--ip", "127.0.0.1", "--port", &ports[0]])
        .args(["--api-ip", "127.0.0.1", "--api-port", &ports[1]])
        .env("CONFIGPROXY_AUTH_TOKEN", "another")
        .current_dir(folder.path())
        .kill_on_drop(true)
        .spawn()
        .expect("a proxy");
    let listens = || std::net::TcpStream::connect(("127.0.0.1", settings.api_port)).is_ok();
    eventually("the other proxy", listens).await;
    let error = ProxyProcess::start(settings.clone(), table_of(&settings, "a token"))
        .await
        .err()
        .expect("an error");
    assert!(matches!(error, ProxyError::Stranger(_)), "{error}");
    strange.kill().await.expect("its end");

    let external = ProxySettings {
        should_start: false,
        ..settings.clone()
    };
    let none = ProxyProcess::start(external, table_of(&settings, "a token"))
        .await
        .expect("nothing to do");
    none.stop(true).await;
}
