//! Passwords and sessions with the machine's real PAM. Accounts and services are made for a test and
//! removed again.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::{fs, thread};

use orrery_session::protocol::{Answer, Authenticate, Fault, PamSession, Request, Secret, Start};
use orrery_session::testing::{Account, PamService, is_root};

use crate::asking::{By, begin, helper, written_by};

/// As on every machine, but for the delay after a wrong password.
const UNIX: &str = "auth required pam_unix.so nodelay nullok\naccount required pam_unix.so\n";

struct Login<'a> {
    service: &'a str,
    user: &'a str,
    password: &'a str,
    otp: Option<&'a str>,
    encoding: &'a str,
    check_account: bool,
    through_sudo: bool,
}

impl<'a> Login<'a> {
    fn of(service: &'a PamService, user: &'a str, password: &'a str) -> Self {
        Self {
            service: &service.name,
            user,
            password,
            otp: None,
            encoding: "utf8",
            check_account: true,
            through_sudo: false,
        }
    }

    fn answer(&self) -> Answer {
        let request = Request::Authenticate(Authenticate {
            service: self.service.to_owned(),
            user: self.user.to_owned(),
            password: Secret::new(self.password),
            otp: self.otp.map(Secret::new),
            remote_host: Some("192.0.2.7".to_owned()),
            encoding: self.encoding.to_owned(),
            check_account: self.check_account,
        });
        let by = if self.through_sudo {
            By::Sudo
        } else {
            By::Root
        };
        let text = written_by(by, &request);
        assert!(!text.contains(self.password) || self.password.is_empty());
        serde_json::from_str(&text).unwrap()
    }

    fn is_let_in(&self) -> bool {
        match self.answer() {
            Answer::Authenticated { .. } => true,
            Answer::Denied { .. } => false,
            answer => panic!("{answer:?}"),
        }
    }

    /// Why it is refused.
    fn refusal(&self) -> String {
        match self.answer() {
            Answer::Denied { reason } => reason,
            answer => panic!("{answer:?}"),
        }
    }
}

#[test]
fn the_login_service_of_this_machine_knows_right_from_wrong() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    ada.set_password(b"open sesame");
    let service = PamService::new(UNIX);
    let login = |user, password| Login {
        service: "login",
        ..Login::of(&service, user, password)
    };
    let (right, wrong, unknown) = thread::scope(|scope| {
        let right = scope.spawn(|| login(&ada.name, "open sesame").is_let_in());
        let wrong = scope.spawn(|| login(&ada.name, "open sesam").refusal());
        let unknown = scope.spawn(|| login("orrery-nobody", "open sesame").refusal());
        (
            right.join().unwrap(),
            wrong.join().unwrap(),
            unknown.join().unwrap(),
        )
    });
    assert!(right);
    assert!(wrong.contains("PAM error"), "{wrong}");
    assert!(unknown.contains("no such account"), "{unknown}");
}

#[test]
fn accounts_that_may_not_be_used_are_refused_each_for_its_reason() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let ada = Account::new();
    let login = || Login::of(&service, &ada.name, "sesame");
    ada.set_password(b"sesame");
    assert!(login().is_let_in());

    ada.change("usermod", &["--lock"]);
    assert!(login().refusal().contains("locked"));
    ada.change("usermod", &["--unlock"]);
    assert!(login().is_let_in());

    ada.change("chage", &["--lastday", "0"]);
    let must_change = login().refusal();
    assert!(must_change.contains("PAM error 12"), "{must_change}");
    assert!(must_change.contains("changed"), "{must_change}");
    let unchecked = Login {
        check_account: false,
        ..login()
    };
    assert!(unchecked.is_let_in());
    ada.set_password(b"sesame");
    assert!(login().is_let_in());

    ada.change("chage", &["--expiredate", "2020-01-01"]);
    assert!(login().refusal().contains("the account has expired"));
    ada.change("chage", &["--expiredate", "-1"]);
    assert!(login().is_let_in());

    ada.change(
        "chage",
        &[
            "--lastday",
            "2020-01-01",
            "--maxdays",
            "30",
            "--inactive",
            "5",
        ],
    );
    assert!(login().refusal().contains("expired"));
    ada.change("chage", &["--maxdays", "-1", "--inactive", "-1"]);
    assert!(login().is_let_in());

    // With `nullok` the console would let in whoever types nothing.
    ada.change("passwd", &["--delete", "--quiet"]);
    for password in ["", "sesame"] {
        let refused = Login::of(&service, &ada.name, password).refusal();
        assert!(refused.contains("no password"), "{refused}");
    }
}

#[test]
fn an_account_that_the_helper_refuses_takes_as_long_as_one_that_does_not_exist() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (script, seen) = (folder.path().join("module"), folder.path().join("seen"));
    let text = format!("#!/bin/sh\necho \"$PAM_USER\" >>{}\n", seen.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let lets_all_in = format!(
        "auth required pam_exec.so quiet {}\naccount required pam_permit.so\n",
        script.display()
    );
    let service = PamService::new(&lets_all_in);
    let refused = Login {
        through_sudo: true,
        ..Login::of(&service, "daemon", "sesame")
    };
    let reason = refused.refusal();
    assert!(reason.contains("does nothing for daemon"), "{reason}");
    // PAM was asked, and not for the account.
    assert_eq!(fs::read_to_string(&seen).unwrap(), "orrery:refused\n");
}

#[test]
fn a_service_is_no_path() {
    if !is_root() {
        return;
    }
    let known = PamService::new(UNIX);
    for service in ["", "../pam.d/login", ".hidden", "a b"] {
        let answer = Login {
            service,
            ..Login::of(&known, "daemon", "sesame")
        }
        .answer();
        assert!(
            matches!(
                &answer,
                Answer::Failed {
                    fault: Fault::Request,
                    ..
                }
            ),
            "{answer:?}"
        );
    }
}

#[test]
fn passwords_of_other_encodings_and_names_of_odd_letters() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let name = format!("Orrery.T{}_x-9", std::process::id());
    let odd = Account::named(name, &["--badname", "--no-create-home"]);
    let login = |password, encoding| {
        Login {
            encoding,
            ..Login::of(&service, &odd.name, password)
        }
        .is_let_in()
    };
    odd.set_password("Sésam öffne dich €".as_bytes());
    assert!(login("Sésam öffne dich €", "utf8"));
    assert!(!login("Sésam öffne dich €", "iso-8859-15"));
    odd.set_password(b"S\xe9sam \xf6ffne dich \xa4");
    assert!(login("Sésam öffne dich €", "iso-8859-15"));
    assert!(!login("Sésam öffne dich €", "utf8"));
    assert!(!login("Sésam öffne dich €", "ascii"));
    // Names are no patterns, no paths and no options.
    for name in [
        "",
        "..",
        "../x",
        "-h",
        "a:b",
        "a\nb",
        "a\0b",
        "*",
        "%s%n",
        "ada lovelace",
    ] {
        assert!(!Login::of(&service, name, "x").is_let_in(), "{name:?}");
    }
    for password in ["", "\0", "x\0y", &"x".repeat(600), &"x".repeat(100_000)] {
        assert!(!Login::of(&service, &odd.name, password).is_let_in());
    }
}

#[test]
fn a_second_secret_is_only_given_to_a_stack_that_asks_for_it() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    ada.set_password(b"sesame");
    let folder = tempfile::tempdir().unwrap();
    let (source, module) = (folder.path().join("code.c"), folder.path().join("code.so"));
    fs::write(&source, MODULE_WITH_CODE).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&module, &source])
        .status();
    assert!(built.unwrap().success());
    let with_code = format!("auth required {}\n{UNIX}", module.display());
    let with_code_last = format!("{UNIX}auth required {}\n", module.display());
    for (lines, password, otp, expected) in [
        (UNIX, "sesame", None, true),
        (UNIX, "sesame", Some("123456"), true),
        (&with_code_last, "sesame", Some("123456"), true),
        (&with_code_last, "sesame", Some("654321"), false),
        (&with_code_last, "sesame", None, false),
        (&with_code, "123456", Some("sesame"), true),
    ] {
        let service = PamService::new(lines);
        let login = Login {
            otp,
            ..Login::of(&service, &ada.name, password)
        };
        assert_eq!(login.is_let_in(), expected, "{lines} {password} {otp:?}");
    }
}

/// A module that asks for a code, and for the name.
const MODULE_WITH_CODE: &str = r#"
#include <string.h>
struct message { int style; const char *text; };
struct response { char *text; int code; };
struct conversation {
    int (*ask)(int, const struct message **, struct response **, void *);
    void *data;
};
int pam_get_item(const void *, int, const void **);
int pam_sm_setcred(void *handle, int flags, int count, const char **words) { return 0; }
int pam_sm_authenticate(void *handle, int flags, int count, const char **words) {
    const void *item = 0, *user = 0;
    struct message code = {1, "Code: "}, name = {2, "Name: "};
    const struct message *messages[] = {&name, &code};
    struct response *answers = 0;
    if (pam_get_item(handle, 5, &item) || pam_get_item(handle, 2, &user)) return 4;
    const struct conversation *conversation = item;
    if (conversation->ask(2, messages, &answers, conversation->data)) return 19;
    return strcmp(answers[0].text, user) || strcmp(answers[1].text, "123456") ? 7 : 0;
}
"#;

#[test]
fn modules_are_told_who_and_from_where_and_the_password_alone() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let folder = tempfile::tempdir().unwrap();
    let (script, seen) = (folder.path().join("module"), folder.path().join("seen"));
    let text = format!(
        "#!/bin/sh\n{{ tr -d '\\0'; echo; echo $PAM_USER $PAM_RHOST; env; ls /proc/$$/fd; }} >{}\n",
        seen.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let service = PamService::new(&format!(
        "auth required pam_exec.so expose_authtok {}\naccount required pam_permit.so\n",
        script.display()
    ));
    assert!(Login::of(&service, &ada.name, "sesame").is_let_in());
    let seen = fs::read_to_string(&seen).unwrap();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(
        lines[..2],
        ["sesame", &format!("{} 192.0.2.7", ada.name)],
        "{seen}"
    );
    assert!(!seen.contains("SUDO_UID"), "{seen}");
}

#[test]
fn a_stack_that_cannot_work_is_nobodys_wrong_password() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    for lines in [
        "auth required pam_orrery_none.so\n",
        "auth [default=die] pam_debug.so auth=authinfo_unavail\n",
    ] {
        let service = PamService::new(lines);
        let answer = Login::of(&service, &ada.name, "sesame").answer();
        let Answer::Failed { fault, message } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(fault, Fault::System);
        assert!(message.contains(&service.name), "{message}");
    }
    let service = PamService::new(UNIX);
    let login = Login {
        encoding: "utf-16",
        ..Login::of(&service, &ada.name, "sesame")
    };
    assert!(matches!(
        login.answer(),
        Answer::Failed {
            fault: Fault::Request,
            ..
        }
    ));
}

#[test]
fn through_sudo_nobody_can_guess_the_passwords_of_the_systems_accounts() {
    if !is_root() {
        return;
    }
    let service = PamService::new("auth required pam_permit.so\naccount required pam_permit.so\n");
    let ada = Account::new();
    for (user, through_sudo, expected) in [
        ("root", false, true),
        ("root", true, false),
        ("daemon", true, false),
        (ada.name.as_str(), true, true),
    ] {
        let login = Login {
            through_sudo,
            ..Login::of(&service, user, "x")
        };
        assert_eq!(login.is_let_in(), expected, "{user}");
    }
}

#[test]
fn a_session_is_open_as_long_as_its_server_runs() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let script = format!(
        "#!/bin/sh\necho $PAM_TYPE $PAM_USER >>{}\n",
        path("sessions")
    );
    fs::write(path("module"), script).unwrap();
    fs::set_permissions(path("module"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        path("env"),
        "COURSE DEFAULT=astronomy\nPATH DEFAULT=/nowhere\n",
    )
    .unwrap();
    let service = PamService::new(&format!(
        "auth required pam_permit.so\nsession required pam_exec.so {}\n\
         session required pam_env.so conffile={}\nsession required pam_limits.so conf={}\n",
        path("module"),
        path("env"),
        path("limits"),
    ));
    fs::write(path("limits"), "* hard nofile 123\n* soft nofile 123\n").unwrap();

    let script = format!(
        "cat {}; echo $COURSE; echo $PATH; ulimit -n",
        path("sessions")
    );
    let start = Start {
        user: ada.name.clone(),
        command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        environment: BTreeMap::from([("PATH".to_owned(), Secret::new("/usr/bin:/bin"))]),
        folder: Some("/".to_owned()),
        umask: None,
        session: Some(PamSession {
            service: service.name.clone(),
        }),
        limits: None,
        files: Vec::new(),
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let log = fs::File::create(path("log")).unwrap();
    let request = Request::Start(Box::new(start));
    let (mut child, output) = begin(helper(By::Root), &request, log.into());
    let lines: Vec<String> = BufReader::new(output).lines().map(Result::unwrap).collect();
    child.wait().unwrap();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("Ended"), "{lines:?}");

    let log = fs::read_to_string(path("log")).unwrap();
    let expected = format!("open_session {}\nastronomy\n/usr/bin:/bin\n123\n", ada.name);
    assert_eq!(log, expected);
    // The keeper's output ends when it does, so the session is closed by now.
    let sessions = fs::read_to_string(path("sessions")).unwrap();
    let name = &ada.name;
    assert_eq!(
        sessions,
        format!("open_session {name}\nclose_session {name}\n")
    );
}
