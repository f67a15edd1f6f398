use proptest::prelude::*;

use super::*;

const LIFETIME: Duration = Duration::from_secs(30);
const ADA: &[u8] = b"jupyterhub-session-id=0123456789abcdef0123456789abcdef";
const BOB: &[u8] = b"jupyterhub-session-id=fedcba9876543210fedcba9876543210";

fn cache() -> EdgeCache {
    EdgeCache::new(LIFETIME)
}

/// A poll as `JupyterLab` sends it, with the session's cookie among others.
fn poll(cache: &EdgeCache, target: &str, session: &[u8]) -> Option<Key> {
    let cookies = [b"_xsrf=2|abc; theme=dark; ".as_slice(), session].concat();
    let credentials = std::iter::once(&cookies[..]);
    cache.key(
        b"GET",
        target.as_bytes(),
        "/",
        false,
        Some(b"*/*"),
        credentials,
    )
}

fn asked(target: &str) -> Option<Key> {
    poll(&cache(), target, b"")
}

fn websocket(cache: &EdgeCache, target: &str, session: &[u8]) -> Key {
    let credentials = std::iter::once(session);
    cache
        .key(b"GET", target.as_bytes(), "/", true, None, credentials)
        .unwrap()
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let header = |(name, value): &(&str, &str)| (name.as_bytes().into(), value.as_bytes().into());
    Answer {
        status,
        headers: headers.iter().map(header).collect(),
        body: body.as_bytes().into(),
    }
}

/// What Orrery's hub answers.
fn marked() -> Answer {
    let headers = [
        ("content-type", "application/json"),
        (MARK, "300"),
        ("date", "now"),
    ];
    answer(424, &headers, "{\"message\":\"stopped\"}")
}

/// What `JupyterHub` answers to `/hub` and this path.
fn told(path: &str) -> Answer {
    let headers = [
        ("Server", "TornadoServer/6.6.1"),
        ("Content-Type", "application/json"),
        ("Date", "Sun, 22 Nov 2026 01:00:00 GMT"),
        ("X-Jupyterhub-Version", "6.1.1"),
        ("Content-Length", "134"),
    ];
    answer(424, &headers, &sentence(path))
}

fn sentence(path: &str) -> String {
    format!(
        "{{\"message\": \"JupyterHub server no longer running at {path}. Restart the server at http://h:1/hub/spawn/ada\"}}"
    )
}

fn may_store(cache: &EdgeCache, key: &Key, answer: &Answer) -> bool {
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value));
    cache.may_store(key, answer.status, headers, Some(answer.body.len() as u64))
}

/// Passes an answer by the cache, as the relay does.
fn pass(cache: &mut EdgeCache, key: Key, answer: &Answer, now: Instant) -> bool {
    let may = may_store(cache, &key, answer);
    let length = answer.body.len();
    note(key, cache, answer, length, &[&answer.body]).finish(cache, now);
    may
}

/// Notes an answer whose head tells this length, and whose body comes in these pieces.
fn note(key: Key, cache: &EdgeCache, answer: &Answer, length: usize, pieces: &[&[u8]]) -> Noting {
    let mut noting = Noting::new(key);
    let length = length.to_string();
    let fields = answer
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"))
        .chain([(b"content-length".as_slice(), length.as_bytes())]);
    noting.head(cache, answer.status, fields);
    for piece in pieces {
        noting.body(piece);
    }
    noting
}

#[test]
fn half_an_answer_is_not_kept() {
    let now = Instant::now();
    for (length, pieces, kept) in [
        (4, vec!["ab", "cd"], true),
        (4, vec!["ab"], false),
        (4, vec!["ab", "cd", "e"], false),
        (4, vec!["abcde"], false),
        (0, vec![], false),
    ] {
        let mut cache = cache();
        let key = poll(&cache, "/user/ada/api/x", ADA).unwrap();
        let pieces: Vec<_> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        note(key, &cache, &marked(), length, &pieces).finish(&mut cache, now);
        let key = poll(&cache, "/user/ada/api/x", ADA).unwrap();
        let given = cache.get(&key, now);
        assert_eq!(given.is_some(), kept, "{length} {pieces:?}");
        assert!(given.is_none_or(|given| *given.body == *b"abcd"));
    }
}

fn body(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

#[test]
fn only_what_programs_ask_of_a_users_server_has_a_key() {
    for target in [
        "/user/ada/api/kernels?1234",
        "/user/ada/api/kernels/x/channels",
        "/user/ada/api",
        "/user/ada/lab2/api/sessions",
        "/user/ada/lab/api/workspaces/default",
        "/user/a%40b/api/terminals",
        "/jhub/user/ada/api/status",
        "/hub/user/ada/api/kernels",
    ] {
        assert!(asked(target).is_some(), "{target}");
    }
    for target in [
        "/",
        "/hub/home",
        "/hub/api/users/ada",
        "/hub/api/user/",
        "/user/ada",
        "/user/ada/",
        "/user/ada/lab",
        "/user/ada/files/api.txt",
        "/services/x/api/y",
        // Read in different ways by different programs.
        "/user//ada/api/kernels",
        "//user/ada/api/kernels",
        "/user/ada//api/kernels",
        "/user/bob/../ada/api/kernels",
        "/user/bob/%2e%2e/ada/api/kernels",
        "/user/./ada/api/kernels",
        "/user/ada%2Fapi/api",
        "/user/ada%2fapi/api",
        "/user/ada%5capi/api",
        "/user/ada\\api/api",
        "/user/ada%00/api/x",
        "/user/ada%/api/x",
        "/user/ada%4/api/x",
        "/user/ada\"/api/x",
        "http://host/user/ada/api/kernels",
        "*",
        "/a/b/c/d/e/f/user/ada/api/x",
    ] {
        assert!(asked(target).is_none(), "{target}");
    }
    let long = format!("/user/ada/api/{}", "x".repeat(MAX_PATH));
    assert!(asked(&long).is_none());
}

#[test]
fn people_and_other_methods_and_other_routes_are_left_alone() {
    let cache = cache();
    let key = |method: &[u8], route: &str, accept: &str| {
        let target = b"/user/ada/api/kernels";
        let none = std::iter::empty();
        cache
            .key(method, target, route, false, Some(accept.as_bytes()), none)
            .is_some()
    };
    assert!(key(b"GET", "/", "*/*"));
    assert!(key(b"GET", "/", "application/json"));
    assert!(key(b"GET", "/hub.example.org", "*/*"));
    assert!(!key(
        b"GET",
        "/",
        "Text/HTML,application/xhtml+xml,*/*;q=0.8"
    ));
    assert!(!key(b"GET", "/user/ada", "*/*"));
    assert!(!key(b"GET", "/host/user/ada", "*/*"));
    assert!(!key(b"GET", "/services/x", "*/*"));
    for method in ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get"] {
        assert!(!key(method.as_bytes(), "/", "*/*"), "{method}");
    }
    // Outside `api`, who wants JSON is a program.
    let lab = |accept: &[u8]| {
        let none = std::iter::empty();
        cache.key(
            b"GET",
            b"/user/ada/lab/tree",
            "/",
            false,
            Some(accept),
            none,
        )
    };
    assert!(lab(b"application/json, */*").is_some());
    assert!(lab(b"*/*").is_none());
}

#[test]
fn a_marked_answer_is_for_everybody_and_for_the_whole_server() {
    let mut cache = cache();
    let now = Instant::now();
    let key = poll(&cache, "/user/ada/api/kernels?1", ADA).unwrap();
    assert!(cache.get(&key, now).is_none());
    assert!(pass(&mut cache, key, &marked(), now));
    for (target, session) in [
        ("/user/ada/api/sessions", ADA),
        ("/user/%61da/api/terminals?x", BOB),
    ] {
        let key = poll(&cache, target, session).unwrap();
        let given = cache.get(&key, now).unwrap();
        assert_eq!(
            (given.status, &*body(&given)),
            (424, "{\"message\":\"stopped\"}")
        );
        assert!(given.headers.iter().all(|(name, _)| **name != *b"date"));
    }
    // Which server another first part means, the hub alone knows.
    for target in ["/user/ada/lab2/api/x", "/user/bob/api/x", "/user/ADA/api/x"] {
        let key = poll(&cache, target, ADA).unwrap();
        assert!(cache.get(&key, now).is_none(), "{target}");
    }
    // A websocket below `/user/` fails in any case.
    let key = websocket(&cache, "/user/ada/terminals/websocket/1", b"");
    assert!(cache.get(&key, now).is_some());
}

#[test]
fn a_learned_answer_is_for_those_whom_the_hub_accepted() {
    let mut cache = cache();
    let now = Instant::now();
    let learning = poll(&cache, "/hub/user/ada/api/kernels?1", ADA).unwrap();
    assert!(pass(
        &mut cache,
        learning,
        &told("/user/ada/api/kernels"),
        now
    ));

    let key = poll(&cache, "/user/ada/api/kernels", ADA).unwrap();
    assert_eq!(
        body(&cache.get(&key, now).unwrap()),
        sentence("/user/ada/api/kernels")
    );
    let key = poll(&cache, "/user/ada/api/sessions/a%20b?2", ADA).unwrap();
    let given = cache.get(&key, now).unwrap();
    assert_eq!(body(&given), sentence("/user/ada/api/sessions/a%20b"));
    let names: Vec<_> = given.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(
        names,
        [&b"Server"[..], b"Content-Type", b"X-Jupyterhub-Version"]
    );

    // Bob asks the hub, as does who has no cookie or only one that is no secret; the hub's own pages
    // are asked for always.
    for (target, session) in [
        ("/user/ada/api/kernels", BOB),
        ("/user/ada/api/kernels", b""),
        ("/hub/user/ada/api/kernels", ADA),
    ] {
        let key = poll(&cache, target, session).unwrap();
        assert!(cache.get(&key, now).is_none(), "{target}");
    }
    // What bob learns later does not take it from ada.
    let learning = poll(&cache, "/hub/user/ada/api/x", BOB).unwrap();
    assert!(pass(&mut cache, learning, &told("/user/ada/api/x"), now));
    for session in [ADA, BOB] {
        let key = poll(&cache, "/user/ada/api/y", session).unwrap();
        assert_eq!(
            body(&cache.get(&key, now).unwrap()),
            sentence("/user/ada/api/y")
        );
    }
    let key = websocket(&cache, "/user/ada/terminals/websocket/1", ADA);
    assert!(cache.get(&key, now).is_some());
    let key = websocket(&cache, "/user/ada/terminals/websocket/1", b"");
    assert!(cache.get(&key, now).is_none());
}

/// A consent cookie, a load balancer's and the like are the same for many.
#[test]
fn other_cookies_prove_nothing() {
    let mut cache = cache();
    let now = Instant::now();
    let ask = |cache: &EdgeCache, target: &str, cookies: &[&[u8]]| {
        let common = b"cookieconsent_status=dismiss-all-and-forever; my-jupyterhub-session-id=01234567890123456789";
        let cookies = [&[common.as_slice()], cookies].concat().join(&b"; "[..]);
        poll(cache, target, &cookies).unwrap()
    };
    let learning = ask(&cache, "/hub/user/ada/api/x", &[ADA]);
    assert!(pass(&mut cache, learning, &told("/user/ada/api/x"), now));
    let key = ask(&cache, "/user/ada/api/x", &[ADA]);
    assert!(cache.get(&key, now).is_some());
    let empty = b"jupyterhub-session-id=".as_slice();
    for cookies in [&[BOB][..], &[], &[empty], &[BOB, ADA], &[ADA, BOB]] {
        let key = ask(&cache, "/user/ada/api/x", cookies);
        assert!(cache.get(&key, now).is_none());
    }
    // Nor is anything learned from a request with no other.
    let learning = ask(&cache, "/hub/user/bob/api/x", &[]);
    pass(&mut cache, learning, &told("/user/bob/api/x"), now);
    assert_eq!(cache.young.entries.len(), 1);
}

#[test]
fn a_token_is_a_credential_too() {
    let mut cache = cache();
    let now = Instant::now();
    let ask = |cache: &EdgeCache, target: &[u8], token: &[u8]| {
        let credentials = std::iter::once(token);
        cache
            .key(b"GET", target, "/", false, None, credentials)
            .unwrap()
    };
    let token = b"token 0123456789abcdef0123456789abcdef";
    let learning = ask(&cache, b"/hub/user/ada/api/x", token);
    assert!(pass(&mut cache, learning, &told("/user/ada/api/x"), now));
    let key = ask(&cache, b"/user/ada/api/x", token);
    assert!(cache.get(&key, now).is_some());
    let key = ask(
        &cache,
        b"/user/ada/api/x",
        b"token 00000000000000000000000000000000",
    );
    assert!(cache.get(&key, now).is_none());
}

#[test]
fn a_prefix_of_the_site_is_no_part_of_what_the_hub_tells() {
    let mut cache = cache();
    let now = Instant::now();
    let ask = |cache: &EdgeCache, target: &[u8]| {
        let credentials = std::iter::once(ADA);
        cache
            .key(b"GET", target, "/jhub", false, None, credentials)
            .unwrap()
    };
    let learning = ask(&cache, b"/jhub/hub/user/ada/api/x");
    assert!(pass(&mut cache, learning, &told("/user/ada/api/x"), now));
    let key = ask(&cache, b"/jhub/user/ada/api/y");
    assert_eq!(
        body(&cache.get(&key, now).unwrap()),
        sentence("/user/ada/api/y")
    );
}

#[test]
fn other_answers_are_not_kept() {
    let cache = cache();
    let plain = poll(&cache, "/user/ada/api/x", ADA).unwrap();
    let learning = poll(&cache, "/hub/user/ada/api/x", ADA).unwrap();
    assert!(may_store(&cache, &plain, &marked()));
    assert!(may_store(&cache, &learning, &told("/user/ada/api/x")));
    // An answer to one kind of request is none to the other.
    assert!(!may_store(&cache, &plain, &told("/user/ada/api/x")));
    assert!(!may_store(&cache, &learning, &marked()));
    for status in [200, 302, 400, 403, 404, 500, 502] {
        for (key, good) in [(&plain, marked()), (&learning, told("/user/ada/api/x"))] {
            assert!(
                !may_store(&cache, key, &Answer { status, ..good }),
                "{status}"
            );
        }
    }
    for (name, value) in [
        ("Set-Cookie", "a=b"),
        ("Retry-After", "5"),
        ("Vary", "Cookie"),
        ("Cache-Control", "max-age=5, No-Store"),
        ("Cache-Control", "private"),
        ("Content-Encoding", "gzip"),
        ("Location", "/"),
        ("WWW-Authenticate", "Basic"),
        ("X-Big", &"x".repeat(MAX_HEADERS)),
    ] {
        for (key, mut bad) in [(&plain, marked()), (&learning, told("/user/ada/api/x"))] {
            bad.headers
                .push((name.as_bytes().into(), value.as_bytes().into()));
            assert!(!may_store(&cache, key, &bad), "{name}");
        }
    }
    let head = |length| {
        let header = (MARK.as_bytes(), b"30".as_slice());
        cache.may_store(&plain, 424, std::iter::once(header), length)
    };
    assert!(head(Some(10)));
    for length in [None, Some(0), Some(MAX_BODY as u64 + 1)] {
        assert!(!head(length), "{length:?}");
    }
    for mark in ["0", "", "soon", "-1"] {
        let answer = answer(424, &[(MARK, mark)], "x");
        assert!(!may_store(&cache, &plain, &answer), "{mark}");
    }
}

#[test]
fn nothing_is_learned_from_other_words_or_other_paths() {
    let mut cache = cache();
    let now = Instant::now();
    for body in [
        sentence("/user/bob/api/x"),
        sentence("/user/ada/api/xy"),
        "{\"message\": \"The database is away: /user/ada/api/x. \"}".to_owned(),
    ] {
        let learning = poll(&cache, "/hub/user/ada/api/x", ADA).unwrap();
        let told = Answer {
            body: body.as_bytes().into(),
            ..told("")
        };
        pass(&mut cache, learning, &told, now);
        let key = poll(&cache, "/user/ada/api/x", ADA).unwrap();
        assert!(cache.get(&key, now).is_none(), "{body}");
    }
    // Nor from who shows no credential.
    let learning = poll(&cache, "/hub/user/ada/api/x", b"short=secret").unwrap();
    pass(&mut cache, learning, &told("/user/ada/api/x"), now);
    assert_eq!(cache.young.entries.len(), 0);
}

#[test]
fn one_request_renews_an_answer_before_it_ends_and_none_is_given_after() {
    for learn in [false, true] {
        let mut cache = cache();
        let start = Instant::now();
        let second = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let fill = |cache: &mut EdgeCache, now| {
            let (target, answer) = if learn {
                ("/hub/user/ada/api/x", told("/user/ada/api/x"))
            } else {
                ("/user/ada/api/x", marked())
            };
            let key = poll(cache, target, ADA).unwrap();
            assert!(pass(cache, key, &answer, now));
        };
        let given = |cache: &mut EdgeCache, now| {
            let key = poll(cache, "/user/ada/api/y", ADA).unwrap();
            cache.get(&key, now).is_some()
        };
        fill(&mut cache, second(0.0));
        assert!(given(&mut cache, second(26.9)));
        assert!(!given(&mut cache, second(27.0)));
        assert!(given(&mut cache, second(27.1)));
        assert!(given(&mut cache, second(29.9)));
        assert!(!given(&mut cache, second(30.0)));
        fill(&mut cache, second(40.0));
        assert!(given(&mut cache, second(66.9)));
        assert!(!given(&mut cache, second(67.0)));
        fill(&mut cache, second(67.2));
        assert!(given(&mut cache, second(90.0)));
        assert!(!given(&mut cache, second(1000.0)));
    }
}

#[test]
fn a_stranger_and_a_websocket_do_not_renew_a_learned_answer() {
    let mut cache = cache();
    let start = Instant::now();
    let learning = poll(&cache, "/hub/user/ada/api/x", ADA).unwrap();
    pass(&mut cache, learning, &told("/user/ada/api/x"), start);
    let late = start + Duration::from_secs(28);
    let stranger = poll(&cache, "/user/ada/api/x", BOB).unwrap();
    assert!(cache.get(&stranger, late).is_none());
    let channels = websocket(&cache, "/user/ada/api/kernels/1/channels", ADA);
    assert!(cache.get(&channels, late).is_some());
    let own = poll(&cache, "/user/ada/api/x", ADA).unwrap();
    assert!(cache.get(&own, late).is_none(), "ada's tab asks the hub");
    assert!(
        cache.get(&own, late).is_some(),
        "and is answered until it has"
    );
}

#[test]
fn the_hub_may_shorten_the_time() {
    let mut cache = cache();
    let now = Instant::now();
    let key = poll(&cache, "/user/ada/api/x", ADA).unwrap();
    let answer = answer(503, &[(MARK, "2")], "stopped");
    assert!(pass(&mut cache, key, &answer, now));
    let key = poll(&cache, "/user/ada/api/x", ADA).unwrap();
    assert!(cache.get(&key, now + Duration::from_secs(1)).is_some());
    assert!(cache.get(&key, now + Duration::from_secs(2)).is_none());
}

#[test]
fn without_a_lifetime_there_is_no_cache() {
    let cache = EdgeCache::new(Duration::ZERO);
    assert!(poll(&cache, "/user/ada/api/x", ADA).is_none());
}

/// Answers for ever new names push out each other, and the memory of old ones is given back.
#[test]
fn memory_is_bounded() {
    let mut cache = cache();
    let now = Instant::now();
    for number in 0..3 * MAX_ENTRIES {
        let key = poll(&cache, &format!("/user/u{number}/api/x"), ADA).unwrap();
        let mut answer = marked();
        if number % 2 == 0 {
            answer.body = vec![b'x'; MAX_BODY].into();
        }
        assert!(pass(&mut cache, key, &answer, now));
        assert!(cache.young.entries.len() + cache.old.entries.len() <= MAX_ENTRIES);
        assert!(cache.young.bytes + cache.old.bytes <= MAX_BYTES);
    }
    for generation in [&cache.young, &cache.old] {
        let sum = generation.entries.iter();
        let sum: usize = sum.map(|(group, entry)| entry.size() + group.len()).sum();
        assert_eq!(generation.bytes, sum);
    }
    let key = poll(&cache, "/user/nobody/api/x", ADA).unwrap();
    cache.get(&key, now + 2 * LIFETIME);
    cache.get(&key, now + 4 * LIFETIME);
    assert_eq!(cache.young.entries.len() + cache.old.entries.len(), 0);
}

/// The most bytes that an answer may have still fit into half a cache.
const _: () = assert!(MAX_BODY + MAX_HEADERS + MAX_PATH < MAX_BYTES / 8);

/// Each byte of a name as itself or escaped, by the bits of `choice`.
fn escape(name: &str, mut choice: u64) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        let must = !(byte.is_ascii_alphanumeric() || b"-_~!$&'()*+,;=:@".contains(&byte));
        if must || choice & 1 == 1 {
            let hex = format!("{byte:02x}");
            let hex = if choice & 2 == 2 {
                hex.to_uppercase()
            } else {
                hex
            };
            escaped.push('%');
            escaped += &hex;
        } else {
            escaped.push(char::from(byte));
        }
        choice = choice.rotate_right(2);
    }
    escaped
}

proptest! {
    /// Every way to escape a server's names finds the same answer, and no other server's.
    #[test]
    fn every_escape_of_a_name_is_the_same(
        name in "[^/\\\\\\x00-\\x1f]{1,12}",
        server in "[^/\\\\\\x00-\\x1f]{1,12}",
        other in "[^/\\\\\\x00-\\x1f]{1,12}",
        choice in any::<u64>(),
    ) {
        prop_assume!([&name, &server, &other].iter().all(|name| *name != "." && *name != ".."));
        let target = |name: &str, server: &str, choice| {
            format!("/user/{}/{}/api/x", escape(name, choice), escape(server, choice))
        };
        let group = |target: &str| asked(target).map(|key| key.group);
        let own = group(&target(&name, &server, 0));
        prop_assert!(own.is_some());
        prop_assert_eq!(&own, &group(&target(&name, &server, choice)));
        prop_assert_eq!(name == other, own == group(&target(&other, &server, choice)));
        prop_assert_eq!(server == other, own == group(&target(&name, &other, choice)));
    }

    /// Whatever path is asked for, a learned answer is the hub's sentence with this path, and JSON.
    #[test]
    fn a_learned_answer_names_the_path_that_was_asked_for(
        first in "[A-Za-z0-9._~!$&'()*+,;=:@%-]{0,20}",
        second in "[ -~]{0,20}",
    ) {
        let mut cache = cache();
        let now = Instant::now();
        let path = format!("/user/ada/api/{first}");
        if let Some(key) = poll(&cache, &format!("/hub{path}"), ADA) {
            prop_assert!(pass(&mut cache, key, &told(&path), now));
            let target = format!("/user/ada/api/{second}");
            if let Some(key) = poll(&cache, &target, ADA) {
                let given = cache.get(&key, now).unwrap();
                let path = target.split('?').next().unwrap();
                prop_assert_eq!(body(&given), sentence(path));
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&given.body).is_ok());
            }
        }
    }

    #[test]
    fn nothing_panics(target in "[/a-u%.?]{0,8}(/user/)?[/a-u%.0-9\\PC]{0,24}", websocket in any::<bool>()) {
        let cache = cache();
        let none = std::iter::empty();
        let key = cache.key(b"GET", target.as_bytes(), "/", websocket, None, none);
        if let Some(key) = key {
            prop_assert!(key.told.starts_with(b"/user/"));
        }
    }
}
