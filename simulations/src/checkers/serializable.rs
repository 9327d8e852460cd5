//! Commits of one frame are strictly serializable: versions are an order of all acknowledged writes, and
//! a write that was acknowledged before another one began comes before it in that order.

use crate::workload::model::{Fate, Writes};
use std::time::Duration;

pub fn check(writes: &Writes) -> Result<(), String> {
    let mut answers: Vec<(Duration, u64, u64)> = Vec::new();
    let mut begins: Vec<(Duration, u64, u64)> = Vec::new();
    for (number, (_, fate)) in &writes.batches {
        let times = (writes.began_at.get(number), writes.learned_at.get(number));
        if let (Fate::Acknowledged { version }, (Some(began_at), Some(learned_at))) = (fate, times)
        {
            answers.push((*learned_at, *version, *number));
            begins.push((*began_at, *version, *number));
        }
    }
    answers.sort_unstable();
    begins.sort_unstable();
    let mut answers = answers.into_iter().peekable();
    let mut highest = None;
    for (began_at, version, number) in begins {
        while let Some((_, before, of)) = answers.next_if(|(at, ..)| *at < began_at) {
            highest = highest.max(Some((before, of)));
        }
        if let Some((before, of)) = highest.filter(|(before, _)| *before >= version) {
            return Err(format!(
                "LEDGER-1: write {number} got version {version}, and write {of}, answered before it \
                 began, version {before}"
            ));
        }
    }
    Ok(())
}
