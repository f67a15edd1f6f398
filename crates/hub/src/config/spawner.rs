//! Options that every spawner has.

use std::collections::BTreeMap;

use orrery_core::config::{ByteSize, Command, Hook};
use orrery_core::config_class;

use super::specs::FormReading;

type Json = serde_json::Value;

config_class! {
    /// What holds for single-user servers whatever starts them. Sections of a spawner's own
    /// (`SimpleLocalProcessSpawner`) may set these options too and are stronger.
    pub struct Spawner: "jupyterhub.spawner" [] {
        /// Which user options set which options of the spawner.
        apply_user_options: Option<BTreeMap<String, Json>> = None, NotYet, or_callable;
        /// Extra arguments of the single-user server.
        args: Vec<String> = Vec::new(), Works;
        /// Given the user's auth state before a server starts.
        auth_state_hook: Hook = Hook, NotYet;
        /// The program that is the single-user server. None lets the spawner choose.
        cmd: Option<Command> = Some(Command::of(["jupyterhub-singleuser"])), Works;
        /// After this many failed starts in a row, each further one is logged as an error for the
        /// operator to see. `JupyterHub` ends itself at this point; Orrery goes on, because its other
        /// servers do not suffer from it. 0 logs none.
        consecutive_failure_limit: i64 = 0, Works;
        /// CPU cores that a server is sure to have, if the spawner can do so. Servers see it as
        /// `CPU_GUARANTEE`.
        cpu_guarantee: Option<f64> = None, Works;
        /// CPU cores that a server may use at most, if the spawner can do so. Servers see it as
        /// `CPU_LIMIT`.
        cpu_limit: Option<f64> = None, Works;
        /// Run servers with their debug log.
        debug: bool = false, Works;
        /// The page of the server that people land on, for instance `/lab`. `{username}` and
        /// `{servername}` are filled in.
        default_url: String = String::new(), Works;
        /// Make servers ignore the configuration in people's home folders.
        disable_user_config: bool = false, Works;
        /// Environment variables that servers inherit from the hub. Nothing else is inherited, so
        /// that the hub's secrets stay with it.
        env_keep: Vec<String> = vec!["JUPYTERHUB_SINGLEUSER_APP".to_owned()], Works;
        /// Extra environment variables of servers. They are stronger than those of the hub.
        environment: BTreeMap<String, String> = BTreeMap::new(), Works;
        /// Other options for members of certain groups.
        group_overrides: BTreeMap<String, Json> = BTreeMap::new(), NotYet, or_callable;
        /// Seconds within which a started server must answer HTTP.
        http_timeout: i64 = 30, Works;
        /// The URL under which servers reach the hub, when it is not `JupyterHub.hub_connect_url`.
        hub_connect_url: Option<String> = None, Works;
        /// The address that servers listen on.
        ip: String = "127.0.0.1".to_owned(), Works;
        /// Memory that a server is sure to have, if the spawner can do so. Servers see it as
        /// `MEM_GUARANTEE`.
        mem_guarantee: Option<ByteSize> = None, Works;
        /// Memory that a server may use at most, if the spawner can do so. Servers see it as
        /// `MEM_LIMIT`.
        mem_limit: Option<ByteSize> = None, Works;
        /// The folder that servers show. `~` is the home folder; `{username}` and `{servername}` are
        /// filled in.
        notebook_dir: String = String::new(), Works;
        /// Scopes that a server's OAuth tokens may have at most.
        oauth_client_allowed_scopes: Vec<String> = Vec::new(), Works, or_callable;
        /// Roles that a server's OAuth tokens may have at most.
        oauth_roles: Vec<String> = Vec::new(), NotYet, or_callable, deprecated("use oauth_client_allowed_scopes");
        /// HTML with the fields of a form that is shown before a server starts.
        options_form: String = String::new(), Works, or_callable;
        /// How the form's fields become user options: `passthrough` keeps lists of texts, `simple`
        /// makes single texts of single values and true of a ticked box.
        options_from_form: FormReading = FormReading::Passthrough, Works, or_callable;
        /// Seconds between two looks whether a server still runs. 0 never looks.
        poll_interval: i64 = 30, Works;
        /// By which part of `poll_interval` each look is moved at random, so that they do not come
        /// all at once.
        poll_jitter: f64 = 0.1, Works;
        /// The port that servers listen on; 0 chooses a free one.
        port: i64 = 0, Works;
        /// Called after a server has stopped.
        post_stop_hook: Hook = Hook, NotYet;
        /// Called before a server starts.
        pre_spawn_hook: Hook = Hook, NotYet;
        /// Makes the last progress event of a server that is ready.
        progress_ready_hook: Hook = Hook, NotYet;
        /// Scopes of the token that a server gets for itself.
        server_token_scopes: Vec<String> = Vec::new(), Works, or_callable;
        /// Names in a server's certificate (`JupyterHub.internal_ssl`), as `DNS:host.example.org` or
        /// `IP:10.0.0.1`: those under which the hub and the proxy reach it. By default
        /// `JupyterHub.trusted_alt_names`.
        ssl_alt_names: Vec<String> = Vec::new(), Works, or_callable;
        /// Whether `localhost` and 127.0.0.1 stand in a server's certificate.
        ssl_alt_names_include_local: bool = true, Works;
        /// Seconds within which a spawner must have started a server.
        start_timeout: i64 = 60, Works;
    }
}
