//! A hub that really runs, with its proxy and a server: what it leaves behind and finds again.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Folder;

/// No step takes longer, on a slow machine either.
pub(super) const SOON: Duration = Duration::from_secs(30);
pub(super) const TOKEN: &str = "a-token-of-the-tests";

#[expect(
    clippy::disallowed_methods,
    reason = "a test of processes, not in an async runtime"
)]
pub(super) fn eventually<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let until = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder with a configuration on free ports.
pub(super) struct Site {
    pub(super) folder: Folder,
    pub(super) port: u16,
}

/// A hub that is killed when the test ends.
pub(super) struct Hub(pub(super) Child);

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Proxies outlive their hubs.
        if let Some(proxy) = self.pid("proxy.pid") {
            let _ = kill(Pid::from_raw(proxy), Signal::SIGKILL);
        }
    }
}

impl Site {
    pub(super) fn new() -> Self {
        let free = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [port, hub, api] = free.map(|free| free.local_addr().unwrap().port());
        let folder = Folder::new();
        let homes = folder.path("homes").display().to_string();
        let config = serde_json::json!({
            "JupyterHub": {
                "spawner_class": "simple",
                "authenticator_class": "dummy",
                "bind_url": format!("http://127.0.0.1:{port}"),
                "hub_port": hub,
                "pid_file": "hub.pid",
                "services": [{"name": "tests", "api_token": TOKEN, "admin": true}],
            },
            "ConfigurableHTTPProxy": {
                "api_url": format!("http://127.0.0.1:{api}"),
                "pid_file": "proxy.pid",
            },
            "Authenticator": {"allow_all": true},
            "SimpleLocalProcessSpawner": {
                "home_dir_template": format!("{homes}/{{username}}"),
                "cmd": ["/bin/sh", "-c", "(exec ls -l /proc/self/fd >all); mv all descriptors; exec sleep 60"],
            },
        });
        Self {
            folder: folder.with("hub.json", &config.to_string()),
            port,
        }
    }

    pub(super) fn command(&self, more: &[&str]) -> Command {
        let arguments: Vec<&str> = ["-f", "hub.json"]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let mut command = self
            .folder
            .command(env!("CARGO_BIN_EXE_orrery"), &arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&self) -> Hub {
        Hub(self.command(&[]).spawn().unwrap())
    }

    /// Starts a hub that cannot run, and returns what it says.
    pub(super) fn refused(&self, more: &[&str]) -> String {
        let run = self
            .folder
            .finish(self.command(more).stderr(Stdio::piped()));
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        run.stderr
    }

    fn pid(&self, file: &str) -> Option<i32> {
        std::fs::read_to_string(self.folder.path(file))
            .ok()?
            .parse()
            .ok()
    }

    pub(super) fn is_up(&self) -> Option<()> {
        self.ask("GET", "/hub/health")
            .filter(|status| *status == 200)
            .map(|_| ())
    }

    /// The status of an answer through the proxy.
    pub(super) fn ask(&self, method: &str, path: &str) -> Option<u16> {
        self.ask_as(TOKEN, method, path)
    }

    pub(super) fn ask_as(&self, token: &str, method: &str, path: &str) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(SOON)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: token {token}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }
}

fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

#[test]
fn a_proxy_that_no_file_names_is_found_again() {
    let site = Site::new();
    let first = site.start();
    eventually("the first hub", || site.is_up());
    let proxy = site.pid("proxy.pid").unwrap();
    drop(first);
    // As after a kill between the start of the proxy and the writing of the file.
    std::fs::remove_file(site.folder.path("proxy.pid")).unwrap();

    let _second = site.start();
    let again = eventually("the second hub", || site.pid("proxy.pid"));
    assert_eq!(again, proxy);
    eventually("the second hub", || site.is_up());
}

#[test]
fn a_hub_that_was_killed_while_its_proxy_came_up_starts_again() {
    let site = Site::new();
    let first = site.start();
    // The file is there before the proxy answers.
    eventually("the proxy's pid", || site.pid("proxy.pid"));
    drop(first);
    let _second = site.start();
    eventually("the second hub", || site.is_up());
}

#[test]
fn a_second_start_by_mistake_takes_nothing_from_the_hub_that_runs() {
    let site = Site::new();
    let mut first = site.start();
    eventually("the hub", || site.is_up());
    let pids = (site.pid("hub.pid"), site.pid("proxy.pid"));
    assert_eq!(pids.0, i32::try_from(first.0.id()).ok());

    let refusal = site.refused(&[]);
    assert!(refusal.contains("in use"), "{refusal}");
    let refusal = site.refused(&["--JupyterHub.hub_port=0"]);
    assert!(refusal.contains("another hub that is running"), "{refusal}");
    assert_eq!((site.pid("hub.pid"), site.pid("proxy.pid")), pids);
    site.is_up().unwrap();

    kill(Pid::from_raw(pids.0.unwrap()), Signal::SIGTERM).unwrap();
    first.0.wait().unwrap();
    assert_eq!((site.pid("hub.pid"), site.pid("proxy.pid")), (None, None));
}

#[test]
fn a_proxy_is_not_left_behind_by_a_start_that_fails() {
    let site = Site::new();
    std::fs::create_dir(site.folder.path("folder.pid")).unwrap();
    let refusal = site.refused(&["--ConfigurableHTTPProxy.pid_file=folder.pid"]);
    assert!(
        refusal.contains("folder.pid cannot be written"),
        "{refusal}"
    );
    TcpListener::bind(("127.0.0.1", site.port)).expect("nobody listens");
}

#[test]
fn neither_proxies_nor_servers_get_what_the_hub_was_started_with() {
    let site = Site::new();
    let command = site.command(&[]);
    let mut shell = site.folder.command(
        "/bin/sh",
        &["-c", "exec \"$0\" \"$@\" 7</dev/zero 9</dev/zero"],
    );
    shell.arg(command.get_program()).args(command.get_args());
    let _hub = Hub(shell
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap());
    eventually("the hub", || site.is_up());
    assert_eq!(site.ask("POST", "/hub/api/users/ada"), Some(201));
    site.ask("POST", "/hub/api/users/ada/server").unwrap();
    let file = site.folder.path("homes/ada/descriptors");
    let server = eventually("the server", || std::fs::read_to_string(&file).ok());
    // A `total` line; standard input, output and error; the folder that `ls` reads.
    assert_eq!(server.lines().count(), 5, "{server}");

    let proxy = site.pid("proxy.pid").unwrap();
    assert!(is_alive(proxy));
    let inherited = std::fs::read_dir(format!("/proc/{proxy}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.ends_with("dev/zero"));
    assert_eq!(inherited.count(), 0);
    assert_eq!(
        site.ask("DELETE", "/hub/api/users/ada/server").unwrap() / 100,
        2
    );
}

#[test]
fn the_proxy_runs_with_the_umask_of_its_option() {
    let site = Site::new();
    let umask = format!("--ConfigurableHTTPProxy.command_umask={}", 0o027);
    let _hub = Hub(site.command(&[&umask]).spawn().unwrap());
    eventually("the hub", || site.is_up());
    let proxy = site.pid("proxy.pid").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{proxy}/status")).unwrap();
    assert!(status.contains("Umask:\t0027\n"), "{status}");
}

/// A supervisor may signal the hub and then its whole group: the hub once ended at the second signal
/// and left its proxy behind.
#[test]
fn a_signal_that_comes_twice_at_once_still_stops_everything() {
    let site = Site::new();
    let mut hub = site.start();
    eventually("the hub is up", || site.is_up());
    let proxy = eventually("the proxy's pid", || site.pid("proxy.pid"));
    let pid = Pid::from_raw(i32::try_from(hub.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(hub.0.wait().unwrap().code(), Some(0));
    assert!(
        kill(Pid::from_raw(proxy), None).is_err(),
        "the proxy still runs"
    );
}
