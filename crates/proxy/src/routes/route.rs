//! One route: what is stored of it, whose it is, and when it was last used.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value};

use crate::{
    metrics, path,
    target::{Target, TargetError},
};

/// One route, as the API stored it.
#[derive(Debug)]
pub(crate) struct Route {
    /// Decoded, beginning with a slash; with host routing the host is the first segment.
    pub(crate) path: Box<str>,
    /// The target as it was given, for lists and logs.
    pub(crate) target_url: Box<str>,
    pub(crate) target: Target,
    pub(crate) class: RouteClass,
    /// Everything but `last_activity`, as the text of a JSON object without its closing brace.
    data: Box<str>,
    /// Milliseconds since 1970.
    last_activity: AtomicI64,
}

/// Whose route it is, to tell latencies apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteClass {
    Hub,
    User,
    Service,
    Other,
}

/// Why a route is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The words are configurable-http-proxy's.
    #[error("Must specify 'target' as string")]
    NoTarget,
    #[error("The path has more than {LONGEST} segments")]
    TooLong,
    #[error("The target URL is not usable: {0}")]
    Target(#[from] TargetError),
}

/// So many segments may a route's path have. Real ones have three or four; the limit keeps walks
/// over the trie from exhausting the stack.
const LONGEST: usize = 100;

impl Route {
    /// A route from the JSON object of an API call or of the state file.
    pub(crate) fn new(
        path: &str,
        mut data: Map<String, Value>,
        host_routing: bool,
    ) -> Result<Self, RouteError> {
        let mut path = path::canonical(path);
        if host_routing && path != "/" {
            let host = path[1..].split('/').next().unwrap_or_default();
            // Host names have no case.
            let host = host.to_ascii_lowercase();
            path.replace_range(1..=host.len(), &host);
            data.insert("host".to_owned(), Value::String(host));
        }
        if path::segments(path.as_bytes()).count() > LONGEST {
            return Err(RouteError::TooLong);
        }
        let Some(Value::String(target_url)) = data.get("target") else {
            return Err(RouteError::NoTarget);
        };
        let target_url: Box<str> = target_url.as_str().into();
        let target = Target::parse(&target_url)?;
        let last_activity = data
            .remove("last_activity")
            .and_then(|value| DateTime::parse_from_rfc3339(value.as_str()?).ok())
            .map_or_else(now, |time| time.timestamp_millis());
        let class = RouteClass::of(&path, &data);
        let mut data = Value::Object(data).to_string();
        data.pop();
        Ok(Self {
            path: path.into(),
            target_url,
            target,
            class,
            data: data.into(),
            last_activity: AtomicI64::new(last_activity),
        })
    }

    /// Records that somebody uses the route.
    pub(crate) fn touch(&self) {
        self.last_activity.store(now(), Ordering::Relaxed);
        metrics::count_activity();
    }

    /// Records that somebody used the route then, in milliseconds since 1970.
    pub(crate) fn used_at(&self, at: i64) {
        self.last_activity.fetch_max(at, Ordering::Relaxed);
    }

    pub(crate) fn last_activity(&self) -> i64 {
        self.last_activity.load(Ordering::Relaxed)
    }

    /// Whether the other one says the same, but for the time of its last use.
    pub(super) fn has_data_of(&self, other: &Self) -> bool {
        self.data == other.data
    }

    /// Appends the route as the JSON object that the API gives.
    pub(crate) fn write_json(&self, json: &mut String) {
        let time = DateTime::from_timestamp_millis(self.last_activity()).unwrap_or_default();
        json.push_str(&self.data);
        json.push_str(",\"last_activity\":\"");
        json.push_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true));
        json.push_str("\"}");
    }
}

impl RouteClass {
    pub(crate) const ALL: [Self; 4] = [Self::Hub, Self::User, Self::Service, Self::Other];

    /// The label in the metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::User => "user",
            Self::Service => "service",
            Self::Other => "other",
        }
    }

    /// By what `JupyterHub` stores with its routes, else by the path. Base URLs and, with host
    /// routing, host names may stand before `user` and `services`.
    fn of(path: &str, data: &Map<String, Value>) -> Self {
        if data.get("hub") == Some(&Value::Bool(true)) {
            return Self::Hub;
        }
        if data.get("user").is_some_and(Value::is_string) {
            return Self::User;
        }
        if data.get("service").is_some_and(Value::is_string) {
            return Self::Service;
        }
        let mut segments = path.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            match segment {
                "user" if !last => return Self::User,
                "services" if !last => return Self::Service,
                "" | "hub" if last => return Self::Hub,
                _ => {}
            }
        }
        Self::Other
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the proxy stands alone and stamps routes itself, as CHP does"
)]
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| {
            i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        let class = |path: &str, data: Value| {
            let Value::Object(mut data) = data else {
                unreachable!("an object is given below")
            };
            data.insert("target".into(), "http://h:1".into());
            Route::new(path, data, false).unwrap().class
        };
        for (path, expected) in [
            ("/", RouteClass::Hub),
            ("/hub", RouteClass::Hub),
            ("/user/ada", RouteClass::User),
            ("/user/user/lab", RouteClass::User),
            ("/base/user/ada", RouteClass::User),
            ("/services/x", RouteClass::Service),
            ("/user", RouteClass::Other),
            ("/x", RouteClass::Other),
        ] {
            assert_eq!(class(path, serde_json::json!({})), expected, "{path}");
        }
        // As JupyterHub stores them.
        for (data, expected) in [
            (serde_json::json!({"hub": true}), RouteClass::Hub),
            (
                serde_json::json!({"user": "a", "server_name": ""}),
                RouteClass::User,
            ),
            (serde_json::json!({"service": "s"}), RouteClass::Service),
        ] {
            assert_eq!(class("/base", data), expected);
        }
    }
}
