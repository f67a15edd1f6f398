//! From a list of words to a command that can be run, or a sentence that says why not.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use orrery_core::Secret;
use orrery_core::phase::{Cause, Failure};
use tokio::process::Command;

use super::Settings;

/// Where programs are looked for when the server's environment names no `PATH`.
const FALLBACK_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A command that was found to be runnable.
pub(super) struct Prepared {
    pub(super) command: Command,
    program: PathBuf,
}

/// Puts the command together: shell, environment, folder, process group. Its output is still to be
/// set.
///
/// The program is looked up here, in the server's own `PATH`. That gives a better answer than the
/// system's, and lets the standard library use `posix_spawn`, whose cost does not grow with the hub.
/// For the same reason nothing is run between fork and exec.
pub(super) fn prepare(
    settings: &Settings,
    words: &[String],
    environment: &BTreeMap<String, Secret>,
    folder: &Path,
) -> Result<Prepared, Failure> {
    let words = wrapped(settings, words);
    let Some((name, arguments)) = words.split_first() else {
        return Err(refuse(
            "There is no command to start servers with.".to_owned(),
        ));
    };
    if !folder.is_dir() {
        return Err(refuse(format!(
            "The folder {} that servers run in does not exist.",
            folder.display()
        )));
    }
    let path = environment
        .get("PATH")
        .map_or(FALLBACK_PATH, |path| path.expose());
    let program = find(name, path, folder)?;
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .env_clear()
        .envs(
            environment
                .iter()
                .map(|(name, value)| (name, value.expose())),
        )
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::null());
    Ok(Prepared { command, program })
}

impl Prepared {
    /// Says why the command did not start.
    pub(super) fn explain(&self, error: &io::Error) -> Failure {
        let program = self.program.display();
        refuse(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "{program} cannot be run: the interpreter that its first line names does not exist."
            ),
            io::ErrorKind::PermissionDenied => {
                format!("{program} cannot be run: permission denied.")
            }
            io::ErrorKind::InvalidInput => format!(
                "{program} cannot be run: an argument or a value of its environment contains a \
                 zero byte."
            ),
            _ => format!("{program} cannot be run: {error}."),
        })
    }
}

/// Adds the shell.
pub(super) fn in_shell(settings: &Settings, words: &[String]) -> Vec<String> {
    let mut words = words.to_vec();
    if !words.is_empty() && !settings.shell_cmd.is_empty() {
        let line = words
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" ");
        words.clone_from(&settings.shell_cmd);
        words.push(line);
    }
    words
}

/// Adds the shell and the umask.
fn wrapped(settings: &Settings, words: &[String]) -> Vec<String> {
    let mut words = in_shell(settings, words);
    if words.is_empty() {
        return words;
    }
    if let Some(umask) = settings.umask {
        let script = format!("umask {umask:03o} && exec \"$@\"");
        let mut with_umask: Vec<String> =
            ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).into();
        with_umask.append(&mut words);
        words = with_umask;
    }
    words
}

/// Quotes a word for a POSIX shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r#"'"'"'"#))
}

/// Finds a program as `execvp` does.
fn find(name: &str, path: &str, folder: &Path) -> Result<PathBuf, Failure> {
    if name.contains('/') {
        let program = folder.join(name);
        return match state_of(&program) {
            Found::Runnable => Ok(program),
            Found::NotRunnable => Err(refuse(format!(
                "{} may not be run: it is not an executable file.",
                program.display()
            ))),
            Found::Missing => Err(refuse(format!(
                "The program {} does not exist.",
                program.display()
            ))),
        };
    }
    let mut seen = None;
    for place in std::env::split_paths(&OsString::from(path)) {
        let program = folder.join(place).join(name);
        match state_of(&program) {
            Found::Runnable => return Ok(program),
            Found::NotRunnable => {
                seen.get_or_insert(program);
            }
            Found::Missing => {}
        }
    }
    Err(refuse(match seen {
        Some(program) => format!(
            "{} may not be run: it is not an executable file.",
            program.display()
        ),
        None => format!("The program {name} was not found in PATH ({path})."),
    }))
}

enum Found {
    Runnable,
    NotRunnable,
    Missing,
}

fn state_of(program: &Path) -> Found {
    match program.metadata() {
        Ok(data) if data.is_file() && data.permissions().mode() & 0o111 != 0 => Found::Runnable,
        Ok(_) => Found::NotRunnable,
        Err(_) => Found::Missing,
    }
}

fn refuse(message: String) -> Failure {
    Failure::new(Cause::Command, message)
}

#[cfg(test)]
mod tests {
    use orrery_core::config::ConfigClass as _;

    use super::*;
    use crate::config::{LocalProcessSpawner, SimpleLocalProcessSpawner};

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (word, quoted) in [
            ("--ip=::1", "--ip=::1"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r#"'it'"'"'s'"#),
            ("$(x)", "'$(x)'"),
        ] {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn the_shell_gets_the_command_as_its_last_argument() {
        let mut local = LocalProcessSpawner::with_defaults();
        local.shell_cmd = orrery_core::config::Command::of(["bash", "-l", "-c"]);
        local.popen_kwargs.insert("umask".to_owned(), 0o27.into());
        let simple = SimpleLocalProcessSpawner::with_defaults();
        let settings = Settings::read(&local, &simple, "/logs".into()).expect("sound");
        let words = ["jupyterhub-singleuser", "--x=a b"].map(str::to_owned);
        let words = wrapped(&settings, &words);
        assert_eq!(words[..2], ["/bin/sh", "-c"]);
        assert_eq!(words[2], "umask 027 && exec \"$@\"");
        assert_eq!(words[4..7], ["bash", "-l", "-c"]);
        assert_eq!(words[7], "jupyterhub-singleuser '--x=a b'");
    }
}
