//! People who are users of this machine: membership of groups, and system users made when needed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::{Gid, Group, User, getgrouplist};
use orrery_core::UserName;
use orrery_core::authenticator::{AddUserError, AuthenticatorError};
use orrery_core::escape::for_log;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::config::LocalAuthenticator;

/// How long making a system user may take.
const MAKING: Duration = Duration::from_secs(50);
/// So much of what the command says is kept.
const LARGEST_COMPLAINT: u64 = 4 * 1024;
/// Stands for the name in `add_user_cmd`.
const PLACEHOLDER: &str = "USERNAME";
/// Where system programs are, whatever the hub's own `PATH` says.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The users and groups of this machine, as `LocalAuthenticator`'s options see them.
pub struct LocalUsers {
    add_user_cmd: Vec<String>,
    allowed_groups: BTreeSet<String>,
    create_system_users: bool,
    uids: BTreeMap<String, i64>,
    /// The system's files are changed by one command at a time; others wait their turn here instead of
    /// failing at the files' lock.
    making: Mutex<()>,
}

impl LocalUsers {
    /// With these options.
    pub fn new(options: LocalAuthenticator) -> Self {
        let add_user_cmd = match options.add_user_cmd.0 {
            command if command.is_empty() => default_command(),
            command => command,
        };
        Self {
            add_user_cmd,
            allowed_groups: options.allowed_groups,
            create_system_users: options.create_system_users,
            uids: options.uids,
            making: Mutex::new(()),
        }
    }

    /// Whether `allowed_groups` names any group.
    pub fn has_allowed_groups(&self) -> bool {
        !self.allowed_groups.is_empty()
    }

    /// Whether a user is a member of one of `allowed_groups`. A group that does not exist has no
    /// members; that is logged.
    pub async fn allows(&self, name: &UserName) -> Result<bool, AuthenticatorError> {
        if self.allowed_groups.is_empty() {
            return Ok(false);
        }
        let (name, wanted) = (name.clone(), self.allowed_groups.clone());
        blocking(move || {
            let Some(own) = groups_of(name.as_str())? else {
                tracing::error!(user = %name, "authenticated, but no user of this machine");
                return Ok(false);
            };
            for group in &wanted {
                match gid_of(group)? {
                    Some(gid) if own.contains(&gid) => return Ok(true),
                    Some(_) => {}
                    None => tracing::error!(
                        group = for_log(group, 64),
                        "LocalAuthenticator.allowed_groups names a group that does not exist"
                    ),
                }
            }
            Ok(false)
        })
        .await
    }

    /// Whether a user is a member of one of these groups, all of which must exist.
    pub async fn is_member(
        &self,
        name: &UserName,
        groups: &BTreeSet<String>,
    ) -> Result<bool, AuthenticatorError> {
        let (name, wanted) = (name.clone(), groups.clone());
        blocking(move || {
            let Some(own) = groups_of(name.as_str())? else {
                return Err(failed(format!("{name} is no user of this machine")));
            };
            let mut is_member = false;
            for group in &wanted {
                let gid = gid_of(group)?.ok_or_else(|| {
                    failed(format!("there is no group {group:?} on this machine"))
                })?;
                is_member |= own.contains(&gid);
            }
            Ok(is_member)
        })
        .await
    }

    /// Sees to it that the system has a user of this name.
    pub async fn add_user(&self, name: &UserName) -> Result<(), AddUserError> {
        if exists(name).await? {
            return Ok(());
        }
        if !self.create_system_users {
            return Err(AddUserError::NoSuchUser(format!(
                "there is no user {name} on this machine \
                 (LocalAuthenticator.create_system_users = True makes users who are missing)"
            )));
        }
        let command = self.command_for(name.as_str())?;
        let _turn = self.making.lock().await;
        if exists(name).await? {
            return Ok(());
        }
        tracing::info!(user = %name, command = %for_log(&command.join(" "), 300), "making a system user");
        run(&command).await?;
        if !exists(name).await? {
            return Err(failed(format!(
                "LocalAuthenticator.add_user_cmd ({}) said that it made {name}, but there is no such user",
                command[0]
            ))
            .into());
        }
        Ok(())
    }

    fn command_for(&self, name: &str) -> Result<Vec<String>, AddUserError> {
        if !is_portable(name) {
            return Err(AddUserError::NoSuchUser(format!(
                "no system user is made for {}: such a name is not safe to have",
                for_log(name, 64)
            )));
        }
        let mut command: Vec<String> = self
            .add_user_cmd
            .iter()
            .map(|word| word.replace(PLACEHOLDER, name))
            .collect();
        if let Some(uid) = self.uids.get(name) {
            command.extend(["--uid".to_owned(), uid.to_string()]);
        }
        command.push(name.to_owned());
        Ok(command)
    }
}

/// What the system calls the user of a typed name. May ask a directory, and block.
pub fn system_name(typed: &str) -> Option<String> {
    let user = User::from_name(typed).ok().flatten()?;
    // By way of the id, since a directory may know one user by several names.
    let same = User::from_uid(user.uid).ok().flatten()?;
    Some(same.name)
}

/// Whether the two names mean two different users of this machine.
pub async fn are_different(one: &str, other: &str) -> Result<bool, AuthenticatorError> {
    let (one, other) = (one.to_owned(), other.to_owned());
    blocking(move || {
        let one = User::from_name(&one).map_err(unavailable)?;
        let other = User::from_name(&other).map_err(unavailable)?;
        Ok(matches!((one, other), (Some(one), Some(other)) if one.uid != other.uid))
    })
    .await
}

async fn exists(name: &UserName) -> Result<bool, AuthenticatorError> {
    let name = name.clone();
    blocking(move || {
        let found = User::from_name(name.as_str()).map_err(unavailable)?;
        Ok(found.is_some())
    })
    .await
}

/// All groups of a user, the first one included; `None` if there is no such user.
fn groups_of(name: &str) -> Result<Option<Vec<Gid>>, AuthenticatorError> {
    let Some(user) = User::from_name(name).map_err(unavailable)? else {
        return Ok(None);
    };
    let name = CString::new(user.name.as_str())
        .map_err(|_| failed("a user's name has a zero byte".to_owned()))?;
    getgrouplist(&name, user.gid).map(Some).map_err(unavailable)
}

fn gid_of(group: &str) -> Result<Option<Gid>, AuthenticatorError> {
    let found = Group::from_name(group).map_err(unavailable)?;
    Ok(found.map(|group| group.gid))
}

/// Looks things up where it keeps no request waiting: the system may ask a directory.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthenticatorError> + Send + 'static,
) -> Result<T, AuthenticatorError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("looking users and groups up does not panic")
}

/// Runs a command that makes a user, with nothing of the hub's environment, which has secrets.
async fn run(command: &[String]) -> Result<(), AuthenticatorError> {
    let about = |why: String| {
        failed(format!(
            "LocalAuthenticator.add_user_cmd ({}) {why}",
            command[0]
        ))
    };
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .env_clear()
        .env("PATH", SYSTEM_PATH)
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| about(format!("cannot be run: {error}")))?;
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    let ended = timeout(MAKING, async {
        tokio::join!(child.wait(), read(output), read(errors))
    });
    // A command that takes longer is left to end by itself: killed, it would leave files locked.
    let (status, output, errors) = ended
        .await
        .map_err(|_| about(format!("did not end within {} seconds", MAKING.as_secs())))?;
    let status = status.map_err(|error| about(format!("cannot be waited for: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let said = format!("{errors} {output}");
    Err(about(format!(
        "failed ({status}): {}",
        for_log(said.trim(), 300)
    )))
}

/// The beginning of what a command says; the rest is read and dropped, so that it can go on.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else {
        return String::new();
    };
    let mut kept = Vec::new();
    let _ = (&mut pipe)
        .take(LARGEST_COMPLAINT)
        .read_to_end(&mut kept)
        .await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// Whether a name can stand at the end of a command and in the system's files. Directories may have
/// users of other names; we make none. Digits alone are taken for an id by many programs.
fn is_portable(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.bytes().all(|byte| byte.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.@+".contains(&byte))
}

/// Debian's `adduser` makes a home as the site's policy wants it. Elsewhere a program of that name, if
/// there is one, is `useradd`.
fn default_command() -> Vec<String> {
    let is_debians = ["/usr/sbin/adduser", "/usr/local/sbin/adduser"]
        .iter()
        .filter_map(|path| Path::new(path).canonicalize().ok())
        .any(|path| path.ends_with("adduser"));
    let words: &[&str] = if is_debians {
        &["adduser", "-q", "--gecos", "", "--disabled-password"]
    } else {
        &["useradd", "--create-home"]
    };
    words.iter().map(ToString::to_string).collect()
}

fn unavailable(error: nix::Error) -> AuthenticatorError {
    failed(format!(
        "the users of this machine cannot be looked up: {error}"
    ))
}

fn failed(sentence: String) -> AuthenticatorError {
    AuthenticatorError(sentence)
}

#[cfg(test)]
mod tests {
    use orrery_core::config::{Command as Words, ConfigClass as _};

    use super::*;

    fn users(change: impl FnOnce(&mut LocalAuthenticator)) -> LocalUsers {
        let mut options = LocalAuthenticator::with_defaults();
        change(&mut options);
        LocalUsers::new(options)
    }

    fn name(text: &str) -> UserName {
        UserName::parse(text).expect("a good name")
    }

    #[test]
    fn the_command_has_the_name_in_its_places_and_the_id_that_is_set() {
        let users = users(|options| {
            options.add_user_cmd = Words::of(["mk", "--home", "/srv/USERNAME/USERNAME"]);
            options.uids = [("ada".to_owned(), 1815)].into();
        });
        let words = |name| users.command_for(name).map(|words| words.join(" "));
        assert_eq!(
            words("ada").as_deref(),
            Ok("mk --home /srv/ada/ada --uid 1815 ada")
        );
        assert_eq!(words("bob").as_deref(), Ok("mk --home /srv/bob/bob bob"));
    }

    #[test]
    fn names_that_a_command_could_take_for_something_else_are_refused() {
        let users = users(|_| ());
        for bad in [
            "-ada", "--uid=0", "a b", "a:b", ".ada", "ada;", "a$(b)", "zoë", "a\\b",
        ] {
            assert!(users.command_for(bad).is_err(), "{bad}");
        }
        for good in ["ada", "ada.l", "_ada", "ada@acme.example", "9ada", "a-b"] {
            assert!(users.command_for(good).is_ok(), "{good}");
        }
    }

    #[tokio::test]
    async fn a_user_who_is_missing_is_only_made_when_wished() {
        let missing = name("zz-orrery-nobody");
        let refused = users(|_| ()).add_user(&missing).await;
        let refused = refused.expect_err("there is no such user");
        assert!(
            matches!(&refused, AddUserError::NoSuchUser(why) if why.contains("create_system_users")),
            "{refused}"
        );
        assert_eq!(users(|_| ()).add_user(&name("root")).await, Ok(()));
        for (command, reason) in [
            (Words::of(["false"]), "failed"),
            (Words::of(["true"]), "no such user"),
            (Words::of(["/nonexistent/adduser"]), "cannot be run"),
            (
                Words::of(["sh", "-c", "echo no more room >&2; exit 4"]),
                "no more room",
            ),
        ] {
            let users = users(|options| {
                options.create_system_users = true;
                options.add_user_cmd = command;
            });
            let error = users.add_user(&missing).await.expect_err("not made");
            // Another time it may be made.
            assert!(
                matches!(&error, AddUserError::Failed(why) if why.contains(reason)),
                "{error}"
            );
        }
    }

    #[test]
    fn only_names_that_nothing_takes_for_something_else_are_made() {
        for (name, expected) in [
            ("ada", true),
            ("_ada.l-2@x+", true),
            ("1ada", true),
            ("1000", false),
            ("-ada", false),
            ("ada l", false),
            ("", false),
        ] {
            assert_eq!(is_portable(name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn groups_are_those_of_the_system() {
        let root = name("root");
        let allowing = |groups: &[&str]| {
            let groups = groups.iter().map(ToString::to_string).collect();
            users(move |options| options.allowed_groups = groups)
        };
        for (groups, expected) in [
            (&["root"][..], true),
            (&["zz-orrery-none", "root"], true),
            (&["daemon"], false),
            (&[], false),
        ] {
            let answer = allowing(groups).allows(&root).await;
            assert_eq!(answer, Ok(expected), "{groups:?}");
        }
        let users = users(|_| ());
        let groups = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        assert_eq!(users.is_member(&root, &groups(&["root"])).await, Ok(true));
        assert_eq!(
            users.is_member(&root, &groups(&["daemon"])).await,
            Ok(false)
        );
        assert!(
            users
                .is_member(&root, &groups(&["root", "zz-orrery-none"]))
                .await
                .is_err()
        );
        let nobody = name("zz-orrery-nobody");
        assert!(users.is_member(&nobody, &groups(&["root"])).await.is_err());
    }

    #[tokio::test]
    async fn names_of_the_system_are_found() {
        assert_eq!(system_name("root").as_deref(), Some("root"));
        assert_eq!(system_name("zz-orrery-nobody"), None);
        assert_eq!(are_different("root", "daemon").await, Ok(true));
        assert_eq!(are_different("root", "zz-orrery-nobody").await, Ok(false));
    }
}
