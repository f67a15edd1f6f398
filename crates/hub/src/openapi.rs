//! What the REST API says of itself: each route under `/api` comes with an [`Operation`], and from the
//! list of routes follow the OpenAPI document, its page in the documentation and the test that asks for
//! everything in it. Method, path and scopes are the route's own, so they cannot differ from what is done.

mod document;
mod page;

use axum::http::Method;
use serde_json::{Value, json};

use crate::router::Needs;

pub use document::Document;
pub use page::page;

/// A route of the API with its description.
#[derive(Clone, Debug)]
pub struct Described {
    /// How it is asked.
    pub method: Method,
    /// Where, below the hub's prefix, as axum writes it: `/api/users/{user}`.
    pub path: String,
    /// What the route asks of its requester.
    pub needs: Needs,
    /// What it does.
    pub operation: &'static Operation,
}

/// What one operation does, takes and answers. A constant beside its handler:
///
/// ```ignore
/// const LIST: Operation = Operation::new("get-users", Tag::Users, "List users")
///     .query(&[&OFFSET, &LIMIT])
///     .answers(&[Answer::json(200, "One page of them.", Shape::Page(&USER))])
///     .refuses(&[400]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub(crate) id: &'static str,
    pub(crate) tag: Tag,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) is_deprecated: bool,
    pub(crate) query: &'static [&'static Parameter],
    pub(crate) body: Option<Body>,
    pub(crate) answers: &'static [Answer],
    pub(crate) refuses: &'static [u16],
    pub(crate) checks: Option<Needs>,
    pub(crate) refuses_by_pages: bool,
}

impl Operation {
    /// An operation with its id, which is upstream's where upstream has the operation, and one line
    /// that says what it does.
    pub const fn new(id: &'static str, tag: Tag, summary: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            description: "",
            is_deprecated: false,
            query: &[],
            body: None,
            answers: &[],
            refuses: &[],
            checks: None,
            refuses_by_pages: false,
        }
    }

    /// What else is to be said of it.
    #[must_use]
    pub const fn about(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// There is something better.
    #[must_use]
    pub const fn deprecated(mut self) -> Self {
        self.is_deprecated = true;
        self
    }

    /// Its arguments in the query.
    #[must_use]
    pub const fn query(mut self, parameters: &'static [&'static Parameter]) -> Self {
        self.query = parameters;
        self
    }

    /// The body it reads.
    #[must_use]
    pub const fn body(mut self, body: Body) -> Self {
        self.body = Some(body);
        self
    }

    /// What it answers when all is well.
    #[must_use]
    pub const fn answers(mut self, answers: &'static [Answer]) -> Self {
        self.answers = answers;
        self
    }

    /// Statuses of its refusals beyond those that follow from the route: 403 where something is needed,
    /// 404 where the path names something, 400 and 413 where there is something to read, 503 and 507.
    #[must_use]
    pub const fn refuses(mut self, statuses: &'static [u16]) -> Self {
        self.refuses = statuses;
        self
    }

    /// Refusals are pages, for it is browsers who ask.
    #[must_use]
    pub const fn refuses_by_pages(mut self) -> Self {
        self.refuses_by_pages = true;
        self
    }

    /// What the handler itself asks of its requester, where the route lets everybody through.
    #[must_use]
    pub const fn checks(mut self, needs: Needs) -> Self {
        self.checks = Some(needs);
        self
    }
}

/// The chapters of the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tag {
    /// The hub itself.
    Hub,
    /// Users.
    Users,
    /// Their servers.
    Servers,
    /// Their tokens and sessions.
    Tokens,
    /// Groups.
    Groups,
    /// Shares and codes for them.
    Shares,
    /// Services.
    Services,
    /// The proxy.
    Proxy,
    /// The OAuth provider.
    OAuth,
    /// What happened.
    Audit,
}

impl Tag {
    /// All of them, in the order of the documentation, with what they are about.
    pub const ALL: [(Self, &'static str, &'static str); 10] = [
        (Self::Hub, "Hub", "The hub itself."),
        (Self::Users, "Users", "People, and who they are."),
        (
            Self::Servers,
            "Servers",
            "The servers of users. The default server's name is empty.",
        ),
        (
            Self::Tokens,
            "Tokens",
            "API tokens, and sessions of browsers.",
        ),
        (Self::Groups, "Groups", "Groups of users."),
        (
            Self::Shares,
            "Shares",
            "Who may use whose servers, and codes that give such access.",
        ),
        (
            Self::Services,
            "Services",
            "Programs that stand beside the hub.",
        ),
        (Self::Proxy, "Proxy", "The proxy's routing table."),
        (
            Self::OAuth,
            "OAuth",
            "The hub as OAuth 2.0 provider for servers and services.",
        ),
        (Self::Audit, "Audit", "What happened."),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(tag, ..)| *tag == self)
            .map_or("", |(_, name, _)| name)
    }
}

/// An argument in the query.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub description: &'static str,
    /// Its type and bounds.
    pub schema: fn() -> Value,
    /// Whether nothing works without it.
    pub is_required: bool,
}

impl Parameter {
    /// An argument that may be left out.
    pub const fn new(name: &'static str, description: &'static str, schema: fn() -> Value) -> Self {
        Self {
            name,
            description,
            schema,
            is_required: false,
        }
    }

    /// The same, without which nothing works.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }
}

/// The body of a request.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    pub(crate) media: &'static str,
    pub(crate) shape: Shape,
    pub(crate) is_required: bool,
}

impl Body {
    /// A JSON body.
    pub const fn json(shape: Shape) -> Self {
        Self {
            media: "application/json",
            shape,
            is_required: true,
        }
    }

    /// The fields of a form.
    pub const fn form(shape: Shape) -> Self {
        Self {
            media: "application/x-www-form-urlencoded",
            shape,
            is_required: true,
        }
    }

    /// The same, which may be left out.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.is_required = false;
        self
    }
}

/// An answer, by its status.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) description: &'static str,
    pub(crate) content: Content,
}

impl Answer {
    /// A JSON answer.
    pub const fn json(status: u16, description: &'static str, shape: Shape) -> Self {
        Self {
            status,
            description,
            content: Content::Json(shape),
        }
    }

    /// An answer without a body.
    pub const fn empty(status: u16, description: &'static str) -> Self {
        Self {
            status,
            description,
            content: Content::Nothing,
        }
    }

    /// An answer in another form.
    pub const fn text(status: u16, description: &'static str, media: &'static str) -> Self {
        Self {
            status,
            description,
            content: Content::Text(media),
        }
    }
}

/// What an answer consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    Nothing,
    Json(Shape),
    Text(&'static str),
}

/// A schema with a name: JSON Schema 2020-12, as OpenAPI 3.1 has it. They stand in [`crate::api`].
#[derive(Debug)]
pub struct Schema {
    /// Its name in the document.
    pub name: &'static str,
    /// What it says.
    pub build: fn() -> Value,
}

impl Schema {
    /// A reference to it, for use in other schemas.
    pub fn reference(&self) -> Value {
        json!({ "$ref": format!("#/components/schemas/{}", self.name) })
    }
}

/// How values of a schema are put together.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// One of them.
    One(&'static Schema),
    /// A list of them.
    List(&'static Schema),
    /// One page of them: a list, or an object with the list and the page's place for clients that accept
    /// `application/jupyterhub-pagination+json`.
    Page(&'static Schema),
    /// One page of them, always as an object with the page's place.
    Framed(&'static Schema),
    /// A schema without a name.
    Inline(fn() -> Value),
}

#[cfg(test)]
mod tests;
