//! Short-lived answers for servers that do not run, so that forgotten tabs cost the hub no work.
//!
//! A tab whose server is gone goes on asking for `/user/ada/api/kernels` and its like. Such requests
//! have no route but the hub's. What the hub said of a server once is said again by the proxy for a
//! while, to programs alone: people always get the hub's own pages. The hub is believed in two forms:
//!
//! - *Marked*: Orrery's hub answers a program below `/user/` itself, to everybody alike, and marks the
//!   answer with `X-Orrery-Stopped: <seconds>`. It is given to everybody.
//! - *Learned*: JupyterHub's redirects such requests to `/hub/user/…`, asks there who it is, and answers
//!   424 (or 503) with JSON that names the path. The proxy sees that answer pass, and gives it, with the
//!   path of the new request, to requests with the same credentials alone: the cookie
//!   `jupyterhub-session-id`, which is sent on both paths, and `Authorization`. A hash of them is a part
//!   of the key, so nobody else can find it.
//!
//! JupyterHub takes the first part of the path behind the user's name for the server's name if there is
//! such a server, so an answer holds for all paths with the same two parts (`/user/ada/api/…`): they
//! are of one server, whichever it is.
//!
//! Only a request without a route of its own may be answered here. The caller has looked that up, so a
//! server that has come up is never hidden.

mod noting;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    ops::Range,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::path;

pub(crate) use self::noting::Noting;

/// The header with which Orrery's hub allows to repeat an answer: for how many seconds at most.
pub(crate) const MARK: &str = "x-orrery-stopped";

/// The longest body of an answer that is kept, in bytes.
pub(crate) const MAX_BODY: usize = 4096;

/// The longest path that is looked at.
const MAX_PATH: usize = 2048;
/// The most that an answer's headers may hold together.
const MAX_HEADERS: usize = 4096;
/// Answers kept by one cache, and the bytes that they and their keys may have together. Two halves, an
/// older and a younger one, make up each.
const MAX_ENTRIES: usize = 16_384;
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// The cookie that tells one browser's session from another's, with what precedes its value.
const SESSION: &[u8] = b"jupyterhub-session-id=";
/// Parts of a site's prefix (`JupyterHub.base_url`) before `user`.
const MAX_PREFIX: usize = 4;

/// A header field's name and value.
type Field = (Box<[u8]>, Box<[u8]>);

/// An answer to give, without the headers that belong to one connection or one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<Field>,
    pub(crate) body: Box<[u8]>,
}

/// What a request is about, in the form that answers are kept by.
#[derive(Debug)]
pub(crate) struct Key {
    group: Box<[u8]>,
    /// The group that answers a websocket when its own does not: the hub serves no websockets below
    /// `/user/`, so every one of them fails while there is no route.
    sibling: Option<Box<[u8]>>,
    /// The path from `/user/` on, as the client wrote it and as the hub names it.
    told: Box<[u8]>,
    /// A hash of what the client shows as its credentials, if it does.
    credentials: Option<u64>,
    is_websocket: bool,
    /// The request goes to the hub's own `/hub/user/…`, whose answers are learned from only.
    learns: bool,
}

/// The answers that one worker keeps.
pub(crate) struct EdgeCache {
    lifetime: Duration,
    hasher: RandomState,
    young: Generation,
    old: Generation,
    turned: Option<Instant>,
}

#[derive(Default)]
struct Generation {
    entries: HashMap<Box<[u8]>, Entry>,
    bytes: usize,
}

struct Entry {
    answer: Rc<Answer>,
    /// Where in the body of a learned answer the path stands; `None` for a marked answer.
    path: Option<Range<usize>>,
    /// From now on one request, and one only, asks the hub anew; the others are answered still.
    renew: Instant,
    renewing: bool,
    end: Instant,
}

impl EdgeCache {
    /// A cache that gives no answer older than `lifetime`; with zero it never gives one.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            lifetime,
            hasher: RandomState::new(),
            young: Generation::default(),
            old: Generation::default(),
            turned: None,
        }
    }

    /// Whether it is worth while to make a key: a quick look, for requests on their way to the hub.
    pub(crate) fn concerns(&self, method: &[u8], target: &[u8]) -> bool {
        !self.lifetime.is_zero() && method == b"GET" && contains(target, b"/user/")
    }

    /// The key of a request that `get` may answer, or from whose answer something may be learned.
    /// `target` is what the request line names, `route_path` the path of the route found for it,
    /// `credentials` are the values of its `Cookie` and `Authorization` headers.
    ///
    /// Whatever is unusual (escaped slashes, dot segments, empty segments) has no key: the hub may
    /// read it otherwise than the proxy.
    pub(crate) fn key<'a>(
        &self,
        method: &[u8],
        target: &[u8],
        route_path: &str,
        is_websocket: bool,
        accept: Option<&[u8]>,
        credentials: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Key> {
        if !self.concerns(method, target) {
            return None;
        }
        let is_of_hub = |segment: &[u8]| segment != b"user" && segment != b"services";
        if !path::segments(route_path.as_bytes()).all(is_of_hub) {
            return None;
        }
        let end = target.iter().position(|byte| *byte == b'?');
        let raw = &target[..end.unwrap_or(target.len())];
        if raw.len() > MAX_PATH || !is_plain(raw) {
            return None;
        }
        let raw = std::str::from_utf8(raw).ok()?;
        // Without dot segments, which have no key, this is the form that routes are looked up by.
        let decoded: Cow<'_, [u8]> = percent_encoding::percent_decode_str(raw).into();
        let segments: Vec<&[u8]> = path::segments(&decoded).collect();
        let is_usual = |segment: &&[u8]| {
            !segment.is_empty()
                && **segment != *b"."
                && **segment != *b".."
                && segment.iter().all(|byte| *byte >= b' ')
        };
        if raw.starts_with("//") || !segments.iter().all(is_usual) {
            return None;
        }
        let user = segments.iter().position(|segment| *segment == b"user")?;
        let [name, server, ..] = segments.get(user + 1..)? else {
            return None;
        };
        // The user's name and what follows, as the client wrote it.
        let told = behind(raw, user)?;
        if user > MAX_PREFIX + 1 || !told.starts_with("/user/") {
            return None;
        }
        if !is_websocket && !is_program(told, accept) {
            return None;
        }
        let learns = user > 0 && segments[user - 1] == b"hub";
        let base = &segments[..user - usize::from(learns)];
        let group = |server: &[u8]| {
            let parts = [route_path.as_bytes()].into_iter();
            let parts = parts.chain(base.iter().copied()).chain([*name, server]);
            parts.collect::<Vec<_>>().join(&0).into_boxed_slice()
        };
        Some(Key {
            group: group(server),
            sibling: (is_websocket && *server != b"api").then(|| group(b"api")),
            told: told.as_bytes().into(),
            credentials: self.credentials(credentials),
            is_websocket,
            learns,
        })
    }

    /// The answer for a request, if the hub gave one lately that holds for it.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Rc<Answer>> {
        if key.learns {
            return None;
        }
        self.turn(now, 0);
        [Some(&key.group), key.sibling.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|group| {
                let own = key.credentials.map(|hash| of_holder(group, hash).into());
                [Some(Cow::Borrowed(&**group)), own.map(Cow::Owned)]
            })
            .flatten()
            .find_map(|place| {
                let entry = match self.young.entries.get_mut(&*place) {
                    Some(entry) => entry,
                    None => self.old.entries.get_mut(&*place)?,
                };
                entry.answer_for(key, now)
            })
    }

    /// Whether the hub's answer to `key`'s request may be kept, as far as its head tells.
    pub(crate) fn may_store<'a>(
        &self,
        key: &Key,
        status: u16,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        content_length: Option<u64>,
    ) -> bool {
        let fits = content_length.is_some_and(|length| (1..=MAX_BODY as u64).contains(&length));
        if self.lifetime.is_zero() || !matches!(status, 424 | 503) || !fits {
            return false;
        }
        let (mut is_marked, mut is_json, mut is_of_hub) = (false, false, false);
        let mut bytes = 0;
        for (name, value) in headers {
            bytes += name.len() + value.len();
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
            // What is for one client alone, for one moment, or depends on more than we know.
            let is_private = is("set-cookie")
                || is("retry-after")
                || is("vary")
                || is("content-encoding")
                || is("transfer-encoding")
                || is("content-range")
                || is("location")
                || is("www-authenticate")
                || (is("cache-control") && forbids_keeping(value));
            if is_private {
                return false;
            }
            is_marked |= is(MARK) && seconds(value).is_some();
            is_of_hub |= is("x-jupyterhub-version");
            is_json |= is("content-type") && starts_with(value, b"application/json");
        }
        let is_told = if key.learns {
            is_json && is_of_hub
        } else {
            is_marked
        };
        is_told && bytes <= MAX_HEADERS
    }

    /// Keeps an answer whose head [`Self::may_store`] has seen.
    pub(crate) fn put(&mut self, key: Key, mut answer: Answer, now: Instant) {
        let marked = answer.headers.iter().find_map(|(name, value)| {
            name.eq_ignore_ascii_case(MARK.as_bytes())
                .then(|| seconds(value))
                .flatten()
        });
        let lifetime = match marked {
            Some(seconds) if !key.learns => self.lifetime.min(Duration::from_secs(seconds)),
            _ => self.lifetime,
        };
        if lifetime.is_zero() || answer.body.len() > MAX_BODY {
            return;
        }
        let end = now + lifetime;
        let early = (lifetime / 4).min(Duration::from_secs(3));
        let (place, path) = if key.learns {
            let path = place_of_path(&answer.body, &key.told);
            let (Some(path), Some(hash)) = (path, key.credentials) else {
                return;
            };
            (of_holder(&key.group, hash), Some(path))
        } else {
            (key.group, None)
        };
        answer.headers.retain(|(name, _)| is_kept(name));
        let entry = Entry {
            answer: Rc::new(answer),
            path,
            renew: now + lifetime.saturating_sub(early),
            renewing: false,
            end,
        };
        let size = entry.size() + place.len();
        self.old.remove(&place);
        self.young.remove(&place);
        self.turn(now, size);
        self.young.bytes += size;
        self.young.entries.insert(place, entry);
    }

    /// Lets the older half go when the younger one is full, or when all of it is out of date.
    fn turn(&mut self, now: Instant, coming: usize) {
        let turned = *self.turned.get_or_insert(now);
        let is_full = self.young.entries.len() >= MAX_ENTRIES / 2
            || self.young.bytes + coming > MAX_BYTES / 2;
        let is_due = now.saturating_duration_since(turned) > self.lifetime;
        if is_full || is_due {
            self.old = std::mem::take(&mut self.young);
            self.turned = Some(now);
        }
    }

    /// A hash of all that proves who asks: other cookies are alike for many.
    fn credentials<'a>(&self, values: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
        let proofs: Vec<&[u8]> = values.flat_map(proofs).collect();
        (!proofs.is_empty()).then(|| self.hasher.hash_one(proofs))
    }
}

impl Generation {
    fn remove(&mut self, group: &[u8]) {
        if let Some((group, entry)) = self.entries.remove_entry(group) {
            self.bytes -= entry.size() + group.len();
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        let headers = self.answer.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + 2 * size_of::<Box<[u8]>>())
            .sum();
        headers + self.answer.body.len() + size_of::<Self>() + size_of::<Answer>()
    }

    fn answer_for(&mut self, key: &Key, now: Instant) -> Option<Rc<Answer>> {
        if now >= self.end {
            return None;
        }
        // A websocket learns nothing, as browsers do not follow its redirect.
        if now >= self.renew && !self.renewing && !(key.is_websocket && self.path.is_some()) {
            self.renewing = true;
            return None;
        }
        let Some(path) = &self.path else {
            return Some(Rc::clone(&self.answer));
        };
        let body = &self.answer.body;
        if body[path.clone()] == *key.told {
            return Some(Rc::clone(&self.answer));
        }
        let (before, behind) = (&body[..path.start], &body[path.end..]);
        Some(Rc::new(Answer {
            body: [before, &key.told, behind].concat().into(),
            ..Answer::clone(&self.answer)
        }))
    }
}

/// Where an answer for the holder of these credentials alone is kept. No group has such a byte.
fn of_holder(group: &[u8], credentials: u64) -> Box<[u8]> {
    [group, b"\x01", &credentials.to_ne_bytes()].concat().into()
}

/// What in the value of a `Cookie` or an `Authorization` header proves who asks: a scheme, a space and
/// what follows, or the cookie of the session.
fn proofs(value: &[u8]) -> Vec<&[u8]> {
    let ends_name = |byte: &&u8| matches!(byte, b' ' | b'=' | b';');
    if value.iter().find(ends_name) == Some(&b' ') {
        return vec![value];
    }
    value
        .split(|byte| *byte == b';')
        .map(<[u8]>::trim_ascii)
        .filter(|item| item.len() > SESSION.len() && item.starts_with(SESSION))
        .collect()
}

/// The part of a path behind its first `segments` segments, beginning with a slash.
fn behind(raw: &str, segments: usize) -> Option<&str> {
    let (start, _) = raw.match_indices('/').nth(segments)?;
    Some(&raw[start..])
}

/// Whether a path has nothing that programs read in different ways: only the characters of RFC 3986,
/// and no escaped slash, backslash or control character.
fn is_plain(raw: &[u8]) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&byte);
    let is_bad_escape = |(place, byte): (usize, &u8)| {
        *byte == b'%'
            && match raw.get(place + 1..place + 3) {
                Some([high, low]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    matches!(
                        (high, low.to_ascii_lowercase()),
                        (b'0' | b'1', _) | (b'2', b'f') | (b'5', b'c')
                    )
                }
                _ => true,
            }
    };
    raw.first() == Some(&b'/')
        && raw.iter().all(|byte| is_allowed(*byte))
        && !raw.iter().enumerate().any(is_bad_escape)
}

/// Whether the hub would take a request for a program's: JSON is wanted, or `api` is in the path. Who
/// takes HTML is a person, who is to see the hub's pages.
fn is_program(told: &str, accept: Option<&[u8]>) -> bool {
    let accept = accept.unwrap_or_default().to_ascii_lowercase();
    if contains(&accept, b"text/html") {
        return false;
    }
    // Empty, `user`, and the user's name come first.
    contains(&accept, b"application/json") || told.split('/').skip(3).any(|part| part == "api")
}

/// Where a body names the path: once, in the sentence that both hubs use.
fn place_of_path(body: &[u8], path: &[u8]) -> Option<Range<usize>> {
    const SENTENCE: &[u8] = b"server no longer running at ";
    let sentence = body
        .windows(SENTENCE.len())
        .position(|part| part == SENTENCE)?;
    let start = sentence + SENTENCE.len();
    let end = start + path.len();
    (body.get(start..end)? == path && body[end..].starts_with(b". ")).then_some(start..end)
}

fn forbids_keeping(cache_control: &[u8]) -> bool {
    let value = cache_control.to_ascii_lowercase();
    ["no-store", "no-cache", "private"]
        .iter()
        .any(|word| contains(&value, word.as_bytes()))
}

/// Headers of a connection, of one moment or of one body are not repeated.
fn is_kept(name: &[u8]) -> bool {
    const LEFT_OUT: [&str; 12] = [
        "age",
        "connection",
        "content-length",
        "date",
        "etag",
        "keep-alive",
        "last-modified",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    !LEFT_OUT
        .iter()
        .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// The number in the mark, when it is more than none.
fn seconds(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.trim().parse().ok().filter(|seconds| *seconds > 0)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn starts_with(value: &[u8], start: &[u8]) -> bool {
    value
        .get(..start.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

#[cfg(test)]
mod tests;
