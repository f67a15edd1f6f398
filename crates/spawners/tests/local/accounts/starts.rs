//! Starts: as whom a server runs, what it gets, why it does not start.

use std::time::{Duration, Instant};

use orrery_core::config::Command;
use orrery_core::phase::Cause;
use orrery_core::spawner::{Spawner, Status};
use orrery_session::testing::{Account, is_root};
use serde_json::json;

use super::{Site, pid, spec};
use crate::servers::{SERVER, eventually, get};

#[tokio::test]
async fn a_server_runs_as_its_owner_until_it_is_stopped() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.spawner.check().await.unwrap();
    let mut ada = Account::new();
    let (_, group) = ada.join_new_group();
    let started = site.start(&ada, &["python3", "-c", SERVER]).await.unwrap();
    site.said(&started.state, "listening").await;
    let answer = eventually("an answer", async || get(&started.url).ok()).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert_eq!(site.spawner.poll(&started.state).await, Ok(Status::Running));
    assert_eq!(started.state["user"], ada.name);

    let process = format!("/proc/{}", pid(&started.state));
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let (uid, gid) = (ada.uid, ada.gid);
    for line in [
        format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
        format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}\n"),
        format!("Groups:\t{gid} {group} \n"),
    ] {
        assert!(status.contains(&line), "{line} in {status}");
    }
    assert_eq!(
        std::fs::read_link(format!("{process}/cwd")).unwrap(),
        ada.home
    );

    site.spawner.stop(&started.state, None).await.unwrap();
    assert!(ada.processes().is_empty());
    assert!(get(&started.url).is_err());
    assert!(matches!(
        site.spawner.poll(&started.state).await,
        Ok(Status::Exited(Some(_)))
    ));
    site.spawner.stop(&started.state, None).await.unwrap();
}

#[tokio::test]
async fn a_server_gets_its_owners_environment_and_sees_nothing_of_the_hub() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::with(&["--create-home", "--shell", "/bin/sh"]);
    // A descriptor that the hub let be inherited by mistake.
    let leak = std::fs::File::open("/etc/shadow").unwrap();
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let log = site.folder.path().join(format!("logs/{}.log", ada.name));
    let script = format!(
        // In a shell of its own, so that neither a pipe nor the file is open in the one that is looked at.
        "env; (ls -l /proc/$$/fd >fds); grep -o '[0-9]* -> .*' fds; cat {} || echo no log; wc -c",
        log.display()
    );
    let started = site.shell(&ada, &script).await;
    assert_eq!(site.exited(&started.state).await, Some(0));
    drop(leak);
    let lines = site.logs(&started.state).await;
    let port = started.url.rsplit_once(':').unwrap().1;
    let mut expected = vec![
        format!("HOME={}", ada.home.display()),
        format!("USER={}", ada.name),
        "SHELL=/bin/sh".to_owned(),
        "JUPYTERHUB_SERVICE_PREFIX=/user/ada/".to_owned(),
        format!("JUPYTERHUB_USER={}", ada.name),
        format!("JUPYTERHUB_SERVICE_URL=http://127.0.0.1:{port}/user/ada/"),
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        format!("PWD={}", ada.home.display()),
    ];
    let (mut environment, rest): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.contains('=') && !line.contains("->"));
    environment.sort();
    expected.sort();
    assert_eq!(environment, expected);
    let log = log.display();
    assert_eq!(rest[0], "0 -> /dev/null");
    assert_eq!(rest[1], format!("1 -> {log}"));
    assert_eq!(rest[2], format!("2 -> {log}"));
    assert!(rest[3].contains("Permission denied"), "{rest:?}");
    assert_eq!(rest[4..], ["no log", "0"]);
}

#[tokio::test]
async fn shell_umask_and_folder_are_as_configured() {
    if !is_root() {
        return;
    }
    let site = Site::with(|options| {
        options.shell_cmd = Command::of(["bash", "-l", "-c"]);
        options
            .popen_kwargs
            .insert("umask".to_owned(), 0o027.into());
        options.popen_kwargs.insert("cwd".to_owned(), json!("/usr"));
    });
    let ada = Account::new();
    // A login shell reads what the owner wrote there.
    let profile = ada.home.join(".bash_profile");
    std::fs::write(&profile, "export FROM_PROFILE=yes\n").unwrap();
    let command = [
        "sh",
        "-c",
        "umask; pwd; echo \"$FROM_PROFILE $1\"",
        "sh",
        "it's $HOME",
    ];
    let started = site.start(&ada, &command).await.unwrap();
    assert_eq!(site.exited(&started.state).await, Some(0));
    assert_eq!(
        site.logs(&started.state).await,
        ["0027", "/usr", "yes it's $HOME"]
    );
}

#[tokio::test]
async fn what_is_missing_is_named() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let ada = Account::new();
    for (user, command, cause, expected) in [
        (
            "nobody-of-that-name",
            "sh",
            Cause::Spawner,
            "no system user nobody-of-that-name",
        ),
        (
            ada.name.as_str(),
            "jupyterhub-nothing",
            Cause::Command,
            "jupyterhub-nothing was not found in PATH",
        ),
        (
            ada.name.as_str(),
            "/etc/passwd",
            Cause::Command,
            "/etc/passwd may not be run",
        ),
    ] {
        let failure = site.start_spec(spec(user, &[command])).await.unwrap_err();
        assert_eq!(failure.cause, cause, "{}", failure.message);
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
    assert!(ada.processes().is_empty());
}

#[tokio::test]
async fn a_helper_that_cannot_work_is_told_at_the_start_with_what_to_do() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    for (command, expected) in [
        (
            vec!["/no/such/orrery-session"],
            "/no/such/orrery-session cannot be run",
        ),
        (
            vec![
                "sh",
                "-c",
                "echo 'sudo: a password is required' >&2; exit 1",
            ],
            "sudo: a password is required",
        ),
        (vec!["echo", "hello"], "not understood"),
        (vec!["true"], "without an answer"),
    ] {
        let site = Site::by(&command, |_| {});
        let failure = site.spawner.check().await.unwrap_err();
        for text in [
            expected,
            "docs/unprivileged-hub.md",
            "c.JupyterHub.session_helper",
            command[0],
        ] {
            assert!(failure.message.contains(text), "{}", failure.message);
        }
        let failure = site.start(&ada, &["sh"]).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Spawner);
        assert!(failure.message.contains(expected), "{}", failure.message);
        // Nobody knows whether a server runs.
        let state = json!({"pid": 12345});
        let state = site.spawner.adopt(&state, &ada.name, "/user/ada/").await;
        assert!(site.spawner.poll(&state).await.is_err());
        assert!(site.spawner.find("7-7", &ada.name).await.is_err());
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_left_when_the_start_has_lasted_long_enough() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let site = Site::by(&["sh", "-c", "cat >/dev/null; sleep 5"], |_| {});
    let mut late = spec(&ada.name, &["sh"]);
    late.start_timeout = Duration::from_millis(200);
    let began = Instant::now();
    let failure = site.start_spec(late).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Timeout);
    assert!(began.elapsed() < Duration::from_secs(4));
}
