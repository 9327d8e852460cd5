//! `apiary.json`: says that a root is a meadow and in which format. Created once, never changed.
//!
//! A root without it is new. Whoever creates it draws the id; whoever finds it takes it over.

use crate::format::FormatError;
use crate::ids::MeadowId;
use crate::sealed_json::{self, Document};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub id: MeadowId,
}

impl Document for Manifest {
    const KIND: &'static str = "meadow";
    /// The format of the meadow as a whole: raised when an older build must not touch it.
    const FORMAT: u32 = 1;
}

impl Manifest {
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        sealed_json::seal(self)
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        sealed_json::open(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../tests-data/manifest-1.json");

    #[test]
    fn format_1_is_read_for_ever_and_written_the_same() -> Result<(), FormatError> {
        let manifest = Manifest {
            id: MeadowId::from_random([0x11; 16]),
        };
        assert_eq!(Manifest::from_bytes(GOLDEN)?, manifest);
        let written = crate::envelope::inspect(&manifest.to_bytes()?)?;
        let golden = crate::envelope::inspect(GOLDEN)?;
        for field in ["kind", "format", "id"] {
            assert_eq!(written[field], golden[field]);
        }
        Ok(())
    }
}
