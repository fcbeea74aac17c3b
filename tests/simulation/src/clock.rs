//! A node's own clock: faster or slower than the world's, and sometimes it jumps.

use migrate_proto::handover::Millis;

use crate::random::Random;

/// In thousandths of the world's speed.
const SLOWEST: u64 = 700;
const FASTEST: u64 = 1400;

/// The clock of one node.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// Both show the same instant.
    world: u64,
    local: u64,
    speed: u64,
}

impl Clock {
    /// A clock with an offset and a speed of its own.
    pub(crate) fn new(random: &mut Random) -> Clock {
        Clock { world: 0, local: random.below(1_000_000), speed: random.between(SLOWEST, FASTEST) }
    }

    /// What it shows when the world's time is `world`.
    pub(crate) fn at(&self, world: u64) -> Millis {
        Millis(self.local + world.saturating_sub(self.world) * self.speed / 1000)
    }

    /// The first moment of the world at which it shows `local` or later.
    pub(crate) fn when(&self, local: Millis) -> u64 {
        self.world + (local.0.saturating_sub(self.local) * 1000).div_ceil(self.speed)
    }

    /// From now on it shows something else, and runs at another speed.
    pub(crate) fn jump(&mut self, world: u64, random: &mut Random) {
        let shown = self.at(world).0;
        let back = shown.saturating_sub(random.below(60_000));
        self.local = if random.one_in(2) { back } else { shown + random.below(60_000) };
        self.world = world;
        self.speed = random.between(SLOWEST, FASTEST);
    }
}
