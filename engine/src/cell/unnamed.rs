//! Cells that are in the meadow and in no ledger, and somebody to take them away.

use crate::error::{Error, Result};
use crate::store::Meadow;
use apiary_protocol::delta::Add;
use apiary_protocol::keys;

/// Owns cells that no version names: deleted when this is dropped, unless somebody else took them.
#[derive(Debug)]
pub struct Unnamed {
    meadow: Meadow,
    keys: Vec<String>,
}

impl Unnamed {
    /// `Corrupt` when an add leaves the location; then nothing is owned.
    pub fn new(meadow: &Meadow, location: &str, adds: &[Add]) -> Result<Self> {
        let key = |add: &Add| {
            keys::added_cell(location, &add.path).map_err(|error| Error::corrupt(location, error))
        };
        Ok(Self {
            meadow: meadow.clone(),
            keys: adds.iter().map(key).collect::<Result<_>>()?,
        })
    }

    /// Their keys, for who is going to name them: from now on they are its.
    pub fn hand_over(mut self) -> Vec<String> {
        std::mem::take(&mut self.keys)
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        if !keys.is_empty() {
            drop(self.meadow.discard(async {}, keys));
        }
    }
}
