//! The merged configuration: class → option → settings, each with where it came from.

use std::collections::BTreeMap;
use std::fmt;

use super::{Lazy, LazyError, Value};

/// What a source says about one option.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub enum Setting {
    /// The option is this.
    Value(Value),
    /// The option is what it was, changed so.
    Lazy(Lazy),
}

/// Where a setting came from, for messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A configuration file, by the path it was asked for.
    File(String),
    /// An argument of the command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(formatter, "in {path}"),
            Self::CommandLine => write!(formatter, "on the command line"),
        }
    }
}

/// A setting and where it came from.
#[derive(Clone, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Entry {
    /// What was set.
    pub setting: Setting,
    /// Where.
    pub origin: Origin,
}

/// The settings of all sources, merged as traitlets merges them: a later source is stronger.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Tree {
    classes: BTreeMap<String, BTreeMap<String, Entry>>,
}

impl Tree {
    /// Sets one option; a lazy setting joins what an earlier source set.
    pub fn set(
        &mut self,
        class: &str,
        option: &str,
        setting: Setting,
        origin: Origin,
    ) -> Result<(), LazyError> {
        let options = self.classes.entry(class.to_owned()).or_default();
        let setting = match options.remove(option) {
            Some(lower) => over(setting, lower.setting)?,
            None => setting,
        };
        options.insert(option.to_owned(), Entry { setting, origin });
        Ok(())
    }

    /// Makes the class known even if it sets nothing.
    pub fn mention(&mut self, class: &str) {
        self.classes.entry(class.to_owned()).or_default();
    }

    /// Lays `higher` over this tree.
    pub fn merge(&mut self, higher: Self) -> Result<(), LazyError> {
        for (class, options) in higher.classes {
            self.mention(&class);
            for (option, entry) in options {
                self.set(&class, &option, entry.setting, entry.origin)?;
            }
        }
        Ok(())
    }

    /// What the section `class` itself says about `option`.
    pub fn get(&self, class: &str, option: &str) -> Option<&Entry> {
        self.classes.get(class)?.get(option)
    }

    /// Takes a setting out.
    pub fn remove(&mut self, class: &str, option: &str) -> Option<Entry> {
        self.classes.get_mut(class)?.remove(option)
    }

    /// All classes and their settings, by name.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, Entry>)> {
        self.classes
            .iter()
            .map(|(class, options)| (class.as_str(), options))
    }

    /// What holds for `option` of a class whose sections, base class first, are `chain`.
    pub fn resolve(&self, chain: &[&str], option: &str) -> Result<Option<Entry>, LazyError> {
        let mut found: Option<Entry> = None;
        for class in chain {
            let Some(entry) = self.get(class, option) else {
                continue;
            };
            let setting = match found {
                Some(lower) => over(entry.setting.clone(), lower.setting)?,
                None => entry.setting.clone(),
            };
            found = Some(Entry {
                setting,
                origin: entry.origin.clone(),
            });
        }
        Ok(found)
    }
}

fn over(higher: Setting, lower: Setting) -> Result<Setting, LazyError> {
    Ok(match (higher, lower) {
        (Setting::Value(value), _) => Setting::Value(value),
        (Setting::Lazy(higher), Setting::Lazy(lower)) => Setting::Lazy(higher.over(lower)?),
        (Setting::Lazy(higher), Setting::Value(value)) => Setting::Value(higher.apply(value)?),
    })
}
