//! The route table, against sorted maps.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Map, Value};

use super::Input;
use crate::{path, persistent_map::PersistentMap, routes::RouteTable, trie::Trie};

/// Any changes to a trie and to the map below it: what is found, what is kept and what an older
/// version still says is as with a plain map.
pub fn trie(data: &[u8]) {
    let mut input = Input(data);
    let mut trie = Trie::default();
    let mut model: BTreeMap<Vec<&[u8]>, usize> = BTreeMap::new();
    let mut map = PersistentMap::default();
    let mut flat: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut versions = Vec::new();
    let mut number = 0;
    while let Some(operation) = input.byte() {
        number += 1;
        let length = input.byte().unwrap_or_default() % 5;
        let key: Vec<&[u8]> = (0..length)
            .map(|_| {
                let length = input.byte().unwrap_or_default() % 3;
                input.take(length.into())
            })
            .collect();
        let segments = || key.iter().copied();
        let first = key.first().copied().unwrap_or_default();
        match operation % 8 {
            0..=2 => {
                assert_eq!(
                    trie.insert(segments(), number),
                    model.insert(key.clone(), number)
                );
                *map.get_or_insert_with(hash(first), first, &|| 0) = number;
                flat.insert(first, number);
            }
            3 | 4 => {
                assert_eq!(trie.remove(segments()), model.remove(&key));
                let mut removed = None;
                map.update_or_remove(hash(first), first, |value| {
                    removed = Some(*value);
                    false
                });
                assert_eq!(removed, flat.remove(first));
            }
            5 => versions.push((trie.clone(), model.clone(), map.clone(), flat.clone())),
            _ => {}
        }
        check(&trie, &model, &key);
        check_map(&map, &flat, first);
    }
    for (trie, model, map, flat) in &versions {
        for key in model.keys() {
            check(trie, model, key);
        }
        for key in flat.keys() {
            check_map(map, flat, key);
        }
    }
}

fn check(trie: &Trie<usize>, model: &BTreeMap<Vec<&[u8]>, usize>, key: &[&[u8]]) {
    assert_eq!(trie.len(), model.len());
    assert_eq!(trie.get(key.iter().copied()), model.get(key));
    let expected = (0..=key.len())
        .rev()
        .find_map(|depth| model.get(&key[..depth]).map(|value| (value, depth)));
    let found = trie.find(key.iter().copied());
    assert_eq!(found.map(|found| (found.value, found.depth)), expected);
    let mut all = Vec::new();
    trie.for_each(|value| all.push(*value));
    all.sort_unstable();
    let mut expected: Vec<usize> = model.values().copied().collect();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

fn check_map(map: &PersistentMap<usize>, flat: &BTreeMap<&[u8], usize>, key: &[u8]) {
    assert_eq!(map.is_empty(), flat.is_empty());
    assert_eq!(map.get(hash(key), key), flat.get(key));
    let mut all = Vec::new();
    map.for_each(&mut |value| all.push(*value));
    all.sort_unstable();
    let mut expected: Vec<usize> = flat.values().copied().collect();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

/// A bad one: whole keys share it, and others share all bits but a few.
fn hash(key: &[u8]) -> u64 {
    match key {
        [] => 0,
        [one] => u64::from(one % 4) << 60,
        [one, ..] => u64::from(one % 8) * 0x0842_1084_2108_4210,
    }
}

/// Lines: `+path` adds a route, `-path` removes one, anything else is asked for.
pub fn routes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let table = RouteTable::new(false);
    let mut model: BTreeMap<Vec<Vec<u8>>, String> = BTreeMap::new();
    for line in text.split('\n').take(200) {
        if let Some(path) = line.strip_prefix('+') {
            let mut data = Map::new();
            data.insert("target".to_owned(), Value::from("http://h"));
            if let Ok(route) = table.add(path, data) {
                assert!(route.path.starts_with('/'));
                let stored = model.insert(segments(path.as_bytes()), route.path.to_string());
                assert!(stored.is_none_or(|stored| *stored == *route.path));
            }
        } else if let Some(path) = line.strip_prefix('-') {
            let removed = table.remove(path).map(|route| route.path.to_string());
            assert_eq!(removed, model.remove(&segments(path.as_bytes())));
        } else {
            ask(&table, &model, line);
        }
        assert_eq!(table.len(), model.len());
    }
    for path in model.values() {
        let found = table.get(path).expect("what is listed can be got");
        assert_eq!(*found.path, **path);
    }
}

fn ask(table: &RouteTable, model: &BTreeMap<Vec<Vec<u8>>, String>, raw: &str) {
    let asked = segments(&path::lookup_form(raw));
    let expected = (0..=asked.len())
        .rev()
        .find_map(|depth| model.get(&asked[..depth]).map(|path| (path.clone(), depth)));
    let found = table.find(None, raw);
    let found = found.map(|found| (found.route.path.to_string(), found.depth));
    assert_eq!(found, expected, "{raw:?}");
    if !raw.starts_with('/') {
        return;
    }
    // The same path with all that may be escaped escaped is for the same server.
    let escaped: String = raw
        .split('/')
        .map(escape_anew)
        .collect::<Vec<_>>()
        .join("/");
    assert_eq!(
        segments(&path::lookup_form(&escaped)),
        asked,
        "{raw:?} {escaped:?}"
    );
    // What a server gets without its prefix is the rest of the path.
    for depth in 0..=asked.len() {
        let rest = path::without_prefix(raw, depth);
        assert!(
            rest.is_empty() || rest.starts_with('/') || rest.starts_with("%2"),
            "{rest:?}"
        );
        let rest = segments(&path::lookup_form(&rest));
        let expected = asked[depth..]
            .iter()
            .skip_while(|segment| segment.is_empty());
        assert!(
            rest.iter().eq(expected),
            "{raw:?} without {depth}: {rest:?}"
        );
    }
}

fn segments(path: &[u8]) -> Vec<Vec<u8>> {
    path::segments(path).map(<[u8]>::to_vec).collect()
}

/// Each byte that is no part of an escape becomes one; percent signs alone stand for themselves.
fn escape_anew(segment: &str) -> String {
    let mut rest = segment.as_bytes();
    let mut escaped = String::new();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match after {
            [a, b, after @ ..]
                if *byte == b'%' && a.is_ascii_hexdigit() && b.is_ascii_hexdigit() =>
            {
                escaped.extend(['%', char::from(*a), char::from(*b)]);
                rest = after;
            }
            _ => write!(escaped, "%{byte:02X}").expect("texts take any text"),
        }
    }
    escaped
}
