//! Starts: what a server gets, where its output goes, why it does not start.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use orrery_core::phase::Cause;
use orrery_core::spawner::{Spawner, Started, Status};
use orrery_core::{ServerName, UserName};
use serde_json::json;

use super::{Site, is_alive, pid};
use crate::servers::{SERVER, eventually, get};

#[tokio::test]
async fn a_server_is_reached_at_the_address_it_was_given_until_it_is_stopped() {
    let site = Site::new();
    let started = site.start(&["python3", "-c", SERVER]).await.unwrap();
    site.said(&started.state, "listening").await;
    let answer = eventually("an answer", async || get(&started.url).ok()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));

    site.spawner.stop(&started.state, None).await.unwrap();
    assert!(!is_alive(pid(&started.state)));
    assert!(get(&started.url).is_err());
    assert!(matches!(
        site.spawner.poll(&started.state).await,
        Ok(Status::Exited(Some(_)))
    ));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_server_gets_its_own_environment_and_home_and_nothing_of_the_hubs() {
    let site = Site::new();
    let started = site
        .shell("pwd; env; id -u; umask; wc -c < /dev/stdin")
        .await;
    assert_eq!(site.exited(&started.state).await, Some(0));
    let home = site.folder.path().join("home/ada");
    let lines = site.logs(&started.state).await;
    let port = started.url.rsplit_once(':').unwrap().1;
    for expected in [
        home.display().to_string(),
        format!("HOME={}", home.display()),
        "USER=ada".to_owned(),
        "SHELL=/bin/bash".to_owned(),
        "JUPYTERHUB_SERVICE_PREFIX=/user/ada/".to_owned(),
        format!("JUPYTERHUB_SERVICE_URL=http://127.0.0.1:{port}/user/ada/"),
        "0".to_owned(),
    ] {
        assert!(lines.contains(&expected), "{expected} in {lines:?}");
    }
    assert!(
        !lines.iter().any(|line| line.starts_with("CARGO_")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_server_inherits_no_descriptor_and_leads_a_group_of_its_own() {
    let site = Site::new();
    // What a hub has open: files, sockets, listeners, other servers' logs.
    let _file = std::fs::File::open("/dev/null").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let inherited: Vec<u64> = descriptors("self")
        .into_iter()
        .filter(|number| survives_exec(*number))
        .collect();
    let others: Vec<Started> = [site.shell("exec sleep 60").await].into();
    let started = site
        .start_with(&["sh", "-c", "sleep 60 & echo ready; wait"], |spec| {
            spec.user = UserName::parse("bob").unwrap();
        })
        .await
        .unwrap();
    site.said(&started.state, "ready").await;

    let pid = pid(&started.state).to_string();
    for number in descriptors(&pid) {
        assert!(
            number <= 2 || inherited.contains(&number),
            "descriptor {number} was inherited: {:?}",
            std::fs::read_link(format!("/proc/{pid}/fd/{number}"))
        );
    }
    let target = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
    assert_eq!(target(0), Path::new("/dev/null"));
    let log = site.folder.path().join("logs/bob.log");
    assert_eq!((target(1), target(2)), (log.clone(), log));

    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2);
    assert_eq!(group, Some(pid.as_str()));
    for started in others.iter().chain([&started]) {
        site.spawner.stop(&started.state, None).await.unwrap();
    }
}

fn descriptors(pid: &str) -> Vec<u64> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect()
}

/// Whether a descriptor that the test itself was started with lacks close-on-exec.
fn survives_exec(number: u64) -> bool {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).is_ok_and(|info| {
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        u32::from_str_radix(flags.unwrap().trim(), 8).unwrap() & CLOSE_ON_EXEC == 0
    })
}

#[tokio::test]
async fn logs_are_for_the_hubs_user_alone_and_the_run_before_is_kept() {
    let site = Site::new();
    let logs = site.folder.path().join("logs");
    for word in ["first", "second", "third"] {
        let started = site.shell(&format!("echo {word}; echo oops >&2")).await;
        site.exited(&started.state).await;
        assert_eq!(site.logs(&started.state).await, [word, "oops"]);
        assert_eq!(site.spawner.logs(&started.state, 1).await, ["oops"]);
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&logs), 0o700);
    assert_eq!(mode(&logs.join("ada.log")), 0o600);
    let before = std::fs::read_to_string(logs.join("ada.log.1")).unwrap();
    assert_eq!(before, "second\noops\n");
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 2);
}

#[tokio::test]
async fn a_log_that_grows_too_large_is_put_aside_while_its_server_runs() {
    let site = Site::new();
    let started = site
        .shell("yes x | head -c 11000000; echo full; read line < wake; echo later; exec sleep 60")
        .await;
    site.said(&started.state, "full").await;
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    let log = site.folder.path().join("logs/ada.log");
    assert_eq!(log.metadata().unwrap().len(), 0);
    let aside = site.folder.path().join("logs/ada.log.1");
    assert!(aside.metadata().unwrap().len() > 10_000_000);
    assert_eq!(
        aside.metadata().unwrap().permissions().mode() & 0o777,
        0o600
    );
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_log_that_only_looks_huge_costs_the_hub_no_more() {
    let site = Site::new();
    let script = "truncate -s 1G /proc/self/fd/1; echo; echo grown; exec sleep 60";
    let started = site.shell(script).await;
    site.said(&started.state, "grown").await;
    let begun = Instant::now();
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    assert!(begun.elapsed() < Duration::from_secs(10));
    let log = site.folder.path().join("logs/ada.log");
    assert_eq!(log.metadata().unwrap().len(), 0);
    let aside = site.folder.path().join("logs/ada.log.1");
    assert!(aside.metadata().unwrap().len() <= 10 * 1024 * 1024);
    let kept = std::fs::read(&aside).unwrap();
    assert!(kept.ends_with(b"grown\n"));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn named_servers_and_odd_names_have_logs_of_their_own() {
    let site = Site::new();
    let long = "ü".repeat(100);
    for (user, server, file) in [
        ("a.b", "", "a.b.log"),
        ("a", "b", "a+b.log"),
        ("a+b", "", "a%2Bb.log"),
        (".hidden", "", "run-7.log"),
        (long.as_str(), "", "run-7.log"),
    ] {
        let started = site
            .start_with(&["sh", "-c", "echo hello"], |spec| {
                spec.user = UserName::parse(user).unwrap();
                spec.server = ServerName::parse(server).unwrap();
            })
            .await
            .unwrap();
        site.exited(&started.state).await;
        assert_eq!(started.state["log"], file);
        assert_eq!(site.logs(&started.state).await, ["hello"]);
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_says_why() {
    let site = Site::new();
    let folder = site.folder.path();
    let write = |name: &str, text: &str, mode| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plain = write("plain", "#!/bin/sh\n", 0o644);
    let lost = write("lost", "#!/no/such/interpreter\n", 0o755);
    for (command, expected) in [
        ("jupyterhub-nothing", "not found in PATH ("),
        ("/no/such/program", "/no/such/program does not exist"),
        (plain.as_str(), "not an executable file"),
        (lost.as_str(), "interpreter"),
        ("/tmp", "not an executable file"),
    ] {
        let failure = site.start(&[command]).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Command);
        assert!(failure.message.contains(expected), "{}", failure.message);
        assert!(failure.message.contains(command), "{}", failure.message);
    }
    let failure = site.start(&["sh", "-c", "a\0b"]).await.unwrap_err();
    assert!(failure.message.contains("zero byte"), "{}", failure.message);
    assert!(site.start(&[]).await.is_err());
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let site = Site::with(|local, _| {
        let folder = json!("/no/such/folder");
        local.popen_kwargs.insert("cwd".to_owned(), folder);
    });
    let failure = site.start(&["sh"]).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Command);
    assert!(failure.message.contains("/no/such/folder"));

    let site = Site::with(|_, simple| simple.home_dir_template = "/dev/null/{username}".into());
    let failure = site.start(&["sh"]).await.unwrap_err();
    assert!(failure.message.contains("/dev/null/ada"));
}
