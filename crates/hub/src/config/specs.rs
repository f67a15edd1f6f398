//! Options with an inner form: services, roles, groups, the cookie secret and the small choices.

use std::collections::BTreeMap;

use orrery_core::Secret;
use orrery_core::config::{Command, Kind, Misfit, OptionValue, Value};

type Json = serde_json::Value;

/// An entry of `JupyterHub.services`.
#[derive(Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of upstream's service dictionary"
)]
pub struct ServiceSpec {
    /// The service's name, part of its URL `/services/NAME/`.
    pub name: String,
    /// Whether it may do everything.
    pub admin: bool,
    /// Where it listens; the proxy then sends `/services/NAME/` there.
    pub url: Option<String>,
    /// The token with which it calls the API.
    pub api_token: Option<Secret>,
    /// Whether pages list it.
    pub display: bool,
    /// Anything that the API shows with it.
    pub info: BTreeMap<String, Json>,
    /// Its OAuth client id, `service-NAME` if not set. Always begins with `service-`.
    pub oauth_client_id: String,
    /// Where OAuth logins come back to, if not to `/services/NAME/oauth_callback`.
    pub oauth_redirect_uri: Option<String>,
    /// Whether people are not asked before the service learns who they are.
    pub oauth_no_confirm: bool,
    /// Scopes that its OAuth tokens may have at most.
    pub oauth_client_allowed_scopes: Vec<String>,
    /// Whether an OAuth option was set, which makes the service an OAuth client even without a URL.
    pub oauth_specified: bool,
}

impl OptionValue for ServiceSpec {
    const KIND: Kind = Kind::Dict(&Kind::Any);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let mut keys = Keys::of(value)?;
        let name: String = keys.required("name")?;
        if let Some(why) = bad_service_name(&name) {
            return Err(Misfit::new(why, &Value::Text(name)).inside("['name']"));
        }
        let command: Command = keys.or("command", Command::default)?;
        if !command.0.is_empty() {
            return Err(Misfit {
                at: "['command']".into(),
                expected: "left out (services that the hub starts are not supported yet)".into(),
                found: "a command".into(),
            });
        }
        // These three say how a managed service is started, and mean nothing without a command.
        for unused in ["cwd", "environment", "user"] {
            keys.take(unused);
        }
        let _timeout: i64 = keys.or("timeout", || 30)?;
        if let Some(roles) = keys.take("oauth_roles") {
            return Err(
                Misfit::new("left out (use oauth_client_allowed_scopes)", roles)
                    .inside("['oauth_roles']"),
            );
        }
        let client_id: Option<String> = keys.filled("oauth_client_id")?;
        if let Some(id) = client_id.as_ref().filter(|id| !id.starts_with("service-")) {
            return Err(Misfit::new(
                "a text that begins with 'service-'",
                &Value::Text(id.clone()),
            )
            .inside("['oauth_client_id']"));
        }
        let redirect: Option<String> = keys.filled("oauth_redirect_uri")?;
        let no_confirm: bool = keys.or("oauth_no_confirm", || false)?;
        let spec = Self {
            admin: keys.or("admin", || false)?,
            url: keys.filled("url")?,
            api_token: keys.filled::<String>("api_token")?.map(Secret::new),
            display: keys.or("display", || true)?,
            info: keys.or("info", BTreeMap::new)?,
            oauth_specified: client_id.is_some() || redirect.is_some() || no_confirm,
            oauth_client_id: client_id.unwrap_or_else(|| format!("service-{name}")),
            oauth_redirect_uri: redirect,
            oauth_no_confirm: no_confirm,
            oauth_client_allowed_scopes: keys.or("oauth_client_allowed_scopes", Vec::new)?,
            name,
        };
        keys.finish()?;
        Ok(spec)
    }

    fn to_value(&self) -> Value {
        let mut items = BTreeMap::from([
            ("name".to_owned(), self.name.to_value()),
            ("admin".to_owned(), self.admin.to_value()),
            ("display".to_owned(), self.display.to_value()),
            ("info".to_owned(), self.info.to_value()),
            (
                "oauth_client_id".to_owned(),
                self.oauth_client_id.to_value(),
            ),
            (
                "oauth_no_confirm".to_owned(),
                self.oauth_no_confirm.to_value(),
            ),
            (
                "oauth_client_allowed_scopes".to_owned(),
                self.oauth_client_allowed_scopes.to_value(),
            ),
        ]);
        let texts = [
            ("url", self.url.clone()),
            ("oauth_redirect_uri", self.oauth_redirect_uri.clone()),
            (
                "api_token",
                self.api_token
                    .as_ref()
                    .map(|token| token.expose().to_owned()),
            ),
        ];
        items.extend(
            texts
                .into_iter()
                .filter_map(|(key, text)| Some((key.to_owned(), Value::Text(text?)))),
        );
        Value::Dict(items)
    }
}

fn bad_service_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("a name that is not empty")
    } else if name.contains('/') || name.contains('%') {
        Some("a name without '/' and '%'")
    } else if name.chars().all(|character| character == '.') {
        Some("a name that is more than dots")
    } else if name.trim() != name {
        Some("a name without spaces at its ends")
    } else {
        None
    }
}

/// An entry of `JupyterHub.load_roles`. What is `None` stays as the database or the built-in role
/// has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleSpec {
    /// The role's name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it allows.
    pub scopes: Option<Vec<String>>,
    /// Users who have it.
    pub users: Option<Vec<String>>,
    /// Services that have it.
    pub services: Option<Vec<String>>,
    /// Groups whose members have it.
    pub groups: Option<Vec<String>>,
}

impl OptionValue for RoleSpec {
    const KIND: Kind = Kind::Dict(&Kind::Any);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let mut keys = Keys::of(value)?;
        let spec = Self {
            name: keys.required("name")?,
            description: keys.optional("description")?,
            scopes: keys.optional("scopes")?,
            users: keys.optional("users")?,
            services: keys.optional("services")?,
            groups: keys.optional("groups")?,
        };
        keys.finish()?;
        Ok(spec)
    }

    fn to_value(&self) -> Value {
        let lists = [
            ("scopes", &self.scopes),
            ("users", &self.users),
            ("services", &self.services),
            ("groups", &self.groups),
        ];
        let mut items = BTreeMap::from([("name".to_owned(), self.name.to_value())]);
        items.extend(
            self.description
                .iter()
                .map(|text| ("description".to_owned(), text.to_value())),
        );
        items.extend(
            lists
                .into_iter()
                .filter_map(|(key, list)| Some((key.to_owned(), list.as_ref()?.to_value()))),
        );
        Value::Dict(items)
    }
}

/// An entry of `JupyterHub.load_groups`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSpec {
    /// Members to add.
    pub users: Vec<String>,
    /// Properties to set instead of those that are there; `None` leaves them.
    pub properties: Option<BTreeMap<String, Json>>,
}

impl OptionValue for GroupSpec {
    const KIND: Kind = Kind::Any;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        if matches!(value, Value::List(_) | Value::Set(_)) {
            return Ok(Self {
                users: Vec::from_value(value)?,
                properties: None,
            });
        }
        let mut keys = Keys::of(value)?;
        let spec = Self {
            users: keys.or("users", Vec::new)?,
            properties: keys.optional("properties")?,
        };
        keys.finish()?;
        Ok(spec)
    }

    fn to_value(&self) -> Value {
        let mut items = BTreeMap::from([("users".to_owned(), self.users.to_value())]);
        items.extend(
            self.properties
                .iter()
                .map(|properties| ("properties".to_owned(), properties.to_value())),
        );
        Value::Dict(items)
    }
}

/// The key that signs cookies, as configured; empty if not. It shows itself to nobody.
#[derive(Clone, Default)]
pub struct CookieSecret(Vec<u8>);

impl CookieSecret {
    /// The key's bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether no key is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl OptionValue for CookieSecret {
    const KIND: Kind = Kind::Bytes;
    const SECRET: bool = true;

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Bytes(bytes) => Ok(Self(bytes.clone())),
            Value::Text(text) => from_hex(text).map(Self).ok_or_else(|| Misfit {
                at: String::new(),
                expected: "bytes or a text of hexadecimal digits, two for each byte".into(),
                found: "another text".into(),
            }),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Bytes(self.0.clone())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|character| !character.is_ascii_whitespace())
        .map(|character| {
            character
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        })
        .collect::<Option<_>>()?;
    if digits.len() % 2 == 1 {
        return None;
    }
    Some(
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect(),
    )
}

/// `Spawner.options_from_form`: how form fields become user options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormReading {
    /// Each field is a list of texts, as the form sent it.
    Passthrough,
    /// A field with one value is that value, and `on` is true.
    Simple,
}

impl OptionValue for FormReading {
    const KIND: Kind = Kind::OneOf(&["passthrough", "simple"]);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Text(word) if word == "passthrough" => Ok(Self::Passthrough),
            Value::Text(word) if word == "simple" => Ok(Self::Simple),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Passthrough => "passthrough".into(),
            Self::Simple => "simple".into(),
        }
    }
}

/// `JupyterHub.allow_existing_invalid_named_servers`: what happens to names of older versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidNamedServers {
    /// Their owners may start, stop and delete them.
    AllowStart,
    /// Their owners may stop and delete them.
    AllowDelete,
    /// They get valid names when the hub starts.
    Autorename,
}

impl OptionValue for InvalidNamedServers {
    const KIND: Kind = Kind::OneOf(&["allow-start", "allow-delete", "autorename"]);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        match value {
            Value::Text(word) if word == "allow-start" => Ok(Self::AllowStart),
            Value::Text(word) if word == "allow-delete" => Ok(Self::AllowDelete),
            Value::Text(word) if word == "autorename" => Ok(Self::Autorename),
            other => Err(Misfit::new(Self::KIND.expected(), other)),
        }
    }

    fn to_value(&self) -> Value {
        match self {
            Self::AllowStart => "allow-start".into(),
            Self::AllowDelete => "allow-delete".into(),
            Self::Autorename => "autorename".into(),
        }
    }
}

/// Reads a dictionary key by key, then complains about those that nobody asked for.
struct Keys<'a> {
    items: BTreeMap<&'a str, &'a Value>,
    known: Vec<&'static str>,
}

impl<'a> Keys<'a> {
    fn of(value: &'a Value) -> Result<Self, Misfit> {
        let Value::Dict(items) = value else {
            return Err(Misfit::new("a dictionary", value));
        };
        Ok(Self {
            items: items
                .iter()
                .map(|(key, value)| (key.as_str(), value))
                .collect(),
            known: Vec::new(),
        })
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.items.remove(key)
    }

    fn optional<T: OptionValue>(&mut self, key: &'static str) -> Result<Option<T>, Misfit> {
        match self.take(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::from_value(value)
                .map(Some)
                .map_err(|misfit| misfit.inside(&format!("['{key}']"))),
        }
    }

    /// Like `optional`, but an empty text counts as none.
    fn filled<T: OptionValue>(&mut self, key: &'static str) -> Result<Option<T>, Misfit> {
        if self
            .items
            .get(key)
            .is_some_and(|value| matches!(value, Value::Text(text) if text.is_empty()))
        {
            self.take(key);
            return Ok(None);
        }
        self.optional(key)
    }

    fn or<T: OptionValue>(&mut self, key: &'static str, default: fn() -> T) -> Result<T, Misfit> {
        Ok(self.optional(key)?.unwrap_or_else(default))
    }

    fn required<T: OptionValue>(&mut self, key: &'static str) -> Result<T, Misfit> {
        self.optional(key)?.ok_or_else(|| Misfit {
            at: String::new(),
            expected: format!("a dictionary with the key '{key}'"),
            found: "one without it".into(),
        })
    }

    fn finish(self) -> Result<(), Misfit> {
        match self.items.keys().next() {
            None => Ok(()),
            Some(unknown) => Err(Misfit {
                at: String::new(),
                expected: format!("a dictionary with the keys {}", self.known.join(", ")),
                found: format!("one with the key {unknown:?}"),
            }),
        }
    }
}
