//! The options of `SimpleLocalProcessSpawner` and `LocalProcessSpawner`, checked.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};

/// What a stop takes beside waiting for the server: the helper, and the sweep behind it.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// The options, in the form the spawner needs them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) home_dir_template: String,
    pub(super) shell_cmd: Vec<String>,
    /// Instead of the home folder.
    pub(super) cwd: Option<PathBuf>,
    pub(super) umask: Option<u32>,
    pub(super) interrupt_timeout: Duration,
    pub(super) term_timeout: Duration,
    pub(super) kill_timeout: Duration,
    pub(super) logs_folder: PathBuf,
}

/// Settings that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The template has a placeholder that nothing is known for.
    #[error(
        "SimpleLocalProcessSpawner.home_dir_template: only {{username}} can be filled in, \
         not {{{0}}}"
    )]
    Placeholder(String),
    /// The template's braces do not match.
    #[error("SimpleLocalProcessSpawner.home_dir_template: a brace is left open")]
    Brace,
    /// An argument to `Popen` that has no meaning here.
    #[error("LocalProcessSpawner.popen_kwargs: '{0}' is not supported; 'cwd' and 'umask' are")]
    PopenArgument(String),
    /// An argument to `Popen` of a wrong type.
    #[error("LocalProcessSpawner.popen_kwargs: '{0}' must be {1}")]
    PopenValue(&'static str, &'static str),
    /// A time below zero.
    #[error("LocalProcessSpawner.{0}: a number of seconds cannot be negative")]
    Timeout(&'static str),
}

impl Settings {
    /// How long a stop may take that needs every signal.
    pub(super) fn stop_patience(&self) -> Duration {
        self.interrupt_timeout
            .saturating_add(self.term_timeout)
            .saturating_add(self.kill_timeout)
            .saturating_add(STOP_SLACK)
    }

    /// The signals of a stop, in their order, and how long each has to work. `grace` is for the
    /// two gentle ones, instead of the options.
    pub(super) fn stop_signals(&self, grace: Option<Duration>) -> [(Signal, Duration); 3] {
        let (interrupt, terminate) = match grace {
            None => (self.interrupt_timeout, self.term_timeout),
            Some(grace) => (grace / 2, grace / 2),
        };
        [
            (Signal::SIGINT, interrupt),
            (Signal::SIGTERM, terminate),
            (Signal::SIGKILL, self.kill_timeout),
        ]
    }

    pub(super) fn read(
        local: &LocalProcessSpawner,
        simple: &SimpleLocalProcessSpawner,
        logs_folder: PathBuf,
    ) -> Result<Self, SettingsError> {
        let mut settings = Self {
            home_dir_template: simple.home_dir_template.clone(),
            shell_cmd: local.shell_cmd.0.clone(),
            cwd: None,
            umask: None,
            interrupt_timeout: seconds("interrupt_timeout", local.interrupt_timeout)?,
            term_timeout: seconds("term_timeout", local.term_timeout)?,
            kill_timeout: seconds("kill_timeout", local.kill_timeout)?,
            logs_folder,
        };
        fill(&settings.home_dir_template, "")?;
        for (name, value) in &local.popen_kwargs {
            settings.follow(name, value)?;
        }
        Ok(settings)
    }

    /// Follows one of `popen_kwargs`. What a server gets anyway (a session of its own, closed
    /// descriptors) may be said; anything else is refused by name.
    fn follow(&mut self, name: &str, value: &Value) -> Result<(), SettingsError> {
        match (name, value) {
            ("cwd", Value::String(folder)) => self.cwd = Some(folder.into()),
            ("cwd" | "umask", Value::Null)
            | ("start_new_session" | "close_fds", Value::Bool(true))
            | ("shell", Value::Bool(false)) => {}
            ("cwd", _) => return Err(SettingsError::PopenValue("cwd", "a path")),
            ("umask", value) => match value.as_i64() {
                Some(-1) => {}
                Some(umask @ 0..=0o777) => self.umask = u32::try_from(umask).ok(),
                _ => return Err(SettingsError::PopenValue("umask", "from 0 to 0o777")),
            },
            _ => return Err(SettingsError::PopenArgument(name.to_owned())),
        }
        Ok(())
    }

    pub(super) fn home_of(&self, user: &str) -> String {
        fill(&self.home_dir_template, user).expect("the template was checked when it was set")
    }
}

fn seconds(option: &'static str, seconds: i64) -> Result<Duration, SettingsError> {
    u64::try_from(seconds)
        .map(Duration::from_secs)
        .map_err(|_| SettingsError::Timeout(option))
}

/// Fills a template as Python's `str.format(username=…)` does.
fn fill(template: &str, user: &str) -> Result<String, SettingsError> {
    let mut filled = String::with_capacity(template.len() + user.len());
    let mut rest = template;
    while let Some(place) = rest.find(['{', '}']) {
        filled.push_str(&rest[..place]);
        let found = &rest[place..];
        if let Some(after) = found.strip_prefix("{{") {
            filled.push('{');
            rest = after;
        } else if let Some(after) = found.strip_prefix("}}") {
            filled.push('}');
            rest = after;
        } else if let Some(after) = found.strip_prefix("{username}") {
            filled.push_str(user);
            rest = after;
        } else {
            let name = found
                .strip_prefix('{')
                .and_then(|after| after.split_once('}'))
                .ok_or(SettingsError::Brace)?
                .0;
            return Err(SettingsError::Placeholder(name.to_owned()));
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use orrery_core::config::ConfigClass;
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_filled_as_python_fills_them() {
        for (template, expected) in [
            ("/tmp/{username}", Ok("/tmp/ada")),
            ("/srv/{{x}}/{username}/{username}", Ok("/srv/{x}/ada/ada")),
            ("/tmp/all", Ok("/tmp/all")),
            (
                "/tmp/{userid}",
                Err(SettingsError::Placeholder("userid".to_owned())),
            ),
            ("/tmp/{username", Err(SettingsError::Brace)),
            ("/tmp/}", Err(SettingsError::Brace)),
        ] {
            assert_eq!(fill(template, "ada").as_deref(), expected.as_deref());
        }
    }

    #[test]
    fn popen_arguments_are_followed_or_refused_by_name() {
        let with = |kwargs: Value| {
            let mut local = LocalProcessSpawner::with_defaults();
            local.popen_kwargs = serde_json::from_value(kwargs).expect("a table");
            let simple = SimpleLocalProcessSpawner::with_defaults();
            Settings::read(&local, &simple, "/logs".into())
        };
        let set = with(json!({"cwd": "/srv", "umask": 0o27, "close_fds": true}));
        let set = set.expect("supported");
        assert_eq!(set.cwd.as_deref(), Some("/srv".as_ref()));
        assert_eq!(set.umask, Some(0o27));
        for (kwargs, named) in [
            (json!({"shell": true}), "'shell'"),
            (json!({"preexec_fn": 1}), "'preexec_fn'"),
            (json!({"umask": "022"}), "'umask'"),
            (json!({"cwd": 1}), "'cwd'"),
        ] {
            let error = with(kwargs).expect_err("refused").to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_negative_time_is_refused() {
        let mut local = LocalProcessSpawner::with_defaults();
        local.term_timeout = -1;
        let simple = SimpleLocalProcessSpawner::with_defaults();
        let error = Settings::read(&local, &simple, "/logs".into()).expect_err("refused");
        assert_eq!(error, SettingsError::Timeout("term_timeout"));
    }
}
