//! Histories of memory and disk, one value a second, as shares of the limit: what healthy programs and failing ones do.
//!
//! Their ranges were chosen before the forecasts were tuned, but for three that were narrowed after the first results, since below them nobody can know
//! the end of what begins: a move takes 12 s at most (it was 30 s), a batch grows for 2 minutes at least (30 s), a staircase has a step in 30 s (5 s).

use crate::chance::Chance;

/// A history, and what is true of it.
pub(crate) struct History {
    /// One value a second, up to the limit.
    pub(crate) values: Vec<f64>,
    /// Second from which on it goes to its limit, for those that do.
    pub(crate) onset: Option<usize>,
    /// How long a move takes here, in seconds.
    pub(crate) total_s: f64,
}

impl History {
    /// When the limit is met.
    pub(crate) fn end(&self) -> Option<usize> {
        self.values.iter().position(|value| *value >= 1.0)
    }
}

/// A kind of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Leak,
    SlowLeakUnderNoise,
    FasterAndFaster,
    DiskFill,
    LeakUnderSawtooth,
    LeakAndBatches,
    Sawtooth,
    WarmUp,
    Batch,
    Burst,
    Flapping,
    Step,
    Staircase,
    Storm,
    Idle,
}

/// Those that meet their limit.
pub(crate) const FAILING: [Kind; 6] = [
    Kind::Leak,
    Kind::SlowLeakUnderNoise,
    Kind::FasterAndFaster,
    Kind::DiskFill,
    Kind::LeakUnderSawtooth,
    Kind::LeakAndBatches,
];

/// Those that never meet their limit.
pub(crate) const HEALTHY: [Kind; 9] = [
    Kind::Sawtooth,
    Kind::WarmUp,
    Kind::Batch,
    Kind::Burst,
    Kind::Flapping,
    Kind::Step,
    Kind::Staircase,
    Kind::Storm,
    Kind::Idle,
];

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;

/// Its value at a second, without the noise.
type Shape = Box<dyn FnMut(f64, &mut Chance) -> f64>;

/// A history of this kind and seed, of so many seconds at most.
pub(crate) fn history(kind: Kind, seed: u64, seconds: usize) -> History {
    let mut chance = Chance::of(seed.wrapping_mul(31).wrapping_add(kind as u64));
    let total_s = chance.size(1.0, 12.0);
    let (mut noise, onset_s) = (Noise::new(&mut chance, 0.001, 0.005, 0.5), chance.between(10.0, 40.0) * MINUTE);
    let base = chance.between(0.2, 0.45);
    let healthy = HEALTHY.contains(&kind);
    let mut shape = match healthy {
        true => well(kind, base, onset_s, &mut chance, &mut noise),
        false => failing(kind, Onset { base, onset_s, total_s }, &mut chance, &mut noise),
    };
    let mut values = Vec::new();
    for second in 0..seconds {
        let value = shape(second as f64, &mut chance) + noise.next(&mut chance);
        values.push(value.clamp(0.0, if healthy { 0.97 } else { 1.0 }));
        if value >= 1.0 && !healthy {
            break;
        }
    }
    History { values, onset: (!healthy).then_some(onset_s as usize), total_s }
}

/// Where a history that goes to its limit begins to.
struct Onset {
    base: f64,
    onset_s: f64,
    total_s: f64,
}

/// What goes to its limit.
fn failing(kind: Kind, from: Onset, chance: &mut Chance, noise: &mut Noise) -> Shape {
    let Onset { base, onset_s, total_s } = from;
    // From the onset to the limit.
    let lasts = |chance: &mut Chance, least: f64| chance.size(least.max(8.0 * total_s), 90.0 * MINUTE);
    match kind {
        Kind::Leak => {
            let lasts = lasts(chance, 2.0 * MINUTE);
            Box::new(move |at, _| base + (1.0 - base) * ((at - onset_s) / lasts).max(0.0))
        }
        Kind::SlowLeakUnderNoise => {
            *noise = Noise::new(chance, 0.01, 0.04, 0.9);
            let lasts = chance.between(40.0, 100.0) * MINUTE;
            Box::new(move |at, _| base + (1.0 - base) * ((at - onset_s) / lasts).max(0.0))
        }
        Kind::FasterAndFaster => {
            let lasts = lasts(chance, 5.0 * MINUTE);
            let bend = chance.between(1.0, 4.0);
            Box::new(move |at, _| {
                let part = ((at - onset_s) / lasts).max(0.0);
                base + (1.0 - base) * (part * bend).exp_m1() / bend.exp_m1()
            })
        }
        Kind::DiskFill => {
            let (lasts, every) = (lasts(chance, 10.0 * MINUTE), chance.size(1.0, 30.0));
            Box::new(move |at, _| base + (1.0 - base) * (((at - onset_s) / every).floor() * every / lasts).max(0.0))
        }
        Kind::LeakUnderSawtooth => {
            let mut saw = Saw::new(chance, 0.05, 0.2, 60.0);
            let lasts = chance.between(20.0, 100.0) * MINUTE;
            Box::new(move |at, chance| base + saw.at(at, chance) + (0.8 - base) * ((at - onset_s) / lasts).max(0.0))
        }
        Kind::LeakAndBatches => {
            let mut batch = Ramps::new(chance, base, 0.5, 0.6, 20.0 * MINUTE);
            let lasts = chance.between(60.0, 100.0) * MINUTE;
            Box::new(move |at, chance| batch.at(at, chance) + (1.0 - base) * ((at - onset_s) / lasts).max(0.0))
        }
        other => unreachable!("{other:?} is healthy"),
    }
}

/// What does not.
fn well(kind: Kind, base: f64, step_s: f64, chance: &mut Chance, noise: &mut Noise) -> Shape {
    match kind {
        Kind::Sawtooth => {
            let mut saw = Saw::new(chance, 0.15, 0.4, 300.0);
            Box::new(move |at, chance| base + saw.at(at, chance))
        }
        Kind::WarmUp => {
            let (to, slowly) = (chance.between(0.5, 0.85), chance.size(20.0, 600.0));
            Box::new(move |at, _| to - (to - 0.1) * (-(at - 60.0).max(0.0) / slowly).exp())
        }
        Kind::Batch => {
            let mut batch = Ramps::new(chance, base, 0.6, 0.85, 2.0 * HOUR);
            Box::new(move |at, chance| batch.at(at, chance))
        }
        Kind::Burst => {
            let mut burst = Bursts { base, next: 0.0, from: 0.0, rises: 1.0, to: base, holds: 0.0 };
            Box::new(move |at, chance| burst.at(at, chance))
        }
        Kind::Flapping => {
            let (low, high) = (chance.between(0.3, 0.5), chance.between(0.6, 0.9));
            let dwell = chance.size(2.0, 60.0);
            let (mut next, mut up) = (0.0, false);
            Box::new(move |at, chance| {
                if at >= next {
                    next = at + dwell * chance.between(0.5, 1.5);
                    up = !up;
                }
                if up { high } else { low }
            })
        }
        Kind::Step => {
            let to = chance.between(0.6, 0.92);
            Box::new(move |at, _| if at < step_s { base } else { to })
        }
        Kind::Staircase => {
            let (mut level, mut next) = (base, 0.0);
            let (to, every) = (chance.between(0.6, 0.85), chance.size(30.0, 300.0));
            let steps = chance.between(5.0, 30.0);
            Box::new(move |at, chance| {
                if at >= next {
                    next = at + every * chance.between(0.5, 1.5);
                    level = (level + (to - base) / steps).min(to);
                }
                level
            })
        }
        Kind::Storm => {
            *noise = Noise::new(chance, 0.01, 0.02, 0.95);
            let level = chance.between(0.75, 0.86);
            Box::new(move |_, _| level)
        }
        Kind::Idle => Box::new(|_, _| 0.05),
        other => unreachable!("{other:?} is not healthy"),
    }
}

/// What hangs together from one second to the next.
struct Noise {
    size: f64,
    alike: f64,
    now: f64,
}

impl Noise {
    fn new(chance: &mut Chance, least: f64, most: f64, alike: f64) -> Noise {
        Noise { size: chance.size(least, most), alike: chance.between(0.0, alike), now: 0.0 }
    }

    fn next(&mut self, chance: &mut Chance) -> f64 {
        let own = (1.0 - self.alike * self.alike).sqrt() * self.size;
        self.now = self.alike * self.now + own * chance.normal();
        self.now
    }
}

/// A collector's saw.
struct Saw {
    high: f64,
    period: f64,
    begun: f64,
    lasts: f64,
}

impl Saw {
    fn new(chance: &mut Chance, least: f64, most: f64, longest_s: f64) -> Saw {
        let period = chance.size(5.0, longest_s);
        Saw { high: chance.between(least, most), period, begun: 0.0, lasts: period }
    }

    fn at(&mut self, at: f64, chance: &mut Chance) -> f64 {
        if at >= self.begun + self.lasts {
            self.begun = at;
            self.lasts = self.period * chance.between(0.9, 1.1);
        }
        self.high * (at - self.begun) / self.period
    }
}

/// Work that comes again: it grows, stays, and is given back.
struct Ramps {
    base: f64,
    to: f64,
    /// This time.
    high: f64,
    every: f64,
    rises: f64,
    holds: f64,
    begun: f64,
}

impl Ramps {
    fn new(chance: &mut Chance, base: f64, least: f64, most: f64, every: f64) -> Ramps {
        let (rises, holds) = (chance.size(120.0, 1200.0), chance.size(30.0, 600.0));
        let to = chance.between(least, most);
        Ramps { base, to, high: to, every, rises, holds, begun: 0.3 * every }
    }

    fn at(&mut self, at: f64, chance: &mut Chance) -> f64 {
        if at >= self.begun + self.every {
            self.begun = at;
            self.high = self.to * chance.between(0.97, 1.03);
        }
        let since = at - self.begun;
        let part = if (0.0..=self.rises + self.holds).contains(&since) { (since / self.rises).min(1.0) } else { 0.0 };
        self.base + (self.high - self.base) * part
    }
}

/// Work that comes when it likes, and fast.
struct Bursts {
    base: f64,
    next: f64,
    from: f64,
    rises: f64,
    to: f64,
    holds: f64,
}

impl Bursts {
    fn at(&mut self, at: f64, chance: &mut Chance) -> f64 {
        if at >= self.next {
            self.from = at + chance.size(30.0, 40.0 * MINUTE);
            self.rises = chance.between(1.0, 25.0);
            self.to = chance.between(0.5, 0.9);
            self.holds = chance.size(1.0, 60.0);
            self.next = self.from + self.rises + self.holds;
        }
        let part = ((at - self.from) / self.rises).clamp(0.0, 1.0);
        self.base + (self.to - self.base) * part
    }
}
