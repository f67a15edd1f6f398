//! The program as an operator meets it: exit codes and sentences.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "cli/borders.rs"]
mod borders;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/reload.rs"]
mod reload;
#[path = "cli/sockets.rs"]
mod sockets;
#[path = "cli/upgrading.rs"]
mod upgrading;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The interpreter of the environment, else that of the checkout's `.venv`, else the path's.
fn python() -> OsString {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    match std::env::var_os("ORRERY_PYTHON") {
        Some(program) => program,
        None if checkout.exists() => checkout.into(),
        None => "python3".into(),
    }
}

/// A working directory of its own.
struct Folder(tempfile::TempDir);

/// What a run of the program left.
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, text: &str) -> Self {
        std::fs::write(self.path(name), text).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn command(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .args(arguments)
            .current_dir(self.0.path())
            .env("ORRERY_PYTHON", python())
            .env("HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.finish(&mut self.command(env!("CARGO_BIN_EXE_orrery"), arguments))
    }

    fn finish(&self, command: &mut Command) -> Run {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(self.0.path().to_str().unwrap(), "DIR")
        };
        Run {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }
}

impl Run {
    /// The program refused with this code and exactly this on standard error.
    #[track_caller]
    fn refused(self, code: i32, stderr: &str) {
        assert_eq!(
            (self.code, self.stderr.as_str()),
            (Some(code), stderr),
            "{}",
            self.stdout
        );
    }

    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A configuration that is complete but for what a test adds.
const SIMPLE: &str =
    "c.JupyterHub.spawner_class = 'simple'\nc.JupyterHub.authenticator_class = 'dummy'\n";

fn refused_with(lines: &str, stderr: &str) {
    let folder = Folder::new().with("jupyterhub_config.py", &format!("{SIMPLE}{lines}\n"));
    folder.run(&[]).refused(1, &format!("orrery: {stderr}\n"));
}

#[test]
fn version_under_both_names() {
    let folder = Folder::new();
    assert_eq!(
        folder.run(&["--version"]).ok(),
        format!("orrery {} (JupyterHub 6.1.1)\n", env!("CARGO_PKG_VERSION"))
    );
    let link = folder.path("jupyterhub");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orrery"), &link).unwrap();
    let run = folder.finish(&mut folder.command(&link, &["--version"]));
    assert_eq!(run.ok(), "6.1.1\n");
    let proxy = folder.path("configurable-http-proxy");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orrery"), &proxy).unwrap();
    let help = folder.finish(&mut folder.command(&proxy, &["--help"])).ok();
    assert!(help.contains("--default-target"), "{help}");
    assert!(!help.contains("--show-config"), "{help}");
    for run in [
        folder.finish(&mut folder.command(&proxy, &["--version"])),
        folder.run(&["proxy", "--version"]),
        folder.run(&["proxy", "-V"]),
    ] {
        assert_eq!(run.ok(), "5.3.0\n");
    }
}

#[test]
fn help_names_the_flags_and_all_help_the_options() {
    let help = Folder::new().run(&["--help"]).ok();
    for flag in [
        "--config",
        "--port",
        "--ip",
        "--url",
        "--db",
        "--debug",
        "--no-db",
        "--upgrade-db",
        "--log-level",
        "--pid-file",
        "--base-url",
        "--generate-config",
        "--show-config",
        "--help-all",
        "--Class.option",
        "token",
        "upgrade-db",
        "proxy",
    ] {
        assert!(help.contains(flag), "{flag} in {help}");
    }
    let all = Folder::new().run(&["--help-all"]).ok();
    for option in [
        "--JupyterHub.port=<Int>",
        "--Spawner.mem_limit=<ByteSpecification or None>",
        "Not supported yet",
    ] {
        assert!(all.contains(option), "{option} in {all}");
    }
}

#[test]
fn completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Folder::new().run(&["completions", shell]).ok();
        assert!(
            script.contains("upgrade-db") && script.contains("orrery"),
            "{shell}"
        );
    }
    let folder = Folder::new();
    let link = folder.path("jupyterhub");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_orrery"), &link).unwrap();
    let script = folder.finish(&mut folder.command(&link, &["completions", "zsh"]));
    let script = script.ok();
    assert!(script.starts_with("#compdef jupyterhub\n"), "{script}");
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["--no-such-flag"] as &[_],
        &["nonsense"],
        &["--port"],
        &["completions", "tcsh"],
        &["docs"],
    ] {
        let run = Folder::new().run(arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains("error: "), "{}", run.stderr);
    }
    // The proxy's are those of configurable-http-proxy.
    for arguments in [&["proxy", "--no-such-flag"] as &[_], &["proxy", "word"]] {
        let run = Folder::new().run(arguments);
        assert_eq!(run.code, Some(1), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains("error: "), "{}", run.stderr);
    }
    Folder::new().run(&["--JupyterHub.port"]).refused(
        2,
        "orrery: --JupyterHub.port needs a value: --JupyterHub.port=VALUE\n",
    );
}

#[test]
fn a_named_file_that_is_missing_is_an_error() {
    Folder::new().run(&["-f", "nowhere.py"]).refused(
        1,
        "orrery: the configuration file nowhere.py does not exist: name another with -f, or write one with `orrery \
         --generate-config -f nowhere.py`\n",
    );
}

#[test]
fn broken_files_are_told_short() {
    let refuse = |name: &str, text: &str, stderr: &str| {
        Folder::new()
            .with(name, text)
            .run(&["-f", name])
            .refused(1, &format!("orrery: {stderr}\n"));
    };
    refuse(
        "hub.py",
        "import os\nos.environ['MISSING_42']\n",
        "the configuration file hub.py cannot be used: DIR/hub.py, line 2: KeyError: 'MISSING_42'\n    \
         os.environ['MISSING_42']",
    );
    refuse(
        "hub.json",
        "{\"JupyterHub\": }",
        "hub.json is not valid JSON: expected value at line 1 column 16",
    );
    refuse(
        "hub.json",
        "[]",
        "hub.json must hold an object of classes, such as {\"JupyterHub\": {\"port\": 8000}}",
    );
    refuse(
        "hub.yaml",
        "a: 1",
        "the configuration file hub.yaml must end in .py, .json or .toml",
    );
    let toml = Folder::new()
        .with("hub.toml", "[JupyterHub]\nport = \n")
        .run(&["-f", "hub.toml"]);
    assert_eq!(toml.code, Some(1));
    assert!(
        toml.stderr
            .starts_with("orrery: hub.toml is not valid TOML: line 2: "),
        "{}",
        toml.stderr
    );
}

#[test]
fn without_python_the_error_says_what_to_do() {
    let folder = Folder::new().with("jupyterhub_config.py", SIMPLE);
    let mut command = folder.command(env!("CARGO_BIN_EXE_orrery"), &[]);
    let run = folder.finish(command.env("ORRERY_PYTHON", "/nowhere/python"));
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("install python3"), "{}", run.stderr);
}

#[test]
fn a_session_helper_that_cannot_work_is_told_with_what_to_do() {
    let folder = Folder::new().with(
        "jupyterhub_config.py",
        "c.JupyterHub.authenticator_class = 'dummy'\n\
         c.JupyterHub.session_helper = ['/no/such/helper']\n",
    );
    let run = folder.run(&[]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    for text in [
        "/no/such/helper cannot be run",
        "c.JupyterHub.session_helper",
        "docs/unprivileged-hub.md",
    ] {
        assert!(run.stderr.contains(text), "{}", run.stderr);
    }
}

#[test]
fn options_that_cannot_be_used_are_named() {
    refused_with(
        "c.JupyterHub.prot = 8000",
        "JupyterHub has no option \"prot\" (set in jupyterhub_config.py); did you mean port?",
    );
    refused_with(
        "c.JupyterHub.port = 'eighty'",
        "JupyterHub.port must be a whole number, but is the text \"eighty\" (in jupyterhub_config.py)",
    );
    refused_with(
        "c.JupyterHub.port = 70000",
        "JupyterHub.port must be a port from 0 to 65535, but is 70000",
    );
    refused_with(
        "c.JupyterHub.data_files_path = '/srv'",
        "JupyterHub.data_files_path is not supported yet: remove it (in jupyterhub_config.py) or set it to its default",
    );
    refused_with(
        "def hook(spawner): pass\nc.Spawner.pre_spawn_hook = hook",
        "Spawner.pre_spawn_hook is the Python function hook (in jupyterhub_config.py): functions are not supported yet, \
         use a plain value",
    );
    refused_with(
        "c.JupyterHub.authenticator_class = 'oauthenticator.GitHubOAuthenticator'",
        "JupyterHub.authenticator_class names the class \"oauthenticator.GitHubOAuthenticator\" (in \
         jupyterhub_config.py), which is not supported yet: use one of 'dummy', 'shared-password', 'null', 'pam'",
    );
    refused_with(
        "class Mine: pass\nc.JupyterHub.spawner_class = Mine",
        "JupyterHub.spawner_class names the class \"Mine\" (in jupyterhub_config.py), which is not supported yet: \
         use one of 'simple', 'localprocess'",
    );
    refused_with(
        "class Mine: pass\nc.Spawner.default_url = Mine",
        "Spawner.default_url must be a text, but is the class Mine (in jupyterhub_config.py)",
    );
    refused_with(
        "c.JupyterHub.reset_db = True",
        "JupyterHub.reset_db is not supported yet: remove it (in jupyterhub_config.py) or set it to its default",
    );
    refused_with(
        "c.JupyterHub.services = [{'name': 'cull', 'command': ['cull']}]",
        "JupyterHub.services[0]['command'] must be left out (services that the hub starts are not supported yet), but is \
         a command (in jupyterhub_config.py)",
    );
    refused_with(
        "c.JupyterHub.cookie_secret = 'not hexadecimal'",
        "JupyterHub.cookie_secret must be bytes or a text of hexadecimal digits, two for each byte, but is another kind \
         of value (in jupyterhub_config.py)",
    );
}

#[test]
fn secrets_are_not_in_errors() {
    let folder = Folder::new().with(
        "jupyterhub_config.py",
        &format!("{SIMPLE}c.ConfigurableHTTPProxy.auth_token = ['sesame-42']\n"),
    );
    let run = folder.run(&[]);
    assert_eq!(run.code, Some(1));
    assert!(
        run.stderr
            .contains("ConfigurableHTTPProxy.auth_token must be a text"),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("sesame"), "{}", run.stderr);
}

#[test]
fn sources_are_merged_and_shown() {
    let folder = Folder::new()
        .with(
            "jupyterhub_config.py",
            "print('hello from the file')\n\
             c.JupyterHub.port = 1\n\
             c.JupyterHub.ip = '10.0.0.1'\n\
             c.Authenticator.admin_users.add('ada')\n\
             c.ConfigurableHTTPProxy.auth_token = 'sesame'\n\
             c.JupyterHub.db_url = 'postgresql://hub:sesame@db/hub'\n\
             c.JupyterHub.services = [{'name': 's', 'api_token': 'sesame'}]\n",
        )
        .with(
            "jupyterhub_config.json",
            r#"{"version": 1, "JupyterHub": {"port": 2, "hub_port": 3}}"#,
        );
    let arguments = [
        "--show-config",
        "--port=4",
        "--Spawner.args=-a",
        "--Spawner.args",
        "-b",
        "--Spawner.environment=A=1",
        "--debug",
    ];
    let run = folder.run(&arguments);
    assert!(
        run.stderr.contains("hello from the file"),
        "what the file prints goes to standard error"
    );
    assert_eq!(
        run.ok(),
        "Loaded config files:\n  DIR/jupyterhub_config.py\n  DIR/jupyterhub_config.json\n\n\
         Application\n  .log_level = '10'\n\
         Authenticator\n  .admin_users = {'ada'}\n\
         ConfigurableHTTPProxy\n  .auth_token = '<hidden>'\n\
         JupyterHub\n  .db_url = 'postgresql://hub:<hidden>@db/hub'\n  .hub_port = 3\n  .ip = '10.0.0.1'\n  .port = 4\n  \
         .services = [{'api_token': '<hidden>', 'name': 's'}]\n\
         Spawner\n  .args = ['-a', '-b']\n  .environment = {'A': '1'}\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&folder.run(&["--show-config-json", "--no-db"]).ok()).unwrap();
    assert_eq!(json["JupyterHub"]["db_url"], "sqlite:///:memory:");
    assert_eq!(json["JupyterHub"]["port"], 2);
}

#[test]
fn toml_is_read_without_python() {
    let folder = Folder::new()
        .with("hub.toml", "[JupyterHub]\nport = 5\nspawner_class = \"simple\"\n[Authenticator]\nallowed_users = [\"ada\"]\n");
    let mut command = folder.command(
        env!("CARGO_BIN_EXE_orrery"),
        &["-f", "hub.toml", "--show-config-json"],
    );
    let run = folder.finish(command.env("ORRERY_PYTHON", "/nowhere/python"));
    let json: serde_json::Value = serde_json::from_str(&run.ok()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "JupyterHub": {"config_file": "hub.toml", "port": 5, "spawner_class": "simple"},
            "Authenticator": {"allowed_users": ["ada"]},
        })
    );
}

#[test]
fn a_generated_file_is_valid_names_every_option_and_is_not_overwritten() {
    let folder = Folder::new();
    assert_eq!(
        folder.run(&["--generate-config"]).ok(),
        "Writing default config to: jupyterhub_config.py\n"
    );
    let text = folder.read("jupyterhub_config.py");
    for line in [
        "# c.JupyterHub.port = 8000",
        "# c.Spawner.cmd = ['jupyterhub-singleuser']",
        "# Default: 8000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // With every option set to its default, nothing is refused but the default classes.
    let all_set: String = text
        .lines()
        .map(|line| {
            line.strip_prefix("# c.")
                .map_or(line.to_owned(), |set| format!("c.{set}"))
                + "\n"
        })
        .collect();
    let all_set = format!("import os\n{all_set}\n{SIMPLE}");
    let show = Folder::new().with("jupyterhub_config.py", &all_set);
    let shown = show.run(&["--show-config"]);
    assert!(
        shown.stdout.contains(".start_timeout = 60"),
        "{}{}",
        shown.stdout,
        shown.stderr
    );

    std::fs::write(folder.path("jupyterhub_config.py"), "mine").unwrap();
    folder.run(&["--generate-config"]).refused(
        1,
        "orrery: jupyterhub_config.py exists and was left as it is: name another file with -f, or add -y to overwrite it\n",
    );
    assert_eq!(folder.read("jupyterhub_config.py"), "mine");
    folder.run(&["--generate-config", "-y"]).ok();
    assert_eq!(folder.read("jupyterhub_config.py"), text);
    folder
        .run(&["--generate-config", "-f", "no/such/folder.py"])
        .refused(
            1,
            "orrery: the folder DIR/no/such does not exist: make it first\n",
        );
}

#[test]
fn the_pages_of_the_reference_are_fresh() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    Folder::new()
        .run(&["docs", "--check", "--folder", checkout.to_str().unwrap()])
        .ok();
    let folder = Folder::new();
    folder.run(&["docs", "--write", "--folder", "."]).ok();
    folder.run(&["docs", "--check", "--folder", "."]).ok();
    std::fs::write(folder.path("options.md"), "stale").unwrap();
    folder.run(&["docs", "--check", "--folder", "."]).refused(
        1,
        "orrery: ./options.md is not fresh: run `orrery docs --write`\n",
    );
}

#[test]
fn both_examples_say_the_same() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let shown = |name: &str| {
        let file = examples.join(name);
        let run = Folder::new().run(&["-f", file.to_str().unwrap(), "--show-config-json"]);
        let mut json: serde_json::Value = serde_json::from_str(&run.ok()).unwrap();
        json["JupyterHub"]
            .as_object_mut()
            .unwrap()
            .remove("config_file");
        if let Some(users) = json["Authenticator"]["allowed_users"].as_array_mut() {
            users.sort_by_key(ToString::to_string);
        }
        json
    };
    assert_eq!(shown("jupyterhub_config.py"), shown("orrery.toml"));
}

#[test]
fn tokens_for_users_who_exist() {
    let folder = Folder::new().with(
        "jupyterhub_config.py",
        &format!("{SIMPLE}c.Authenticator.admin_users.add('ada')\n"),
    );
    let token = folder.run(&["token", "ada"]).ok();
    assert!(
        token.len() == 33
            && token
                .trim_end()
                .chars()
                .all(|digit| digit.is_ascii_hexdigit()),
        "{token}"
    );
    assert_ne!(folder.run(&["token", "ada"]).ok(), token);
    folder.run(&["token", "eve"]).refused(
        1,
        "orrery: there is no user named \"eve\": users exist once they have logged in or an administrator has added them\n",
    );
    let lost = folder.run(&["token", "ada", "--db", "nowhere/hub.sqlite"]);
    assert_eq!(lost.code, Some(1));
    assert_eq!(
        lost.stderr.matches("cannot open the database").count(),
        1,
        "{}",
        lost.stderr
    );
}
