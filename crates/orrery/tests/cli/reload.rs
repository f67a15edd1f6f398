//! SIGHUP to a hub that really runs, and what systemd is told.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::life::{Hub, SOON, Site, eventually};

/// A hub whose log is in a file, and its configuration to be changed.
struct Running {
    hub: Hub,
    site: Site,
}

impl Running {
    fn new(site: Site, environment: &[(&str, String)]) -> Self {
        let log = File::create(site.folder.path("hub.log")).unwrap();
        let hub = site
            .command(&[])
            .envs(environment.iter().cloned())
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self {
            hub: Hub(hub),
            site,
        }
    }

    fn up(site: Site) -> Self {
        let running = Self::new(site, &[]);
        eventually("the hub", || running.site.is_up());
        // The signal is taken when all of the hub runs.
        running.logged("is now running");
        running
    }

    fn log(&self) -> String {
        self.site.folder.read("hub.log")
    }

    fn logged(&self, text: &str) -> String {
        eventually(text, || Some(self.log()).filter(|log| log.contains(text)))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.hub.0.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let file = self.site.folder.path("hub.json");
        let mut config = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(file, config.to_string()).unwrap();
    }

    fn login_page(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.site.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
            .write_all(b"GET /hub/login HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn sighup_takes_what_can_change_and_names_what_needs_a_restart() {
    let hub = Running::up(Site::new());
    hub.change(|config| {
        config["JupyterHub"]["template_vars"] = json!({"announcement": "Closed on Monday"});
        config["JupyterHub"]["base_url"] = json!("/elsewhere/");
        config["Application"] = json!({"log_level": "DEBUG"});
    });
    hub.signal(Signal::SIGHUP);
    let log = hub.logged("the configuration was reloaded");
    assert!(log.contains("JupyterHub.template_vars"), "{log}");
    assert!(log.contains("need a restart"), "{log}");
    assert!(log.contains("JupyterHub.base_url"), "{log}");
    // The page is still where it was, and says what is new.
    assert!(hub.login_page().contains("Closed on Monday"));
    assert!(hub.logged(" DEBUG ").contains("DEBUG"));
    // What was not taken is still a difference; what was taken is none any more.
    let before = hub.log().len();
    hub.signal(Signal::SIGHUP);
    let log = eventually("the second reload", || {
        let log = hub.log()[before..].to_owned();
        log.contains("the configuration was reloaded")
            .then_some(log)
    });
    assert!(log.contains("JupyterHub.base_url"), "{log}");
    assert!(!log.contains("JupyterHub.template_vars"), "{log}");
}

#[test]
fn a_broken_file_is_refused_with_a_sentence_and_the_old_one_stays() {
    let hub = Running::up(Site::new());
    hub.change(|config| {
        config["JupyterHub"]["template_vars"] = json!({"announcement": "Closed on Monday"});
    });
    hub.signal(Signal::SIGHUP);
    hub.logged("the configuration was reloaded");
    let whole = hub.site.folder.read("hub.json");
    for (broken, sentence) in [
        (whole[..whole.len() / 2].to_owned(), "is not valid JSON"),
        (
            whole.replace("template_vars", "template_wars"),
            "template_wars",
        ),
        // Right in itself, but not what could be started with.
        (
            whole.replace("\"simple\"", "\"nonsense\""),
            "names the class \\\"nonsense",
        ),
        (
            whole.replace("{\"announcement\"", "[\"announcement\""),
            "is not valid JSON",
        ),
    ] {
        let before = hub.log().len();
        std::fs::write(hub.site.folder.path("hub.json"), broken).unwrap();
        hub.signal(Signal::SIGHUP);
        let log = eventually(sentence, || {
            let log = hub.log()[before..].to_owned();
            log.contains("the hub goes on with the old one")
                .then_some(log)
        });
        let plain = sentence.replace('\\', "");
        assert!(
            log.contains(sentence) || log.contains(&plain),
            "{sentence} in {log}"
        );
        assert!(hub.login_page().contains("Closed on Monday"));
    }
    std::fs::write(
        hub.site.folder.path("hub.json"),
        whole.replace("Monday", "Friday"),
    )
    .unwrap();
    hub.signal(Signal::SIGHUP);
    eventually("the mended file", || {
        hub.login_page().contains("Closed on Friday").then_some(())
    });
}

#[test]
fn systemd_is_told_when_the_hub_is_ready_reloads_lives_and_stops() {
    let site = Site::new();
    let socket = site.folder.path("notify.sock");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(SOON)).unwrap();
    let mut hub = Running::new(
        site,
        &[
            ("NOTIFY_SOCKET", socket.display().to_string()),
            ("WATCHDOG_USEC", "200000".to_owned()),
        ],
    );
    let mut heard = Vec::new();
    let mut until = |wanted: &str| {
        loop {
            let mut buffer = [0; 1024];
            let length = listener
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let is_it = text.contains(wanted);
            heard.push(text);
            if is_it {
                return heard.clone();
            }
        }
    };
    let first = until("READY=1");
    assert!(
        first.iter().all(|text| !text.contains("RELOADING")),
        "{first:?}"
    );
    hub.site.is_up().unwrap();
    until("WATCHDOG=1");
    hub.signal(Signal::SIGHUP);
    let told = until("RELOADING=1");
    assert!(told.last().unwrap().contains("MONOTONIC_USEC="), "{told:?}");
    until("READY=1");
    until("WATCHDOG=1");
    hub.signal(Signal::SIGTERM);
    until("STOPPING=1");
    assert!(hub.hub.0.wait().unwrap().success());
}

#[test]
fn a_start_a_reload_and_an_end_by_a_signal_are_in_the_audit_log() {
    let site = Site::new();
    let file = site.folder.path("hub.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["JupyterHub"]["audit_log_file"] = json!("audit.jsonl");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut hub = Running::up(site);
    let events = |hub: &Running| -> Vec<(String, String, Value)> {
        let text = hub.site.folder.read("audit.jsonl");
        let text_of = |value: &Value| value.as_str().unwrap().to_owned();
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| {
                ["start", "config.reload", "shutdown"].contains(&event["action"].as_str().unwrap())
            })
            .map(|event| {
                (
                    text_of(&event["action"]),
                    text_of(&event["outcome"]),
                    event["details"].clone(),
                )
            })
            .collect()
    };
    let until = |hub: &Running, count: usize| {
        eventually("the event", || (events(hub).len() == count).then_some(()));
    };
    until(&hub, 1);
    hub.change(|config| config["JupyterHub"]["template_vars"] = json!({"announcement": "x"}));
    hub.signal(Signal::SIGHUP);
    until(&hub, 2);
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &whole[1..]).unwrap();
    hub.signal(Signal::SIGHUP);
    until(&hub, 3);
    hub.signal(Signal::SIGTERM);
    assert!(hub.hub.0.wait().unwrap().success());
    let found = events(&hub);
    let short: Vec<_> = found
        .iter()
        .map(|(action, outcome, _)| (action.as_str(), outcome.as_str()))
        .collect();
    assert_eq!(
        short,
        [
            ("start", "ok"),
            ("config.reload", "ok"),
            ("config.reload", "failed"),
            ("shutdown", "ok"),
        ]
    );
    assert_eq!(found[1].2["changed"], json!(["JupyterHub.template_vars"]));
    assert_eq!(found[3].2, json!({"by": "signal"}));
}
