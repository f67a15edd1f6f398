//! What every page knows: who looks at it, and where things are.

use std::sync::Arc;

use axum::http::StatusCode;
use minijinja::value::{Enumerator, Object, Serde, Value};
use minijinja::{Error, context};

use super::{PageUser, Templates};

/// The variables of `page.html`, which every page has. Merge it below a page's own:
/// `context! { url, ..frame.value() }`.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// The hub's prefix with slashes at both ends, `/hub/`.
    pub base_url: String,
    /// The site's prefix, `/`.
    pub prefix: String,
    /// Who is signed in.
    pub user: Option<Arc<PageUser>>,
    /// Where one signs in.
    pub login_url: String,
    /// Where one signs out.
    pub logout_url: String,
    /// The name of an outside service to sign in with.
    pub login_service: String,
    /// The token that forms and scripts of this browser send.
    pub xsrf_token: String,
    /// The services the person may reach.
    pub services: Vec<ServiceLink>,
    /// The scopes held, all of them.
    pub expanded_scopes: Vec<String>,
    /// Whether `JupyterHub.logo_file` is set.
    pub custom_logo: bool,
    /// Whether the page is an administrator's.
    pub admin_access: bool,
}

/// A service in the bar on top.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct ServiceLink {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub href: String,
}

impl Frame {
    /// The frame as a value to merge into a page's context.
    pub fn value(self: &Arc<Self>) -> Value {
        Value::from_dyn_object(Arc::clone(self))
    }
}

impl Object for Frame {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(match key {
            "base_url" => Value::from(&*self.base_url),
            "prefix" => Value::from(&*self.prefix),
            "user" | "current_user" => self.user.as_ref().map_or(Value::from(()), |user| {
                Value::from_dyn_object(Arc::clone(user))
            }),
            "login_url" => Value::from(&*self.login_url),
            "logout_url" => Value::from(&*self.logout_url),
            "login_service" => Value::from(&*self.login_service),
            "xsrf" | "xsrf_token" => Value::from(&*self.xsrf_token),
            "version_hash" => Value::from(""),
            "services" => Value::from(Serde(&self.services)),
            // Upstream's is a mapping of scopes to filters; templates ask it with `in`, by the
            // scope's name without its filter.
            "parsed_scopes" => Value::from_pairs(self.expanded_scopes.iter().map(|scope| {
                (
                    scope.split_once('!').map_or(&**scope, |(name, _)| name),
                    true,
                )
            })),
            "expanded_scopes" => Value::from(Serde(&self.expanded_scopes)),
            "custom_logo" => Value::from(self.custom_logo),
            "admin_access" if self.admin_access => Value::from(true),
            _ => return None,
        })
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Str(&[
            "base_url",
            "prefix",
            "user",
            "current_user",
            "login_url",
            "logout_url",
            "login_service",
            "xsrf",
            "xsrf_token",
            "version_hash",
            "services",
            "parsed_scopes",
            "expanded_scopes",
            "custom_logo",
            "admin_access",
        ])
    }
}

/// The page of an error, for browsers. `message` is a sentence, or empty for the status' own words.
pub fn error_page(
    templates: &Templates,
    frame: &Arc<Frame>,
    status: StatusCode,
    message: &str,
) -> Result<String, Error> {
    templates.render_status(
        status.as_u16(),
        context! {
            status_code => status.as_u16(),
            status_message => status.canonical_reason().unwrap_or("Unknown HTTP Error"),
            message,
            ..frame.value()
        },
    )
}
