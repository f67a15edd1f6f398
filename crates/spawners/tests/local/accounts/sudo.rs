//! A hub that is an ordinary user.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use orrery_core::spawner::{Spawner, Status};
use orrery_session::testing::{Account, is_root};
use serde_json::json;
use tempfile::TempDir;

use super::{Site, helper, pid, spec, with_mark};

/// Names the account whose servers the test of an unprivileged hub starts, in the process that is it.
const UNPRIVILEGED: &str = "ORRERY_TEST_UNPRIVILEGED";

/// Lets an account run a copy of the helper by sudo, for as long as this lives.
struct Sudo {
    folder: TempDir,
    rule: PathBuf,
}

impl Sudo {
    fn allow(hub: &Account) -> Self {
        // Build folders may be closed to other users.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let open = || std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open()).unwrap();
        for (from, name) in [
            (helper(), "orrery-session"),
            (std::env::current_exe().unwrap(), "test"),
        ] {
            let copy = folder.path().join(name);
            std::fs::copy(from, &copy).unwrap();
            std::fs::set_permissions(&copy, open()).unwrap();
        }
        let rule = Path::new("/etc/sudoers.d").join(&hub.name);
        let helper = folder.path().join("orrery-session");
        let text = format!(
            "{} ALL=(root) NOPASSWD: {} \"\"\n",
            hub.name,
            helper.display()
        );
        std::fs::write(&rule, text).expect("sudo is installed (scripts/install-test-deps.sh)");
        std::fs::set_permissions(&rule, std::fs::Permissions::from_mode(0o440)).unwrap();
        Self { folder, rule }
    }
}

impl Drop for Sudo {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.rule);
    }
}

#[test]
fn a_hub_that_is_an_ordinary_user_does_all_of_it_by_sudo() {
    if !is_root() {
        return;
    }
    let (hub, ada) = (Account::new(), Account::new());
    let sudo = Sudo::allow(&hub);
    let as_hub = |allowed: &str| {
        std::process::Command::new("setpriv")
            .args(["--reuid", &hub.name, "--regid", &hub.name, "--init-groups"])
            .arg(sudo.folder.path().join("test"))
            .args([
                "--exact",
                "accounts::sudo::an_unprivileged_hub",
                "--nocapture",
            ])
            .current_dir(&hub.home)
            .env_clear()
            .env("HOME", &hub.home)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("RUST_BACKTRACE", "0")
            .env("ORRERY_TEST_WITHOUT_ROOT", "1")
            .env(
                "ORRERY_TEST_HELPER",
                sudo.folder.path().join("orrery-session"),
            )
            .env(UNPRIVILEGED, format!("{}:{allowed}", ada.name))
            .output()
            .unwrap()
    };
    let run = as_hub("allowed");
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
    assert!(ada.processes().is_empty());

    // Without the rule it is told what to do.
    std::fs::remove_file(&sudo.rule).unwrap();
    let run = as_hub("refused");
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && text.contains("1 passed"), "{text}");
}

/// The other half of the test above: it runs as an ordinary user.
#[tokio::test]
async fn an_unprivileged_hub() {
    let Ok(order) = std::env::var(UNPRIVILEGED) else {
        return;
    };
    let (user, allowed) = order.split_once(':').unwrap();
    let helper = std::env::var("ORRERY_TEST_HELPER").unwrap();
    assert!(!nix::unistd::geteuid().is_root());
    let site = Site::by(&["sudo", "-n", &helper], |_| {});
    if allowed == "refused" {
        let failure = site.spawner.check().await.unwrap_err();
        assert!(failure.message.contains("sudo: "), "{}", failure.message);
        let failure = site.start_spec(spec(user, &["sh"])).await.unwrap_err();
        assert!(failure.message.contains("sudo: "), "{}", failure.message);
        return;
    }
    site.spawner.check().await.unwrap();
    let uid = nix::unistd::User::from_name(user).unwrap().unwrap().uid;
    let owner = |pid: i32| {
        let data = std::fs::metadata(format!("/proc/{pid}"));
        data.ok().map(|data| data.uid())
    };

    let mark = format!("7-{}", std::process::id());
    let command = [
        "sh",
        "-c",
        "id -un; env; setsid sleep 1000 & echo ready; wait",
    ];
    let started = site
        .start_spec(with_mark(spec(user, &command), &mark))
        .await
        .unwrap();
    site.said(&started.state, "ready").await;
    let lines = site.logs(&started.state).await;
    assert_eq!(lines[0], user);
    assert!(
        !lines.iter().any(|line| line.starts_with("SUDO")),
        "{lines:?}"
    );
    assert_eq!(owner(pid(&started.state)), Some(uid.as_raw()));
    // The hub's next life, which remembers nothing.
    let next = Site::by(&["sudo", "-n", &helper], |_| {});
    assert_eq!(next.spawner.poll(&started.state).await, Ok(Status::Running));
    let upstreams = json!({"pid": pid(&started.state)});
    let adopted = next.spawner.adopt(&upstreams, user, "/user/ada/").await;
    assert_eq!(adopted["start_time"], started.state["start_time"]);
    assert_eq!(next.spawner.poll(&adopted).await, Ok(Status::Running));
    let found = next.spawner.find(&mark, user).await.unwrap().unwrap();
    assert_eq!(pid(&found), pid(&started.state));
    next.spawner.stop(&found, None).await.unwrap();
    assert_eq!(owner(pid(&started.state)), None);
    assert_eq!(site.exited(&started.state).await, Some(130));

    let failure = site.start_spec(spec("root", &["sh"])).await.unwrap_err();
    assert!(
        failure.message.contains("root's account"),
        "{}",
        failure.message
    );
    // Nor does the helper end what is not a person's.
    let init = json!({"pid": 2, "start_time": 0});
    let _ = site.spawner.stop(&init, None).await;
}
