//! Options that every authenticator has.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::config::Hook;
use orrery_core::config_class;

config_class! {
    /// Who may come in, whatever proves who they are. Sections of an authenticator's own may set
    /// these options too and are stronger.
    pub struct Authenticator: "jupyterhub.auth" [] {
        /// Names of administrators, who may do everything. Taking a name out does not take the rights
        /// from somebody who already has them.
        admin_users: BTreeSet<String> = BTreeSet::new(), Works;
        /// Let everybody in who can log in.
        allow_all: bool = false, Works;
        /// Let everybody in whom the database knows. It is true by default when `allowed_users` is
        /// set.
        allow_existing_users: bool = false, Works;
        /// Names of people who may come in.
        allowed_users: BTreeSet<String> = BTreeSet::new(), Works;
        /// Says that somebody may come in although no option shows it, which stills the warning that
        /// nobody may.
        any_allow_config: bool = false, Works;
        /// Seconds after which what is known of a login is asked for anew. 0 never does.
        auth_refresh_age: i64 = 300, Works;
        /// Ask anew even where nobody could log in again, for instance on API requests.
        auth_refresh_strict: bool = false, Works;
        /// Begin the login at once instead of showing a button for it.
        auto_login: bool = false, Works;
        /// Send people who come from another application's OAuth login on to our login page.
        auto_login_oauth2_authorize: bool = false, NotYet;
        /// Names of people who may not come in, whatever else says so. When the hub starts or reads its
        /// configuration again, they lose the administrator's flag, all roles and all groups, so that
        /// tokens and logins that they have may do nothing; at a start their servers are stopped.
        blocked_users: BTreeSet<String> = BTreeSet::new(), Works;
        /// Delete users from the database at start whose names the authenticator does not take.
        delete_invalid_users: bool = false, Works;
        /// Keep what the authenticator learned of people, encrypted, in the database. It needs a key:
        /// see `CryptKeeper.keys`.
        enable_auth_state: bool = false, Works;
        /// Let the authenticator say which groups people are in. Not together with
        /// `JupyterHub.load_groups`.
        manage_groups: bool = false, Works;
        /// Let the authenticator say which roles people have.
        manage_roles: bool = false, NotYet;
        /// The label of the login form's field for a one-time password.
        otp_prompt: Option<String> = Some("OTP:".to_owned()), Works;
        /// Called after each login.
        post_auth_hook: Hook = Hook, NotYet;
        /// Joins new and old auth state at login.
        reconcile_auth_state_hook: Hook = Hook, NotYet;
        /// Ask the authenticator anew before each start of a server.
        refresh_pre_spawn: bool = false, Works;
        /// Ask the authenticator anew before each stop of a server.
        refresh_pre_stop: bool = false, Works;
        /// Show a field for a one-time password in the login form.
        request_otp: bool = false, Works;
        /// Set roles that the authenticator manages back at start.
        reset_managed_roles_on_startup: bool = false, NotYet;
        /// Other names for people: from the authenticator's to the hub's.
        username_map: BTreeMap<String, String> = BTreeMap::new(), Works;
        /// A regular expression that every name must match from its beginning.
        username_pattern: String = String::new(), Works;
        /// Names of people who may come in.
        whitelist: BTreeSet<String> = BTreeSet::new(), Works, moved_to("Authenticator.allowed_users");
    }
}
