//! A small sorted set of names, as one filter of a scope holds it.

use std::sync::Arc;

/// Names in order, each once. Mostly one or a few, so a sorted vector beats a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names(Vec<Arc<str>>);

impl Names {
    /// Whether `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_ok()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    pub(super) fn insert(&mut self, name: Arc<str>) {
        if let Err(place) = self.position(&name) {
            self.0.insert(place, name);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name| keep(name));
    }

    pub(super) fn extend_from(&mut self, other: &Self, take: impl Fn(&str) -> bool) {
        for name in other.0.iter().filter(|name| take(name)) {
            self.insert(Arc::clone(name));
        }
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|own| own.as_ref().cmp(name))
    }
}
