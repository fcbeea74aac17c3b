//! How hard to compress. Compressing is worth its time only where the link is slower than the compressors.
//!
//! [`Pace`] climbs and descends a ladder of levels by one question: when a chunk was ready, did it have to wait for the
//! link? If most of a chunk's time is waiting, there is time for a higher level; if chunks hardly wait, the compressors (or
//! whoever fills the pipes) are what is slow, and a lower level, down to none, cannot make it worse. It remembers how long a
//! chunk took at each level, all in all, so that it leaves a level that turns out slower than the one below, and does not
//! go to one that is known to be slower; it forgets after a while.
//!
//! [`Probe`] asks the data: what a sample says will not shrink travels raw at every level.
//!
//! Both are pure: times come in as arguments.

use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How one chunk is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Not.
    Raw,
    /// By zstd at this level; negative ones are faster.
    Zstd(i32),
}

const LADDER: [Level; 8] = [
    Level::Raw,
    Level::Zstd(-7),
    Level::Zstd(-3),
    Level::Zstd(-1),
    Level::Zstd(1),
    Level::Zstd(3),
    Level::Zstd(6),
    Level::Zstd(9),
];
/// The share of its time that a chunk waits, above which the link is what is slow.
const RAISE_ABOVE: f64 = 0.5;
/// The share below which it is not, unless a lower level is known to be slower.
const LOWER_BELOW: f64 = 0.1;
/// The share below which nothing waits at all, whatever was known before.
const LOWER_ANYHOW: f64 = 0.01;
/// Where the smoothed share begins at a new level.
const NEUTRAL: f64 = 0.3;
/// How much one observation counts.
const WEIGHT: f64 = 0.25;
/// After so many refusals to climb, what caused them is forgotten: other data may have come.
const PATIENCE: u32 = 64;

/// After so many chunks a level is judged: those that were queued before it are then gone.
const SETTLED: u32 = 8;

/// One pace for everything that shares a link; kept from one phase to the next, so that it knows the link at the freeze.
pub type SharedPace = Arc<Mutex<Pace>>;

/// The controller of the level.
#[derive(Debug, Clone)]
pub struct Pace {
    step: usize,
    /// The smoothed share of its time that a chunk waits.
    waiting: f64,
    /// The smoothed time of a chunk at each level, where it is known.
    period: [Option<Duration>; LADDER.len()],
    /// How many chunks were seen at the present level.
    seen: u32,
    refusals: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { step: 0, waiting: NEUTRAL, period: [None; LADDER.len()], seen: 0, refusals: 0 }
    }
}

impl Pace {
    /// A pace that knows nothing yet, to be shared. It begins without compression.
    pub fn shared() -> SharedPace {
        Arc::default()
    }

    /// A pace that begins in the midst of the ladder, for tests that want chunks compressed.
    #[cfg(test)]
    pub(crate) fn compressing() -> SharedPace {
        Arc::new(Mutex::new(Pace { step: 3, ..Pace::default() }))
    }

    /// The level for the next chunk.
    pub fn level(&self) -> Level {
        LADDER[self.step]
    }

    /// A chunk took `encode_time` at the current level and then waited `send_wait` because the queue was full, or did not.
    pub fn observe(&mut self, queue_full: bool, encode_time: Duration, send_wait: Duration) -> Level {
        let wait = if queue_full { send_wait } else { Duration::ZERO };
        let period = encode_time + wait;
        let share = if period.is_zero() { 0.0 } else { wait.as_secs_f64() / period.as_secs_f64() };
        self.waiting += WEIGHT * (share - self.waiting);
        let known = self.period[self.step].map_or(period, |before| (before * 3 + period) / 4);
        self.period[self.step] = Some(known);
        self.seen += 1;
        if self.seen < SETTLED {
            return self.level();
        }
        if self.waiting > RAISE_ABOVE && self.may_climb(known) {
            self.go_to(self.step + 1);
        } else if self.step > 0 && self.should_descend(known) {
            self.go_to(self.step - 1);
        }
        self.level()
    }

    /// A level is judged by its own observations.
    fn go_to(&mut self, step: usize) {
        self.step = step;
        self.waiting = NEUTRAL;
        self.period[step] = None;
        self.seen = 0;
    }

    fn should_descend(&self, period: Duration) -> bool {
        let lower = self.period[self.step - 1];
        // The processors may be what makes the link slow: then compression only makes it slower.
        let climbing_did_not_pay = lower.is_some_and(|lower| lower + lower / 8 < period);
        let lower_is_no_slower = lower.is_none_or(|lower| lower <= period);
        climbing_did_not_pay || self.waiting < LOWER_ANYHOW || (self.waiting < LOWER_BELOW && lower_is_no_slower)
    }

    /// Whether there is a next level, and it is not known to take longer.
    fn may_climb(&mut self, period: Duration) -> bool {
        let Some(next) = self.period.get_mut(self.step + 1) else { return false };
        if next.is_none_or(|known| known < period) {
            self.refusals = 0;
            return true;
        }
        self.refusals += 1;
        if self.refusals >= PATIENCE {
            self.refusals = 0;
            *next = None;
        }
        false
    }
}

/// Samples are taken in pieces of a memory page, for that is what images are made of.
const PIECE_BYTES: usize = 4 << 10;
const PIECES: usize = 4;

/// Looks at a sample of a chunk.
pub struct Probe {
    zstd: zstd::bulk::Compressor<'static>,
    sample: Vec<u8>,
    out: Vec<u8>,
}

impl Probe {
    /// A probe.
    pub fn new() -> std::io::Result<Probe> {
        let zstd = zstd::bulk::Compressor::new(-1)?;
        let capacity = PIECE_BYTES * PIECES;
        Ok(Probe { zstd, sample: Vec::with_capacity(capacity), out: vec![0; capacity] })
    }

    /// Whether compressing `raw` would save at least a sixteenth, judged by a few of its pages.
    pub fn compressible(&mut self, raw: &[u8]) -> bool {
        self.sample.clear();
        sample(raw, &mut self.sample);
        let limit = self.sample.len() - self.sample.len() / 16;
        // Too little room is how zstd says that it did not shrink.
        self.zstd.compress_to_buffer(&self.sample, &mut self.out[..limit]).is_ok()
    }
}

/// A few pieces, evenly spread from the first page to the last; everything where there is little.
fn sample(raw: &[u8], sample: &mut Vec<u8>) {
    if raw.len() <= PIECE_BYTES * PIECES {
        return sample.extend_from_slice(raw);
    }
    let stride = (raw.len() - PIECE_BYTES) / (PIECES - 1);
    for piece in 0..PIECES {
        sample.extend_from_slice(&raw[piece * stride..][..PIECE_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::chunk::CHUNK_BYTES;

    /// Plays a link that takes `raw_time` for a raw chunk, and data for which each level takes twice the time of the
    /// one before and saves a little more. Returns the levels it went through.
    fn play(pace: &mut Pace, raw_time: Duration, chunks: usize) -> Vec<usize> {
        (0..chunks)
            .map(|_| {
                let step = pace.step;
                let encode = Duration::from_micros(300) * (1 << step);
                let link = raw_time / (step as u32 + 1);
                let wait = link.saturating_sub(encode);
                pace.observe(!wait.is_zero(), encode, wait);
                pace.step
            })
            .collect()
    }

    #[test]
    fn an_unlimited_link_is_not_compressed_for() {
        let mut pace = Pace::default();
        play(&mut pace, Duration::ZERO, 20);
        assert_eq!(pace.level(), Level::Raw);
    }

    #[test]
    fn a_slow_link_gets_the_highest_level_that_pays() {
        let mut pace = Pace::default();
        let steps = play(&mut pace, Duration::from_millis(1000), 200);
        assert_eq!(steps.last(), Some(&(LADDER.len() - 1)));
    }

    #[test]
    fn it_settles_between_and_rarely_tries_what_was_too_slow() {
        let mut pace = Pace::default();
        play(&mut pace, Duration::from_millis(10), 100);
        let steps = play(&mut pace, Duration::from_millis(10), 200);
        let moves = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(steps.iter().all(|step| (1..=5).contains(step)), "{steps:?}");
        assert!(moves <= 20, "{moves} changes: {steps:?}");
    }

    #[test]
    fn compression_that_only_takes_the_receivers_time_is_given_up() {
        let mut pace = Pace::default();
        // Both ends on the same processors: whatever compression takes makes the receiver slower still.
        let mut raw = 0;
        for _ in 0..500 {
            let step = pace.step as u32;
            let encode = Duration::from_micros(300) * (1 << step);
            pace.observe(true, encode, Duration::from_micros(700) + Duration::from_micros(300) * step);
            raw += u32::from(pace.level() == Level::Raw);
        }
        assert!(raw > 400, "{raw} of 500 raw");
    }

    #[test]
    fn it_comes_down_soon_when_the_link_becomes_fast() {
        let mut pace = Pace::default();
        play(&mut pace, Duration::from_millis(1000), 200);
        let steps = play(&mut pace, Duration::ZERO, 100);
        assert_eq!(steps.last(), Some(&0), "{steps:?}");
    }

    #[test]
    fn waiting_counts_only_where_the_queue_was_full() {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.observe(false, Duration::from_micros(100), Duration::from_secs(1));
        }
        assert_eq!(pace.level(), Level::Raw);
    }

    #[test]
    fn the_probe_tells_noise_from_text() {
        let mut probe = Probe::new().unwrap();
        let mut noise = vec![0; CHUNK_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let text: Vec<u8> =
            b"the quick brown fox jumps over the lazy dog. ".iter().copied().cycle().take(CHUNK_BYTES).collect();
        for len in [1000, 4096, 16384, 16385, 65536, CHUNK_BYTES] {
            assert!(!probe.compressible(&noise[..len]), "noise {len}");
            assert!(probe.compressible(&text[..len]), "text {len}");
        }
        assert!(!probe.compressible(b"x"));
    }
}
