//! What a simulation does, by name.

use crate::world::World;

/// A scenario; its error says which invariant broke and where.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&mut World) -> Result<(), String>,
}

pub const ALL: &[Scenario] = &[];

pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}
