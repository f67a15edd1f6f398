//! Files that a server is given.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use orrery_session::protocol::{File, Secret};
use orrery_session::testing::{Account, is_root};

use crate::asking::{Server, failed, shell};

#[test]
fn files_are_written_as_the_account_and_follow_no_link() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::write(&victim, "untouched").unwrap();
    let link = ada.home.join("link.pem");
    std::os::unix::fs::symlink(victim.path(), &link).unwrap();
    let path = ada.home.join("deep/down/key.pem");
    let file = |path: &Path, mode| File {
        path: path.to_str().unwrap().to_owned(),
        content: Secret::new("a key"),
        mode,
    };
    let mut start = shell(&ada, "cat deep/down/key.pem link.pem");
    start.umask = Some(0o077);
    start.files = vec![file(&path, 0o600), file(&link, 0o644)];
    let mut server = Server::start(start);
    assert_eq!((server.ended(), server.log().as_str()), (0, "a keya key"));
    let data = path.metadata().unwrap();
    assert_eq!(
        (data.uid(), data.gid(), data.mode() & 0o777),
        (ada.uid, ada.gid, 0o600)
    );
    assert_eq!(
        path.parent().unwrap().metadata().unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(link.symlink_metadata().unwrap().mode() & 0o777, 0o644);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");

    let mut start = shell(&ada, "true");
    start.files = vec![file(Path::new("/etc/orrery-test-file"), 0o600)];
    let (_, message) = failed(Server::start(start).answer);
    assert!(message.contains("/etc/orrery-test-file"), "{message}");
    assert!(!Path::new("/etc/orrery-test-file").exists());
}
