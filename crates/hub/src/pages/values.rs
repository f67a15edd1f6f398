//! What templates see of users, servers and times, with the attributes and methods that
//! JupyterHub's own objects have.

use std::fmt;
use std::sync::Arc;

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};
use minijinja::value::{Kwargs, Object, ObjectRepr, Serde, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use orrery_core::escape;

/// A time in UTC without a zone, as JupyterHub's templates know it (a naive `datetime`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub NaiveDateTime);

impl Stamp {
    /// Python's `isoformat()`: microseconds only when there are any.
    pub fn isoformat(self) -> String {
        let text = self.0.format("%Y-%m-%dT%H:%M:%S").to_string();
        match self.0.and_utc().timestamp_subsec_micros() {
            0 => text,
            micros => format!("{text}.{micros:06}"),
        }
    }

    /// A template's value: a time or none.
    pub fn value(time: Option<NaiveDateTime>) -> Value {
        time.map_or(Value::from(()), |time| Value::from_object(Self(time)))
    }
}

impl Object for Stamp {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        use chrono::{Datelike, Timelike};
        Some(match key {
            "year" => Value::from(self.0.year()),
            "month" => Value::from(self.0.month()),
            "day" => Value::from(self.0.day()),
            "hour" => Value::from(self.0.hour()),
            "minute" => Value::from(self.0.minute()),
            "second" => Value::from(self.0.second()),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "isoformat" => {
                let (separator,): (Option<&str>,) = from_args(args)?;
                let text = self.isoformat();
                Ok(Value::from(separator.map_or_else(
                    || text.clone(),
                    |separator| text.replacen('T', separator, 1),
                )))
            }
            "timestamp" => Ok(Value::from(self.0.and_utc().timestamp())),
            "strftime" => {
                let (format,): (&str,) = from_args(args)?;
                let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
                if items.contains(&Item::Error) {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        format!("{format:?} is not a format of a time"),
                    ));
                }
                Ok(Value::from(
                    self.0.format_with_items(items.into_iter()).to_string(),
                ))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.isoformat().replacen('T', " ", 1))
    }
}

/// One server of a user, running or not.
#[derive(Clone, Debug, Default)]
pub struct PageServer {
    /// "" for the default server.
    pub name: String,
    /// What the person called it.
    pub display_name: String,
    /// Its address, with slashes at both ends.
    pub url: String,
    /// It answers and has its route.
    pub ready: bool,
    /// It runs, or is on its way up or down.
    pub active: bool,
    /// "spawn", "stop" or "check" while it is on its way.
    pub pending: Option<&'static str>,
    /// When its run began.
    pub started: Option<NaiveDateTime>,
    /// When it was last used.
    pub last_activity: Option<NaiveDateTime>,
    /// Whether a form is shown before it starts.
    pub options_form: bool,
    /// What it was started with.
    pub user_options: serde_json::Value,
}

impl Object for PageServer {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(match key {
            "name" => Value::from(&*self.name),
            "display_name" => Value::from(&*self.display_name),
            "url" => Value::from(&*self.url),
            "ready" => Value::from(self.ready),
            "active" => Value::from(self.active),
            "pending" => self.pending.map_or(Value::from(()), Value::from),
            "started" => Stamp::value(self.started),
            "last_activity" => Stamp::value(self.last_activity),
            "options_form" => Value::from(self.options_form),
            "user_options" => Value::from(Serde(&self.user_options)),
            _ => return None,
        })
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A user as templates see one.
#[derive(Clone, Debug, Default)]
pub struct PageUser {
    /// The name.
    pub name: String,
    /// Whether the user is an administrator.
    pub admin: bool,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// `/user/<name>/`.
    pub url: String,
    /// The hub's prefix, `/hub/`.
    pub hub_url: String,
    /// The default server, running or not.
    pub default_server: Arc<PageServer>,
    /// The named servers, running or not, in order of their names.
    pub named_servers: Vec<Arc<PageServer>>,
}

impl PageUser {
    fn server_url(&self, server: &str) -> String {
        if server.is_empty() {
            self.url.clone()
        } else {
            format!("{}{}/", self.url, escape::path_segment(server))
        }
    }

    fn servers(&self) -> impl Iterator<Item = &Arc<PageServer>> {
        std::iter::once(&self.default_server).chain(&self.named_servers)
    }
}

/// The path of an address, which may be a path alone.
fn path_of(address: &str) -> &str {
    match address.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => address,
    }
}

impl Object for PageUser {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        Some(match key {
            "name" => Value::from(&*self.name),
            "escaped_name" => Value::from(escape::path_segment(&self.name)),
            "json_escaped_name" => {
                let quoted = serde_json::Value::from(&*self.name).to_string();
                Value::from(&quoted[1..quoted.len() - 1])
            }
            "admin" => Value::from(self.admin),
            "groups" => Value::from(Serde(&self.groups)),
            "url" => Value::from(&*self.url),
            "base_url" => Value::from(path_of(&self.url)),
            "spawner" => Value::from_dyn_object(Arc::clone(&self.default_server)),
            "spawners" => Value::from_pairs(self.servers().map(|server| {
                (
                    server.name.as_str(),
                    Value::from_dyn_object(Arc::clone(server)),
                )
            })),
            "running" => Value::from(self.default_server.ready),
            "active" => Value::from(self.servers().any(|server| server.active)),
            _ => return None,
        })
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "server_url" => {
                let (server,): (Option<&str>,) = from_args(args)?;
                Ok(Value::from(self.server_url(server.unwrap_or(""))))
            }
            "progress_url" => {
                let (server,): (Option<&str>,) = from_args(args)?;
                let user = escape::path_segment(&self.name);
                Ok(Value::from(match server.unwrap_or("") {
                    "" => format!("{}api/users/{user}/server/progress", self.hub_url),
                    server => format!(
                        "{}api/users/{user}/servers/{}/progress",
                        self.hub_url,
                        escape::path_segment(server)
                    ),
                }))
            }
            "all_spawners" => {
                let (first, options): (Option<bool>, Kwargs) = from_args(args)?;
                let include_default = options
                    .get::<Option<bool>>("include_default")?
                    .or(first)
                    .unwrap_or(true);
                options.assert_all_used()?;
                Ok(self
                    .servers()
                    .skip(usize::from(!include_default))
                    .map(|server| Value::from_dyn_object(Arc::clone(server)))
                    .collect())
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "User({})", self.name)
    }
}
