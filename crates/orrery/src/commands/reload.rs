//! SIGHUP: reads the configuration again, as far as it can change while the hub runs.

use async_trait::async_trait;
use orrery_core::config::{Entry, Tree};
use orrery_hub::reload::{ConfigSource, Fresh, RELOADABLE};
use tokio::signal::unix::Signal;

use super::{checked, refuse};
use crate::cli::Invocation;
use crate::logging::Level;
use crate::registry::{self, Chosen};
use crate::sources;

/// The configuration of the hub that runs, and where it came from.
pub(super) struct Source {
    signal: Signal,
    invocation: Invocation,
    level: Level,
    /// As it holds now.
    tree: Tree,
    /// As it was read last, until the hub has taken it.
    next: Option<(Tree, orrery_hub::config::LogLevel)>,
}

impl Source {
    /// `signal` is SIGHUP, listened to since before the start; `tree` is what the hub starts with.
    pub(super) fn new(signal: Signal, invocation: Invocation, level: Level, tree: Tree) -> Self {
        Self {
            signal,
            invocation,
            level,
            tree,
            next: None,
        }
    }

    async fn read_again(&mut self) -> anyhow::Result<Fresh> {
        let mut loaded = sources::load(&self.invocation).await?;
        let warnings = checked(&mut loaded.tree)?;
        for warning in warnings.iter().chain(&loaded.warnings) {
            tracing::warn!("{warning}");
        }
        // All of it must be right, also what takes no effect yet: the next start needs it.
        chosen(&loaded.tree)?;
        let mut merged = loaded.tree.clone();
        let (mut changed, mut need_restart) = (Vec::new(), Vec::new());
        for (class, option) in differences(&self.tree, &loaded.tree) {
            let name = format!("{class}.{option}");
            if is_reloadable(&class, &option) {
                changed.push(name);
                continue;
            }
            need_restart.push(name);
            merged.remove(&class, &option);
            if let Some(Entry { setting, origin }) = self.tree.get(&class, &option).cloned() {
                merged.set(&class, &option, setting, origin)?;
            }
        }
        let Chosen {
            config,
            authenticator,
            ..
        } = chosen(&merged)?;
        self.next = Some((merged, config.application.log_level));
        Ok(Fresh {
            config,
            authenticator,
            changed,
            need_restart,
        })
    }
}

#[async_trait]
impl ConfigSource for Source {
    async fn wished(&mut self) {
        if self.signal.recv().await.is_none() {
            // No more signals will come.
            std::future::pending::<()>().await;
        }
        tracing::info!("SIGHUP: reading the configuration again");
    }

    async fn read(&mut self) -> Result<Fresh, String> {
        self.next = None;
        self.read_again()
            .await
            .map_err(|error| crate::sentence(&error))
    }

    fn taken(&mut self) {
        if let Some((tree, level)) = self.next.take() {
            self.tree = tree;
            self.level.set(level);
        }
    }
}

fn chosen(tree: &Tree) -> anyhow::Result<Chosen> {
    match registry::choose(tree) {
        Ok(chosen) => Ok(chosen),
        Err(problems) => {
            refuse(&problems)?;
            anyhow::bail!("the configuration cannot be used")
        }
    }
}

/// The options that the two set differently, by class and name.
fn differences(old: &Tree, new: &Tree) -> std::collections::BTreeSet<(String, String)> {
    let names = |tree: &Tree| {
        tree.sections()
            .flat_map(|(class, options)| {
                options
                    .keys()
                    .map(|option| (class.to_owned(), option.clone()))
            })
            .collect::<Vec<_>>()
    };
    names(old)
        .into_iter()
        .chain(names(new))
        .filter(|(class, option)| {
            let of = |tree: &Tree| tree.get(class, option).map(|entry| entry.setting.clone());
            of(old) != of(new)
        })
        .collect()
}

/// Whether the option, set in the section `class`, takes effect without a restart.
fn is_reloadable(class: &str, option: &str) -> bool {
    let catalog = registry::catalog();
    let declared = catalog
        .class(class)
        .and_then(|class| catalog.option(class, option))
        .map(|(class, _)| class.name);
    declared.is_some_and(|class| RELOADABLE.contains(&(class, option)))
}

#[cfg(test)]
mod tests {
    use orrery_core::config::{Origin, Setting, Value};

    use super::*;

    fn tree(settings: &[(&str, &str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (class, option, value) in settings {
            let setting = Setting::Value(Value::Text((*value).to_owned()));
            tree.set(class, option, setting, Origin::CommandLine)
                .unwrap();
        }
        tree
    }

    #[test]
    fn changed_added_and_removed_options_differ() {
        let old = tree(&[
            ("A", "same", "1"),
            ("A", "changed", "1"),
            ("B", "gone", "1"),
        ]);
        let new = tree(&[("A", "same", "1"), ("A", "changed", "2"), ("C", "new", "1")]);
        let found: Vec<_> = differences(&old, &new).into_iter().collect();
        let names: Vec<_> = found
            .iter()
            .map(|(class, option)| format!("{class}.{option}"))
            .collect();
        assert_eq!(names, ["A.changed", "B.gone", "C.new"]);
    }

    #[test]
    fn options_are_told_by_the_class_that_declares_them() {
        assert!(is_reloadable("Authenticator", "allowed_users"));
        assert!(is_reloadable("DummyAuthenticator", "allowed_users"));
        assert!(is_reloadable("SimpleLocalProcessSpawner", "options_form"));
        assert!(!is_reloadable("JupyterHub", "bind_url"));
        assert!(!is_reloadable("JupyterHub", "nonsense"));
    }

    #[test]
    fn every_option_of_the_list_is_one_that_works() {
        let catalog = registry::catalog();
        let page = include_str!("../../../../docs/reload.md");
        for (class, option) in RELOADABLE {
            let spec = catalog.class(class).unwrap_or_else(|| panic!("{class}"));
            let spec = spec.options.iter().find(|spec| spec.name == *option);
            assert!(spec.is_some(), "{class}.{option}");
            assert!(
                page.contains(&format!("`{option}`")),
                "{option} is not in docs/reload.md"
            );
        }
    }
}
