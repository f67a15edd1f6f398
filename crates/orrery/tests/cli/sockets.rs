//! A hub that listens on a unix socket, with its proxy on another.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::life::{Hub, SOON, Site, TOKEN, eventually};

/// The status of an answer over a socket.
fn ask(socket: &Path, path: &str) -> Option<u16> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: token {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

fn url(socket: &Path) -> String {
    let escaped = socket.display().to_string().replace('/', "%2F");
    format!("http+unix://{escaped}")
}

#[test]
fn hub_and_proxy_talk_and_serve_by_sockets() {
    let site = Site::new();
    let (public, own) = (
        site.folder.path("public.sock"),
        site.folder.path("hub.sock"),
    );
    let arguments = [
        format!("--JupyterHub.bind_url={}", url(&public)),
        format!("--JupyterHub.hub_bind_url={}", url(&own)),
        format!("--JupyterHub.hub_socket_mode={}", 0o660),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let start = || Hub(site.command(&arguments).spawn().unwrap());
    let is_up = || (ask(&public, "/hub/health") == Some(200)).then_some(());

    let first = start();
    eventually("the hub", is_up);
    assert_eq!(ask(&own, "/hub/api/info"), Some(200));
    assert_eq!(ask(&public, "/hub/api/info"), Some(200));
    // A page for what nobody serves is made by the hub too, over its socket.
    assert_eq!(ask(&public, "/hub/api/users/nobody"), Some(404));
    let mode = std::fs::metadata(&own).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o660);

    // A second one is refused and takes nothing from the first.
    let second = site
        .folder
        .run(&[&["-f", "hub.json"], &arguments[..]].concat());
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("another hub does already"),
        "{}",
        second.stderr
    );
    is_up().unwrap();

    // Killed, it leaves its socket, which the next one replaces; the proxy has gone on.
    drop(first);
    assert!(own.exists());
    let _again = start();
    eventually("the hub again", is_up);
}
