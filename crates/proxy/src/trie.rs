//! The longest-prefix trie over path segments.
//!
//! It knows nothing of HTTP: keys are sequences of byte segments, and the value of the longest
//! prefix of a looked-up sequence wins.

use std::hash::{BuildHasher, RandomState};

use crate::persistent_map::PersistentMap;

/// A trie whose clones share their nodes. `T` is cloned when a node is copied, so it should be
/// cheap to clone (an `Arc`).
#[derive(Clone)]
pub(crate) struct Trie<T> {
    root: Node<T>,
    len: usize,
    /// Keyed at random, because user names become keys.
    hasher: RandomState,
}

#[derive(Clone)]
struct Node<T> {
    value: Option<T>,
    children: PersistentMap<Node<T>>,
}

/// A value found by prefix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found<'a, T> {
    pub(crate) value: &'a T,
    /// How many segments the prefix has.
    pub(crate) depth: usize,
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
            hasher: RandomState::new(),
        }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self {
            value: None,
            children: PersistentMap::default(),
        }
    }
}

impl<T> Trie<T> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of the longest prefix of `segments` that has one.
    pub(crate) fn find<'a>(
        &self,
        segments: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<Found<'_, T>> {
        let mut node = &self.root;
        let mut best = node.value.as_ref().map(|value| Found { value, depth: 0 });
        for (parent, segment) in segments.into_iter().enumerate() {
            let Some(child) = node.children.get(self.hasher.hash_one(segment), segment) else {
                break;
            };
            node = child;
            if let Some(value) = &node.value {
                let depth = parent + 1;
                best = Some(Found { value, depth });
            }
        }
        best
    }

    /// The value at exactly `segments`.
    pub(crate) fn get<'a>(&self, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<&T> {
        let mut node = &self.root;
        for segment in segments {
            node = node.children.get(self.hasher.hash_one(segment), segment)?;
        }
        node.value.as_ref()
    }

    /// Calls `visit` for each value, in no particular order.
    pub(crate) fn for_each<'a>(&'a self, mut visit: impl FnMut(&'a T)) {
        self.root.for_each(&mut visit);
    }
}

impl<T: Clone> Trie<T> {
    /// Sets the value at `segments` and returns the one it replaces.
    pub(crate) fn insert<'a>(
        &mut self,
        segments: impl IntoIterator<Item = &'a [u8]>,
        value: T,
    ) -> Option<T> {
        let mut node = &mut self.root;
        for segment in segments {
            let hash = self.hasher.hash_one(segment);
            node = node
                .children
                .get_or_insert_with(hash, segment, &Node::default);
        }
        let replaced = node.value.replace(value);
        self.len += usize::from(replaced.is_none());
        replaced
    }

    /// Removes the value at exactly `segments`, and the nodes that only led to it.
    pub(crate) fn remove<'a>(&mut self, segments: impl IntoIterator<Item = &'a [u8]>) -> Option<T> {
        let segments: Vec<&[u8]> = segments.into_iter().collect();
        let removed = self.root.remove(&self.hasher, &segments);
        self.len -= usize::from(removed.is_some());
        removed
    }
}

impl<T> Node<T> {
    fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a T)) {
        if let Some(value) = &self.value {
            visit(value);
        }
        self.children.for_each(&mut |child| child.for_each(visit));
    }
}

impl<T: Clone> Node<T> {
    fn remove(&mut self, hasher: &RandomState, segments: &[&[u8]]) -> Option<T> {
        let Some((first, rest)) = segments.split_first() else {
            return self.value.take();
        };
        let mut removed = None;
        self.children
            .update_or_remove(hasher.hash_one(first), first, |child| {
                removed = child.remove(hasher, rest);
                child.value.is_some() || !child.children.is_empty()
            });
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
        path.chunks(1)
    }

    #[test]
    fn longest_prefix_wins() {
        let mut trie = Trie::default();
        trie.insert(segments(b""), "root");
        trie.insert(segments(b"ab"), "ab");
        trie.insert(segments(b"abcd"), "abcd");
        let found = |path| trie.find(segments(path)).map(|f| (*f.value, f.depth));
        assert_eq!(found(b"x"), Some(("root", 0)));
        assert_eq!(found(b"a"), Some(("root", 0)));
        assert_eq!(found(b"abx"), Some(("ab", 2)));
        assert_eq!(found(b"abc"), Some(("ab", 2)));
        assert_eq!(found(b"abcde"), Some(("abcd", 4)));
    }

    proptest! {
        /// Against the plain definition: of all stored keys that are a prefix, the longest.
        #[test]
        fn agrees_with_a_sorted_map(
            steps in proptest::collection::vec(("[abc]{0,4}", any::<bool>()), 0..80),
            lookups in proptest::collection::vec("[abc]{0,6}", 1..20),
        ) {
            let mut trie = Trie::default();
            let mut model = BTreeMap::new();
            for (key, insert) in &steps {
                if *insert {
                    prop_assert_eq!(
                        trie.insert(segments(key.as_bytes()), key.clone()),
                        model.insert(key.clone(), key.clone())
                    );
                } else {
                    prop_assert_eq!(trie.remove(segments(key.as_bytes())), model.remove(key));
                }
            }
            prop_assert_eq!(trie.len(), model.len());
            let mut all = Vec::new();
            trie.for_each(|value| all.push(value.clone()));
            all.sort();
            prop_assert_eq!(all, model.keys().cloned().collect::<Vec<_>>());
            for lookup in &lookups {
                let expected = model.keys().filter(|key| lookup.starts_with(*key)).max_by_key(|key| key.len());
                prop_assert_eq!(trie.find(segments(lookup.as_bytes())).map(|f| f.value), expected);
                prop_assert_eq!(trie.get(segments(lookup.as_bytes())), model.get(lookup));
            }
        }
    }
}
