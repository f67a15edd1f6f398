//! Lazy operations: what `c.Authenticator.admin_users.add("ada")` leaves behind, to be applied to
//! whatever value stands below. The order of steps is that of traitlets' `LazyConfigValue`.

use std::collections::BTreeMap;

use super::Value;

/// Operations on a list, set or dictionary whose value is not known yet.
#[derive(Clone, Default, PartialEq)]
#[cfg_attr(test, derive(Debug))]
pub struct Lazy {
    /// Items for the end of a list.
    pub extend: Vec<Value>,
    /// Items for the front of a list.
    pub prepend: Vec<Value>,
    /// Items for given places of a list, done first, in order.
    pub inserts: Vec<(i64, Value)>,
    /// Items to add to a set ([`Value::Set`]) or keys to set in a dictionary ([`Value::Dict`]).
    pub update: Option<Value>,
}

/// An operation met a value that it does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} cannot be used here: the value is {found}")]
pub struct LazyError {
    operation: &'static str,
    found: String,
}

impl Lazy {
    /// Puts these operations on top of `lower`, as if `lower`'s had been written first.
    pub fn over(self, mut lower: Self) -> Result<Self, LazyError> {
        lower.extend.extend(self.extend);
        lower.inserts.extend(self.inserts);
        let mut prepend = self.prepend;
        prepend.extend(lower.prepend);
        let update = match (lower.update, self.update) {
            (None, update) | (update, None) => update,
            (Some(below), Some(above)) => Some(updated(below, &above)?),
        };
        Ok(Self {
            extend: lower.extend,
            prepend,
            inserts: lower.inserts,
            update,
        })
    }

    /// The value that comes out when the operations are done on `initial`.
    pub fn apply(&self, initial: Value) -> Result<Value, LazyError> {
        let on_lists =
            !(self.extend.is_empty() && self.prepend.is_empty() && self.inserts.is_empty());
        match initial {
            Value::List(items) if self.update.is_none() => {
                Ok(Value::List(self.applied_to_list(items)))
            }
            value if on_lists => Err(LazyError {
                operation: "append, extend, prepend or insert",
                found: value.describe(),
            }),
            value => match &self.update {
                Some(update) => updated(value, update),
                None => Ok(value),
            },
        }
    }

    fn applied_to_list(&self, mut items: Vec<Value>) -> Vec<Value> {
        for (place, item) in &self.inserts {
            items.insert(python_index(*place, items.len()), item.clone());
        }
        items.splice(0..0, self.prepend.iter().cloned());
        items.extend(self.extend.iter().cloned());
        items
    }
}

/// Where Python's `list.insert` puts an item: negative counts from the end, too far is the end.
fn python_index(place: i64, length: usize) -> usize {
    match usize::try_from(place) {
        Ok(place) => place.min(length),
        Err(_) => {
            length.saturating_sub(usize::try_from(place.unsigned_abs()).unwrap_or(usize::MAX))
        }
    }
}

fn updated(value: Value, update: &Value) -> Result<Value, LazyError> {
    match (value, update) {
        (Value::Dict(mut items), Value::Dict(more)) => {
            items.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
            Ok(Value::Dict(items))
        }
        (Value::Set(items), Value::Set(more) | Value::List(more)) => {
            Ok(Value::Set(with_added(items, more)))
        }
        (Value::Set(items), Value::Dict(more)) => Ok(Value::Set(with_added(items, &keys(more)))),
        (value, Value::Dict(_)) => Err(LazyError {
            operation: "update",
            found: value.describe(),
        }),
        (value, _) => Err(LazyError {
            operation: "add or update with a set",
            found: value.describe(),
        }),
    }
}

fn with_added(mut items: Vec<Value>, more: &[Value]) -> Vec<Value> {
    for item in more {
        if !items.contains(item) {
            items.push(item.clone());
        }
    }
    items
}

fn keys(items: &BTreeMap<String, Value>) -> Vec<Value> {
    items.keys().map(|key| Value::Text(key.clone())).collect()
}
