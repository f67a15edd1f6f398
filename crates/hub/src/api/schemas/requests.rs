//! JSON schemas of what requests bring.

use serde_json::{Value, json};

use super::object;
use crate::openapi::Schema;

pub(crate) const USERS_REQUEST: Schema = Schema {
    name: "UsersRequest",
    build: || {
        object(
            &["usernames"],
            json!({
                "usernames": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 10_000,
                    "items": name(),
                    "description": "Whom to make. Those who are there already stay as they are.",
                },
                "admin": { "type": "boolean", "default": false, "description": "Whether they are administrators." },
            }),
        )
    },
};

pub(crate) const USER_REQUEST: Schema = Schema {
    name: "UserRequest",
    build: || {
        object(
            &[],
            json!({ "admin": { "type": "boolean", "default": false, "description": "Whether the user is an administrator." } }),
        )
    },
};

pub(crate) const USER_CHANGES: Schema = Schema {
    name: "UserChanges",
    build: || {
        object(
            &[],
            json!({
                "name": name(),
                "admin": { "type": "boolean" },
                "auth_state": { "type": "object", "description": "What the authenticator keeps. It is stored encrypted." },
            }),
        )
    },
};

pub(crate) const ACTIVITY: Schema = Schema {
    name: "Activity",
    build: || {
        let time = || json!({ "type": "string", "format": "date-time", "description": "At most 59 minutes in the future." });
        json!({
            "type": "object",
            "anyOf": [{ "required": ["last_activity"] }, { "required": ["servers"] }],
            "properties": {
                "last_activity": time(),
                "servers": {
                    "type": "object",
                    "description": "By the servers' names; the default server's is empty.",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["last_activity"],
                        "properties": { "last_activity": time() },
                    },
                },
            },
        })
    },
};

pub(crate) const SERVER_REQUEST: Schema = Schema {
    name: "ServerRequest",
    build: || {
        json!({
            "type": "object",
            "description": "Without both fields, the whole object is the options, as before JupyterHub 6.",
            "properties": {
                "display_name": { "type": "string", "maxLength": 255, "description": "What people call it." },
                "user_options": { "type": ["object", "null"], "description": "For the spawner. Null or nothing: as at the last start." },
            },
        })
    },
};

pub(crate) const SERVER_CHANGES: Schema = Schema {
    name: "ServerChanges",
    build: || {
        let mut changes = object(
            &[],
            json!({
                "name": { "type": ["string", "null"], "pattern": "^[a-z][a-z0-9-]{0,29}$", "description": "Its new name." },
                "display_name": { "type": ["string", "null"], "maxLength": 255 },
                "user_options": { "type": "object" },
            }),
        );
        changes["minProperties"] = json!(1);
        changes
    },
};

pub(crate) const STOP_REQUEST: Schema = Schema {
    name: "StopRequest",
    build: || {
        json!({
            "type": "object",
            "properties": {
                "remove": { "type": "boolean", "default": false, "description": "Whether a named server goes altogether when it has stopped." },
            },
        })
    },
};

pub(crate) const TOKEN_REQUEST: Schema = Schema {
    name: "TokenRequest",
    build: || {
        let list = |description: &str| json!({ "type": ["array", "null"], "items": { "type": "string" }, "description": description });
        json!({
            "type": "object",
            "properties": {
                "note": { "type": ["string", "null"], "description": "What it is for; the first 1023 characters are kept." },
                "expires_in": { "type": ["integer", "null"], "minimum": 1, "description": "Its life in seconds. Null or nothing: as long as the hub allows." },
                "scopes": list("What it may do: no more than its owner. Nothing: what the role `token` says, which is all that its owner may do."),
                "roles": list("Roles whose scopes it gets, of old; not along with `scopes`."),
                "auth": {
                    "type": ["object", "null"],
                    "description": "For those without credentials: name and password.",
                    "properties": { "username": { "type": "string" }, "password": { "type": "string", "format": "password" } },
                },
            },
        })
    },
};

pub(crate) const GROUPS_REQUEST: Schema = Schema {
    name: "GroupsRequest",
    build: || {
        object(
            &["groups"],
            json!({
                "groups": { "type": "array", "minItems": 1, "items": name(), "description": "Which groups to make." },
                "users": members(),
            }),
        )
    },
};

pub(crate) const GROUP_REQUEST: Schema = Schema {
    name: "GroupRequest",
    build: || object(&[], json!({ "users": members() })),
};

pub(crate) const MEMBERS: Schema = Schema {
    name: "Members",
    build: || object(&["users"], json!({ "users": members() })),
};

pub(crate) const SERVICE_REQUEST: Schema = Schema {
    name: "ServiceRequest",
    build: || {
        let mut service = object(
            &[],
            json!({
                "admin": { "type": "boolean", "default": false, "description": "Whether it may do everything." },
                "url": { "type": "string", "pattern": "^https?://", "description": "Where it listens." },
                "api_token": { "type": "string", "format": "password", "description": "Its token." },
                "info": { "type": "object", "description": "What the site says of it." },
                "display": { "type": "boolean", "default": true, "description": "Whether pages list it." },
                "oauth_client_id": { "type": "string", "pattern": "^service-", "maxLength": 255 },
                "oauth_redirect_uri": { "type": "string" },
                "oauth_no_confirm": { "type": "boolean", "default": false, "description": "Whether people are not asked before they come in." },
                "oauth_client_allowed_scopes": { "type": "array", "items": { "type": "string" }, "description": "What it may ask its users for." },
            }),
        );
        service["minProperties"] = json!(1);
        service
    },
};

pub(crate) const PROXY_CHANGES: Schema = Schema {
    name: "ProxyChanges",
    build: || {
        json!({
            "type": "object",
            "properties": {
                "api_url": { "type": "string", "description": "The address of its API. It must be the configured one." },
                "auth_token": { "type": "string", "description": "Its token. It must be the configured one." },
            },
        })
    },
};

pub(crate) const SHUTDOWN_REQUEST: Schema = Schema {
    name: "ShutdownRequest",
    build: || {
        json!({
            "type": "object",
            "properties": {
                "proxy": { "type": "boolean", "description": "Whether the proxy ends as well; else as configured." },
                "servers": { "type": "boolean", "description": "Whether users' servers end as well; else as configured." },
            },
        })
    },
};

pub(crate) const SHARE_REQUEST: Schema = Schema {
    name: "ShareRequest",
    build: || share("What to allow; nothing: to use the server."),
};

pub(crate) const SHARE_REVOCATION: Schema = Schema {
    name: "ShareRevocation",
    build: || share("What to forbid; nothing: all of it."),
};

fn share(scopes: &str) -> Value {
    let mut share = object(
        &[],
        json!({
            "user": { "type": "string", "minLength": 1 },
            "group": { "type": "string", "minLength": 1 },
            "scopes": { "type": "array", "items": { "type": "string" }, "description": scopes },
        }),
    );
    share["oneOf"] = json!([{ "required": ["user"] }, { "required": ["group"] }]);
    share
}

pub(crate) const SHARE_CODE_REQUEST: Schema = Schema {
    name: "ShareCodeRequest",
    build: || {
        object(
            &[],
            json!({
                "expires_in": { "type": "integer", "minimum": 60, "maximum": 31_536_000, "default": 86_400, "description": "Its life in seconds." },
                "scopes": { "type": "array", "items": { "type": "string" }, "description": "What it allows; nothing: to use the server." },
            }),
        )
    },
};

pub(crate) const OAUTH_TOKEN_REQUEST: Schema = Schema {
    name: "OAuthTokenRequest",
    build: || {
        json!({
            "type": "object",
            "required": ["client_id", "client_secret", "grant_type", "code"],
            "properties": {
                "client_id": { "type": "string" },
                "client_secret": { "type": "string", "format": "password" },
                "grant_type": { "const": "authorization_code" },
                "code": { "type": "string" },
                "redirect_uri": { "type": "string", "description": "As in the request for the code." },
                "code_verifier": { "type": "string", "description": "For codes that were asked for with a challenge (RFC 7636)." },
            },
        })
    },
};

fn name() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 255 })
}

fn members() -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": "The names of members." })
}
