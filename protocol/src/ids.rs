//! Identifiers: 128 random bits each, a type each, so that one is never taken for another.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Makes the identifier from 16 bytes of the host's entropy (a version 4 UUID).
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// Reads the canonical hyphenated text form.
            pub fn parse(text: &str) -> Option<Self> {
                uuid::Uuid::try_parse(text).ok().map(Self)
            }

            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The first eight hexadecimal digits, for names that people read.
            pub fn short(&self) -> String {
                self.0.simple().to_string()[..8].to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One meadow, from its first use on.
    MeadowId
);
id!(
    /// One version of the registry: tells our own change from somebody else's.
    ChangeId
);
id!(
    /// One process start of one node.
    NodeId
);
id!(
    /// One frame, for ever; equal to `metaData.id` of its ledger. An attached table keeps its own.
    FrameId
);
id!(
    /// One attempt to commit: `commitInfo.txnId`. Tells our own landed commit from somebody else's.
    CommitId
);
id!(
    /// One running query.
    QueryId
);
id!(
    /// One object that somebody wrote under a query: tells ours from somebody else's.
    AttemptId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_version_4_uuid_that_survives_its_text() {
        let id = FrameId::from_random([0x5a; 16]);
        assert_eq!(id.to_string(), "5a5a5a5a-5a5a-4a5a-9a5a-5a5a5a5a5a5a");
        assert_eq!(FrameId::parse(&id.to_string()), Some(id));
        assert_eq!(id.short(), "5a5a5a5a");
        assert_eq!(FrameId::parse("testId"), None);
    }
}
