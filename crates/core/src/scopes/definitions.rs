//! All scopes that a hub knows, and how raw scopes expand.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::set::{Access, Base, Filters, split};
use super::{Client, Owner, Scope, ScopeSet};

/// The scopes a hub knows: JupyterHub's and those its configuration defines. Made once at start;
/// cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    custom: Arc<BTreeMap<Arc<str>, CustomScope>>,
}

/// A scope of the site's own: `JupyterHub.custom_scopes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomScope {
    /// Shown when an application asks for the scope.
    pub description: String,
    /// Other custom scopes that it implies.
    pub subscopes: Vec<String>,
}

/// Why a scope cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// No such scope.
    #[error("{what} names the scope '{scope}', which does not exist{hint}")]
    Unknown {
        /// What named it.
        what: String,
        /// The scope as written.
        scope: String,
        /// What was probably meant.
        hint: &'static str,
    },
    /// The part behind `!` means nothing.
    #[error(
        "{what} names the scope '{scope}', whose filter '!{filter}' does not exist; \
         filters are !user=, !group=, !server=user/server and !service= with a name, \
         and !user, !server and !service for the holder's own"
    )]
    Filter {
        /// What named it.
        what: String,
        /// The scope as written.
        scope: String,
        /// Its filter.
        filter: String,
    },
    /// A definition in `JupyterHub.custom_scopes` is wrong.
    #[error("custom scope '{scope}': {why}")]
    Custom {
        /// The scope as written.
        scope: String,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody asked for more than they hold.
    #[error("{owner} does not hold {}", .excess.join(", "))]
    Excess {
        /// Who asked.
        owner: String,
        /// What they lack.
        excess: Vec<String>,
    },
}

impl Definitions {
    /// JupyterHub's scopes and those of `JupyterHub.custom_scopes`, a table from scope to
    /// `{description, subscopes}`. Also returns warnings about keys that mean nothing.
    pub fn with_custom(custom: &Map<String, Value>) -> Result<(Self, Vec<String>), ScopeError> {
        let mut warnings = Vec::new();
        let mut scopes = BTreeMap::new();
        for (name, definition) in custom {
            let fail = |why: String| ScopeError::Custom {
                scope: name.clone(),
                why,
            };
            if !is_custom_name(name) {
                return Err(fail(CUSTOM_NAME_RULE.to_owned()));
            }
            let Value::Object(fields) = definition else {
                return Err(fail("its definition is not a table".to_owned()));
            };
            let Some(description) = fields.get("description").and_then(Value::as_str) else {
                return Err(fail("it needs a description".to_owned()));
            };
            let mut subscopes = Vec::new();
            if let Some(listed) = fields.get("subscopes") {
                let texts = listed
                    .as_array()
                    .and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>())
                    .ok_or_else(|| fail("its subscopes are not a list of scopes".to_owned()))?;
                for sub in texts {
                    if !custom.contains_key(sub) {
                        return Err(fail(if Scope::parse(sub).is_some() {
                            format!(
                                "its subscope '{sub}' is not a custom one; \
                                 give several scopes to somebody by a role instead"
                            )
                        } else {
                            format!("its subscope '{sub}' is not defined")
                        }));
                    }
                    subscopes.push(sub.to_owned());
                }
            }
            for key in fields.keys() {
                if key != "description" && key != "subscopes" {
                    warnings.push(format!("custom scope '{name}': '{key}' is ignored"));
                }
            }
            scopes.insert(
                Arc::from(name.as_str()),
                CustomScope {
                    description: description.to_owned(),
                    subscopes,
                },
            );
        }
        let definitions = Self {
            custom: Arc::new(scopes),
        };
        Ok((definitions, warnings))
    }

    /// Whether a scope's name, without filter, is defined.
    pub fn is_defined(&self, name: &str) -> bool {
        Scope::parse(name).is_some() || self.custom.contains_key(name)
    }

    /// What a scope, without filter, means to a person.
    pub fn description(&self, name: &str) -> Option<&str> {
        match Scope::parse(name) {
            Some(scope) => Some(scope.description()),
            None => self.custom.get(name).map(|own| own.description.as_str()),
        }
    }

    /// The site's own scopes.
    pub fn custom(&self) -> &BTreeMap<Arc<str>, CustomScope> {
        &self.custom
    }

    /// Checks that raw scopes exist and have sound filters. `what` names the list in the error:
    /// `role 'teacher'`.
    pub fn check<S: AsRef<str>>(
        &self,
        raw: impl IntoIterator<Item = S>,
        what: &str,
    ) -> Result<(), ScopeError> {
        for scope in raw {
            let scope = scope.as_ref();
            let (name, filter) = split(scope);
            if !self.is_defined(name) {
                return Err(ScopeError::Unknown {
                    what: what.to_owned(),
                    scope: scope.to_owned(),
                    hint: if name == "all" {
                        "; it is called 'inherit' now"
                    } else {
                        ""
                    },
                });
            }
            let Some(filter) = filter else { continue };
            if !matches!(filter, "user" | "server" | "service") && Filters::parse(filter).is_empty()
            {
                return Err(ScopeError::Filter {
                    what: what.to_owned(),
                    scope: scope.to_owned(),
                    filter: filter.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Expands raw scopes for their owner: sub-scopes, `self`, and the filters `!user`, `!service`
    /// and `!server` of the owner and of the client that a token was issued to. What cannot be
    /// resolved (`self` of a service, a scope that is no longer defined) grants nothing.
    pub fn expand<S: AsRef<str>>(
        &self,
        raw: impl IntoIterator<Item = S>,
        owner: Option<Owner<'_>>,
        client: &Client,
    ) -> ScopeSet {
        let mut set = ScopeSet::new();
        for scope in raw {
            match (scope.as_ref(), owner) {
                ("self" | "self!", Some(Owner::User(user))) => {
                    let only = Access::Only(Filters::parse(&format!("user={user}")));
                    for scope in Scope::OF_SELF.into_iter().flat_map(Scope::expanded) {
                        set.insert(Base::Known(scope), only.clone());
                    }
                }
                ("self" | "self!", _) => {}
                (scope, _) => self.expand_one(&mut set, scope, owner, client),
            }
        }
        set
    }

    fn expand_one(&self, set: &mut ScopeSet, raw: &str, owner: Option<Owner<'_>>, client: &Client) {
        let (name, filter) = split(raw);
        let (access, of_server) = match filter {
            None => (Access::All, false),
            Some(filter) => {
                let resolved = match filter {
                    "user" => owner.and_then(Owner::user_filter),
                    "service" => client.service_filter(owner),
                    "server" => client.server_filter(),
                    named => Some(Filters::parse(named)),
                };
                // Upstream resolves `!user` of nobody to nothing.
                let Some(filters) = resolved.filter(|filters| !filters.is_empty()) else {
                    return;
                };
                (Access::Only(filters), filter.starts_with("server"))
            }
        };
        if let Some(scope) = Scope::parse(name) {
            for scope in scope.expanded() {
                // A filter by server does not fit what is the user's: read:servers!server=… gives
                // no right to read the user's name.
                if !(of_server && scope.as_str().starts_with("read:user")) {
                    set.insert(Base::Known(scope), access.clone());
                }
            }
        } else if let Some((name, _)) = self.custom.get_key_value(name) {
            let mut all = vec![Arc::clone(name)];
            let mut next = 0;
            while let Some(current) = all.get(next).cloned() {
                for sub in self
                    .custom
                    .get(&current)
                    .into_iter()
                    .flat_map(|scope| &scope.subscopes)
                {
                    if let Some((sub, _)) = self.custom.get_key_value(sub.as_str())
                        && !all.contains(sub)
                    {
                        all.push(Arc::clone(sub));
                    }
                }
                set.insert(Base::Custom(current), access.clone());
                next += 1;
            }
        }
    }
}

const CUSTOM_NAME_RULE: &str = "a custom scope's name is 'custom:' and at least three of a-z, 0-9, \
    '-', '_', ':' and '*'; the first of them is a letter or digit, the last neither '-' nor ':'";

fn is_custom_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("custom:") else {
        return false;
    };
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = rest.as_bytes();
    match bytes {
        [first, middle @ .., last] => {
            plain(*first)
                && !middle.is_empty()
                && middle.iter().all(|c| plain(*c) || b"_-*:".contains(c))
                && (plain(*last) || b"_*".contains(last))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn define(custom: &Value) -> Result<(Definitions, Vec<String>), ScopeError> {
        Definitions::with_custom(custom.as_object().expect("a table"))
    }

    #[test]
    fn custom_scopes_expand_to_their_subscopes_even_in_circles() {
        let (definitions, warnings) = define(&json!({
            "custom:files:all": {"description": "Files", "subscopes": ["custom:files:read"], "x": 1},
            "custom:files:read": {"description": "Read", "subscopes": ["custom:files:all"]},
        }))
        .expect("sound definitions");
        assert_eq!(warnings.len(), 1);
        let set = definitions.expand(
            ["custom:files:all!user"],
            Some(Owner::User("ada")),
            &Client::Hub,
        );
        assert_eq!(
            set.to_strings(),
            ["custom:files:all!user=ada", "custom:files:read!user=ada"]
        );
        assert!(set.has_text("custom:files:read!user=ada", &super::super::NoGroups));
    }

    #[test]
    fn unsound_custom_scopes_are_refused_with_a_reason() {
        for (custom, reason) in [
            (json!({"files": {"description": "x"}}), "name is"),
            (json!({"custom:ab": {"description": "x"}}), "name is"),
            (json!({"custom:abc:": {"description": "x"}}), "name is"),
            (json!({"custom:abc": {}}), "needs a description"),
            (
                json!({"custom:abc": {"description": "x", "subscopes": "users"}}),
                "not a list",
            ),
            (
                json!({"custom:abc": {"description": "x", "subscopes": ["users"]}}),
                "not a custom one",
            ),
            (
                json!({"custom:abc": {"description": "x", "subscopes": ["custom:xyz"]}}),
                "not defined",
            ),
        ] {
            let error = define(&custom).expect_err("unsound").to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn unknown_scopes_and_filters_are_named() {
        let definitions = Definitions::default();
        for (scope, reason) in [
            ("all", "inherit"),
            ("read:everything", "does not exist"),
            ("users!planet=mars", "!planet=mars"),
            ("users!group", "!group"),
            ("users!user=", "!user="),
        ] {
            let error = definitions
                .check([scope], "role 'x'")
                .expect_err("unsound")
                .to_string();
            assert!(
                error.contains(reason) && error.contains("role 'x'"),
                "{error}"
            );
        }
        for scope in [
            "users",
            "users!user",
            "servers!server=ada/",
            "users!group=a",
        ] {
            assert_eq!(definitions.check([scope], "role 'x'"), Ok(()));
        }
    }
}
