//! What `SimpleLocalProcessSpawner` and `LocalProcessSpawner` can be told.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

/// The settings of the spawner.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `home_dir_template`: `{username}` stands for the user's name.
    pub home_dir_template: String,
    /// `shell_cmd`: a shell that is given the command as its last argument; empty for none.
    pub shell_cmd: Vec<String>,
    /// `popen_kwargs`' `cwd`: the folder servers run in, instead of the home folder.
    pub cwd: Option<PathBuf>,
    /// `popen_kwargs`' `umask`.
    pub umask: Option<u32>,
    /// `interrupt_timeout`: how long SIGINT may take.
    pub interrupt_timeout: Duration,
    /// `term_timeout`: how long SIGTERM may take.
    pub term_timeout: Duration,
    /// `kill_timeout`: how long SIGKILL may take.
    pub kill_timeout: Duration,
    /// Where the servers' logs are kept; absolute. Made, for the hub's user alone, when missing.
    pub logs_folder: PathBuf,
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
}

impl Settings {
    /// Upstream's defaults, with logs in `logs_folder`.
    pub fn new(logs_folder: impl Into<PathBuf>) -> Self {
        Self {
            home_dir_template: "/tmp/{username}".to_owned(),
            shell_cmd: Vec::new(),
            cwd: None,
            umask: None,
            interrupt_timeout: Duration::from_secs(30),
            term_timeout: Duration::from_secs(30),
            kill_timeout: Duration::from_secs(5),
            logs_folder: logs_folder.into(),
        }
    }

    /// Takes over `popen_kwargs`. What a server gets anyway (a session of its own, closed
    /// descriptors) may be said; anything else is refused by name.
    pub fn with_popen_kwargs(mut self, kwargs: &Map<String, Value>) -> Result<Self, SettingsError> {
        for (name, value) in kwargs {
            match (name.as_str(), value) {
                ("cwd", Value::String(folder)) => self.cwd = Some(folder.into()),
                ("cwd" | "umask", Value::Null) => {}
                ("cwd", _) => return Err(SettingsError::PopenValue("cwd", "a path")),
                ("umask", value) => match value.as_i64() {
                    Some(-1) => {}
                    Some(umask @ 0..=0o777) => self.umask = u32::try_from(umask).ok(),
                    _ => return Err(SettingsError::PopenValue("umask", "from 0 to 0o777")),
                },
                ("start_new_session" | "close_fds", Value::Bool(true))
                | ("shell", Value::Bool(false)) => {}
                _ => return Err(SettingsError::PopenArgument(name.clone())),
            }
        }
        Ok(self)
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        fill(&self.home_dir_template, "").map(|_| ())
    }

    pub(super) fn home_of(&self, user: &str) -> String {
        fill(&self.home_dir_template, user).expect("the template was checked when it was set")
    }
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
            Settings::new("/logs").with_popen_kwargs(kwargs.as_object().expect("a table"))
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
}
