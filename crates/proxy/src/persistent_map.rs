//! A persistent hash map: a clone shares everything, a change copies only the path to it.
//!
//! The route table needs it because readers hold an old version while a writer makes the next:
//! with 100,000 routes below `/user`, copying a flat map for each added route would take
//! milliseconds, while this copies four small nodes.

use std::sync::Arc;

const BITS: u32 = 5;
const HASH_BITS: u32 = u64::BITS;

/// A map from text keys to values. The caller hashes the key, with one hasher for all calls.
pub(crate) struct PersistentMap<V> {
    root: Option<Arc<Branch<V>>>,
}

struct Branch<V> {
    /// Which of the 32 places are taken; the slots stand packed in the order of the bits.
    bitmap: u32,
    slots: Vec<Slot<V>>,
}

enum Slot<V> {
    Branch(Arc<Branch<V>>),
    Leaf(Arc<Leaf<V>>),
}

struct Leaf<V> {
    hash: u64,
    key: Box<[u8]>,
    value: V,
    /// Entries whose full hash is the same; practically always empty, and then not allocated.
    collided: Vec<(Box<[u8]>, V)>,
}

impl<V> Clone for PersistentMap<V> {
    fn clone(&self) -> Self {
        Self {
            root: self.root.clone(),
        }
    }
}

impl<V> Clone for Branch<V> {
    fn clone(&self) -> Self {
        Self {
            bitmap: self.bitmap,
            slots: self.slots.clone(),
        }
    }
}

impl<V> Clone for Slot<V> {
    fn clone(&self) -> Self {
        match self {
            Slot::Branch(branch) => Slot::Branch(Arc::clone(branch)),
            Slot::Leaf(leaf) => Slot::Leaf(Arc::clone(leaf)),
        }
    }
}

impl<V: Clone> Clone for Leaf<V> {
    fn clone(&self) -> Self {
        Self {
            hash: self.hash,
            key: self.key.clone(),
            value: self.value.clone(),
            collided: self.collided.clone(),
        }
    }
}

impl<V> Default for PersistentMap<V> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<V> PersistentMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    pub(crate) fn get(&self, hash: u64, key: &[u8]) -> Option<&V> {
        let mut branch = self.root.as_deref()?;
        let mut shift = 0;
        loop {
            match branch.slot(hash, shift)? {
                Slot::Branch(next) => branch = next,
                Slot::Leaf(leaf) => return leaf.get(hash, key),
            }
            shift += BITS;
        }
    }

    /// Calls `visit` for each entry, in no particular order.
    pub(crate) fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a V)) {
        if let Some(root) = &self.root {
            root.for_each(visit);
        }
    }
}

impl<V: Clone> PersistentMap<V> {
    /// The entry for `key`, made by `make` when it is missing.
    pub(crate) fn get_or_insert_with(
        &mut self,
        hash: u64,
        key: &[u8],
        make: &dyn Fn() -> V,
    ) -> &mut V {
        let root = self.root.get_or_insert_with(|| Arc::new(Branch::empty()));
        Branch::get_or_insert_with(Arc::make_mut(root), hash, key, 0, make)
    }

    /// Changes the entry for `key`, and drops it when `change` says so by returning `false`.
    /// Nothing is copied when there is no such entry.
    pub(crate) fn update_or_remove(
        &mut self,
        hash: u64,
        key: &[u8],
        change: impl FnOnce(&mut V) -> bool,
    ) {
        if self.get(hash, key).is_none() {
            return;
        }
        let root = self.root.as_mut().expect("the key was found above");
        Branch::update_or_remove(Arc::make_mut(root), hash, key, 0, change);
        if root.bitmap == 0 {
            self.root = None;
        }
    }
}

impl<V> Branch<V> {
    fn empty() -> Self {
        Self {
            bitmap: 0,
            slots: Vec::new(),
        }
    }

    fn slot(&self, hash: u64, shift: u32) -> Option<&Slot<V>> {
        let bit = bit(hash, shift);
        (self.bitmap & bit != 0).then(|| &self.slots[self.index(bit)])
    }

    fn index(&self, bit: u32) -> usize {
        (self.bitmap & (bit - 1)).count_ones() as usize
    }

    fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a V)) {
        for slot in &self.slots {
            match slot {
                Slot::Branch(branch) => branch.for_each(visit),
                Slot::Leaf(leaf) => {
                    visit(&leaf.value);
                    for (_, value) in &leaf.collided {
                        visit(value);
                    }
                }
            }
        }
    }
}

impl<V: Clone> Branch<V> {
    fn get_or_insert_with(
        &mut self,
        hash: u64,
        key: &[u8],
        shift: u32,
        make: &dyn Fn() -> V,
    ) -> &mut V {
        let bit = bit(hash, shift);
        let index = self.index(bit);
        if self.bitmap & bit == 0 {
            self.bitmap |= bit;
            self.slots
                .insert(index, Slot::Leaf(Arc::new(Leaf::new(hash, key, make()))));
        } else if let Slot::Leaf(leaf) = &self.slots[index]
            && leaf.hash != hash
        {
            // Two keys share this place: they move one level down, where the next bits tell
            // them apart.
            let mut below = Branch::empty();
            below.bitmap = self::bit(leaf.hash, shift + BITS);
            below.slots.push(Slot::Leaf(Arc::clone(leaf)));
            self.slots[index] = Slot::Branch(Arc::new(below));
        }
        match &mut self.slots[index] {
            Slot::Branch(branch) => {
                Arc::make_mut(branch).get_or_insert_with(hash, key, shift + BITS, make)
            }
            Slot::Leaf(leaf) => Arc::make_mut(leaf).get_or_insert_with(key, make),
        }
    }

    fn update_or_remove(
        &mut self,
        hash: u64,
        key: &[u8],
        shift: u32,
        change: impl FnOnce(&mut V) -> bool,
    ) {
        let bit = bit(hash, shift);
        let index = self.index(bit);
        let emptied = match &mut self.slots[index] {
            Slot::Branch(branch) => {
                let branch = Arc::make_mut(branch);
                branch.update_or_remove(hash, key, shift + BITS, change);
                branch.bitmap == 0
            }
            Slot::Leaf(leaf) => !Arc::make_mut(leaf).update_or_remove(key, change),
        };
        if emptied {
            self.bitmap &= !bit;
            self.slots.remove(index);
        }
    }
}

impl<V> Leaf<V> {
    fn new(hash: u64, key: &[u8], value: V) -> Self {
        Self {
            hash,
            key: key.into(),
            value,
            collided: Vec::new(),
        }
    }

    fn get(&self, hash: u64, key: &[u8]) -> Option<&V> {
        if self.hash != hash {
            return None;
        }
        if *self.key == *key {
            return Some(&self.value);
        }
        self.collided
            .iter()
            .find(|(collided, _)| **collided == *key)
            .map(|(_, value)| value)
    }

    fn get_or_insert_with(&mut self, key: &[u8], make: &dyn Fn() -> V) -> &mut V {
        if *self.key == *key {
            return &mut self.value;
        }
        let position = self
            .collided
            .iter()
            .position(|(collided, _)| **collided == *key);
        let position = position.unwrap_or_else(|| {
            self.collided.push((key.into(), make()));
            self.collided.len() - 1
        });
        &mut self.collided[position].1
    }

    /// Whether anything is left in this leaf.
    fn update_or_remove(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> bool) -> bool {
        if *self.key == *key {
            if change(&mut self.value) {
                return true;
            }
            let Some((key, value)) = self.collided.pop() else {
                return false;
            };
            self.key = key;
            self.value = value;
            return true;
        }
        if let Some(position) = self
            .collided
            .iter()
            .position(|(collided, _)| **collided == *key)
            && !change(&mut self.collided[position].1)
        {
            self.collided.swap_remove(position);
        }
        true
    }
}

/// The bit for the five bits of `hash` that this depth looks at. The hash is 64 bits long, and
/// leaves with different hashes differ in one of its thirteen groups, so `shift` stays in range.
fn bit(hash: u64, shift: u32) -> u32 {
    debug_assert!(shift < HASH_BITS);
    1 << ((hash >> shift) & 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u32),
        Remove(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..200, any::<u32>()).prop_map(|(key, value)| Step::Insert(key, value)),
            (0u16..200).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Any series of changes gives what a plain map gives, with good and with bad hashes,
        /// and leaves older versions as they were.
        #[test]
        fn behaves_as_a_map(
            steps in proptest::collection::vec(step(), 0..300),
            modulus in prop_oneof![Just(1u64), Just(3), Just(1 << 40)],
        ) {
            let hash = |key: u16| {
                (u64::from(key) % modulus).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            };
            let mut map = PersistentMap::default();
            let mut model = HashMap::new();
            let mut older = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                if number % 50 == 0 {
                    older.push((map.clone(), model.clone()));
                }
                match step {
                    Step::Insert(key, value) => {
                        *map.get_or_insert_with(hash(key), &key.to_be_bytes(), &|| value) = value;
                        model.insert(key, value);
                    }
                    Step::Remove(key) => {
                        map.update_or_remove(hash(key), &key.to_be_bytes(), |_| false);
                        model.remove(&key);
                    }
                }
            }
            older.push((map, model));
            for (map, model) in older {
                for key in 0u16..200 {
                    prop_assert_eq!(map.get(hash(key), &key.to_be_bytes()), model.get(&key));
                }
                let mut seen = 0;
                map.for_each(&mut |_| seen += 1);
                prop_assert_eq!(seen, model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
            }
        }
    }
}
