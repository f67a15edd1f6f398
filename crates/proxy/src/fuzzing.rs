//! What must hold for any input. The fuzz targets in `fuzz/` and tests of this crate give the
//! bytes; each function panics when something does not hold.

mod chunks;
mod heads;
mod routes;

pub use self::{
    chunks::chunked,
    heads::{forwarded, request, response},
    routes::{routes, trie},
};

/// Takes decisions out of the bytes of an input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// So many bytes, or as many as there are.
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Up to seven places to cut the rest at, and the rest.
    fn cuts(&mut self) -> (Vec<usize>, &'a [u8]) {
        let number = self.byte().unwrap_or_default() % 8;
        let steps = self.take(number.into()).to_vec();
        let rest = std::mem::take(&mut self.0);
        let mut place = 0;
        let cuts = steps.into_iter().map(|step| {
            place = (place + usize::from(step)).min(rest.len());
            place
        });
        (cuts.collect(), rest)
    }
}

/// The pieces that the cuts make.
fn pieces<'a>(cuts: &[usize], whole: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut begin = 0;
    for end in cuts.iter().copied().chain([whole.len()]) {
        pieces.push(&whole[begin..end]);
        begin = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    type Target = fn(&[u8]);

    const TARGETS: [(&str, Target); 6] = [
        ("trie", super::trie),
        ("routes", super::routes),
        ("request", super::request),
        ("response", super::response),
        ("chunked", super::chunked),
        ("forwarded", super::forwarded),
    ];

    /// What the fuzz targets start from, and what they once found.
    #[test]
    fn seeds_and_findings_hold() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds");
        for (name, target) in TARGETS {
            let files = fs::read_dir(seeds.join(name)).expect("each target has seeds");
            let mut number = 0;
            for file in files {
                target(&fs::read(file.unwrap().path()).unwrap());
                number += 1;
            }
            assert!(number >= 3, "{name} has but {number} seeds");
        }
    }

    /// Lines of heads, whole and broken, in any order: more of them are read than of mere noise.
    fn head() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("\r\n".to_owned()),
            Just("\r\n\r\n".to_owned()),
            Just("\n".to_owned()),
            Just("\r".to_owned()),
            Just(" ".to_owned()),
            Just("GET / HTTP/1.1\r\nHost: h\r\n".to_owned()),
            Just("POST /a%2f..?b HTTP/1.1\r\nHost: h:1\r\n".to_owned()),
            Just("OPTIONS * HTTP/1.0\r\n".to_owned()),
            Just("GET http://u@o/x HTTP/1.1\r\nHost: h\r\n".to_owned()),
            Just("HTTP/1.1 200 OK\r\n".to_owned()),
            Just("HTTP/1.0 304\r\n".to_owned()),
            Just("Content-Length: 3\r\n".to_owned()),
            Just("content-length:\t3 \r\n".to_owned()),
            Just("Transfer-Encoding: chunked\r\n".to_owned()),
            Just("Transfer-Encoding:chunked, chunked\r\n".to_owned()),
            Just("Connection: close, x-a, host, content-length\r\n".to_owned()),
            Just("Connection: upgrade\r\nUpgrade: websocket\r\n".to_owned()),
            Just("TE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n".to_owned()),
            Just("X-Forwarded-For: 1\r\nx-forwarded-host: o\r\n".to_owned()),
            Just("Location: http://h/x\r\n".to_owned()),
            Just("Set-Cookie: a\r\nSet-Cookie: b\r\n".to_owned()),
            Just("Expect: 100-continue\r\n".to_owned()),
            "x-[a-c]: ?[ -~]{0,8}\r\n",
            "[ -~\r\n\t\u{0}\u{e9}]{0,6}",
        ];
        let parts = proptest::collection::vec(part, 0..10);
        parts.prop_map(|parts| parts.concat().into_bytes())
    }

    /// The same for bodies.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("3\r\nabc\r\n".to_owned()),
            Just("00a;x=y\r\n0123456789\r\n".to_owned()),
            Just("0\r\n".to_owned()),
            Just("\r\n".to_owned()),
            Just("X-T: 1\r\n".to_owned()),
            Just("Content-Length: 1\r\n".to_owned()),
            "[0-9a-fA-F]{1,2}(;[ -~]{0,3})?\r\n",
            "[ -~\r\n]{0,4}",
        ];
        let parts = proptest::collection::vec(part, 0..8);
        parts.prop_map(|parts| parts.concat().into_bytes())
    }

    /// How an input begins that is cut.
    fn cuts() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0..60_u8, 0..8).prop_map(|steps| {
            let mut cuts = vec![u8::try_from(steps.len()).expect("there are but seven")];
            cuts.extend(steps);
            cuts
        })
    }

    proptest! {
        #[test]
        fn nothing_breaks_them(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }

        #[test]
        fn chunks_are_the_same_however_they_come(cuts in cuts(), body in body()) {
            super::chunked(&[cuts, body].concat());
        }

        #[test]
        fn heads_are_the_same_however_they_come(cuts in cuts(), head in head(), body in body()) {
            let data = [&cuts[..], &head, b"\r\n", &body].concat();
            super::request(&data);
            super::response(&data);
        }

        #[test]
        fn one_request_goes_on_as_one(
            options in any::<[u8; 2]>(),
            head in head(),
            answer in head(),
        ) {
            let data = [&options[..], &head, b"\r\n", &answer, b"\r\n"].concat();
            super::forwarded(&data);
        }

        #[test]
        fn every_path_finds_the_longest_route(
            lines in proptest::collection::vec("[+-]?(/?(user|a%40b|a@b|%2[eEfF]|[.]{1,2}|[a-b]|%[0-9a-f]{2})){0,5}/?", 0..20),
        ) {
            super::routes(lines.join("\n").as_bytes());
        }
    }
}
