//! The mark of a frame in the making: `_making/{frame}`.
//!
//! Who makes a frame from rows uploads them before the registry knows of the frame. The mark says
//! where to, from before the first cell until it is known what became of them, so that somebody finds
//! the cells of a maker that was killed. Nothing is committed on the strength of it.

use crate::format::FormatError;
use crate::ids::FrameId;
use crate::keys;
use crate::sealed_json::{self, Document};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    /// The id that the frame is to have.
    pub id: FrameId,
    /// Where its cells go, relative to the meadow's root.
    pub location: String,
}

impl Document for Making {
    const KIND: &'static str = "making";
    const FORMAT: u32 = 1;
}

impl Making {
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        sealed_json::seal(self)
    }

    /// Cells are deleted at the location, so it is checked like one that a user gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let making: Self = sealed_json::open(bytes)?;
        making.check()?;
        Ok(making)
    }

    fn check(&self) -> Result<(), FormatError> {
        keys::check_location(&self.location)
            .map_err(|error| FormatError::Corrupt(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../tests-data/making-1.json");

    fn making(location: &str) -> Making {
        Making {
            id: FrameId::from_random([0x33; 16]),
            location: location.into(),
        }
    }

    #[test]
    fn format_1_is_read_for_ever_and_written_the_same() -> Result<(), FormatError> {
        let making = making("default/default/t.33333333");
        assert_eq!(Making::from_bytes(GOLDEN)?, making);
        let written = crate::envelope::inspect(&making.to_bytes()?)?;
        let golden = crate::envelope::inspect(GOLDEN)?;
        for field in ["kind", "format", "id", "location"] {
            assert_eq!(written[field], golden[field]);
        }
        Ok(())
    }

    #[test]
    fn a_mark_never_points_out_of_the_meadow_or_at_its_own_objects() {
        for location in ["../x", "/etc", "_registry", "a/_delta_log", ""] {
            assert!(making(location).to_bytes().is_err(), "{location}");
            let bytes = sealed_json::seal(&making(location)).unwrap_or_default();
            assert!(Making::from_bytes(&bytes).is_err(), "{location}");
        }
    }
}
