//! Who asks, and which accounts they may name.
//!
//! Root may name any, unless the administrator's file says whom. Whoever reached this program through
//! sudo, or because its file is setuid, may name ordinary people only, so that a hub that was broken into
//! does not become root by it. The administrator's file can widen or narrow that.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use orrery_session::protocol::{Answer, Fault};
use serde::Deserialize;

/// Where the administrator says otherwise.
const FILE: &str = "/etc/orrery/session.toml";
/// Below this stand the system's own accounts, by the convention of all large distributions.
const FIRST_ORDINARY_UID: u32 = 1000;
/// `nobody`, which is no person.
const NOBODY: u32 = 65534;

/// How sudo, `pkexec` and `doas` say who calls, and what they say of root.
const CALLERS: [(&str, &str); 3] = [
    ("SUDO_UID", "0"),
    ("PKEXEC_UID", "0"),
    ("DOAS_USER", "root"),
];

/// Which accounts may be named.
#[derive(Debug, PartialEq)]
pub(crate) enum Policy {
    /// Any: root asks.
    Any,
    /// Only some.
    Some(Rules),
}

/// The administrator's rules.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rules {
    /// Accounts with a lower id are refused; root is always.
    min_uid: u32,
    /// When there are any, an account must belong to one of these.
    allowed_groups: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_uid: FIRST_ORDINARY_UID,
            allowed_groups: Vec::new(),
        }
    }
}

impl Policy {
    /// The policy for whoever runs this program; a sentence when it cannot work for them at all.
    pub(crate) fn of_caller() -> Result<Self, String> {
        if !Uid::effective().is_root() {
            return Err(
                "The session helper must run as root: through sudo, or with its file setuid."
                    .to_owned(),
            );
        }
        let through_sudo = CALLERS.iter().any(|(variable, root)| {
            std::env::var_os(variable).is_some_and(|caller| caller != *root)
        });
        let is_setuid = !Uid::current().is_root();
        if is_setuid {
            // From here on as root alone, so that nothing we start is half somebody else's.
            nix::unistd::setgroups(&[])
                .and_then(|()| nix::unistd::setresgid(0.into(), 0.into(), 0.into()))
                .and_then(|()| nix::unistd::setresuid(0.into(), 0.into(), 0.into()))
                .map_err(|error| format!("The session helper cannot become root: {error}."))?;
        }
        let rules = read_rules(FILE)?;
        if through_sudo || is_setuid {
            crate::process::forget_callers_limits();
            return Ok(Self::Some(rules.unwrap_or_default()));
        }
        Ok(rules.map_or(Self::Any, Self::Some))
    }

    /// The account of that name, if it may be used.
    pub(crate) fn account(&self, name: &str) -> Result<User, Answer> {
        let account = match User::from_name(name) {
            Ok(Some(account)) => account,
            Ok(None) => {
                return Err(Answer::failed(
                    Fault::Account,
                    format!("There is no account {name:?} on this machine."),
                ));
            }
            Err(error) => {
                return Err(Answer::failed(
                    Fault::System,
                    format!("The account {name:?} cannot be looked up: {error}."),
                ));
            }
        };
        self.check(&account)?;
        Ok(account)
    }

    /// Refuses an account that may not be used.
    pub(crate) fn check(&self, account: &User) -> Result<(), Answer> {
        let Self::Some(rules) = self else {
            return Ok(());
        };
        let refuse = |why: &str| {
            Err(Answer::failed(
                Fault::Refused,
                format!(
                    "The session helper does nothing for {}: {why}.",
                    account.name
                ),
            ))
        };
        let uid = account.uid.as_raw();
        if uid == 0 || account.gid.as_raw() == 0 {
            return refuse("it is root's account");
        }
        if uid < rules.min_uid || uid == NOBODY {
            return refuse(&format!(
                "its user id {uid} is one of the system's own ({FILE} can allow it by min_uid)"
            ));
        }
        if !rules.allowed_groups.is_empty() && !is_member(account, &rules.allowed_groups) {
            return refuse(&format!(
                "it belongs to none of the groups that {FILE} allows"
            ));
        }
        Ok(())
    }

    /// Whether a process of this user may be signalled and found.
    pub(crate) fn covers(&self, uid: Uid) -> bool {
        match self {
            Self::Any => true,
            Self::Some(_) => {
                matches!(User::from_uid(uid), Ok(Some(account)) if self.check(&account).is_ok())
            }
        }
    }
}

/// All groups of an account, as a login gives them.
pub(crate) fn groups_of(account: &User) -> nix::Result<Vec<Gid>> {
    let name = std::ffi::CString::new(account.name.as_str()).map_err(|_| nix::Error::EINVAL)?;
    getgrouplist(&name, account.gid)
}

fn is_member(account: &User, names: &[String]) -> bool {
    let Ok(groups) = groups_of(account) else {
        return false;
    };
    names.iter().any(
        |name| matches!(Group::from_name(name), Ok(Some(group)) if groups.contains(&group.gid)),
    )
}

/// What the file says, if there is one.
fn read_rules(path: &str) -> Result<Option<Rules>, String> {
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{path} cannot be read: {error}.")),
        // Whoever may write it decides what the helper does.
        Ok(data) if data.uid() != 0 || data.mode() & 0o022 != 0 => {
            return Err(format!(
                "{path} must belong to root, who alone may write it."
            ));
        }
        Ok(_) => fs::read_to_string(path),
    };
    let text = text.map_err(|error| format!("{path} cannot be read: {error}."))?;
    toml::from_str(&text)
        .map(Some)
        .map_err(|error| format!("{path}: {}", error.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_file_is_understood_and_a_mistake_in_it_is_none_overlooked() {
        let read = |text: &str| toml::from_str::<Rules>(text).map_err(|error| error.to_string());
        assert_eq!(read(""), Ok(Rules::default()));
        let rules = read("min_uid = 500\nallowed_groups = [\"staff\"]").expect("sound");
        assert_eq!(rules.min_uid, 500);
        assert_eq!(rules.allowed_groups, ["staff"]);
        for wrong in [
            "min_uit = 500",
            "min_uid = -1",
            "allowed_groups = \"staff\"",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_no_rule() {
        let missing = read_rules("/no/such/file");
        assert_eq!(missing, Ok(None));
        let file = tempfile::NamedTempFile::new().expect("it can be made");
        let set = |mode| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).expect("it is ours");
            read_rules(file.path().to_str().expect("a plain name"))
        };
        assert!(set(0o666).is_err());
        // Only root's file counts.
        let own = set(0o600);
        assert_eq!(own.is_ok(), Uid::effective().is_root());
        assert!(own.is_err() || own == Ok(Some(Rules::default())));
    }

    #[test]
    fn groups_narrow_whom_the_helper_serves() {
        let account = |uid: u32, gid: u32| User {
            name: "somebody".to_owned(),
            passwd: std::ffi::CString::default(),
            uid: uid.into(),
            gid: gid.into(),
            gecos: std::ffi::CString::default(),
            dir: "/".into(),
            shell: "/bin/sh".into(),
        };
        let policy = |min_uid, groups: &[&str]| {
            Policy::Some(Rules {
                min_uid,
                allowed_groups: groups.iter().map(ToString::to_string).collect(),
            })
        };
        let may = |policy: Policy, account: &User| policy.check(account).is_ok();
        assert!(may(policy(1000, &[]), &account(1000, 1000)));
        assert!(!may(policy(1000, &[]), &account(999, 999)));
        assert!(may(policy(500, &[]), &account(999, 999)));
        for rules in [policy(0, &[]), policy(0, &["root"])] {
            assert!(!may(rules, &account(0, 0)), "root never");
        }
        assert!(!may(policy(0, &[]), &account(1000, 0)));
        // Group 1 is `daemon` on Debian and elsewhere.
        assert!(may(policy(0, &["daemon"]), &account(1000, 1)));
        assert!(!may(policy(0, &["daemon"]), &account(1000, 1000)));
        assert!(!may(policy(0, &["no-such-group"]), &account(1000, 1)));
        assert!(may(Policy::Any, &account(0, 0)));
    }
}
