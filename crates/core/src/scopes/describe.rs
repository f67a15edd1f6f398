//! Scopes in words, for the pages where a person confirms them.

use super::set::split;
use super::{Access, Definitions, ScopeSet};

/// One scope in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The scope without its filter.
    pub scope: String,
    /// What it allows.
    pub description: String,
    /// What it is limited to; empty when it is not.
    pub filter: String,
}

impl Definitions {
    /// Describes raw scopes, one line each, in their order. `user` is who reads it.
    pub fn describe<S: AsRef<str>>(
        &self,
        raw: impl IntoIterator<Item = S>,
        user: Option<&str>,
    ) -> Vec<Description> {
        raw.into_iter()
            .map(|raw| {
                let (scope, filter) = split(raw.as_ref());
                self.line(scope, filter.map_or_else(String::new, |f| limit(f, user)))
            })
            .collect()
    }

    /// Describes expanded scopes: every sub-scope, so a long list.
    pub fn describe_all(&self, scopes: &ScopeSet, user: Option<&str>) -> Vec<Description> {
        scopes
            .iter()
            .map(|(base, access)| {
                let filter = match access {
                    Access::All => String::new(),
                    Access::Only(filters) => {
                        let mut parts = Vec::new();
                        for (kind, names) in filters.kinds() {
                            let list = names.iter().collect::<Vec<_>>();
                            match list.as_slice() {
                                [] => {}
                                [name] if kind == "user" && Some(*name) == user => {
                                    parts.push(ONLY_YOU.to_owned());
                                }
                                [name] => parts.push(format!("{kind}: {name}")),
                                many => parts.push(format!("{kind}s: {}", many.join(", "))),
                            }
                        }
                        parts.join("; or ")
                    }
                };
                self.line(base.as_str(), filter)
            })
            .collect()
    }

    fn line(&self, scope: &str, filter: String) -> Description {
        Description {
            scope: scope.to_owned(),
            description: self.description(scope).unwrap_or(scope).to_owned(),
            filter,
        }
    }
}

const ONLY_YOU: &str = "only you";

fn limit(filter: &str, user: Option<&str>) -> String {
    match filter.split_once('=') {
        None if filter == "user" => ONLY_YOU.to_owned(),
        None => filter.to_owned(),
        Some(("user", name)) if Some(name) == user => ONLY_YOU.to_owned(),
        Some(("group", name)) => format!("users in group {name}"),
        Some((kind, name)) => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_told_in_the_readers_words() {
        for (scope, filter) in [
            ("servers", ""),
            ("servers!user", "only you"),
            ("servers!user=ada", "only you"),
            ("servers!user=bob", "user bob"),
            ("servers!group=staff", "users in group staff"),
            ("access:servers!server=bob/lab", "server bob/lab"),
        ] {
            let lines = Definitions::default().describe([scope], Some("ada"));
            assert_eq!(lines[0].filter, filter, "{scope}");
            assert!(lines[0].description.ends_with('.'), "{scope}");
        }
    }
}
