//! All classes that a program knows, and what is checked across them.

use super::{ClassSpec, OptionSpec, Problem, Status, Tree};

/// The known classes.
#[derive(Clone, Default)]
pub struct Catalog {
    classes: Vec<&'static ClassSpec>,
}

/// What a check of a whole tree found.
#[derive(Default)]
pub struct Findings {
    /// Reasons to refuse the configuration.
    pub problems: Vec<Problem>,
    /// Sentences for the log.
    pub warnings: Vec<String>,
}

impl Catalog {
    /// A catalog of these classes, in the order in which help shows them.
    pub fn new(classes: impl IntoIterator<Item = &'static ClassSpec>) -> Self {
        Self {
            classes: classes.into_iter().collect(),
        }
    }

    /// All classes, in order.
    pub fn classes(&self) -> &[&'static ClassSpec] {
        &self.classes
    }

    /// The class of this name.
    pub fn class(&self, name: &str) -> Option<&'static ClassSpec> {
        self.classes
            .iter()
            .copied()
            .find(|class| class.name == name)
    }

    /// The class and its bases, base class first: the order in which sections hold.
    pub fn chain(&self, class: &'static ClassSpec) -> Vec<&'static ClassSpec> {
        let mut chain: Vec<_> = class
            .bases
            .iter()
            .rev()
            .filter_map(|base| self.class(base))
            .collect();
        chain.push(class);
        chain
    }

    /// The class that declares `option` for `class`, and the option.
    pub fn option(
        &self,
        class: &'static ClassSpec,
        option: &str,
    ) -> Option<(&'static ClassSpec, &'static OptionSpec)> {
        self.chain(class).into_iter().rev().find_map(|class| {
            let spec = class.options.iter().find(|spec| spec.name == option)?;
            Some((class, spec))
        })
    }

    /// Moves settings of deprecated options to those that took their place, and tells so.
    pub fn move_deprecated(&self, tree: &mut Tree) -> Vec<String> {
        let mut moves = Vec::new();
        let mut warnings = Vec::new();
        for (section, options) in tree.sections() {
            let Some(class) = self.class(section) else {
                continue;
            };
            for name in options.keys() {
                let Some((owner, spec)) = self.option(class, name) else {
                    continue;
                };
                if let Some((target_class, target)) =
                    spec.moved_to.and_then(|target| target.split_once('.'))
                {
                    let target_class = if target_class == owner.name {
                        section
                    } else {
                        target_class
                    };
                    warnings.push(format!(
                        "{section}.{name} is deprecated, use {target_class}.{target}"
                    ));
                    moves.push((
                        section.to_owned(),
                        name.clone(),
                        target_class.to_owned(),
                        target,
                    ));
                } else if let Some(instead) = spec.deprecated {
                    warnings.push(format!("{section}.{name} is deprecated: {instead}"));
                }
            }
        }
        for (section, name, target_class, target) in moves {
            let Some(entry) = tree.remove(&section, &name) else {
                continue;
            };
            if tree.get(&target_class, target).is_none() {
                tree.set(&target_class, target, entry.setting, entry.origin)
                    .expect("a setting on an empty place cannot clash");
            }
        }
        warnings
    }

    /// Finds options that no class has, and sections that no class has. traitlets lets both pass;
    /// here the first is refused and the second told.
    pub fn check(&self, tree: &Tree) -> Findings {
        let mut findings = Findings::default();
        for (section, options) in tree.sections() {
            let Some(class) = self.class(section) else {
                if !options.is_empty() {
                    let nearest = nearest(section, self.classes.iter().map(|class| class.name));
                    let hint = nearest
                        .map(|name| format!("; did you mean {name}?"))
                        .unwrap_or_default();
                    findings.warnings.push(format!(
                        "the section {section} has no effect: no such class is known{hint}"
                    ));
                }
                continue;
            };
            let chain = self.chain(class);
            for (name, entry) in options {
                match self.option(class, name) {
                    Some((_, spec))
                        if spec.status == Status::NoEffect && spec.deprecated.is_none() =>
                    {
                        findings
                            .warnings
                            .push(format!("{section}.{name} has no effect"));
                    }
                    Some(_) => {}
                    None => {
                        let names = chain
                            .iter()
                            .flat_map(|class| class.options)
                            .map(|spec| spec.name);
                        findings.problems.push(Problem::Unknown {
                            class: section.to_owned(),
                            option: name.clone(),
                            nearest: nearest(name, names).map(str::to_owned),
                            origin: entry.origin.clone(),
                        });
                    }
                }
            }
        }
        findings
    }
}

/// The name most like `wanted`, if one is like it at all.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (wanted.chars().count() / 3).max(2);
    names
        .map(|name| (distance(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein's distance, with the last row only.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, character) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            let changed = diagonal + usize::from(character != *other);
            row[column + 1] = changed.min(above + 1).min(row[column] + 1);
            diagonal = above;
        }
    }
    row[right.len()]
}
