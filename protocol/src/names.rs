//! Names of hives, boxes, frames and columns: checked here and nowhere else.
//!
//! A name becomes a directory and a part of `hive.box.frame`, so what it may hold is what every
//! file system, object store and Delta reader takes unchanged: a location is never escaped.
//!
//! Invariants: a [`Name`] is in NFC, at most [`NAME_CHARS_MAX`] characters and [`NAME_BYTES_MAX`]
//! bytes; two names are equal when their folded forms are. Folding is NFC, then lower case
//! character by character (final sigma counts as sigma), then NFC again: independent of locale and
//! context, and simpler than full Unicode case folding (`ß` and `SS` stay two names).

use serde::{Deserialize, Serialize};
use std::fmt;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters of a hive, box or frame name.
pub const NAME_CHARS_MAX: usize = 128;
/// Bytes of a hive, box or frame name in UTF-8. File systems take 255 for a directory; the rest is
/// for `.<id8>` and for what other tools append.
pub const NAME_BYTES_MAX: usize = 200;
/// Bytes of a column name in UTF-8: with `=value` it must still be some directory's name.
pub const COLUMN_BYTES_MAX: usize = 255;

/// How much of a refused name a message repeats.
const SHOWN_CHARS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a {kind} name is empty; give it at least one character")]
    Empty { kind: &'static str },
    #[error("{kind} name {name:?}: {reason}")]
    Invalid {
        kind: &'static str,
        name: String,
        reason: &'static str,
    },
}

/// A checked name in NFC. Equality, order and hash ignore case; the spelling is kept for display.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name {
    text: String,
    folded: String,
}

/// `hive.box.frame`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameName {
    pub hive: Name,
    #[serde(rename = "box")]
    pub box_name: Name,
    pub frame: Name,
}

impl Name {
    /// `kind` is "hive", "box" or "frame", for the message.
    pub fn new(kind: &'static str, text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty { kind });
        }
        // Before normalising: the work on hostile input stays small.
        if text.len() > 4 * NAME_BYTES_MAX {
            return Err(refusal(kind, text, TOO_LONG));
        }
        let normal: String = text.nfc().collect();
        match fault_of(&normal) {
            Some(reason) => Err(refusal(kind, text, reason)),
            None => Ok(Self {
                folded: fold(&normal),
                text: normal,
            }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The form that is compared.
    pub fn folded(&self) -> String {
        self.folded.clone()
    }
}

/// Checks a column name. Looser than [`Name`]: existing tables have columns with dots, spaces and
/// slashes, and a partition directory escapes what it must. `path` is what a message calls the
/// column: its name behind those of the columns that it lies in.
pub fn check_column(name: &str, path: &str) -> Result<(), NameError> {
    let reason = if name.is_empty() {
        "is empty; give every column a name"
    } else if name.len() > COLUMN_BYTES_MAX {
        "is longer than 255 bytes; shorten it"
    } else if name.chars().any(char::is_control) {
        "holds a control character; remove it"
    } else {
        return Ok(());
    };
    Err(refusal("column", path, reason))
}

/// The form of a text in which names and locations are compared.
pub fn fold(text: &str) -> String {
    // The same, and most names and locations are: a registry of ten thousand is folded often.
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfc()
        .flat_map(char::to_lowercase)
        .map(|c| if c == 'ς' { 'σ' } else { c })
        .nfc()
        .collect()
}

const TOO_LONG: &str = "is longer than 128 characters or 200 bytes; shorten it";

fn refusal(kind: &'static str, text: &str, reason: &'static str) -> NameError {
    let mut name: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if name.len() < text.len() {
        name.push('…');
    }
    NameError::Invalid { kind, name, reason }
}

/// What is wrong with a non-empty name in NFC, and what to do about it.
fn fault_of(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES_MAX || name.chars().count() > NAME_CHARS_MAX {
        return Some(TOO_LONG);
    }
    if name.starts_with('_') {
        return Some(
            "begins with an underscore, which is reserved; begin with a letter or a digit",
        );
    }
    if name.starts_with(char::is_whitespace) || name.ends_with(char::is_whitespace) {
        return Some("begins or ends with a space; remove it");
    }
    if name.starts_with(is_combining_mark) {
        return Some("begins with a combining mark; begin with a letter or a digit");
    }
    name.chars().find_map(fault_of_char)
}

fn fault_of_char(c: char) -> Option<&'static str> {
    match c {
        '/' | '\\' => Some("holds a path separator (/ or \\); use - or _ instead"),
        '.' => Some(
            "holds a dot, which separates hive, box and frame; use - or _ instead, or give the \
             parts separately",
        ),
        // What Windows and SMB shares refuse, what S3 and GCS advise against, what URIs and globs
        // read as syntax, and `=`, which readers of Delta tables take for a partition directory.
        ':' | '*' | '?' | '"' | '<' | '>' | '|' | '%' | '#' | '~' | '^' | '`' | '{' | '}' | '['
        | ']' | '=' => Some(
            "holds one of : * ? \" < > | % # ~ ^ ` { } [ ] =, which directories and object stores \
             do not all take; use - or _ instead",
        ),
        ' ' => None,
        c if c.is_control() => Some("holds a control character; remove it"),
        c if c.is_whitespace() => Some("holds an unusual space; use an ordinary one"),
        c if is_invisible(c) => {
            Some("holds an invisible character (zero width, text direction or filler); remove it")
        }
        _ => None,
    }
}

/// Characters that show nothing and would make two names look alike: Unicode's default ignorable
/// code points and format characters (DerivedCoreProperties, General_Category Cf), and those that
/// are no characters at all.
fn is_invisible(c: char) -> bool {
    matches!(u32::from(c),
        0x00AD | 0x034F | 0x0600..=0x0605 | 0x061C | 0x06DD | 0x070F | 0x0890..=0x0891 | 0x08E2
        | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F | 0x200B..=0x200F | 0x202A..=0x202E
        | 0x2060..=0x206F | 0x2800 | 0x3164 | 0xFDD0..=0xFDEF | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
        | 0xFFF0..=0xFFFB | 0x110BD | 0x110CD | 0x13430..=0x1343F | 0x1BCA0..=0x1BCA3
        | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
        || u32::from(c) & 0xFFFE == 0xFFFE
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new("stored", &text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.text
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.folded == other.folded
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
        self.folded.cmp(&other.folded)
    }
}
impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.folded.hash(state);
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl FrameName {
    pub fn new(hive: Name, box_name: Name, frame: Name) -> Self {
        Self {
            hive,
            box_name,
            frame,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Result<Name, NameError> {
        Name::new("frame", text)
    }

    #[test]
    fn ordinary_names_are_taken_as_they_are() {
        for text in [
            "t",
            "Sales 2024",
            "a-b_c",
            "größe",
            "表",
            "имя",
            "1",
            "a'b",
            "x+y,z;(q)&@!$",
        ] {
            assert_eq!(
                name(text).map(|n| n.as_str().to_string()),
                Ok(text.to_string())
            );
        }
    }

    #[test]
    fn names_that_would_leave_or_break_a_directory_are_refused_with_advice() {
        for text in [
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a.b",
            "_t",
            "_delta_log",
            " t",
            "t ",
            "t.",
            "a:b",
            "a*",
            "a?",
            "a\"b",
            "<a>",
            "a|b",
            "50%",
            "a=b",
            "a#b",
            "a~b",
            "{a}",
            "[a]",
            "a`b",
            "a^b",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}b",
            "\u{feff}a",
            "a\u{200b}b",
            "a\u{202e}b",
            "a\u{ad}b",
            "a\u{a0}b",
            "a\u{3000}b",
            "a\u{2028}b",
            "\u{301}a",
            "a\u{fe0f}",
            "a\u{e0041}",
            "a\u{ffff}",
        ] {
            let error = name(text).expect_err(text).to_string();
            assert!(error.starts_with("frame name "), "{error}");
            assert!(
                error.contains("; ") || error.contains("remove it"),
                "no advice: {error}"
            );
        }
        assert_eq!(name(""), Err(NameError::Empty { kind: "frame" }));
    }

    #[test]
    fn length_is_bounded_in_characters_and_in_bytes() {
        assert!(name(&"a".repeat(128)).is_ok());
        assert!(name(&"a".repeat(129)).is_err());
        assert!(name(&"é".repeat(100)).is_ok());
        assert!(name(&"é".repeat(101)).is_err());
        assert!(name(&"表".repeat(67)).is_err());
        let error = name(&"x".repeat(1 << 20))
            .expect_err("too long")
            .to_string();
        assert!(error.len() < 300, "the message repeats the whole name");
    }

    #[test]
    fn names_are_compared_in_nfc_and_without_case() {
        for (a, b) in [
            ("Größe", "GRÖSSE".replace("SS", "ß").as_str()),
            ("e\u{301}", "É"),
            ("ΣΑΣ", "σας"),
            ("İ", "i\u{307}"),
            ("\u{212a}", "k"),
        ] {
            assert_eq!(name(a), name(b), "{a} {b}");
            assert_eq!(fold(a), fold(b));
        }
        assert_ne!(name("straße"), name("strasse"));
        assert_ne!(name("kır"), name("kir"));
        assert_eq!(
            name("e\u{301}").map(|n| n.as_str().to_string()),
            Ok("é".to_string())
        );
    }

    #[test]
    fn folding_is_idempotent_for_every_character() {
        for c in (0..=0x10FFFF).filter_map(char::from_u32) {
            let once = fold(&c.to_string());
            assert_eq!(fold(&once), once, "{c:?}");
        }
    }

    #[test]
    fn stored_names_are_checked_too() {
        assert!(serde_json::from_str::<Name>("\"../x\"").is_err());
        assert_eq!(
            serde_json::to_string(&name("Ab").ok()).ok().as_deref(),
            Some("\"Ab\"")
        );
    }

    #[test]
    fn columns_are_checked_more_loosely() {
        for text in ["a.b", "_x", "a b/c", "größe", "50 %"] {
            assert_eq!(check_column(text, text), Ok(()));
        }
        for text in ["", "a\nb", "\0", &"x".repeat(256)] {
            assert!(check_column(text, text).is_err());
        }
    }
}
