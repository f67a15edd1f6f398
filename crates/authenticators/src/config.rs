//! Options of the authenticators in this crate.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::config::Command;
use orrery_core::{Secret, config_class};

config_class! {
    /// Everybody is who they say, if they know the one password; without a password, simply
    /// everybody. For trying things out.
    pub struct DummyAuthenticator: "jupyterhub.auth" ["Authenticator"] {
        /// The password that everybody logs in with; if empty, every password will do.
        password: Secret = Secret::default(), Works, deprecated("use SharedPasswordAuthenticator.user_password");
    }
    defaults { allow_all = true }
}

config_class! {
    /// One password for everybody and another for administrators, for short events.
    pub struct SharedPasswordAuthenticator: "jupyterhub.authenticators.shared" ["Authenticator"] {
        /// The password for those in `admin_users`, at least 32 characters. Without it they cannot log
        /// in.
        admin_password: Option<Secret> = None, Works;
        /// Groups that people are in by the password they used, from password to names of groups.
        /// Needs `manage_groups`.
        password_groups: BTreeMap<String, Vec<String>> = BTreeMap::new(), Works, secret;
        /// The password for everybody else, at least 8 characters. Without it they cannot log in.
        user_password: Option<Secret> = None, Works;
    }
}

config_class! {
    /// Nobody logs in; only tokens get anywhere.
    pub struct NullAuthenticator: "jupyterhub.auth" ["Authenticator"] {
    }
    defaults { auto_login = true }
}

config_class! {
    /// What holds for authenticators that know people as users of this machine.
    pub struct LocalAuthenticator: "jupyterhub.auth" ["Authenticator"] {
        /// The command that makes a system user. `USERNAME` in it is replaced, and the name is its last
        /// argument. By default `adduser` as Debian has it, or else `useradd`.
        add_user_cmd: Command = Command::default(), Works;
        /// Let members of these system groups in.
        allowed_groups: BTreeSet<String> = BTreeSet::new(), Works;
        /// Make system users for people who have none.
        create_system_users: bool = false, Works;
        /// Let members of these system groups in.
        group_whitelist: BTreeSet<String> = BTreeSet::new(), Works, moved_to("LocalAuthenticator.allowed_groups");
        /// User ids for system users to be made, by name.
        uids: BTreeMap<String, i64> = BTreeMap::new(), Works;
    }
}

config_class! {
    /// People log in with their password on this machine.
    pub struct PAMAuthenticator: "jupyterhub.auth" ["LocalAuthenticator", "Authenticator"] {
        /// Members of these system groups are administrators, and nobody else is but those in
        /// `admin_users`.
        admin_groups: BTreeSet<String> = BTreeSet::new(), Works;
        /// Ask PAM whether the account is valid, too: not expired, allowed at this hour, and the like.
        check_account: bool = true, Works;
        /// How names and passwords are written for PAM: utf8, ascii, latin-1, iso-8859-15 or cp1252.
        encoding: String = "utf8".to_owned(), Works;
        /// How many logins PAM checks at once.
        executor_threads: i64 = 4, Works;
        /// Open a PAM session while somebody's server runs.
        open_sessions: bool = false, Works;
        /// Call people what the system's user database calls them, instead of what they typed in lower
        /// case.
        pam_normalize_username: bool = false, Works;
        /// The PAM service.
        service: String = "login".to_owned(), Works;
    }
}
