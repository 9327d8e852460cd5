//! The index against a model that says the same in the slowest way.

use super::*;
use crate::host::testing::SeededEntropy;
use apiary_protocol::cache::CellIdentity;
use apiary_protocol::ids::MeadowId;

const PART: u64 = 8 << 10;

fn cell(number: u64) -> CellIdentity {
    let meadow = MeadowId::from_random([1; 16]);
    CellIdentity::new(meadow, &format!("cell-{number}"), 1 << 30, 0)
}

fn name(number: u64) -> PartName {
    PartName {
        part: cell(number / 4).part((number % 4) as u32),
        length: 4_000,
    }
}

/// Parts from the one whose use is longest ago to the last used, with how many read each.
#[derive(Default)]
struct Model(Vec<(PartName, u32)>);

impl Model {
    fn at(&self, part: PartId) -> Option<usize> {
        self.0.iter().position(|(name, _)| name.part == part)
    }

    fn make_room(&mut self, room: usize) -> Option<Vec<PartName>> {
        if self.0.iter().filter(|(_, pins)| *pins > 0).count() >= room {
            return None;
        }
        let mut gone = Vec::new();
        while self.0.len() >= room {
            let oldest = self.0.iter().position(|(_, pins)| *pins == 0)?;
            gone.push(self.0.remove(oldest).0);
        }
        Some(gone)
    }
}

#[test]
fn whatever_happens_the_least_recently_used_part_goes_and_the_limit_is_kept() {
    for seed in 0..200 {
        let random = SeededEntropy::new(seed);
        let room = 1 + random.below(12) as usize;
        let mut index = PartIndex::new(room as u64 * PART, u64::MAX);
        let mut model = Model::default();
        for _ in 0..400 {
            let name = name(random.below(24));
            match random.below(5) {
                0 | 1 => {
                    let gone = index.make_room(name.length);
                    assert_eq!(gone, model.make_room(room), "seed {seed}");
                    if gone.is_some() {
                        index.insert(name);
                        if let Some(at) = model.at(name.part) {
                            model.0.remove(at);
                        }
                        model.0.push((name, 0));
                    }
                }
                2 => {
                    let at = model.at(name.part);
                    assert_eq!(index.pin(name.part), at.is_some(), "seed {seed}");
                    if let Some(at) = at {
                        model.0[at].1 += 1;
                    }
                }
                3 => {
                    index.unpin(name.part);
                    if let Some(at) = model.at(name.part).filter(|at| model.0[*at].1 > 0) {
                        let (name, pins) = model.0.remove(at);
                        // It was used last when nobody reads it any more.
                        match pins {
                            1 => model.0.push((name, 0)),
                            _ => model.0.insert(at, (name, pins - 1)),
                        }
                    }
                }
                _ => {
                    let at = model.at(name.part);
                    let removed = at.map(|at| model.0.remove(at).0);
                    assert_eq!(index.remove(name.part), removed, "seed {seed}");
                }
            }
            assert_eq!(index.part_count(), model.0.len());
            assert_eq!(index.used_bytes(), model.0.len() as u64 * PART);
            assert!(index.used_bytes() <= index.bytes_max());
        }
    }
}

#[test]
fn the_next_process_goes_on_with_the_order_of_the_last_one() {
    let mut index = PartIndex::new(100 * PART, u64::MAX);
    (0..6).for_each(|number| index.insert(name(number)));
    for number in [0, 3] {
        assert!(index.pin(name(number).part));
        index.unpin(name(number).part);
    }
    let order = index.order();
    // One was written after the order was saved, and one is lost.
    let found = [0, 1, 2, 3, 5, 7].map(name).to_vec();
    let mut next = PartIndex::new(4 * PART, u64::MAX);
    assert_eq!(next.adopt(found, &order), [1, 2].map(name));
    assert_eq!(
        next.order(),
        UseOrder::new([5, 0, 3, 7].map(|n| name(n).part))
    );
}

#[test]
fn an_index_stays_inside_its_memory() {
    let mut index = PartIndex::new(u64::MAX, 3 * ENTRY_MEMORY_BYTES);
    for number in 0..10 {
        assert!(index.make_room(1).is_some());
        index.insert(name(number));
        assert!(index.part_count() <= 3);
    }
    assert_eq!(
        index.order(),
        UseOrder::new([7, 8, 9].map(|n| name(n).part))
    );
}

#[test]
fn a_cell_is_given_up_as_a_whole_and_others_stay() {
    let mut index = PartIndex::new(100 * PART, u64::MAX);
    (0..12).for_each(|number| index.insert(name(number)));
    assert!(index.pin(name(5).part));
    assert_eq!(index.remove_cell(cell(1).digest()), [4, 5, 6, 7].map(name));
    index.unpin(name(5).part);
    assert_eq!(index.part_count(), 8);
    assert_eq!(index.cells().bytes_of(cell(1).digest(), 1 << 30), 0);
    let cached = index.cells().bytes_of(cell(2).digest(), 1 << 30);
    assert_eq!(cached, 4 * apiary_protocol::cache::PART_BYTES);
    assert_eq!(index.make_room(4_000), Some(vec![]));
}
