//! Chance that repeats itself, and clocks that are wrong within bounds.

use crate::cluster::lease::Nanos;

/// SplitMix64: the same numbers for the same seed, everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635_dcd1_e867)
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    /// Whether one of `times` chances has come.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub(super) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A clock whose rate is wrong, but within the bound.
pub(super) struct Clock {
    zero: u64,
    /// In parts in a million.
    rate: u64,
    stands_since: Option<u64>,
}

impl Clock {
    /// One that is wrong by up to `rho_ppm`, and mostly by that much.
    pub(super) fn new(random: &mut Random, rho_ppm: u64) -> Clock {
        let some = random.below(2 * rho_ppm);
        let off = random.of(&[0, 2 * rho_ppm, some]);
        // Beyond the world's end, so that a moment before its beginning can be named.
        Clock {
            zero: 1_000_000_000_000 + random.below(1_000_000_000),
            rate: 1_000_000 - rho_ppm + off,
            stands_since: None,
        }
    }

    /// What it shows at this moment of the world.
    pub(super) fn at(&self, world: u64) -> Nanos {
        let world = self.stands_since.unwrap_or(world);
        Nanos(self.zero + world * self.rate / 1_000_000)
    }

    /// The first moment of the world at which it shows `local` or later.
    pub(super) fn when(&self, local: Nanos) -> u64 {
        (local.0.saturating_sub(self.zero) * 1_000_000).div_ceil(self.rate)
    }

    /// Its machine sleeps, and it does not count that.
    pub(super) fn stand(&mut self, world: u64) {
        self.stands_since = Some(world);
    }

    /// It goes on from where it stood.
    pub(super) fn go_on(&mut self, world: u64) {
        if let Some(since) = self.stands_since.take() {
            self.zero -= world * self.rate / 1_000_000 - since * self.rate / 1_000_000;
        }
    }
}
