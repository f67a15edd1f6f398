//! The route table: what the REST API writes and every request reads.
//!
//! Readers take the current version without a lock. Writers take turns, make the next version,
//! append the change to the state file and publish it.

mod route;

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

pub(crate) use self::route::{Route, RouteClass, RouteError, now};
use crate::{
    path,
    state_file::{self, Rewrite, StateFile},
    trie::Trie,
};

/// A route found for a request.
pub(crate) struct Match {
    pub(crate) route: Arc<Route>,
    /// How many segments of the request's path belong to the route.
    pub(crate) depth: usize,
}

pub(crate) struct RouteTable {
    versions: Arc<Versions>,
    host_routing: bool,
}

/// The table's current version and the file that must agree with it.
struct Versions {
    current: ArcSwap<Version>,
    /// Tells this process' versions from those of another, or of an earlier one.
    life: u64,
    /// Held by the one writer; with it the state file, if there is one.
    writer: state_file::Slot,
    /// Held while the state file is written anew.
    rewriting: Mutex<()>,
    /// A thread is on its way to write the state file anew.
    rewrite_is_due: AtomicBool,
}

/// One version of the table. Its clones share all nodes.
#[derive(Clone, Default)]
struct Version {
    number: u64,
    routes: Trie<Arc<Route>>,
}

/// What a replacement of the whole table did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) unchanged: usize,
    pub(crate) changed: usize,
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

/// Why a replacement is refused; nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplaceError {
    #[error("The route {path} is not usable: {reason}")]
    BadEntry { path: String, reason: String },
    #[error("The routes have changed since they were read")]
    Changed,
}

impl RouteTable {
    pub(crate) fn new(host_routing: bool) -> Self {
        Self {
            versions: Arc::new(Versions {
                current: ArcSwap::default(),
                life: RandomState::new().hash_one(now()),
                writer: Mutex::new(None),
                rewriting: Mutex::new(()),
                rewrite_is_due: AtomicBool::new(false),
            }),
            host_routing,
        }
    }

    /// Takes over the routes of the state file, and writes every change to it from now on.
    pub(crate) fn keep_in(&self, mut file: StateFile) {
        let mut writer = state_file::lock(&self.versions.writer);
        let mut next = Version::clone(&self.versions.current.load());
        let loaded = file.take_loaded();
        let as_loaded = file.lines() == loaded.len();
        for (path, data) in loaded {
            match Route::new(&path, data, self.host_routing) {
                Ok(route) => {
                    let route = Arc::new(route);
                    let segments = path::segments(route.path.as_bytes());
                    next.routes.insert(segments, Arc::clone(&route));
                }
                Err(error) => {
                    tracing::warn!("route {path} of the state file is left out: {error}");
                }
            }
        }
        let is_exact = as_loaded && file.lines() == next.routes.len();
        self.versions.current.store(Arc::new(next));
        *writer = Some(file);
        drop(writer);
        if !is_exact {
            self.versions.rewrite_in_background();
        }
    }

    /// Writes the state file anew, with the latest activity.
    pub(crate) fn save(&self) {
        self.versions.rewrite();
    }

    /// Whether the state file could not be written, and should be saved soon.
    pub(crate) fn is_save_due(&self) -> bool {
        let file = state_file::lock(&self.versions.writer);
        file.as_ref().is_some_and(StateFile::is_due)
    }

    /// Leaves the state file to another process. Nothing is written any more.
    pub(crate) fn give_up_file(&self) {
        *state_file::lock(&self.versions.writer) = None;
    }

    /// Adds or replaces a route. Returns it, for the log.
    pub(crate) fn add(
        &self,
        path: &str,
        data: Map<String, Value>,
    ) -> Result<Arc<Route>, RouteError> {
        let route = Arc::new(Route::new(path, data, self.host_routing)?);
        self.change(|next, file| {
            next.insert(path::segments(route.path.as_bytes()), Arc::clone(&route));
            if let Some(file) = file {
                file.added(&route);
            }
        });
        Ok(route)
    }

    /// Replaces the whole table in one step; readers see the old one or the new one. A route whose
    /// data stay the same stays the same route, with its last activity and its connections. Takes
    /// its time with many routes, the state file's too, and so belongs on a thread that may wait.
    /// With `tag`, only the version that has it is replaced.
    pub(crate) fn replace(
        &self,
        entries: Vec<(String, Map<String, Value>)>,
        tag: Option<&[u8]>,
    ) -> Result<Replaced, ReplaceError> {
        let mut routes = Vec::with_capacity(entries.len());
        let mut seen = HashSet::with_capacity(entries.len());
        for (path, data) in entries {
            let route = Route::new(&path, data, self.host_routing).map_err(|error| {
                ReplaceError::BadEntry {
                    path: path.clone(),
                    reason: error.to_string(),
                }
            })?;
            if !seen.insert(route.path.clone()) {
                let reason = "the same path stands there twice".to_owned();
                return Err(ReplaceError::BadEntry { path, reason });
            }
            routes.push(Arc::new(route));
        }
        let turn = self
            .versions
            .rewriting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Made before the writer's turn, so that other changes do not wait for it.
        let mut replaced = Replaced::default();
        let mut next = Version::default();
        let seen = self.versions.current.load_full();
        for route in routes {
            let segments = || path::segments(route.path.as_bytes());
            let kept = seen.routes.get(segments());
            let same = kept.filter(|kept| kept.has_data_of(&route));
            match (kept, same) {
                (_, Some(_)) => replaced.unchanged += 1,
                (Some(_), None) => replaced.changed += 1,
                (None, None) => replaced.added += 1,
            }
            let route = Arc::clone(same.unwrap_or(&route));
            next.routes.insert(segments(), route);
        }
        replaced.removed = seen.routes.len() - replaced.unchanged - replaced.changed;
        drop(seen);
        let old = {
            let _writer = state_file::lock(&self.versions.writer);
            let current = self.versions.current.load_full();
            if tag.is_some_and(|tag| tag != self.versions.tag(&current).as_bytes()) {
                return Err(ReplaceError::Changed);
            }
            next.number = current.number + 1;
            self.versions.current.store(Arc::new(next));
            current
        };
        let routes = || self.versions.current_routes();
        state_file::rewrite(&self.versions.writer, Rewrite::Replaced, routes);
        drop(turn);
        drop_here(old);
        Ok(replaced)
    }

    /// Removes a route; `None` when there was none.
    pub(crate) fn remove(&self, path: &str) -> Option<Arc<Route>> {
        let path = self.canonical(path);
        let segments = || path::segments(path.as_bytes());
        self.versions.current.load().routes.get(segments())?;
        self.change(|next, file| {
            let removed = next.remove(segments());
            if let (Some(file), Some(removed)) = (file, &removed) {
                file.removed(removed);
            }
            removed
        })
    }

    /// The route at exactly this path.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<Route>> {
        let path = self.canonical(path);
        self.versions
            .current
            .load()
            .routes
            .get(path::segments(path.as_bytes()))
            .cloned()
    }

    /// The route for a request. `host` is given with host routing, without its port.
    pub(crate) fn find(&self, host: Option<&str>, raw_path: &str) -> Option<Match> {
        let host = host.map(str::to_ascii_lowercase);
        let lookup = path::lookup_form(raw_path);
        let host_segment = host.iter().map(String::as_bytes);
        let table = self.versions.current.load();
        let found = table
            .routes
            .find(host_segment.chain(path::segments(&lookup)));
        found.map(|found| Match {
            route: Arc::clone(found.value),
            depth: found.depth.saturating_sub(usize::from(host.is_some())),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.versions.current.load().routes.len()
    }

    /// All routes as they are now.
    pub(crate) fn all(&self) -> Trie<Arc<Route>> {
        self.versions.current_routes()
    }

    /// Another one after each change.
    pub(crate) fn version(&self) -> u64 {
        self.versions.current.load().number
    }

    /// All routes that were last used before `inactive_since` (in milliseconds since 1970), as the
    /// JSON object that the API gives, with the tag of the table's version.
    pub(crate) fn to_json(&self, inactive_since: Option<i64>) -> (String, String) {
        let table = self.versions.current.load_full();
        let mut routes = Vec::with_capacity(table.routes.len());
        table.routes.for_each(|route| {
            if inactive_since.is_none_or(|since| route.last_activity() < since) {
                routes.push(route);
            }
        });
        routes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut json = String::with_capacity(2 + routes.len() * 160);
        json.push('{');
        for (number, route) in routes.into_iter().enumerate() {
            if number > 0 {
                json.push(',');
            }
            json.push_str(&Value::from(&*route.path).to_string());
            json.push(':');
            route.write_json(&mut json);
        }
        json.push('}');
        (json, self.versions.tag(&table))
    }

    fn canonical(&self, path: &str) -> String {
        let mut path = path::canonical(path);
        if self.host_routing {
            let end = path[1..].find('/').map_or(path.len(), |end| end + 1);
            path[1..end].make_ascii_lowercase();
        }
        path
    }

    fn change<R>(
        &self,
        change: impl FnOnce(&mut Trie<Arc<Route>>, Option<&mut StateFile>) -> R,
    ) -> R {
        let mut writer = state_file::lock(&self.versions.writer);
        let mut next = Version::clone(&self.versions.current.load());
        next.number += 1;
        let result = change(&mut next.routes, writer.as_mut());
        let worn = writer
            .as_ref()
            .is_some_and(|file| file.is_worn(next.routes.len()));
        self.versions.current.store(Arc::new(next));
        drop(writer);
        if worn {
            self.versions.rewrite_in_background();
        }
        result
    }
}

impl Versions {
    /// An entity tag for HTTP.
    fn tag(&self, version: &Version) -> String {
        format!("\"{:x}-{:x}\"", self.life, version.number)
    }

    fn current_routes(&self) -> Trie<Arc<Route>> {
        self.current.load().routes.clone()
    }

    fn rewrite(&self) {
        let _turn = self
            .rewriting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state_file::rewrite(&self.writer, Rewrite::Same, || self.current_routes());
    }

    /// Changes do not wait for this.
    fn rewrite_in_background(self: &Arc<Self>) {
        if self.rewrite_is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let versions = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("state-file".to_owned())
            .spawn(move || {
                versions.rewrite();
                versions.rewrite_is_due.store(false, Ordering::Release);
            });
        if let Err(error) = thread {
            self.rewrite_is_due.store(false, Ordering::Release);
            tracing::error!("internal: cannot start a thread for the state file: {error}");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "only threads that may wait replace tables"
)]
/// Frees an old table on this thread. A worker that is just looking at it would otherwise be the
/// one that frees it, and its requests would wait for that.
fn drop_here(old: Arc<Version>) {
    for _ in 0..100 {
        if Arc::strong_count(&old) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(old);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::tests::escape;

    fn data(target: &str) -> Map<String, Value> {
        let Value::Object(data) = serde_json::json!({"target": target, "user": "ada", "n": 1.5})
        else {
            unreachable!("an object was written above")
        };
        data
    }

    fn target(table: &RouteTable, host: Option<&str>, path: &str) -> Option<String> {
        table
            .find(host, path)
            .map(|found| found.route.target_url.to_string())
    }

    #[test]
    fn routes_are_found_listed_and_removed() {
        let table = RouteTable::new(false);
        table.add("/", data("http://hub:1")).unwrap();
        table.add("/user/a@b/", data("http://ada:1")).unwrap();
        assert_eq!(
            target(&table, None, "/user/a%40b/x").unwrap(),
            "http://ada:1"
        );
        assert_eq!(
            target(&table, None, "/user/a%40bc").unwrap(),
            "http://hub:1"
        );
        let listed: Value = serde_json::from_str(&table.to_json(None).0).unwrap();
        assert_eq!(listed["/user/a@b"]["n"], 1.5);
        assert!(
            listed["/user/a@b"]["last_activity"]
                .as_str()
                .unwrap()
                .ends_with('Z')
        );
        assert_eq!(table.to_json(Some(0)).0, "{}");
        assert!(table.remove("/user/a@b").is_some());
        assert!(table.remove("/user/a@b").is_none());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn hosts_have_no_case_and_fall_back_to_the_root() {
        let table = RouteTable::new(true);
        table.add("/", data("http://hub:1")).unwrap();
        table
            .add("/Ada.Example.org/lab", data("http://ada:1"))
            .unwrap();
        let found = table.find(Some("ADA.example.org"), "/lab/x").unwrap();
        assert_eq!((&*found.route.target_url, found.depth), ("http://ada:1", 1));
        assert_eq!(target(&table, Some("bob"), "/lab").unwrap(), "http://hub:1");
        assert!(table.get("/ada.example.ORG/lab").is_some());
        assert!(table.remove("/ADA.example.org/lab").is_some());
    }

    #[test]
    fn bad_targets_are_refused() {
        let table = RouteTable::new(false);
        assert!(matches!(
            table.add("/x", Map::new()),
            Err(RouteError::NoTarget)
        ));
        assert!(matches!(
            table.add("/x", data("nonsense")),
            Err(RouteError::Target(_))
        ));
        let long = table.add(&"/x".repeat(20_000), data("http://hub:1"));
        assert!(matches!(long, Err(RouteError::TooLong)));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_replacement_keeps_what_stays_the_same() {
        let table = RouteTable::new(false);
        for path in ["/a", "/b", "/c"] {
            table.add(path, data("http://old:1")).unwrap();
        }
        let kept = table.get("/a").unwrap();
        let version = table.version();
        let entries = vec![
            ("/a/".to_owned(), data("http://old:1")),
            ("/b".to_owned(), data("http://new:1")),
            ("/d".to_owned(), data("http://new:1")),
        ];
        let (_, tag) = table.to_json(None);
        let replaced = table.replace(entries, Some(tag.as_bytes())).unwrap();
        let expected = Replaced {
            unchanged: 1,
            changed: 1,
            added: 1,
            removed: 1,
        };
        assert_eq!(replaced, expected);
        assert!(Arc::ptr_eq(&kept, &table.get("/a").unwrap()));
        assert!(table.get("/c").is_none());
        assert_ne!(table.version(), version);
        let stale = table.replace(Vec::new(), Some(tag.as_bytes()));
        assert!(matches!(stale, Err(ReplaceError::Changed)));
        assert_eq!(table.len(), 3);
    }

    proptest! {
        /// Users and servers may be called anything without a slash; whatever a browser escapes of
        /// their names, the request reaches their server and no other.
        #[test]
        fn every_escape_of_a_name_reaches_the_same_server(
            user in "[^/\\x00]{1,12}",
            server in "[a-z.%+ @é~-]{0,6}",
            choice in any::<u64>(),
            with_host in any::<bool>(),
        ) {
            let is_dots = |name: &str| matches!(name, "." | "..");
            prop_assume!(!is_dots(&user) && !is_dots(&server));
            let table = RouteTable::new(with_host);
            let host = with_host.then_some("Ada.Example.org");
            let prefix = if with_host { "/ada.example.org" } else { "" };
            let spec = format!("/user/{user}/{server}");
            table.add("/", data("http://hub:1")).unwrap();
            table.add(&format!("{prefix}{spec}"), data("http://right:1")).unwrap();
            for other in [format!("/user/{user}x"), format!("/user/x{user}")] {
                table.add(&format!("{prefix}{other}"), data("http://wrong:1")).unwrap();
            }
            let mut raw = format!("/user/{}", escape(&user, choice));
            if !server.is_empty() {
                raw += "/";
                raw += &escape(&server, choice.rotate_left(17));
            }
            for end in ["", "/", "/lab?x=%2F.."] {
                let path = format!("{raw}{end}");
                let path = path.split('?').next().unwrap_or_default();
                let found = table.find(host, path).unwrap();
                prop_assert_eq!(&*found.route.target_url, "http://right:1", "{}", path);
                let depth = 2 + usize::from(!server.is_empty());
                prop_assert_eq!(found.depth, depth);
            }
            let path = format!("{prefix}{spec}");
            prop_assert!(table.remove(&path).is_some());
            prop_assert_ne!(&*table.find(host, &raw).unwrap().route.target_url, "http://right:1");
        }
    }
}
