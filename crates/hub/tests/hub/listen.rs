//! The hub's own listener on a socket file.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use orrery_hub::listen::Listener;

fn mode(path: &std::path::Path) -> u32 {
    let file = std::fs::symlink_metadata(path).expect("a file");
    file.permissions().mode() & 0o777
}

#[tokio::test]
async fn a_socket_that_a_killed_hub_left_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.sock");
    // As after a kill: the file is there, and nobody listens.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());

    let first = Listener::unix(&path, 0o620).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(mode(&path), 0o620);
    UnixStream::connect(&path).expect("somebody listens");
    let refusal = Listener::unix(&path, 0o600).err().expect("a refusal");
    assert!(refusal.contains("another hub does already"), "{refusal}");
    assert_eq!(mode(&path), 0o620);
    UnixStream::connect(&path).expect("it still listens");

    drop(first);
    assert!(!path.exists());
    let _again = Listener::unix(&path, 0o600).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn what_is_no_socket_or_another_programs_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.sock");
    std::fs::write(&path, "precious").expect("a file");
    let refusal = Listener::unix(&path, 0o600).err().expect("a refusal");
    assert!(
        refusal.contains("something else than a socket"),
        "{refusal}"
    );
    assert_eq!(
        std::fs::read_to_string(&path).expect("the file"),
        "precious"
    );

    let other = folder.path().join("other.sock");
    let _other = std::os::unix::net::UnixListener::bind(&other).expect("a socket");
    assert!(Listener::unix(&other, 0o600).is_err());
    UnixStream::connect(&other).expect("it still listens");
}

#[tokio::test]
async fn another_hubs_socket_at_the_same_path_is_not_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.sock");
    let first = Listener::unix(&path, 0o600).unwrap_or_else(|error| panic!("{error}"));
    std::fs::remove_file(&path).expect("a file");
    let _other = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    drop(first);
    UnixStream::connect(&path).expect("it still listens");
}
