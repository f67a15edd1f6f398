//! Options of the spawners in this crate.

use std::collections::BTreeMap;

use orrery_core::config::Command;
use orrery_core::config_class;

config_class! {
    /// Servers as processes of this machine, each as the system user of its owner.
    pub struct LocalProcessSpawner: "jupyterhub.spawner" ["Spawner"] {
        /// Seconds that a server gets to end after SIGINT, before SIGTERM.
        interrupt_timeout: i64 = 30, Works;
        /// Seconds that a server gets to end after SIGKILL, before the stop counts as failed.
        kill_timeout: i64 = 5, Works;
        /// Extra arguments of Python's `Popen`: `cwd` and `umask` are known, others are refused.
        popen_kwargs: BTreeMap<String, serde_json::Value> = BTreeMap::new(), Works;
        /// A shell to run the server's command in, for instance `["bash", "-l", "-c"]`; the command is
        /// its last argument.
        shell_cmd: Command = Command::default(), Works;
        /// Seconds that a server gets to end after SIGTERM, before SIGKILL.
        term_timeout: i64 = 30, Works;
    }
}

config_class! {
    /// Servers as processes of this machine, all as the user who runs the hub. For trying things out:
    /// it does not protect people from each other.
    pub struct SimpleLocalProcessSpawner: "jupyterhub.spawner" ["LocalProcessSpawner", "Spawner"] {
        /// The folder that is somebody's home. `{username}` is filled in.
        home_dir_template: String = "/tmp/{username}".to_owned(), Works;
    }
}
