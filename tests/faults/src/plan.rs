//! What happens when, all of it from the seed.

use std::time::Duration;

use fastrand::Rng;

use crate::child::Skew;

/// Worker processes that are killed again and again.
pub(crate) const SLOTS: usize = 4;

/// The faults of a run of `queue`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How long each worker of each slot lives.
    pub(crate) lives: Vec<Vec<Duration>>,
    /// The wall clocks of the slots.
    pub(crate) skews: [Option<Skew>; SLOTS],
    /// The worker that is never killed: how long it works, and how long it is then frozen.
    pub(crate) freezes: Vec<(Duration, Duration)>,
    /// The server crashes after so many kills.
    pub(crate) crashes: Vec<u64>,
    /// Connections are ended by the server after so many kills.
    pub(crate) terminations: Vec<u64>,
    /// How often the disk fills, afterwards.
    pub(crate) disks: u64,
    /// For the dice of the proxies and what the producers make.
    pub(crate) seeds: [u64; 4],
}

impl Plan {
    pub(crate) fn new(seed: u64, kills: u64, hold: Duration) -> Self {
        let mut dice = Rng::with_seed(seed);
        let mut lives = vec![Vec::new(); SLOTS];
        for kill in 0..kills {
            // Anything from the first instructions of its start to the middle of its work.
            let life = if dice.u8(..5) == 0 { dice.u64(1..100) } else { dice.u64(100..1_000) };
            lives[kill as usize % SLOTS].push(Duration::from_millis(life));
        }
        let skews = [None, Some(Skew(3)), Some(Skew(-26)), None];
        let millis = hold.as_millis() as u64;
        let freezes = (0..(kills / 15).max(2))
            .map(|_| {
                let (idle, frozen) = (dice.u64(20..300), dice.u64(millis * 12 / 10..millis * 2));
                (Duration::from_millis(idle), Duration::from_millis(frozen))
            })
            .collect();
        let mut moments = |count: u64| {
            let mut moments: Vec<u64> = (0..count).map(|_| dice.u64(0..kills.max(1))).collect();
            moments.sort_unstable();
            moments
        };
        let crashes = moments((kills / 50).max(1));
        let terminations = moments((kills / 25).max(1));
        let seeds = std::array::from_fn(|_| dice.u64(..));
        Self { lives, skews, freezes, crashes, terminations, disks: (kills / 200).clamp(1, 5), seeds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_is_the_plan() {
        let hold = Duration::from_secs(1);
        let plan = Plan::new(5, 1_000, hold);
        assert_eq!(plan, Plan::new(5, 1_000, hold));
        assert_ne!(plan, Plan::new(6, 1_000, hold));
        assert_eq!(plan.lives.iter().map(Vec::len).sum::<usize>(), 1_000);
        assert_eq!(plan.crashes.len(), 20);
        assert!(plan.freezes.iter().all(|(_, frozen)| *frozen > hold));
    }
}
