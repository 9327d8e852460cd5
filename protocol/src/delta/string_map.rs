//! The protocol's `Map[String, String]`, cheap to share.
//!
//! A ledger of a hundred thousand cells names few different partitions, and a `BTreeMap` of its own
//! for each would cost more memory than all the rest of the cell. So the map is shared and copied
//! only when it is written to.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

type Inner = BTreeMap<String, Option<String>>;

/// An ordered map of texts; `None` is the protocol's null. Clones share, writes copy.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StringMap(Option<Arc<Inner>>);

static EMPTY: Inner = BTreeMap::new();

impl StringMap {
    pub fn new() -> Self {
        Self(None)
    }

    /// Whether both are the same map in memory.
    pub fn shares_with(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Deref for StringMap {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for StringMap {
    fn deref_mut(&mut self) -> &mut Inner {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

impl From<Inner> for StringMap {
    fn from(inner: Inner) -> Self {
        // An empty map has one form, so that equality and order need not look for two.
        Self((!inner.is_empty()).then(|| Arc::new(inner)))
    }
}

impl<K: Into<String>, V: Into<Option<String>>> FromIterator<(K, V)> for StringMap {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self::from(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect::<Inner>(),
        )
    }
}

impl<const N: usize> From<[(String, Option<String>); N]> for StringMap {
    fn from(pairs: [(String, Option<String>); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl<'a> IntoIterator for &'a StringMap {
    type Item = (&'a String, &'a Option<String>);
    type IntoIter = std::collections::btree_map::Iter<'a, String, Option<String>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::fmt::Debug for StringMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.deref().fmt(f)
    }
}

impl Serialize for StringMap {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.deref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for StringMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Some writers put null for an empty map.
        Ok(Option::<Inner>::deserialize(deserializer)?
            .unwrap_or_default()
            .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_to_a_clone_leaves_the_original() {
        let original: StringMap = [("a", Some("1".to_string()))].into_iter().collect();
        let mut copy = original.clone();
        assert!(copy.shares_with(&original));
        copy.insert("b".into(), None);
        assert_eq!(original.len(), 1);
        assert_eq!(copy.len(), 2);
    }

    #[test]
    fn an_emptied_map_reads_as_empty_and_null_reads_as_empty() {
        assert_eq!(
            serde_json::from_str::<StringMap>("null").unwrap(),
            StringMap::new()
        );
        assert_eq!(
            serde_json::from_str::<StringMap>("{}").unwrap(),
            StringMap::new()
        );
        let map: StringMap = serde_json::from_str(r#"{"p":null,"q":"x"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&map).unwrap(),
            r#"{"p":null,"q":"x"}"#
        );
    }
}
