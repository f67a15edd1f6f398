//! Logging in with real accounts, which are made for a test and removed again. It must run as root.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use orrery_authenticators::config::{LocalAuthenticator, PAMAuthenticator};
use orrery_authenticators::pam::Pam;
use orrery_core::authenticator::{Authenticator as _, Credentials};
use orrery_core::config::{Command, ConfigClass as _};
use orrery_core::{Secret, UserName};
use orrery_session::client::Helper;
use orrery_session::testing::{Account, PamService, is_root};

const UNIX: &str = "auth required pam_unix.so nodelay\naccount required pam_unix.so\n";

/// The helper, which is built beside the tests.
fn helper() -> Helper {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("orrery-session");
    assert!(
        program.is_file(),
        "{} is missing: cargo build -p orrery-session",
        program.display()
    );
    Helper::new(vec![program.to_str().unwrap().to_owned()])
}

fn pam(
    service: &PamService,
    change: impl FnOnce(&mut PAMAuthenticator, &mut LocalAuthenticator),
) -> Pam {
    let mut options = PAMAuthenticator::with_defaults();
    let mut local = LocalAuthenticator::with_defaults();
    options.service.clone_from(&service.name);
    change(&mut options, &mut local);
    Pam::new(options, local, helper()).ok().unwrap()
}

async fn login(pam: &Pam, user: &str, password: &str) -> Option<String> {
    let credentials = Credentials {
        username: user.to_owned(),
        password: Secret::new(password),
        fields: vec![("otp".to_owned(), Secret::new("123456"))],
        remote_address: "192.0.2.1".to_owned(),
    };
    let answer = pam.authenticate(&credentials).await;
    answer.unwrap().map(|identity| {
        assert!(identity.admin.is_none() && identity.groups.is_none());
        identity.name
    })
}

fn name(text: &str) -> UserName {
    UserName::parse(text).unwrap()
}

#[tokio::test]
async fn people_log_in_with_their_password_and_nobody_else_does() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let pam = pam(&service, |_, _| ());
    assert_eq!(pam.check().await, Ok(()));
    assert!(pam.warnings().is_empty());
    let ada = Account::new();
    ada.set_password(b"sesame");
    for (user, password, expected) in [
        (ada.name.as_str(), "sesame", Some(ada.name.as_str())),
        (&ada.name, "sesam", None),
        (&ada.name, "", None),
        ("orrery-nobody", "sesame", None),
    ] {
        let found = login(&pam, user, password).await;
        assert_eq!(found.as_deref(), expected, "{user} {password}");
    }
    assert_eq!(pam.is_admin(&name(&ada.name)).await, Ok(None));
    assert!(!pam.has_allow_rules());
}

#[tokio::test]
async fn groups_of_the_system_let_people_in_and_make_administrators() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let (mut ada, bob) = (Account::new(), Account::new());
    let (class, _) = ada.join_new_group();
    // A group counts as well when it is somebody's first.
    let first = bob.name.clone();
    let by_class = pam(&service, |options, local| {
        options.admin_groups = [class.clone()].into();
        local.allowed_groups = [class.clone(), "orrery-none".to_owned()].into();
    });
    assert!(by_class.has_allow_rules());
    for (user, expected) in [(&ada.name, true), (&bob.name, false)] {
        assert_eq!(by_class.allows(&name(user)).await, Ok(expected), "{user}");
        assert_eq!(by_class.is_admin(&name(user)).await, Ok(Some(expected)));
    }
    assert_eq!(by_class.allows(&name("orrery-nobody")).await, Ok(false));
    let by_first = pam(&service, |options, local| {
        local.allowed_groups = [first].into();
        options.admin_groups = ["orrery-none".to_owned()].into();
    });
    assert_eq!(by_first.allows(&name(&bob.name)).await, Ok(true));
    assert_eq!(by_first.allows(&name(&ada.name)).await, Ok(false));
    // Who is an administrator must not depend on a misspelt group.
    let error = by_first.is_admin(&name(&bob.name)).await.unwrap_err();
    assert!(error.to_string().contains("orrery-none"), "{error}");
}

#[tokio::test]
async fn a_user_whom_only_the_hub_knows_gets_a_system_account() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let missing = Account::free_name();
    let homes = tempfile::tempdir().unwrap();
    let home = homes.path().join("USERNAME").display().to_string();
    let uid = 54_000 + std::process::id() % 5_000;
    let command = [
        "adduser",
        "-q",
        "--gecos",
        "",
        "--home",
        &home,
        "--disabled-password",
    ];
    let creating = pam(&service, |_, local| {
        local.create_system_users = true;
        local.uids = [(missing.clone(), i64::from(uid))].into();
        local.add_user_cmd = Command::of(command);
    });
    let strict = pam(&service, |_, _| ());
    assert!(strict.add_user(&name(&missing)).await.is_err());
    assert_eq!(creating.add_user(&name(&missing)).await, Ok(()));
    let made = Account::existing(missing.clone());
    assert_eq!(made.uid, uid);
    assert_eq!(made.home, homes.path().join(&missing));
    assert!(made.home.is_dir());
    // Once made, nothing is done again.
    assert_eq!(creating.add_user(&name(&missing)).await, Ok(()));
    assert_eq!(strict.add_user(&name(&missing)).await, Ok(()));
    // Nobody knows a password yet; whoever gets one can log in.
    assert_eq!(login(&creating, &missing, "").await, None);
    made.set_password(b"sesame");
    assert!(login(&creating, &missing, "sesame").await.is_some());
}

#[tokio::test]
async fn accounts_are_made_by_the_systems_own_command_also_when_many_come_at_once() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let pam = pam(&service, |_, local| local.create_system_users = true);
    let names = [(); 3].map(|()| Account::free_name());
    let [one, two, three] = [0, 1, 2].map(|index| name(&names[index]));
    let added = tokio::join!(pam.add_user(&one), pam.add_user(&two), pam.add_user(&three));
    let made = names.map(Account::existing);
    assert_eq!(added, (Ok(()), Ok(()), Ok(())));
    assert!(made.iter().all(|account| account.home.is_dir()));
}

#[tokio::test]
async fn nobody_becomes_another_by_capital_letters() {
    if !is_root() {
        return;
    }
    let service = PamService::new(UNIX);
    let tag = std::process::id();
    let create = |name: String| {
        let account = Account::named(name, &["--badname", "--no-create-home"]);
        account.set_password(b"sesame");
        account
    };
    let lower = create(format!("orrery-twin{tag}"));
    let upper = create(format!("Orrery-Twin{tag}"));
    let alone = create(format!("Orrery-Alone{tag}"));
    let plain = pam(&service, |_, _| ());
    assert!(login(&plain, &lower.name, "sesame").await.is_some());
    assert!(login(&plain, &upper.name, "sesame").await.is_none());
    assert!(login(&plain, &alone.name, "sesame").await.is_some());
    assert!(plain.name_lookup().is_none());

    let telling_apart = pam(&service, |options, _| {
        options.pam_normalize_username = true;
    });
    let found = login(&telling_apart, &upper.name, "sesame").await;
    assert_eq!(found.as_ref(), Some(&upper.name));
    let lookup = telling_apart.name_lookup().unwrap();
    assert_eq!(lookup(&upper.name).as_ref(), Some(&upper.name));
    assert_eq!(lookup(&lower.name).as_ref(), Some(&lower.name));
    assert_eq!(lookup("orrery-nobody"), None);
}

#[tokio::test]
async fn so_many_logins_are_checked_at_once_as_there_are_threads() {
    if !is_root() {
        return;
    }
    let ada = Account::new();
    // With two turns each waits for the other; with one there would be nobody to wait for.
    for (threads, wait, expected) in [
        (1, "sleep 0.2", "in out in out"),
        (
            2,
            "for i in $(seq 500); do [ $(wc -l <$LOG) -ge 2 ] && break; sleep 0.02; done",
            "in in out out",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (slow, log) = (folder.path().join("slow"), folder.path().join("log"));
        let script = format!(
            "#!/bin/sh\nLOG={}\necho in >>$LOG\n{wait}\necho out >>$LOG\n",
            log.display()
        );
        fs::write(&slow, script).unwrap();
        fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
        let service = PamService::new(&format!(
            "auth required pam_exec.so {}\naccount required pam_permit.so\n",
            slow.display()
        ));
        let pam = pam(&service, |options, _| options.executor_threads = threads);
        let both = tokio::join!(login(&pam, &ada.name, "x"), login(&pam, &ada.name, "x"));
        assert!(both.0.is_some() && both.1.is_some());
        let order = fs::read_to_string(log).unwrap().replace('\n', " ");
        assert_eq!(order.trim(), expected, "{threads}");
    }
}
