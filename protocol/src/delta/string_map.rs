//! The protocol's `Map[String, String]`, small and cheap to share.
//!
//! Such maps have an entry or two and come by the hundred thousand, one for each cell of a ledger, so
//! the entries lie in one sorted row: a `BTreeMap` takes half a kilobyte for its first.

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::sync::Arc;

type Entry = (String, Option<String>);

/// An ordered map of texts; `None` is the protocol's null. Clones share, writes copy.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StringMap(Option<Arc<Vec<Entry>>>);

impl StringMap {
    pub fn new() -> Self {
        Self(None)
    }

    fn entries(&self) -> &[Entry] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.entries()
            .binary_search_by(|(known, _)| known.as_str().cmp(key))
    }

    pub fn get(&self, key: &str) -> Option<&Option<String>> {
        self.place(key).ok().map(|place| &self.entries()[place].1)
    }

    pub fn contains_key(&self, key: &str) -> bool {
        self.place(key).is_ok()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&String, &Option<String>)> {
        self.entries().iter().map(|(key, value)| (key, value))
    }

    pub fn keys(&self) -> impl ExactSizeIterator<Item = &String> {
        self.entries().iter().map(|(key, _)| key)
    }

    pub fn len(&self) -> usize {
        self.entries().len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// The value that the key had before.
    pub fn insert(&mut self, key: String, value: Option<String>) -> Option<Option<String>> {
        let place = self.place(&key);
        let entries = Arc::make_mut(self.0.get_or_insert_default());
        match place {
            Ok(place) => Some(std::mem::replace(&mut entries[place].1, value)),
            Err(place) => {
                entries.insert(place, (key, value));
                None
            }
        }
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

impl<K: Into<String>, V: Into<Option<String>>> FromIterator<(K, V)> for StringMap {
    /// Of equal keys the last counts.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let mut map = Self::new();
        for (key, value) in pairs {
            map.insert(key.into(), value.into());
        }
        map
    }
}

impl<const N: usize> From<[(String, Option<String>); N]> for StringMap {
    fn from(pairs: [(String, Option<String>); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for StringMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for StringMap {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for StringMap {
    /// Some writers put null for an empty map.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = StringMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_none<E>(self) -> Result<StringMap, E> {
        Ok(StringMap::new())
    }

    fn visit_unit<E>(self) -> Result<StringMap, E> {
        Ok(StringMap::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<StringMap, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<StringMap, A::Error> {
        let mut map = StringMap::new();
        while let Some((key, value)) = access.next_entry()? {
            map.insert(key, value);
        }
        Ok(map)
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
