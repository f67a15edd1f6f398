//! Configuration files run by the real Python and the real traitlets.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orrery_bridge::{BridgeError, ConfigAnswer, ConfigRequest, python_program, run_config};
use orrery_core::config::{Setting, Value};

/// The interpreter of the environment, else that of the checkout's `.venv`, else the path's.
fn python() -> OsString {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    match std::env::var_os("ORRERY_PYTHON") {
        Some(program) => program,
        None if checkout.exists() => checkout.into(),
        None => "python3".into(),
    }
}

struct Site(tempfile::TempDir);

impl Site {
    fn with(text: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        std::fs::write(site.config(), text).unwrap();
        site
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("jupyterhub_config.py")
    }

    fn request(&self) -> ConfigRequest {
        ConfigRequest {
            python: python(),
            file: self.config(),
            arguments: vec!["jupyterhub".into(), "--debug".into()],
            deadline: Duration::from_mins(1),
        }
    }

    async fn run(&self) -> Result<ConfigAnswer, BridgeError> {
        run_config(&self.request()).await
    }

    async fn error(&self) -> String {
        match self.run().await {
            Ok(_) => panic!("the file must be refused"),
            Err(error) => error
                .to_string()
                .replace(self.0.path().to_str().unwrap(), "DIR"),
        }
    }
}

fn value(answer: &ConfigAnswer, class: &str, option: &str) -> Value {
    match &answer
        .tree
        .get(class, option)
        .unwrap_or_else(|| panic!("{class}.{option} is not set"))
        .setting
    {
        Setting::Value(value) => value.clone(),
        Setting::Lazy(_) => panic!("{class}.{option} is lazy"),
    }
}

#[tokio::test]
async fn values_of_every_kind_arrive() {
    let site = Site::with(
        r#"
import datetime, functools, pathlib
class Mine: pass
def hook(spawner): pass
c.A.none = None
c.A.yes = True
c.A.whole = 8000
c.A.huge = 2**80
c.A.part = 0.5
c.A.endless = float("inf")
c.A.text = "naïve \u2603"
c.A.half = "\ud83d"
c.A.raw = b"\x00\xff"
c.A.listed = [1, (2, 3)]
c.A.unordered = {"b", "a"}
c.A.nested = {"x": {"y": [None]}, 7: "seven", "$set": 1}
c.A.path = pathlib.Path("/srv") / "hub"
c.A.age = datetime.timedelta(hours=1)
c.A.cls = Mine
c.A.function = hook
c.A.bound = functools.partial(hook, 1)
c.A.thing = object()
"#,
    );
    let answer = site.run().await.unwrap_or_else(|error| panic!("{error}"));
    let get = |option| value(&answer, "A", option).to_python();
    let found = [
        "none",
        "yes",
        "whole",
        "huge",
        "part",
        "endless",
        "text",
        "half",
        "raw",
        "listed",
        "unordered",
        "nested",
        "path",
        "age",
        "cls",
        "function",
        "bound",
        "thing",
    ]
    .map(get);
    assert_eq!(
        found,
        [
            "None",
            "True",
            "8000",
            "1.2089258196146292e24",
            "0.5",
            "inf",
            "'naïve \u{2603}'",
            "'?'",
            "bytes.fromhex('00ff')",
            "[1, [2, 3]]",
            "{'a', 'b'}",
            "{'$set': 1, '7': 'seven', 'x': {'y': [None]}}",
            "'/srv/hub'",
            "3600",
            "Mine",
            "hook",
            "hook",
            "<object>",
        ]
    );
    assert!(matches!(
        value(&answer, "A", "function"),
        Value::Callable(_)
    ));
    assert!(matches!(value(&answer, "A", "cls"), Value::Class(_)));
}

#[tokio::test]
async fn lazy_operations_stay_operations() {
    let site = Site::with(
        r#"
c.Authenticator.admin_users.add("ada")
c.Authenticator.admin_users.update({"bob"})
c.Spawner.args.append("--debug")
c.Spawner.args.extend(["-a", "-b"])
c.Spawner.args.prepend(["first"])
c.Spawner.args.insert(0, "zeroth")
c.Spawner.environment.update({"A": "1"})
c.Spawner.looked_at
"#,
    );
    let answer = site.run().await.unwrap_or_else(|error| panic!("{error}"));
    let applied = |class, option, initial| match &answer.tree.get(class, option).unwrap().setting {
        Setting::Lazy(lazy) => lazy.apply(initial).unwrap().to_python(),
        Setting::Value(_) => panic!("{option} is a value"),
    };
    assert_eq!(
        applied("Authenticator", "admin_users", Value::Set(vec![])),
        "{'ada', 'bob'}"
    );
    assert_eq!(
        applied("Spawner", "args", Value::texts(["there"])),
        "['first', 'zeroth', 'there', '--debug', '-a', '-b']"
    );
    assert_eq!(
        applied("Spawner", "environment", Value::Dict([].into())),
        "{'A': '1'}"
    );
    assert!(
        answer.tree.get("Spawner", "looked_at").is_none(),
        "looking at an option does not set it"
    );
}

#[tokio::test]
async fn the_file_sees_what_traitlets_shows_it() {
    let site = Site::with(
        r#"
import os, sys
c = get_config()
load_subconfig("more.py")
c.A.file = __file__
c.A.argv = sys.argv
c.A.cwd_in_path = "" in sys.path
print("this goes to standard error")
"#,
    );
    std::fs::write(site.0.path().join("more.py"), "c.A.sub = 1\nc.A.argv = 0\n").unwrap();
    let answer = site.run().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(value(&answer, "A", "sub").to_python(), "1");
    assert_eq!(
        value(&answer, "A", "argv").to_python(),
        "['jupyterhub', '--debug']"
    );
    assert!(value(&answer, "A", "file") == Value::from(site.config().to_str().unwrap()));
    assert_eq!(value(&answer, "A", "cwd_in_path").to_python(), "False");
}

#[tokio::test]
async fn names_on_c_itself_are_told() {
    let answer = Site::with("c.port = 8000\n")
        .run()
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer.stray, ["port"]);
}

#[tokio::test]
async fn an_exception_is_shown_short() {
    let cases = [
        (
            "import os\nx = os.environ['MISSING_42']\n",
            "DIR/jupyterhub_config.py, line 2: KeyError: 'MISSING_42'\n    x = os.environ['MISSING_42']",
        ),
        (
            "c.A.b = (\n",
            "DIR/jupyterhub_config.py, line 1: SyntaxError: '(' was never closed\n    c.A.b = (",
        ),
        (
            "def f():\n    raise ValueError('no')\nf()\n",
            "DIR/jupyterhub_config.py, line 2: ValueError: no\n    raise ValueError('no')",
        ),
        (
            "import sys\nsys.exit(3)\n",
            "DIR/jupyterhub_config.py, line 2: SystemExit: the file ended the program with 3\n    sys.exit(3)",
        ),
        (
            "c.A.b = {(1, 2): 3}\n",
            "DIR/jupyterhub_config.py: c.A.b: a dictionary's key is of type tuple, but must be a text",
        ),
        (
            "c.A.B.c = 1\n",
            "DIR/jupyterhub_config.py: c.A.B: sections inside of sections are not supported",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Site::with(text).error().await, expected);
    }
}

#[tokio::test]
async fn an_exception_deep_in_the_standard_library_names_the_sites_line() {
    let error = Site::with("import json\n\njson.loads('{')\n").error().await;
    assert!(
        error.starts_with("DIR/jupyterhub_config.py, line 3: JSONDecodeError: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_long_message_is_cut() {
    let error = Site::with("raise ValueError('x' * 1_000_000)\n")
        .error()
        .await;
    assert!(error.len() < 3000, "{} characters", error.len());
}

#[tokio::test]
async fn a_file_that_never_ends_is_ended() {
    let site = Site::with("import time\ntime.sleep(3600)\n");
    let error = run_config(&ConfigRequest {
        deadline: Duration::from_millis(700),
        ..site.request()
    })
    .await
    .err();
    assert!(matches!(error, Some(BridgeError::TooSlow { .. })));
}

#[tokio::test]
async fn a_file_that_ends_python_is_told() {
    let error = Site::with("import os\nos._exit(7)\n").error().await;
    assert!(error.contains("ended with exit status: 7"), "{error}");
}

#[tokio::test]
async fn a_thread_left_running_does_not_hold_the_start() {
    let site = Site::with(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\nc.A.b = 1\n",
    );
    assert!(site.run().await.is_ok());
}

#[tokio::test]
async fn without_python_or_traitlets_the_error_says_what_to_install() {
    let site = Site::with("c.A.b = 1\n");
    let missing = run_config(&ConfigRequest {
        python: "/nowhere/python3".into(),
        ..site.request()
    })
    .await
    .err()
    .unwrap();
    assert!(missing.to_string().contains("install python3"), "{missing}");

    let bare = site.0.path().join("bare-python");
    let script = format!("#!/bin/sh\nexec {} -S \"$@\"\n", python().to_str().unwrap());
    std::fs::write(&bare, script).unwrap();
    std::fs::set_permissions(&bare, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let without = run_config(&ConfigRequest {
        python: bare.into(),
        ..site.request()
    })
    .await
    .err()
    .unwrap();
    assert!(
        without.to_string().contains("needs the package traitlets"),
        "{without}"
    );
}

#[test]
fn the_environment_names_the_interpreter() {
    assert_eq!(python_program(|_| None), "python3");
    assert_eq!(
        python_program(|name| (name == "ORRERY_PYTHON").then(|| "/opt/python".into())),
        "/opt/python"
    );
    assert_eq!(python_program(|_| Some("".into())), "python3");
}
