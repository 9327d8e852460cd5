//! Who decides what goes wrong, and when.

use super::place::{Place, step};
use super::{Cast, Trouble};
use crate::clock;
use crate::object_store::Faults;
use crate::object_store::profiles::Profile;
use crate::rng::Rng;
use crate::scenarios::node;
use crate::world::World;
use std::time::Duration;

/// How long things go wrong.
const RAGE_SECONDS: (u64, u64) = (20, 240);

pub(super) struct Nemesis {
    rng: Rng,
    /// Of the disks.
    rot: Rng,
    trouble: Trouble,
    /// The store as it is at its best.
    profile: &'static Profile,
    until: Duration,
    /// When who is down starts, and who is frozen wakes, by index.
    back_at: Vec<Option<Duration>>,
    /// How often something goes wrong: a tenth of the longest pause is common.
    pause_ms_max: u64,
}

impl Nemesis {
    pub fn new(world: &World, trouble: Trouble, profile: &'static Profile) -> Self {
        let mut rng = world.rng.fork("nemesis");
        let (low, high) = RAGE_SECONDS;
        let until = clock::now() + Duration::from_secs(rng.between(low, high));
        let pause_ms_max = rng.between(500, 20_000);
        Self {
            rng,
            rot: world.rng.fork("rot"),
            trouble,
            profile,
            until,
            back_at: Vec::new(),
            pause_ms_max,
        }
    }

    /// Lets things go wrong until it is time, or until no client is left to suffer from it.
    pub fn rage(mut self, world: &mut World, cast: &mut Cast) -> Result<(), String> {
        self.back_at = vec![None; cast.places.len()];
        while clock::now() < self.until && !cast.places.iter().all(Place::is_idle) {
            let pause = Duration::from_millis(self.rng.below(self.pause_ms_max));
            self.wait(world, cast, pause)?;
            if self.rot.chance(100)
                && let Some(place) = self.rot.pick(&cast.places)
            {
                node::rot_cache(&place.computer, &mut self.rot.clone());
            }
            match self.trouble {
                Trouble::Swarm => self.strike(world, cast),
                Trouble::Damage => self.spoil(world)?,
            }
        }
        Ok(())
    }

    fn wait(&mut self, world: &mut World, cast: &mut Cast, pause: Duration) -> Result<(), String> {
        let end = clock::now() + pause;
        loop {
            let now = clock::now();
            for (place, back_at) in cast.places.iter_mut().zip(&mut self.back_at) {
                // A clean stop that is over begins a time out, too.
                if place.is_down() && back_at.is_none() {
                    *back_at = Some(now + Duration::from_millis(self.rng.below(10_000)));
                }
                if back_at.is_some_and(|at| at <= now) {
                    *back_at = None;
                    place.thaw();
                    if place.is_down() {
                        place.start(world)?;
                    }
                }
            }
            if now >= end {
                return Ok(());
            }
            let next = self.back_at.iter().flatten().min().copied();
            let until = next.map_or(end, |at| at.min(end));
            step(world, cast, until.saturating_sub(now))?;
        }
    }

    /// One thing that goes wrong with nodes or the store.
    fn strike(&mut self, world: &mut World, cast: &mut Cast) {
        let victim = self.rng.below(cast.places.len() as u64) as usize;
        let place = &mut cast.places[victim];
        let back = |rng: &mut Rng, most_ms: u64| {
            Some(clock::now() + Duration::from_millis(rng.below(most_ms)))
        };
        match self.rng.below(100) {
            0..25 if !place.is_down() => {
                place.crash(world, self.rng.chance(300));
                self.back_at[victim] = match self.rng.chance(400) {
                    true => Some(clock::now()),
                    false => back(&mut self.rng, 30_000),
                };
            }
            25..45 if place.is_up() => {
                let name = &place.computer.name;
                world.trace.event(name, format_args!("freeze"));
                world.trace.count("freezes", 1);
                place.freeze();
                self.back_at[victim] = back(&mut self.rng, 60_000);
            }
            45..55 if place.is_up() => {
                let name = &place.computer.name;
                world.trace.event(name, format_args!("stop"));
                world.trace.count("clean_stops", 1);
                place.begin_stop();
            }
            55..100 => {
                let faults = self.weather();
                world
                    .trace
                    .event("world", format_args!("weather {faults:?}"));
                world.store.set_faults(faults);
            }
            _ => {}
        }
    }

    /// How the store is for a while.
    fn weather(&mut self) -> Faults {
        let (rng, base) = (&mut self.rng, self.profile.faults);
        let list_late = Duration::from_millis(rng.below(5_000));
        match rng.below(6) {
            0 | 1 => base,
            2 => base.worsened(rng),
            3 => Faults {
                list_late,
                list_unordered: true,
                ..base.worsened(rng)
            },
            4 => Faults {
                throttled: rng.between(300, 900),
                ..base
            },
            _ => {
                let mut slow = base;
                slow.latency.most_us = rng.between(100_000, 2_000_000);
                slow.latency.tail = rng.between(0, 100);
                slow.latency.tail_factor = 50;
                slow
            }
        }
    }

    /// Damages what is there, or lets everything be damaged for a while as soon as it is written.
    fn spoil(&mut self, world: &mut World) -> Result<(), String> {
        match self.rng.below(10) {
            0..5 => super::settled(world.store.damage_any(&mut self.rng))?,
            5..9 => {
                let damaged = self.rng.between(20, 500);
                world.store.set_faults(Faults {
                    damaged,
                    damaged_rows: self.rng.chance(600),
                    ..self.profile.faults
                });
            }
            _ => world.store.set_faults(self.profile.faults),
        }
        Ok(())
    }
}
