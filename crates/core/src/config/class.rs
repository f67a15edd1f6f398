//! Classes and their options as tables, the typed structs behind them, and how a struct is loaded.

use std::collections::BTreeSet;

use super::{LazyError, Misfit, OptionValue, Origin, Setting, Tree, Value};
use crate::config::Kind;

/// One configurable class, as its struct declares it.
pub struct ClassSpec {
    /// Upstream's class name, which is the section's name: `Spawner`.
    pub name: &'static str,
    /// The Python module in which upstream has it.
    pub module: &'static str,
    /// What the class is for.
    pub doc: &'static str,
    /// The classes whose sections hold for this one too, nearest first.
    pub bases: &'static [&'static str],
    /// Options that the class itself declares.
    pub options: &'static [OptionSpec],
    /// Options of base classes that have another default here.
    pub defaults: &'static [OtherDefault],
}

/// An option of a base class and the maker of its other default.
pub type OtherDefault = (&'static str, fn() -> Value);

impl ClassSpec {
    /// The full Python name.
    pub fn path(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }
}

/// One option of a class.
#[derive(Clone, Copy)]
pub struct OptionSpec {
    /// Upstream's name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Makes the default.
    pub default: fn() -> Value,
    /// What it does, in Markdown.
    pub doc: &'static str,
    /// Whether it can be used.
    pub status: Status,
    /// Upstream also takes a function here.
    pub callable: bool,
    /// The value must not be shown.
    pub secret: bool,
    /// What to use instead, if upstream deprecates the option.
    pub deprecated: Option<&'static str>,
    /// The option (`Class.option`) that a deprecated one stands for.
    pub moved_to: Option<&'static str>,
}

/// Whether an option can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what its doc says.
    Works,
    /// It is accepted and does nothing, here and upstream.
    NoEffect,
    /// Any value but the default is refused at start.
    NotYet,
}

impl OptionSpec {
    /// An option of type `T`; [`config_class!`](crate::config_class) calls this.
    pub const fn new<T: OptionValue>(
        name: &'static str,
        doc: &'static str,
        default: fn() -> Value,
        status: Status,
    ) -> Self {
        Self {
            name,
            kind: T::KIND,
            default,
            doc,
            status,
            callable: false,
            secret: T::SECRET,
            deprecated: None,
            moved_to: None,
        }
    }

    /// Upstream takes a function here as well.
    #[must_use]
    pub const fn or_callable(mut self) -> Self {
        self.callable = true;
        self
    }

    /// The value must not be shown.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Upstream deprecates the option; `instead` says what to use.
    #[must_use]
    pub const fn deprecated(mut self, instead: &'static str) -> Self {
        self.deprecated = Some(instead);
        self
    }

    /// Upstream deprecates the option in favour of `target` (`Class.option`), which takes its value.
    #[must_use]
    pub const fn moved_to(mut self, target: &'static str) -> Self {
        self.deprecated = Some(target);
        self.moved_to = Some(target);
        self
    }

    /// The kind's name for help and reference pages.
    pub fn kind_name(&self) -> String {
        if self.callable {
            format!("{} or Callable", self.kind.name())
        } else {
            self.kind.name()
        }
    }
}

/// A struct that holds the options of one class.
pub trait ConfigClass: Sized {
    /// The class and its options.
    const SPEC: &'static ClassSpec;

    /// Reads every option through `loader`.
    fn read(loader: &mut Loader<'_>) -> Self;

    /// The options of this class as they hold for the class whose ancestry, base class first, is
    /// `chain`: for `Spawner` on behalf of the simple spawner that is `Spawner`,
    /// `LocalProcessSpawner`, `SimpleLocalProcessSpawner`.
    fn load(tree: &Tree, chain: &[&'static ClassSpec]) -> Result<Loaded<Self>, Vec<Problem>> {
        let mut loader = Loader {
            tree,
            chain,
            set: BTreeSet::new(),
            problems: Vec::new(),
        };
        let value = Self::read(&mut loader);
        if loader.problems.is_empty() {
            Ok(Loaded {
                value,
                set: loader.set,
            })
        } else {
            Err(loader.problems)
        }
    }

    /// The options of a configuration that sets nothing. For tests.
    fn with_defaults() -> Self {
        match Self::load(&Tree::default(), &[Self::SPEC]) {
            Ok(loaded) => loaded.value,
            Err(_) => unreachable!("an empty configuration has no problems"),
        }
    }
}

/// A loaded struct and which of its options a source has set.
#[derive(Clone)]
pub struct Loaded<T> {
    /// The options.
    pub value: T,
    /// Names of options that some source has set, be it to the default.
    pub set: BTreeSet<&'static str>,
}

impl<T> Loaded<T> {
    /// Whether some source has set `option`.
    pub fn is_set(&self, option: &str) -> bool {
        self.set.contains(option)
    }
}

/// Reads options of one class from a tree and collects what is wrong with them.
pub struct Loader<'a> {
    tree: &'a Tree,
    chain: &'a [&'static ClassSpec],
    set: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl Loader<'_> {
    /// The value of one option. If it does not fit, the problem is kept and the default returned.
    pub fn option<T: OptionValue>(&mut self, spec: &'static OptionSpec, default: fn() -> T) -> T {
        let sections: Vec<&str> = self.chain.iter().map(|class| class.name).collect();
        let section = sections
            .iter()
            .rev()
            .find(|class| self.tree.get(class, spec.name).is_some());
        let overridden = || {
            let mut overrides = self.chain.iter().rev().flat_map(|class| class.defaults);
            overrides
                .find(|(option, _)| *option == spec.name)
                .map(|(_, value)| value())
        };
        let Some(section) = section else {
            return overridden()
                .and_then(|value| T::from_value(&value).ok())
                .unwrap_or_else(default);
        };
        let name = format!("{section}.{}", spec.name);
        self.set.insert(spec.name);
        match self.value_of(
            &sections,
            spec,
            &name,
            &overridden().unwrap_or_else(|| default().to_value()),
        ) {
            Ok(value) => value,
            Err(problem) => {
                self.problems.push(problem);
                default()
            }
        }
    }

    fn value_of<T: OptionValue>(
        &self,
        sections: &[&str],
        spec: &OptionSpec,
        name: &str,
        default: &Value,
    ) -> Result<T, Problem> {
        let lazy = |source| Problem::Lazy {
            option: name.to_owned(),
            source,
        };
        let entry = self
            .tree
            .resolve(sections, spec.name)
            .map_err(lazy)?
            .expect("one of the sections sets the option");
        let value = match entry.setting {
            Setting::Value(value) => value,
            Setting::Lazy(operations) => operations.apply(default.clone()).map_err(lazy)?,
        };
        if let Some(function) = value.callable() {
            return Err(Problem::Callable {
                option: name.to_owned(),
                function: function.to_owned(),
                origin: entry.origin,
            });
        }
        let read = T::from_value(&value).map_err(|misfit| Problem::Misfit {
            option: name.to_owned(),
            misfit: if spec.secret {
                Misfit {
                    found: "another kind of value".into(),
                    ..misfit
                }
            } else {
                misfit
            },
            origin: entry.origin.clone(),
        })?;
        if spec.status == Status::NotYet && !read.to_value().same_as(default) {
            return Err(Problem::NotSupported {
                option: name.to_owned(),
                origin: entry.origin,
            });
        }
        Ok(read)
    }
}

/// Why a configuration is refused. Each is one sentence that names the option and where it was set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The value has the wrong type or form.
    #[error("{option}{} must be {}, but is {} ({origin})", misfit.at, misfit.expected, misfit.found)]
    Misfit {
        /// `Class.option`.
        option: String,
        /// What was expected and found.
        misfit: Misfit,
        /// Where it was set.
        origin: Origin,
    },
    /// The value is, or contains, a Python function.
    #[error(
        "{option} is the Python function {function} ({origin}): functions are not supported yet, use a plain value"
    )]
    Callable {
        /// `Class.option`.
        option: String,
        /// The function's name.
        function: String,
        /// Where it was set.
        origin: Origin,
    },
    /// The option exists, but does nothing here yet.
    #[error("{option} is not supported yet: remove it ({origin}) or set it to its default")]
    NotSupported {
        /// `Class.option`.
        option: String,
        /// Where it was set.
        origin: Origin,
    },
    /// No such option.
    #[error("{class} has no option {option:?} (set {origin}){}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// The section.
        class: String,
        /// The option's name as written.
        option: String,
        /// The option with the nearest name.
        nearest: Option<String>,
        /// Where it was set.
        origin: Origin,
    },
    /// Operations such as `append` meet a value of another kind.
    #[error("{option}: {source}")]
    Lazy {
        /// `Class.option`.
        option: String,
        /// Which operation met what.
        source: LazyError,
    },
    /// Something else, already a sentence that names the option.
    #[error("{0}")]
    Invalid(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// Declares a configurable class: a struct with one field per option, from which the tables for
/// help texts, reference pages, checking and loading come.
///
/// ```
/// orrery_core::config_class! {
///     /// How tea is made.
///     pub struct TeaMaker: "tea.maker" [] {
///         /// Minutes to wait.
///         minutes: i64 = 3, Works;
///         /// Called before pouring.
///         pour_hook: orrery_core::config::Hook = orrery_core::config::Hook, NotYet;
///     }
/// }
/// ```
/// After the status follow, as needed, `or_callable`, `secret`, `deprecated("…")` and
/// `moved_to("Class.option")`. A trailing `defaults { option = value, … }` changes defaults of base
/// classes.
#[macro_export]
macro_rules! config_class {
    (
        $(#[doc = $class_doc:literal])*
        $visibility:vis struct $name:ident : $module:literal [$($base:literal),*] {
            $(
                $(#[doc = $doc:literal])*
                $field:ident : $type:ty = $default:expr, $status:ident $(, $flag:ident $(($argument:expr))?)*;
            )*
        }
        $(defaults { $($other:ident = $value:expr),* $(,)? })?
    ) => {
        $(#[doc = $class_doc])*
        #[derive(Clone)]
        $visibility struct $name {
            $($(#[doc = $doc])* pub $field: $type,)*
        }

        impl $crate::config::ConfigClass for $name {
            const SPEC: &'static $crate::config::ClassSpec = &$crate::config::ClassSpec {
                name: stringify!($name),
                module: $module,
                doc: concat!($($class_doc, "\n"),*),
                bases: &[$($base),*],
                options: &[$(
                    $crate::config::OptionSpec::new::<$type>(
                        stringify!($field),
                        concat!($($doc, "\n"),*),
                        || <$type as $crate::config::OptionValue>::to_value(&$default),
                        $crate::config::Status::$status,
                    )$(.$flag($($argument)?))*
                ),*],
                defaults: &[$($((stringify!($other), || $crate::config::Value::from($value))),*)?],
            };

            #[expect(clippy::allow_attributes, reason = "a class without options uses neither name")]
            #[allow(unused_variables, unused_mut)]
            fn read(loader: &mut $crate::config::Loader<'_>) -> Self {
                let mut specs = Self::SPEC.options.iter();
                Self {
                    $($field: loader.option::<$type>(
                        specs.next().expect("there is a spec for each field, in order"),
                        || $default,
                    ),)*
                }
            }
        }
    };
}
