//! One event: what, who, from where, to whom or what.

use chrono::{NaiveDateTime, SecondsFormat};
use orrery_core::escape::{for_log, is_unseen};
use orrery_store::audit::Row;
use serde_json::{Map, Value, json};

use super::Action;
use crate::auth::{Identity, Requester};

/// The longest name that is kept whole, in characters; what outsiders send is cut much sooner.
const MAX_NAME: usize = 250;
/// The longest text among the details, in characters.
const MAX_DETAIL: usize = 300;
/// The longest list among the details.
const MAX_ITEMS: usize = 50;
/// The longest details altogether, as JSON, in bytes.
const MAX_DETAILS: usize = 8192;

/// How it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    #[default]
    Ok,
    /// It did not work.
    Failed,
    /// It was refused.
    Denied,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Denied];

    /// As rows and lines have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Denied => "denied",
        }
    }
}

/// Something to record. Every text is bounded and free of control characters once it is in here.
#[derive(Clone, Debug)]
pub struct Event {
    pub(super) action: Action,
    row: Row,
}

impl Event {
    /// Something that went well, done by nobody in particular as yet.
    pub fn new(action: Action) -> Self {
        let row = Row {
            id: 0,
            at: NaiveDateTime::default(),
            action: action.as_str().to_owned(),
            outcome: Outcome::Ok.as_str().to_owned(),
            repeats: 1,
            actor_kind: String::new(),
            actor: String::new(),
            via: String::new(),
            token_id: None,
            oauth_client: None,
            address: String::new(),
            target_kind: String::new(),
            target: String::new(),
            owner: None,
            server: None,
            details: Value::Null,
        };
        Self { action, row }
    }

    /// How it ended.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        outcome.as_str().clone_into(&mut self.row.outcome);
        self
    }

    /// Who sent the request, how they proved it, and where it came from.
    #[must_use]
    pub fn by(mut self, requester: &Requester) -> Self {
        self = self.sent_from(&requester.browser.address);
        let (kind, name) = match &requester.identity {
            Some(Identity::User(user)) => ("user", user.name.as_str()),
            Some(Identity::Service(service)) => ("service", service.fields.name.as_str()),
            None => return self,
        };
        self = self.actor(kind, name);
        match &requester.token {
            Some(token) => {
                "token".clone_into(&mut self.row.via);
                self.row.token_id = Some(token.id);
                self.row.oauth_client = token
                    .client_id
                    .as_deref()
                    .filter(|client| *client != "jupyterhub")
                    .map(|client| clean(client, MAX_NAME));
            }
            None => "cookie".clone_into(&mut self.row.via),
        }
        self
    }

    /// A user who has just proved who they are by a password or the like.
    #[must_use]
    pub fn by_login(mut self, user: &str, requester: &Requester) -> Self {
        self = self
            .actor("user", user)
            .sent_from(&requester.browser.address);
        "password".clone_into(&mut self.row.via);
        self
    }

    /// The hub itself, because its configuration says so.
    #[must_use]
    pub fn by_config(mut self) -> Self {
        self = self.actor("hub", "");
        "config".clone_into(&mut self.row.via);
        self
    }

    /// The hub itself, because the authenticator says so of somebody who logged in.
    #[must_use]
    pub fn by_authenticator(mut self) -> Self {
        self = self.actor("hub", "");
        "authenticator".clone_into(&mut self.row.via);
        self
    }

    /// The hub itself.
    #[must_use]
    pub fn by_hub(self) -> Self {
        self.actor("hub", "")
    }

    /// Somebody whom nobody knows.
    #[must_use]
    pub fn by_stranger(self, requester: &Requester) -> Self {
        self.sent_from(&requester.browser.address)
    }

    fn actor(mut self, kind: &str, name: &str) -> Self {
        kind.clone_into(&mut self.row.actor_kind);
        self.row.actor = clean(name, MAX_NAME);
        self
    }

    #[cfg(test)]
    pub(super) fn actor_of_test(self, name: &str) -> Self {
        self.actor("user", name)
    }

    pub(super) fn sent_from(mut self, address: &str) -> Self {
        self.row.address = clean(address, 45);
        self
    }

    /// It was done to a user.
    #[must_use]
    pub fn on_user(self, name: &str) -> Self {
        self.on("user", name)
    }

    /// It was done to a group.
    #[must_use]
    pub fn on_group(self, name: &str) -> Self {
        self.on("group", name)
    }

    /// It was done to a service.
    #[must_use]
    pub fn on_service(self, name: &str) -> Self {
        self.on("service", name)
    }

    /// It was done to a role.
    #[must_use]
    pub fn on_role(self, name: &str) -> Self {
        self.on("role", name)
    }

    /// It was done to a server, which is named by its owner and, unless it is the default one, its
    /// own name.
    #[must_use]
    pub fn on_server(self, owner: &str, server: &str) -> Self {
        let name = if server.is_empty() {
            owner.to_owned()
        } else {
            format!("{owner}/{server}")
        };
        let mut event = self.on("server", &name).owned_by(owner);
        event.row.server = Some(clean(server, MAX_NAME));
        event
    }

    /// It was done to something of this kind.
    #[must_use]
    pub fn on(mut self, kind: &'static str, name: &str) -> Self {
        kind.clone_into(&mut self.row.target_kind);
        self.row.target = clean(name, MAX_NAME);
        self
    }

    /// Whose server, token or share it is about.
    #[must_use]
    pub fn owned_by(mut self, user: &str) -> Self {
        self.row.owner = Some(clean(user, MAX_NAME));
        self
    }

    /// Something more to say: never a secret.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = bounded(value.into());
        match &mut self.row.details {
            Value::Object(details) => {
                details.insert(key.to_owned(), value);
            }
            details => *details = json!({ key: value }),
        }
        if self.row.details.to_string().len() > MAX_DETAILS {
            self.row.details = json!({ "cut": true });
        }
        self
    }

    /// Whether nobody known caused it.
    pub(super) fn is_of_stranger(&self) -> bool {
        self.row.actor_kind.is_empty()
    }

    /// Whether the actor is the very user that it is about.
    pub fn is_on_own(&self) -> bool {
        self.row.actor_kind == "user" && self.row.owner.as_deref() == Some(&self.row.actor)
    }

    /// Who, with the kind.
    pub(super) fn actor_key(&self) -> String {
        format!("{}:{}", self.row.actor_kind, self.row.actor)
    }

    /// The same for events that may share a row.
    pub(super) fn key(&self) -> String {
        let row = &self.row;
        json!([
            row.action,
            row.outcome,
            row.actor_kind,
            row.actor,
            row.via,
            row.token_id,
            row.address,
            row.target_kind,
            row.target,
            row.owner,
            row.server,
            row.details
        ])
        .to_string()
    }

    /// From where.
    pub(super) fn address(&self) -> &str {
        &self.row.address
    }

    /// What is left of an event that is one of too many: what happened and who did it.
    pub(super) fn blurred(&self) -> Self {
        let mut blurred = Self::new(self.action);
        self.row.outcome.clone_into(&mut blurred.row.outcome);
        self.row.actor_kind.clone_into(&mut blurred.row.actor_kind);
        self.row.actor.clone_into(&mut blurred.row.actor);
        blurred.detail("various", true)
    }

    /// The row, as it happened at `at`, so many times.
    pub(super) fn into_row(mut self, at: NaiveDateTime, repeats: i32) -> Row {
        self.row.at = orrery_store::time::truncate(at);
        self.row.repeats = repeats;
        self.row
    }
}

/// A row as the REST API and the file have it.
pub fn json_of(row: &Row) -> Map<String, Value> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    put(
        "time",
        row.at
            .and_utc()
            .to_rfc3339_opts(SecondsFormat::Micros, true)
            .into(),
    );
    put("action", row.action.as_str().into());
    put("outcome", row.outcome.as_str().into());
    put("repeats", row.repeats.into());
    put(
        "actor",
        some(&row.actor_kind).map_or(Value::Null, |kind| json!({"kind": kind, "name": row.actor})),
    );
    put("via", some(&row.via).into());
    // As the rest of the API names tokens.
    put("token_id", row.token_id.map(|id| format!("a{id}")).into());
    put("oauth_client", row.oauth_client.clone().into());
    put("address", some(&row.address).into());
    put(
        "target",
        some(&row.target_kind).map_or(
            Value::Null,
            |kind| json!({"kind": kind, "name": row.target}),
        ),
    );
    put("owner", row.owner.clone().into());
    put("server", row.server.clone().into());
    let details = match &row.details {
        Value::Null => json!({}),
        details => details.clone(),
    };
    put("details", details);
    fields
}

/// A text without control characters, cut to `limit` characters.
pub(super) fn clean(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit && !text.chars().any(is_unseen) {
        return text.to_owned();
    }
    // Quoted, so that it is not taken for a name.
    let mut quoted = for_log(text, limit);
    if quoted.chars().count() > limit {
        quoted = quoted.chars().take(limit.saturating_sub(1)).collect();
        quoted.push('…');
    }
    quoted
}

fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => clean(&text, MAX_DETAIL).into(),
        Value::Array(items) => {
            let more = items.len() > MAX_ITEMS;
            let mut items: Vec<Value> = items.into_iter().take(MAX_ITEMS).map(bounded).collect();
            if more {
                items.push("…".into());
            }
            items.into()
        }
        Value::Object(fields) => fields
            .into_iter()
            .take(MAX_ITEMS)
            .map(|(key, value)| (clean(&key, MAX_DETAIL), bounded(value)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_in_stays_small_and_in_one_line(text in ".{0,2000}", many in prop::collection::vec(".{0,400}", 0..80)) {
            let event = Event::new(Action::Denied)
                .actor("user", &text)
                .sent_from(&text)
                .on_server(&text, &text)
                .detail("text", text.as_str())
                .detail("many", many);
            let row = event.into_row(NaiveDateTime::default(), 1);
            for name in [&row.actor, &row.target, row.owner.as_ref().unwrap(), row.server.as_ref().unwrap()] {
                prop_assert!(name.chars().count() <= 255);
                prop_assert!(!name.chars().any(char::is_control));
            }
            prop_assert!(row.address.chars().count() <= 64);
            let line = Value::Object(json_of(&row)).to_string();
            prop_assert!(line.len() < 24_000, "{}", line.len());
            prop_assert!(!line.contains(['\n', '\r']));
        }
    }

    #[test]
    fn names_that_are_no_names_are_quoted() {
        assert_eq!(clean("ada", 10), "ada");
        assert_eq!(clean("a\nb", 30), "'a\\u{a}b'");
        assert_eq!(clean(&"x".repeat(100), 10).chars().count(), 10);
        // Nothing turns the direction of what follows it on the page.
        for turn in ('\u{202a}'..='\u{202e}')
            .chain('\u{2066}'..='\u{2069}')
            .chain(['\u{61c}', '\u{200f}'])
        {
            let shown = clean(&format!("ada{turn}nimda"), 30);
            assert!(!shown.contains(turn) && shown.starts_with('\''), "{shown}");
        }
    }
}
