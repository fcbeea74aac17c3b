//! A clock whose rate is wrong, but within the bound that leases are made for. It counts sleep.

use migrate_proto::cluster::lease::Nanos;
use migrate_proto::handover::Millis;

use crate::random::Random;

/// The stated bound, and what clocks are really wrong by: a little less, for nanoseconds are rounded.
pub(crate) const RHO_PPM: u32 = 10_000;
const RATES_PPM: u64 = 9_999;

/// The clock of one node.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    zero: u64,
    /// In parts in a million.
    rate: u64,
}

impl Clock {
    /// One that is wrong by up to the bound, and mostly by that much.
    pub(crate) fn new(random: &mut Random) -> Clock {
        let some = random.below(2 * RATES_PPM);
        let off = [0, 2 * RATES_PPM, some][random.index(3)];
        Clock { zero: 1_000_000_000_000 + random.below(1_000_000_000), rate: 1_000_000 - RATES_PPM + off }
    }

    /// What it shows at this moment of the world.
    pub(crate) fn at(&self, world: u64) -> Nanos {
        Nanos(self.zero + world * self.rate / 1_000_000)
    }

    /// The same, as stewards want it.
    pub(crate) fn millis(&self, world: u64) -> Millis {
        Millis(self.at(world).0 / 1_000_000)
    }

    /// The first moment of the world at which it shows `local` or later.
    pub(crate) fn when(&self, local: Nanos) -> u64 {
        (local.0.saturating_sub(self.zero) * 1_000_000).div_ceil(self.rate)
    }
}
