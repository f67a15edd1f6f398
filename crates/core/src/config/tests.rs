//! Tests of merging, conversion and loading; the cases are tables.
#![expect(dead_code, reason = "not every option of the two classes is looked at")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::config_class;

config_class! {
    /// A base class.
    struct Kettle: "tea.kettle" [] {
        /// Minutes to wait.
        minutes: i64 = 3, Works;
        /// Names of guests.
        guests: BTreeSet<String> = BTreeSet::new(), Works;
        /// Extra arguments.
        args: Vec<String> = vec!["boil".to_owned()], Works;
        /// Extra variables.
        environment: BTreeMap<String, String> = BTreeMap::new(), Works;
        /// How much fits in.
        size: Option<ByteSize> = None, Works;
        /// Whether to whistle, one day.
        whistle: bool = false, NotYet;
        /// Called before pouring.
        pour_hook: Hook = Hook, NotYet;
        /// A word or a function.
        greeting: String = "tea!".to_owned(), Works, or_callable;
        /// The old name.
        visitors: BTreeSet<String> = BTreeSet::new(), Works, moved_to("Kettle.guests");
    }
}

config_class! {
    /// A class on top.
    struct Samovar: "tea.samovar" ["Kettle"] {
        /// How many cups fit on it.
        cups: i64 = 12, Works;
    }
    defaults { minutes = 20 }
}

fn catalog() -> Catalog {
    Catalog::new([Kettle::SPEC, Samovar::SPEC])
}

fn file() -> Origin {
    Origin::File("config.py".into())
}

fn tree(settings: &[(&str, &str, Value)]) -> Tree {
    let mut tree = Tree::default();
    for (class, option, value) in settings {
        tree.set(class, option, Setting::Value(value.clone()), file())
            .unwrap();
    }
    tree
}

fn load(tree: &Tree) -> Result<Kettle, Vec<String>> {
    Kettle::load(tree, &catalog().chain(Samovar::SPEC))
        .map(|loaded| loaded.value)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn complaint(option: &str, value: Value) -> String {
    match load(&tree(&[("Kettle", option, value)])) {
        Ok(_) => panic!("{option} must be refused"),
        Err(problems) => problems.concat(),
    }
}

#[test]
fn sections_hold_along_the_ancestry() {
    let minutes = |settings: &[(&str, &str, Value)]| {
        load(&tree(settings))
            .unwrap_or_else(|why| panic!("{why:?}"))
            .minutes
    };
    assert_eq!(minutes(&[]), 20, "the class has a default of its own");
    assert_eq!(minutes(&[("Kettle", "minutes", 5.into())]), 5);
    assert_eq!(
        minutes(&[
            ("Samovar", "minutes", 7.into()),
            ("Kettle", "minutes", 5.into())
        ]),
        7
    );
    let kettle = Kettle::load(&tree(&[("Samovar", "minutes", 7.into())]), &[Kettle::SPEC])
        .unwrap_or_else(|_| panic!());
    assert_eq!(
        kettle.value.minutes, 3,
        "a section does not hold for the base class"
    );
    assert!(!kettle.is_set("minutes"));
}

#[test]
fn lazy_operations_join_what_is_below() {
    let mut tree = tree(&[("Kettle", "guests", Value::Set(vec!["ada".into()]))]);
    let add = |name: &str| {
        Setting::Lazy(Lazy {
            update: Some(Value::Set(vec![name.into()])),
            ..Lazy::default()
        })
    };
    tree.set("Samovar", "guests", add("bob"), file()).unwrap();
    tree.set("Samovar", "guests", add("eve"), Origin::CommandLine)
        .unwrap();
    let extend = Lazy {
        extend: vec!["-v".into()],
        prepend: vec!["first".into()],
        ..Lazy::default()
    };
    tree.set("Kettle", "args", Setting::Lazy(extend), file())
        .unwrap();
    let kettle = load(&tree).unwrap_or_else(|why| panic!("{why:?}"));
    assert_eq!(
        kettle.guests,
        ["ada", "bob", "eve"].map(String::from).into()
    );
    assert_eq!(kettle.args, ["first", "boil", "-v"]);
}

#[test]
fn lazy_operations_in_the_order_of_traitlets() {
    // Inserts come first, whatever the file's order, then the front, then the end.
    let lower = Lazy {
        extend: vec![1.into()],
        prepend: vec![2.into()],
        inserts: vec![(-1, 3.into())],
        update: None,
    };
    let higher = Lazy {
        extend: vec![4.into()],
        prepend: vec![5.into()],
        inserts: vec![(0, 6.into())],
        update: None,
    };
    let joined = higher.over(lower).unwrap();
    let value = joined.apply(Value::List(vec![7.into(), 8.into()])).unwrap();
    assert_eq!(value.to_python(), "[5, 2, 6, 7, 3, 8, 1, 4]");
}

#[test]
fn an_operation_that_does_not_fit_is_refused() {
    let mut wrong = Tree::default();
    let append = Lazy {
        extend: vec!["ada".into()],
        ..Lazy::default()
    };
    wrong
        .set("Kettle", "guests", Setting::Lazy(append), file())
        .unwrap();
    assert_eq!(
        load(&wrong).err().unwrap(),
        [
            "Kettle.guests: append, extend, prepend or insert cannot be used here: the value is a set of 0 items"
        ]
    );
}

#[test]
fn a_wrong_type_is_told_with_option_value_and_expectation() {
    let cases = [
        (
            "minutes",
            "soon".into(),
            "Kettle.minutes must be a whole number, but is the text \"soon\" (in config.py)",
        ),
        (
            "minutes",
            Value::Float(2.5),
            "Kettle.minutes must be a whole number, but is the number 2.5 (in config.py)",
        ),
        (
            "minutes",
            Value::Null,
            "Kettle.minutes must be a whole number, but is None (in config.py)",
        ),
        (
            "guests",
            "ada".into(),
            "Kettle.guests must be a set or a list, but is the text \"ada\" (in config.py)",
        ),
        (
            "args",
            Value::List(vec!["a".into(), 1.into()]),
            "Kettle.args[1] must be a text, but is the number 1 (in config.py)",
        ),
        (
            "environment",
            Value::Dict([("PORT".to_owned(), 1.into())].into()),
            "Kettle.environment[\"PORT\"] must be a text, but is the number 1 (in config.py)",
        ),
        (
            "size",
            "5X".into(),
            "Kettle.size must be a number of bytes or a text such as '512M' or '1.5G', but is the text \"5X\" (in \
             config.py)",
        ),
    ];
    for (option, value, sentence) in cases {
        assert_eq!(complaint(option, value), sentence);
    }
}

#[test]
fn what_does_not_work_yet_is_refused_unless_it_is_the_default() {
    assert!(
        load(&tree(&[
            ("Kettle", "whistle", false.into()),
            ("Kettle", "pour_hook", Value::Null)
        ]))
        .is_ok()
    );
    assert_eq!(
        complaint("whistle", true.into()),
        "Kettle.whistle is not supported yet: remove it (in config.py) or set it to its default"
    );
    for option in ["pour_hook", "greeting"] {
        assert_eq!(
            complaint(option, Value::Callable("pour".into())),
            format!(
                "Kettle.{option} is the Python function pour (in config.py): functions are not supported yet, use a plain \
                 value"
            )
        );
    }
    let nested = Value::Dict([("A".to_owned(), Value::Callable("late".into()))].into());
    assert!(complaint("environment", nested).contains("the Python function late"));
}

#[test]
fn all_problems_are_told_at_once() {
    let problems = load(&tree(&[
        ("Kettle", "minutes", "x".into()),
        ("Kettle", "whistle", true.into()),
    ]));
    assert_eq!(problems.err().unwrap().len(), 2);
}

#[test]
fn unknown_names_are_found_with_the_nearest() {
    let findings = catalog().check(&tree(&[
        ("Samovar", "minuets", 1.into()),
        ("Samovar", "xyzzy", 1.into()),
        ("Kettle", "cups", 1.into()),
        ("Ketle", "minutes", 1.into()),
    ]));
    let problems: Vec<_> = findings.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Kettle has no option \"cups\" (set in config.py)",
            "Samovar has no option \"minuets\" (set in config.py); did you mean minutes?",
            "Samovar has no option \"xyzzy\" (set in config.py)",
        ]
    );
    assert_eq!(
        findings.warnings,
        ["the section Ketle has no effect: no such class is known; did you mean Kettle?"]
    );
}

#[test]
fn deprecated_options_move_within_their_section() {
    let mut tree = tree(&[
        ("Samovar", "visitors", Value::Set(vec!["ada".into()])),
        ("Kettle", "visitors", Value::Set(vec!["old".into()])),
        ("Kettle", "guests", Value::Set(vec!["new".into()])),
    ]);
    let warnings = catalog().move_deprecated(&mut tree);
    assert_eq!(
        warnings,
        [
            "Kettle.visitors is deprecated, use Kettle.guests",
            "Samovar.visitors is deprecated, use Samovar.guests",
        ]
    );
    let value = |class| match &tree.get(class, "guests").unwrap().setting {
        Setting::Value(value) => value.to_python(),
        Setting::Lazy(_) => panic!("a value was set"),
    };
    assert_eq!(value("Samovar"), "{'ada'}");
    assert_eq!(value("Kettle"), "{'new'}", "the new name is stronger");
}

#[test]
fn texts_of_the_command_line_become_values() {
    let cases: &[(Kind, &[&str], &str)] = &[
        (Kind::Bool, &["True"], "True"),
        (Kind::Bool, &["0"], "False"),
        (Kind::Bool, &["maybe"], "'maybe'"),
        (Kind::Int, &["1", "9000"], "9000"),
        (Kind::Int, &["many"], "'many'"),
        (Kind::Float, &["0.5"], "0.5"),
        (Kind::Text, &["a=b"], "'a=b'"),
        (Kind::Text, &["'quoted'"], "'quoted'"),
        (Kind::Text, &["~/hub"], "'/home/ada/hub'"),
        (Kind::Text, &["~bob/hub"], "'~bob/hub'"),
        (Kind::Optional(&Kind::Text), &["None"], "None"),
        (Kind::Text, &["None"], "'None'"),
        (Kind::ByteSize, &["1.5G"], "'1.5G'"),
        (Kind::ByteSize, &["1024"], "1024"),
        (Kind::List(&Kind::Text), &["a", "b"], "['a', 'b']"),
        (Kind::List(&Kind::Text), &["['a', \"b\"]"], "['a', 'b']"),
        (Kind::List(&Kind::Int), &["1", "2"], "[1, 2]"),
        (Kind::Set(&Kind::Text), &["a"], "{'a'}"),
        (Kind::Set(&Kind::Text), &["{'a', 'b'}"], "{'a', 'b'}"),
        (
            Kind::Dict(&Kind::Text),
            &["a=1", "b=x=y"],
            "{'a': '1', 'b': 'x=y'}",
        ),
        (
            Kind::Dict(&Kind::Any),
            &["{'a': {'b': [1, None]}}"],
            "{'a': {'b': [1, None]}}",
        ),
        (Kind::Dict(&Kind::Text), &["nothing"], "'nothing'"),
        (Kind::Command, &["bash"], "['bash']"),
        (Kind::Command, &["bash", "-c"], "['bash', '-c']"),
    ];
    for (kind, texts, expected) in cases {
        let texts: Vec<_> = texts.iter().map(ToString::to_string).collect();
        assert_eq!(
            kind.read(&texts, Some("/home/ada")).to_python(),
            *expected,
            "{kind:?} {texts:?}"
        );
    }
}

#[test]
fn memory_sizes() {
    let size = |text: &str| ByteSize::from_value(&text.into()).ok().map(|size| size.0);
    assert_eq!(size("1K"), Some(1024));
    assert_eq!(size("1.5G"), Some(1_610_612_736));
    assert_eq!(size("2T"), Some(2_199_023_255_552));
    for wrong in ["", "G", "1", "1g", "-1G", "1GB", "infG", "é"] {
        assert_eq!(size(wrong), None, "{wrong:?}");
    }
    assert_eq!(ByteSize::from_value(&Value::Float(10.9)).unwrap().0, 10);
    assert!(ByteSize::from_value(&Value::Int(-1)).is_err());
}

#[test]
fn url_prefixes_get_their_slashes() {
    for (path, expected) in [
        ("", "/"),
        ("/", "/"),
        ("hub", "/hub/"),
        ("/a/b", "/a/b/"),
        ("/a/", "/a/"),
    ] {
        assert_eq!(UrlPrefix::new(path).as_str(), expected);
    }
}

#[test]
fn literals_that_are_none() {
    for text in [
        "",
        "x",
        "1 2",
        "[1",
        "[1 2]",
        "{1: 2",
        "{1: 2}",
        "'a",
        "{'a' 1}",
        "f()",
        "__import__('os')",
        "1+1",
        "é",
    ] {
        assert!(parse_literal(text).is_err(), "{text}");
    }
    let deep = "[".repeat(100_000);
    assert!(parse_literal(&deep).is_err());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e12..1e12).prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Set),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::Dict),
        ]
    })
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let entry = ("[AB]", "[ab]", any_value());
    prop::collection::vec(entry, 0..6).prop_map(|entries| {
        let mut tree = Tree::default();
        for (class, option, value) in entries {
            tree.set(&class, &option, Setting::Value(value), file())
                .unwrap();
        }
        tree
    })
}

fn any_lazy() -> impl Strategy<Value = Lazy> {
    let items = || prop::collection::vec(any::<i64>().prop_map(Value::Int), 0..3);
    (items(), items()).prop_map(|(extend, prepend)| Lazy {
        extend,
        prepend,
        ..Lazy::default()
    })
}

proptest! {
    #[test]
    fn a_value_written_as_python_reads_back(value in any_value()) {
        let read = parse_literal(&value.to_python());
        prop_assert!(read.is_ok_and(|read| read.same_as(&value)), "{}", value.to_python());
    }

    #[test]
    fn reading_literals_never_panics(text in any::<String>(), quoted in "[\\[({'\"b\\\\xu0-9a, :})\\]]{0,24}") {
        let _ = parse_literal(&text);
        let _ = parse_literal(&quoted);
        let _ = Kind::Dict(&Kind::Text).read(&[text, quoted], None);
    }

    #[test]
    fn merging_is_associative(a in any_tree(), b in any_tree(), c in any_tree()) {
        let merged = |mut lower: Tree, higher: &Tree| {
            lower.merge(higher.clone()).unwrap();
            lower
        };
        let left = merged(merged(a.clone(), &b), &c);
        let right = merged(a, &merged(b, &c));
        prop_assert!(left == right);
    }

    #[test]
    fn joined_operations_do_what_they_do_one_by_one(
        lower in any_lazy(), higher in any_lazy(), start in prop::collection::vec(any::<i64>(), 0..3),
    ) {
        let start = Value::List(start.into_iter().map(Value::Int).collect());
        let one_by_one = higher.apply(lower.apply(start.clone()).unwrap()).unwrap();
        let joined = higher.over(lower).unwrap().apply(start).unwrap();
        prop_assert!(one_by_one == joined);
    }

    #[test]
    fn json_reads_back(value in any_value()) {
        let json = value.to_json();
        prop_assert_eq!(Value::from_json(&json).to_json(), json);
    }
}
