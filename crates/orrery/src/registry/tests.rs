//! The tables against the facts of JupyterHub 6.1.1, and which class a configuration gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use orrery_core::config::{Kind, OptionSpec, Origin, Status};

use super::*;

/// A class as the installed package has it.
#[derive(serde::Deserialize)]
struct UpstreamClass {
    module: String,
    bases: Vec<String>,
    options: Vec<UpstreamOption>,
}

#[derive(serde::Deserialize)]
struct UpstreamOption {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    none: bool,
    default: serde_json::Value,
    deprecated: bool,
}

/// Options that upstream has not.
const OWN_OPTIONS: &[(&str, &str)] = &[
    ("JupyterHub", "audit_ignore"),
    ("JupyterHub", "audit_log"),
    ("JupyterHub", "audit_log_file"),
    ("JupyterHub", "audit_retention_days"),
    ("JupyterHub", "session_helper"),
    ("JupyterHub", "token_allowed_scopes"),
];

/// Options whose default is not to be compared, and why.
const OTHER_DEFAULTS: &[(&str, &str)] = &[
    ("JupyterHub.cookie_secret", "no bytes are no text"),
    (
        "JupyterHub.data_files_path",
        "it is where upstream's package is installed",
    ),
    (
        "Spawner.options_from_form",
        "upstream makes a function of 'passthrough' when it is asked for",
    ),
    ("CryptKeeper.n_threads", "it is the number of CPU cores"),
];

fn upstream() -> BTreeMap<String, UpstreamClass> {
    serde_json::from_str(include_str!("../../tests/data/upstream-options.json")).unwrap()
}

#[test]
fn every_class_and_option_of_upstream_is_there_and_no_other() {
    let ours: BTreeMap<_, _> = catalog()
        .classes()
        .iter()
        .map(|class| (class.name.to_owned(), *class))
        .collect();
    let upstream = upstream();
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        upstream.keys().collect::<Vec<_>>()
    );
    for (name, class) in &upstream {
        let spec = ours[name];
        assert_eq!(
            (spec.module, &spec.bases.map_to_strings()),
            (class.module.as_str(), &class.bases),
            "{name}"
        );
        let ours: BTreeSet<_> = spec.options.iter().map(|option| option.name).collect();
        let own = OWN_OPTIONS.iter().filter(|(class, _)| class == name);
        let theirs: BTreeSet<_> = class
            .options
            .iter()
            .map(|option| option.name.as_str())
            .chain(own.map(|(_, option)| *option))
            .collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn types_defaults_and_deprecations_are_upstreams() {
    let mut wrong = Vec::new();
    for (name, class) in upstream() {
        for theirs in class.options {
            let (_, ours) = catalog()
                .option(catalog().class(&name).unwrap(), &theirs.name)
                .unwrap();
            let option = format!("{name}.{}", theirs.name);
            let default = (ours.default)();
            let known = OTHER_DEFAULTS.iter().any(|(other, _)| *other == option);
            if !known && !default.same_as(&Value::from_json(&theirs.default)) {
                wrong.push(format!(
                    "{option}: default {}, upstream {}",
                    default.to_python(),
                    theirs.default
                ));
            }
            if !same_kind(ours, &theirs) {
                wrong.push(format!(
                    "{option}: type {}, upstream {}",
                    ours.kind_name(),
                    theirs.kind
                ));
            }
            if theirs.deprecated && ours.deprecated.is_none() {
                wrong.push(format!("{option} is deprecated upstream"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn same_kind(ours: &OptionSpec, theirs: &UpstreamOption) -> bool {
    let mut names: BTreeSet<&str> = theirs.kind.split('|').collect();
    let takes_functions = names.len() > 1 && names.remove("Callable");
    let (kind, none) = match ours.kind {
        Kind::Optional(kind) => (*kind, true),
        kind => (kind, false),
    };
    let expected: &[&str] = match kind {
        Kind::Bool => &["Bool"],
        Kind::Int => &["Int"],
        Kind::Float => &["Float"],
        Kind::Text => &["Unicode", "Any"],
        Kind::Bytes => &["Bytes", "Unicode"],
        Kind::ByteSize => &["ByteSpecification"],
        Kind::Command => &["Command"],
        Kind::UrlPrefix => &["URLPrefix"],
        Kind::Class => &["EntryPointType"],
        Kind::Callable => &["Callable", "Any"],
        Kind::Any => &["Any"],
        Kind::OneOf(_) => &["Enum", "CaselessStrEnum", "Unicode"],
        Kind::List(_) => &["List"],
        Kind::Set(_) => &["Set"],
        Kind::Dict(_) => &["Dict"],
        Kind::Optional(_) => &[],
    };
    names.iter().all(|name| expected.contains(name))
        && takes_functions == ours.callable
        && none == theirs.none
}

trait ToStrings {
    fn map_to_strings(&self) -> Vec<String>;
}

impl ToStrings for &[&str] {
    fn map_to_strings(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn every_option_and_class_has_a_doc_and_every_moved_option_a_target() {
    let catalog = catalog();
    for class in catalog.classes() {
        assert!(!class.doc.trim().is_empty(), "{}", class.name);
        for spec in class.options {
            assert!(
                spec.doc.trim().ends_with('.'),
                "{}.{}",
                class.name,
                spec.name
            );
            if let Some(target) = spec.moved_to {
                let (target_class, option) = target.split_once('.').unwrap();
                assert!(
                    catalog
                        .option(catalog.class(target_class).unwrap(), option)
                        .is_some(),
                    "{target}"
                );
            }
        }
    }
}

fn tree(settings: &[(&str, &str, Value)]) -> Tree {
    let mut tree = Tree::default();
    for (class, option, value) in settings {
        tree.set(
            class,
            option,
            Setting::Value(value.clone()),
            Origin::File("config.py".into()),
        )
        .unwrap();
    }
    tree
}

fn simple(authenticator: &str) -> [(&'static str, &'static str, Value); 2] {
    [
        ("JupyterHub", "spawner_class", "simple".into()),
        ("JupyterHub", "authenticator_class", authenticator.into()),
    ]
}

fn refused(settings: &[(&str, &str, Value)]) -> Vec<String> {
    match choose(&tree(settings)) {
        Ok(_) => panic!("it must be refused"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn classes_are_found_by_short_and_full_names() {
    for (name, class) in [
        ("dummy", "DummyAuthenticator"),
        ("Dummy", "DummyAuthenticator"),
        ("jupyterhub.auth.DummyAuthenticator", "DummyAuthenticator"),
        ("null", "NullAuthenticator"),
        ("shared-password", "SharedPasswordAuthenticator"),
        (
            "jupyterhub.authenticators.shared.SharedPasswordAuthenticator",
            "SharedPasswordAuthenticator",
        ),
    ] {
        let chosen = choose(&tree(&simple(name))).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(chosen.config.authenticator_class, class);
        assert_eq!(chosen.config.spawner_class, "SimpleLocalProcessSpawner");
        assert_eq!(
            chosen.config.authenticator.allow_all,
            class == "DummyAuthenticator",
            "upstream's defaults"
        );
    }
}

#[test]
fn upstreams_defaults_are_ours() {
    let chosen = choose(&tree(&[])).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(chosen.config.spawner_class, "LocalProcessSpawner");
    assert_eq!(chosen.config.authenticator_class, "PAMAuthenticator");
    for kept in ["PATH", "LANG", "VIRTUAL_ENV"] {
        let keep = &chosen.config.spawner.env_keep;
        assert!(keep.iter().any(|name| name == kept), "{kept}");
    }
}

#[test]
fn unknown_classes_are_refused_by_name() {
    let [spawner, _] = simple("dummy");
    assert_eq!(
        refused(&[
            spawner.clone(),
            ("JupyterHub", "authenticator_class", "dumy".into())
        ]),
        [
            "JupyterHub.authenticator_class names the class \"dumy\" (in config.py), which is not supported yet: did you \
             mean 'dummy'? use one of 'dummy', 'shared-password', 'null', 'pam'"
        ]
    );
    let own = Value::Class("site.MyAuthenticator".into());
    assert!(
        refused(&[spawner, ("JupyterHub", "authenticator_class", own)])[0]
            .contains("\"site.MyAuthenticator\"")
    );
}

#[test]
fn sections_of_the_chosen_class_are_stronger() {
    let mut settings = simple("dummy").to_vec();
    settings.push(("Spawner", "start_timeout", 10.into()));
    settings.push(("LocalProcessSpawner", "start_timeout", 20.into()));
    settings.push((
        "Authenticator",
        "allowed_users",
        Value::Set(vec!["ada".into()]),
    ));
    settings.push((
        "PAMAuthenticator",
        "allowed_users",
        Value::Set(vec!["eve".into()]),
    ));
    let config = choose(&tree(&settings))
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .config;
    assert_eq!(config.spawner.start_timeout, 20);
    assert_eq!(
        config.authenticator.allowed_users,
        BTreeSet::from(["ada".to_owned()])
    );
    assert!(
        !config.authenticator.allow_all,
        "the dummy authenticator with names lets only these in"
    );
    assert!(config.authenticator.allow_existing_users);
}

/// By its old name, in either section, an option lets the same people in.
#[test]
fn group_whitelist_is_allowed_groups() {
    for section in ["LocalAuthenticator", "PAMAuthenticator"] {
        let mut settings = simple("pam").to_vec();
        let groups = Value::Set(vec!["root".into()]);
        settings.push((section, "group_whitelist", groups));
        let mut tree = tree(&settings);
        assert_eq!(
            catalog().move_deprecated(&mut tree),
            [format!(
                "{section}.group_whitelist is deprecated, use {section}.allowed_groups"
            )]
        );
        assert!(catalog().check(&tree).problems.is_empty());
        let chosen = choose(&tree).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(chosen.authenticator.has_allow_rules(), "{section}");
    }
    let chosen = choose(&tree(&simple("pam"))).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(!chosen.authenticator.has_allow_rules());
}

#[test]
fn what_a_class_says_of_its_options_is_told() {
    let mut settings = simple("shared-password").to_vec();
    settings.push((
        "SharedPasswordAuthenticator",
        "user_password",
        "short".into(),
    ));
    assert!(
        refused(&settings)[0]
            .starts_with("SharedPasswordAuthenticator.user_password needs at least 8")
    );
}

#[test]
fn every_option_may_be_set_to_its_default() {
    let mut settings = simple("dummy").to_vec();
    let catalog = catalog();
    for class in catalog.classes() {
        for spec in class
            .options
            .iter()
            .filter(|spec| !matches!(spec.kind, Kind::Class))
        {
            settings.push((class.name, spec.name, (spec.default)()));
        }
    }
    let mut tree = tree(&settings);
    catalog.move_deprecated(&mut tree);
    assert!(catalog.check(&tree).problems.is_empty());
    let chosen = choose(&tree).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(chosen.config.hub.port, 8000);
}

#[test]
fn every_option_that_does_not_work_yet_is_refused_for_the_class_in_use() {
    let used = [
        "Application",
        "JupyterHub",
        "Spawner",
        "LocalProcessSpawner",
        "Authenticator",
        "CryptKeeper",
    ];
    for class in catalog()
        .classes()
        .iter()
        .filter(|class| used.contains(&class.name))
    {
        for spec in class
            .options
            .iter()
            .filter(|spec| spec.status == Status::NotYet)
        {
            let mut settings = simple("dummy").to_vec();
            settings.push((class.name, spec.name, another_value(spec)));
            let option = format!("{}.{}", class.name, spec.name);
            let problems = refused(&settings).join("\n");
            assert!(problems.contains(&option), "{option}: {problems}");
        }
    }
}

/// A value that fits the option and is not its default.
fn another_value(spec: &OptionSpec) -> Value {
    let texts = Value::texts(["x"]);
    let kind = match spec.kind {
        Kind::Optional(kind) => *kind,
        kind => kind,
    };
    match kind {
        Kind::Bool => Value::Bool((spec.default)() != Value::Bool(true)),
        Kind::Int => Value::Int(4242),
        Kind::Callable => Value::Callable("hook".into()),
        Kind::OneOf(choices) => choices[choices.len() - 1].into(),
        Kind::List(_) | Kind::Set(_) | Kind::Command => texts,
        Kind::Dict(_) => Value::Dict([("x".to_owned(), "y".into())].into()),
        _ => "x".into(),
    }
}

/// Options that work although no code reads them, and why.
const READ_NOWHERE: &[(&str, &str)] = &[
    (
        "auth_refresh_age",
        "no authenticator here has anything to refresh, and then upstream does nothing either",
    ),
    ("auth_refresh_strict", "the same"),
    ("refresh_pre_spawn", "the same"),
    ("refresh_pre_stop", "the same"),
    ("config_file", "it is looked at before anything is loaded"),
    ("generate_config", "the same"),
    ("answer_yes", "the same"),
    ("show_config", "the same"),
    ("show_config_json", "the same"),
    (
        "authenticator_class",
        "the registry looks at it before anything is loaded",
    ),
    ("spawner_class", "the same"),
    ("proxy_class", "the same"),
];

#[test]
fn no_option_that_works_is_silently_ignored() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = String::new();
    for name in ["hub", "orrery", "spawners", "authenticators"] {
        read_sources(&crates.join(name).join("src"), &mut sources);
    }
    let is_read = |name: &str| {
        let needle = format!(".{name}");
        sources.match_indices(&needle).any(|(place, _)| {
            let rest = &sources[place + needle.len()..];
            !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')
        })
    };
    for class in catalog().classes() {
        for spec in class
            .options
            .iter()
            .filter(|spec| spec.status == Status::Works && spec.moved_to.is_none())
        {
            let known = READ_NOWHERE.iter().any(|(name, _)| *name == spec.name);
            assert!(
                known || is_read(spec.name),
                "{}.{} works by its table, but no code reads it",
                class.name,
                spec.name
            );
        }
    }
}

/// Appends the code of a folder, but for the tables themselves and for tests.
fn read_sources(folder: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests.rs"
        {
            *sources += &std::fs::read_to_string(&path).unwrap();
        }
    }
}
