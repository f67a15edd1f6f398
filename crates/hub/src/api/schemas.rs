//! JSON schemas of what the API answers; what requests bring is in [`requests`]. They are as tight as
//! the models are: a field that is not listed does not exist.

mod audit;
mod requests;

use serde_json::{Map, Value, json};

pub(crate) use audit::*;
pub(crate) use requests::*;

use crate::openapi::{Parameter, Schema};

/// Every schema that has a name.
pub(crate) const ALL: &[&Schema] = &[
    &ERROR,
    &PAGINATION,
    &VERSION,
    &INFO,
    &USER,
    &IDENTITY,
    &SERVER,
    &TOKEN,
    &NEW_TOKEN,
    &TOKENS,
    &TOKEN_PAGE,
    &SESSION,
    &SESSIONS,
    &SESSION_PAGE,
    &GROUP,
    &SERVICE,
    &SERVICES,
    &SHARED_SERVER,
    &SHARE,
    &SHARE_CODE,
    &NEW_SHARE_CODE,
    &ROUTE,
    &ROUTES,
    &MESSAGE,
    &AUDIT_EVENT,
    &AUDIT_EVENTS,
    &ACCESS,
    &ACCESSES,
    &OAUTH_TOKEN,
    &OAUTH_ERROR,
    &USERS_REQUEST,
    &USER_REQUEST,
    &USER_CHANGES,
    &ACTIVITY,
    &SERVER_REQUEST,
    &SERVER_CHANGES,
    &STOP_REQUEST,
    &TOKEN_REQUEST,
    &GROUPS_REQUEST,
    &GROUP_REQUEST,
    &MEMBERS,
    &SERVICE_REQUEST,
    &PROXY_CHANGES,
    &SHUTDOWN_REQUEST,
    &SHARE_REQUEST,
    &SHARE_REVOCATION,
    &SHARE_CODE_REQUEST,
    &OAUTH_TOKEN_REQUEST,
];

/// How many items of a list to leave out.
pub(crate) const OFFSET: Parameter = Parameter::new(
    "offset",
    "How many items to leave out at the start.",
    || json!({ "type": "integer", "minimum": 0, "default": 0 }),
);
/// How many items to show.
pub(crate) const LIMIT: Parameter = Parameter::new(
    "limit",
    "How many items to show at most. Left out, it is `api_page_default_limit` for clients that accept \
     `application/jupyterhub-pagination+json`, and `api_page_max_limit`, the largest possible, for others.",
    || json!({ "type": "integer", "minimum": 1 }),
);
/// Where a page begins of a list that is gone through by cursors.
pub(crate) const CURSOR: Parameter = Parameter::new(
    "cursor",
    "Empty for the first page, then what `_pagination.next.cursor` says: pages that begin after the last item \
     of the one before, whatever was added or deleted meanwhile. Not in JupyterHub.",
    || json!({ "type": "string", "default": "" }),
);
/// Where a page begins of a list in the order of its ids.
pub(crate) const AFTER: Parameter = Parameter::new(
    "after",
    "The last id of the page before, without its letter; as `_pagination.next` has it.",
    || json!({ "type": "integer", "minimum": 0, "default": 0 }),
);
/// Whose tokens or sessions to list.
pub(crate) const USER_FILTER: Parameter = Parameter::new(
    "user",
    "Only those of this user.",
    || json!({ "type": "string" }),
);
/// What nobody uses any more.
pub(crate) const UNUSED_SINCE: Parameter = Parameter::new(
    "unused_since",
    "Only those that were not used since this time.",
    || json!({ "type": "string", "format": "date-time" }),
);
/// Whether models of users have servers that do not run.
pub(crate) const INCLUDE_STOPPED_SERVERS: Parameter = Parameter::new(
    "include_stopped_servers",
    "Whether users' models list servers that do not run as well.",
    || json!({ "type": "boolean", "default": false }),
);

/// Every refusal.
pub(crate) const ERROR: Schema = Schema {
    name: "Error",
    build: || {
        object(
            &["status", "message"],
            json!({
                "status": { "type": "integer", "description": "The HTTP status." },
                "message": { "type": "string", "description": "What is wrong, in a sentence." },
            }),
        )
    },
};

/// A page's place in its list.
pub(crate) const PAGINATION: Schema = Schema {
    name: "Pagination",
    build: || {
        let count = |description: &str| json!({ "type": "integer", "minimum": 0, "description": description });
        let mut next = object(
            &["offset", "limit", "url"],
            json!({
                "offset": count("Where the next page begins."),
                "limit": count("How many items it has at most."),
                "url": { "type": "string", "description": "Its address." },
            }),
        );
        next["type"] = json!(["object", "null"]);
        next["description"] = json!("The next page; null on the last one.");
        object(
            &["offset", "limit", "total", "next"],
            json!({
                "offset": count("How many items come before this page."),
                "limit": count("How many items a page has at most."),
                "total": count("How many items there are on all pages."),
                "next": next,
            }),
        )
    },
};

pub(crate) const VERSION: Schema = Schema {
    name: "Version",
    build: || {
        object(
            &["version"],
            json!({ "version": { "type": "string", "description": "The JupyterHub version whose behaviour this is." } }),
        )
    },
};

pub(crate) const INFO: Schema = Schema {
    name: "Info",
    build: || {
        let class = || {
            object(
                &["class", "version"],
                json!({ "class": { "type": "string" }, "version": { "type": "string" } }),
            )
        };
        object(
            &[
                "version",
                "python",
                "sys_executable",
                "spawner",
                "authenticator",
            ],
            json!({
                "version": { "type": "string", "description": "The JupyterHub version whose behaviour this is." },
                "python": { "type": "string", "description": "Says that there is no Python, and which Orrery this is." },
                "sys_executable": { "type": "string", "description": "The hub's program." },
                "spawner": class(),
                "authenticator": class(),
            }),
        )
    },
};

/// A user, as far as the requester may see them.
pub(crate) const USER: Schema = Schema {
    name: "User",
    build: || object(&["kind", "name"], user_fields()),
};

fn user_fields() -> Value {
    json!({
        "kind": { "const": "user" },
        "name": { "type": "string" },
        "admin": { "type": "boolean" },
        "roles": names("The names of their roles."),
        "groups": names("The names of their groups."),
        "server": { "type": ["string", "null"], "description": "The path of the default server, when it is ready." },
        "pending": { "enum": ["spawn", "stop", null], "description": "What the default server is about to do." },
        "created": nullable_time("When the user was made."),
        "last_activity": nullable_time("When the user, or a server of theirs, was last active."),
        "user_info": { "type": ["object", "null"], "description": "What the authenticator tells of them: their name, an address of their picture." },
        "auth_state": { "type": ["object", "null"], "description": "What the authenticator keeps; for those with `admin:auth_state`." },
        "servers": {
            "type": "object",
            "description": "Their servers that are active, by name; others too when asked for.",
            "additionalProperties": SERVER.reference(),
        },
    })
}

/// Who asks: a user or a service, and their credentials.
pub(crate) const IDENTITY: Schema = Schema {
    name: "RequestIdentity",
    build: || {
        let with_credentials = |fields: Value| {
            let credentials = json!({
                "token_id": { "type": ["string", "null"], "description": "The token's id; null for a browser's session." },
                "session_id": { "type": ["string", "null"], "description": "The login that an OAuth token belongs to." },
                "scopes": names("All that the credentials may do, expanded."),
            });
            let all = merged(fields, credentials);
            object(&["kind", "name", "token_id", "session_id", "scopes"], all)
        };
        json!({ "oneOf": [with_credentials(user_fields()), with_credentials(service_fields())] })
    },
};

/// A server, as far as the requester may see it.
pub(crate) const SERVER: Schema = Schema {
    name: "Server",
    build: || {
        object(
            &[
                "name",
                "display_name",
                "full_name",
                "last_activity",
                "started",
                "pending",
                "ready",
                "stopped",
                "url",
                "user_options",
                "progress_url",
                "full_url",
                "full_progress_url",
            ],
            json!({
                "name": { "type": "string", "description": "Empty for the default server." },
                "display_name": { "type": "string", "description": "What people call it." },
                "full_name": { "type": "string", "description": "`user/server`." },
                "last_activity": nullable_time("When it was last used."),
                "started": nullable_time("When it was started; null when it does not run."),
                "pending": { "enum": ["spawn", "stop", null], "description": "What it is about to do." },
                "ready": { "type": "boolean", "description": "Whether it can be used." },
                "stopped": { "type": "boolean", "description": "Neither ready nor about to do anything." },
                "url": { "type": "string", "description": "Its path; with protocol and host where servers have hosts of their own." },
                "user_options": { "type": ["object", "null"], "description": "The options of its last start." },
                "progress_url": { "type": "string", "description": "The path of the events of its start." },
                "full_url": { "type": ["string", "null"], "description": "With protocol and host, where `public_url` says them." },
                "full_progress_url": { "type": ["string", "null"], "description": "With protocol and host, where `public_url` says them." },
                "state": { "type": ["object", "null"], "description": "What the spawner keeps; for those with `admin:server_state`." },
            }),
        )
    },
};

pub(crate) const TOKEN: Schema = Schema {
    name: "Token",
    build: || token(&[], json!({})),
};

/// A token that was just made, with its secret.
pub(crate) const NEW_TOKEN: Schema = Schema {
    name: "NewToken",
    build: || {
        token(
            &["token"],
            json!({ "token": { "type": "string", "description": "The token itself. It is not shown again." } }),
        )
    },
};

fn token(required: &[&str], more: Value) -> Value {
    let fields = json!({
        "id": { "type": "string", "pattern": "^a[0-9]+$" },
        "kind": { "const": "api_token" },
        "user": { "type": "string", "description": "Whose it is, if a user's." },
        "service": { "type": "string", "description": "Whose it is, if a service's." },
        "roles": { "type": "array", "maxItems": 0, "description": "Of old; always empty." },
        "scopes": names("All that it may do, expanded."),
        "created": nullable_time("When it was made."),
        "last_activity": nullable_time("When it was last used."),
        "expires_at": nullable_time("When it ends; null for never."),
        "note": { "type": ["string", "null"], "description": "What it is for." },
        "session_id": { "type": ["string", "null"], "description": "The login that it belongs to, if it comes from OAuth." },
        "oauth_client": { "type": "string", "description": "The application that has it." },
    });
    let required: Vec<&str> = [
        "id",
        "kind",
        "roles",
        "scopes",
        "created",
        "last_activity",
        "expires_at",
        "note",
        "session_id",
        "oauth_client",
    ]
    .iter()
    .chain(required)
    .copied()
    .collect();
    object(&required, merged(fields, more))
}

pub(crate) const TOKENS: Schema = Schema {
    name: "Tokens",
    build: || {
        object(
            &["api_tokens"],
            json!({ "api_tokens": { "type": "array", "items": TOKEN.reference() } }),
        )
    },
};

/// One page of everybody's tokens.
pub(crate) const TOKEN_PAGE: Schema = Schema {
    name: "TokenPage",
    build: || keyset(&TOKEN),
};

/// A browser that somebody is logged in with.
pub(crate) const SESSION: Schema = Schema {
    name: "Session",
    build: || {
        object(
            &[
                "id",
                "kind",
                "user",
                "created",
                "last_activity",
                "expires_at",
                "address",
                "user_agent",
                "current",
            ],
            json!({
                "id": { "type": "string", "pattern": "^s[0-9]+$" },
                "kind": { "const": "session" },
                "user": { "type": "string", "description": "Who is logged in." },
                "created": time("When they logged in."),
                "last_activity": time("When the hub last saw it, to a minute or so."),
                "expires_at": nullable_time("When its cookie expires."),
                "address": { "type": ["string", "null"], "description": "From where it was last used." },
                "user_agent": { "type": ["string", "null"], "description": "What the browser calls itself." },
                "current": { "type": "boolean", "description": "Whether this request comes from it." },
            }),
        )
    },
};

pub(crate) const SESSIONS: Schema = Schema {
    name: "Sessions",
    build: || {
        object(
            &["sessions"],
            json!({ "sessions": { "type": "array", "items": SESSION.reference() } }),
        )
    },
};

/// One page of everybody's sessions.
pub(crate) const SESSION_PAGE: Schema = Schema {
    name: "SessionPage",
    build: || keyset(&SESSION),
};

/// One page of a list that is in the order of its ids.
/// The forms of a list that can be gone through by cursors as well.
pub(crate) fn pages(item: &Schema) -> Value {
    let list = json!({ "type": "array", "items": item.reference() });
    let mut next = object(
        &["cursor", "limit", "url"],
        json!({
            "cursor": { "type": "string", "description": "Where the next page begins." },
            "limit": { "type": "integer", "minimum": 0, "description": "How many items it has at most." },
            "url": { "type": "string", "description": "Its address." },
        }),
    );
    next["type"] = json!(["object", "null"]);
    next["description"] = json!("The next page; null on the last one.");
    let pagination = object(
        &["limit", "next"],
        json!({
            "limit": { "type": "integer", "minimum": 0, "description": "How many items a page has at most." },
            "next": next,
        }),
    );
    let framed = |pagination: Value| {
        object(
            &["items", "_pagination"],
            json!({ "items": list, "_pagination": pagination }),
        )
    };
    json!({ "anyOf": [list, framed(PAGINATION.reference()), framed(pagination)] })
}

fn keyset(item: &Schema) -> Value {
    let mut next = object(
        &["after", "limit", "url"],
        json!({
            "after": { "type": "integer", "minimum": 1, "description": "The last id of this page." },
            "limit": { "type": "integer", "minimum": 1, "description": "How many items it has at most." },
            "url": { "type": "string", "description": "Its address." },
        }),
    );
    next["type"] = json!(["object", "null"]);
    next["description"] = json!("The next page; null on the last one.");
    let pagination = object(
        &["limit", "next"],
        json!({
            "limit": { "type": "integer", "minimum": 1, "description": "How many items a page has at most." },
            "next": next,
        }),
    );
    object(
        &["items", "_pagination"],
        json!({ "items": { "type": "array", "items": item.reference() }, "_pagination": pagination }),
    )
}

/// A group, as far as the requester may see it.
pub(crate) const GROUP: Schema = Schema {
    name: "Group",
    build: || {
        object(
            &[],
            json!({
                "kind": { "const": "group" },
                "name": { "type": "string" },
                "users": names("The names of its members."),
                "roles": names("The names of its roles."),
                "properties": { "type": "object", "description": "What the site keeps with it." },
            }),
        )
    },
};

/// A service, as far as the requester may see it.
pub(crate) const SERVICE: Schema = Schema {
    name: "Service",
    build: || object(&["kind", "name"], service_fields()),
};

fn service_fields() -> Value {
    json!({
        "kind": { "const": "service" },
        "name": { "type": "string" },
        "admin": { "type": "boolean" },
        "roles": names("The names of its roles."),
        "url": { "type": ["string", "null"], "description": "Where it listens." },
        "prefix": { "type": "string", "description": "Its path behind the proxy." },
        "command": {
            "description": "The command that the hub runs, if it does.",
            "anyOf": [{ "type": "array", "items": { "type": "string" } }, { "type": "string", "maxLength": 0 }],
        },
        "pid": { "type": "integer", "minimum": 0, "description": "The process that the hub runs, or 0." },
        "info": { "type": ["object", "null"], "description": "What the site says of it." },
        "display": { "type": ["boolean", "null"], "description": "Whether pages list it." },
    })
}

pub(crate) const SERVICES: Schema = Schema {
    name: "Services",
    build: || json!({ "type": "object", "additionalProperties": SERVICE.reference() }),
};

/// What those see of a server with whom it is shared.
pub(crate) const SHARED_SERVER: Schema = Schema {
    name: "SharedServer",
    build: || {
        object(
            &["user", "name", "url", "full_url", "ready"],
            json!({
                "user": named(),
                "name": { "type": "string", "description": "Empty for the default server." },
                "url": { "type": "string" },
                "full_url": { "type": ["string", "null"] },
                "ready": { "type": "boolean" },
            }),
        )
    },
};

pub(crate) const SHARE: Schema = Schema {
    name: "Share",
    build: || {
        let somebody = || json!({ "anyOf": [named(), { "type": "null" }] });
        object(
            &["server", "scopes", "kind", "user", "group", "created_at"],
            json!({
                "server": SHARED_SERVER.reference(),
                "scopes": names("What it allows."),
                "kind": { "enum": ["user", "group"] },
                "user": somebody(),
                "group": somebody(),
                "created_at": time("When it was first given."),
            }),
        )
    },
};

pub(crate) const SHARE_CODE: Schema = Schema {
    name: "ShareCode",
    build: || share_code(&[], json!({})),
};

/// A code that was just made, with what is to be handed on.
pub(crate) const NEW_SHARE_CODE: Schema = Schema {
    name: "NewShareCode",
    build: || {
        share_code(
            &["code", "accept_url", "full_accept_url"],
            json!({
                "code": { "type": "string", "description": "The code itself. It is not shown again." },
                "accept_url": { "type": "string", "description": "The path where it is accepted." },
                "full_accept_url": { "type": ["string", "null"], "description": "With protocol and host, where `public_url` says them." },
            }),
        )
    },
};

fn share_code(required: &[&str], more: Value) -> Value {
    let fields = json!({
        "server": SHARED_SERVER.reference(),
        "scopes": names("What it allows."),
        "id": { "type": "string", "pattern": "^sc_[0-9]+$" },
        "created_at": time("When it was made."),
        "expires_at": nullable_time("When it ends; null for never."),
        "exchange_count": { "type": "integer", "minimum": 0, "description": "How often it was accepted." },
        "last_exchanged_at": nullable_time("When it was last accepted."),
    });
    let required: Vec<&str> = [
        "server",
        "scopes",
        "id",
        "created_at",
        "expires_at",
        "exchange_count",
        "last_exchanged_at",
    ]
    .iter()
    .chain(required)
    .copied()
    .collect();
    object(&required, merged(fields, more))
}

/// One route of the proxy.
pub(crate) const ROUTE: Schema = Schema {
    name: "Route",
    build: || {
        object(
            &["routespec", "target", "data"],
            json!({
                "routespec": { "type": "string", "description": "The path, behind a host where there are several." },
                "target": { "type": "string", "description": "Where it leads." },
                "data": { "type": ["object", "null"], "description": "What the hub keeps with it." },
            }),
        )
    },
};

pub(crate) const ROUTES: Schema = Schema {
    name: "Routes",
    build: || {
        let routes = || json!({ "type": "object", "additionalProperties": ROUTE.reference() });
        let framed = object(
            &["items", "_pagination"],
            json!({ "items": routes(), "_pagination": PAGINATION.reference() }),
        );
        json!({ "anyOf": [framed, routes()] })
    },
};

pub(crate) const MESSAGE: Schema = Schema {
    name: "Message",
    build: || object(&["message"], json!({ "message": { "type": "string" } })),
};

pub(crate) const OAUTH_TOKEN: Schema = Schema {
    name: "OAuthToken",
    build: || {
        object(
            &["access_token", "expires_in", "token_type", "scope"],
            json!({
                "access_token": { "type": "string" },
                "expires_in": { "type": "integer", "minimum": 0, "description": "In seconds." },
                "token_type": { "const": "Bearer" },
                "scope": { "type": "string", "description": "What it may do, with spaces between." },
            }),
        )
    },
};

/// Refusals in the form of OAuth (RFC 6749, 5.2).
pub(crate) const OAUTH_ERROR: Schema = Schema {
    name: "OAuthError",
    build: || {
        object(
            &["error"],
            json!({
                "error": { "enum": ["invalid_request", "invalid_client", "invalid_grant", "unsupported_grant_type"] },
                "error_description": { "type": "string" },
            }),
        )
    },
};

/// An object with these fields and no others.
pub(crate) fn object(required: &[&str], properties: Value) -> Value {
    let mut schema = json!({
        "type": "object",
        "required": required,
        "additionalProperties": false,
    });
    schema["properties"] = properties;
    schema
}

/// A list of names.
pub(crate) fn names(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

/// A point in time, in UTC.
pub(crate) fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

/// A point in time, in UTC, or null.
pub(crate) fn nullable_time(description: &str) -> Value {
    json!({ "type": ["string", "null"], "format": "date-time", "description": description })
}

fn named() -> Value {
    object(&["name"], json!({ "name": { "type": "string" } }))
}

fn merged(fields: Value, more: Value) -> Value {
    let mut all = Map::new();
    for fields in [fields, more] {
        if let Value::Object(fields) = fields {
            all.extend(fields);
        }
    }
    Value::Object(all)
}
