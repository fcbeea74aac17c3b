//! How hard to compress. Compressing is worth its time only where the link is slower than the compressors.
//!
//! [`Pace`] climbs and descends a ladder of levels. It asks two questions of a window of chunks. How fast did raw bytes get
//! away? That is what counts, and it is remembered for each level: a level that turns out slower than the one below is left,
//! and one that is known to be slower is not gone to. And did the chunks have to wait for the link? If most of their time
//! is waiting, there is time for a higher level; if they hardly wait, the compressors (or whoever fills the pipes) are what is
//! slow, and a lower level may be better. What is remembered is forgotten after a while, less often each time, and at once
//! when the link shows that it has become faster.
//!
//! [`Probe`] asks the data: what a sample says will not shrink travels raw at every level.
//!
//! Both are pure: times come in as arguments.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
/// The share of their time that chunks wait, above which the link is what is slow.
const RAISE_ABOVE: f64 = 0.5;
/// The share below which it is not.
const LOWER_BELOW: f64 = 0.1;
/// Measurements closer than this are equal.
const NOTICEABLE: f64 = 1.1;
/// The link is faster than believed when it carries so much more.
const EVIDENCE: f64 = 1.25;
/// After a change of level so many chunks belong to the old one: they were queued before it.
const SETTLING: u32 = 8;
/// A level is judged by this many chunks that were compressed at it.
const JUDGED_BY: u32 = 8;
/// After so many windows in which a neighbouring level was not tried because of what is remembered of it, that is
/// forgotten, for other data may have come. Doubles each time.
const PATIENCE: u32 = 16;
/// The encoders must have been busy for this share of a window, or it says nothing but that there was little to send.
const BUSY_ABOVE: f64 = 0.5;

/// One pace for everything that shares a link; kept from one phase to the next, so that it knows the link at the freeze.
pub type SharedPace = Arc<Mutex<Pace>>;

/// What became of one chunk.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// When it was handed over.
    pub at: Instant,
    /// Its length.
    pub raw_bytes: usize,
    /// What of it goes over the link.
    pub sent_bytes: usize,
    /// How long it took to make.
    pub encode_time: Duration,
    /// How long it waited for the link: for room in the queue, or for what the link still held.
    pub waited: Duration,
    /// Whether it was made at the current level. Data that does not shrink says nothing about levels.
    pub at_level: bool,
}

/// The controller of the level.
#[derive(Debug, Clone)]
pub struct Pace {
    step: usize,
    /// Chunks still to come that belong to the level before.
    settling: u32,
    window: Option<Window>,
    /// How many raw bytes got away in a second, at each level, where it is known.
    speed: [Option<f64>; LADDER.len()],
    /// What the link carried in a second when it was what was slow.
    link: Option<f64>,
    /// Windows in which what is remembered kept us from a neighbour.
    refusals: u32,
    patience: u32,
    /// It stays where it is.
    fixed: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            step: 0,
            settling: SETTLING,
            window: None,
            speed: [None; LADDER.len()],
            link: None,
            refusals: 0,
            patience: PATIENCE,
            fixed: false,
        }
    }
}

/// Chunks that are judged together.
#[derive(Debug, Clone)]
struct Window {
    begun: Instant,
    chunks_at_level: u32,
    raw_bytes: usize,
    sent_bytes: usize,
    encode_time: Duration,
    waited: Duration,
}

/// What a window says.
struct Measured {
    /// Raw bytes that got away in a second.
    speed: f64,
    /// Bytes that the link took in a second.
    link: f64,
    /// The share of their time that chunks waited.
    waiting: f64,
}

impl Window {
    fn begin(begun: Instant) -> Window {
        let zero = Duration::ZERO;
        Window { begun, chunks_at_level: 0, raw_bytes: 0, sent_bytes: 0, encode_time: zero, waited: zero }
    }

    fn add(&mut self, chunk: &Passed) {
        self.chunks_at_level += u32::from(chunk.at_level);
        self.raw_bytes += chunk.raw_bytes;
        self.sent_bytes += chunk.sent_bytes;
        self.encode_time += chunk.encode_time;
        self.waited += chunk.waited;
    }

    /// `None` where there was so little to send that nothing can be said.
    fn measure(&self, end: Instant) -> Option<Measured> {
        let elapsed = end.saturating_duration_since(self.begun).as_secs_f64();
        let busy = (self.encode_time + self.waited).as_secs_f64();
        (elapsed > 0.0 && busy > elapsed * BUSY_ABOVE).then(|| Measured {
            speed: self.raw_bytes as f64 / elapsed,
            link: self.sent_bytes as f64 / elapsed,
            waiting: self.waited.as_secs_f64() / busy,
        })
    }
}

impl Pace {
    /// A pace that knows nothing yet, to be shared. It begins without compression.
    pub fn shared() -> SharedPace {
        Arc::default()
    }

    /// A pace that never compresses: for chunks that stay on this node.
    pub fn uncompressed() -> SharedPace {
        Arc::new(Mutex::new(Pace { fixed: true, ..Pace::default() }))
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

    /// A chunk has been handed over. Several encoders may report to one pace.
    pub fn observe(&mut self, chunk: &Passed) -> Level {
        if self.fixed {
            return self.level();
        }
        if self.settling > 0 {
            self.settling -= 1;
            return self.level();
        }
        let Some(window) = &mut self.window else {
            // Its time is over: the next is the first whose time is known.
            self.window = Some(Window::begin(chunk.at));
            return self.level();
        };
        window.add(chunk);
        if window.chunks_at_level >= JUDGED_BY {
            let measured = window.measure(chunk.at);
            self.window = Some(Window::begin(chunk.at));
            if let Some(measured) = measured {
                self.judge(&measured);
            }
        }
        self.level()
    }

    fn judge(&mut self, now: &Measured) {
        self.speed[self.step] = Some(now.speed);
        if self.link.is_some_and(|link| now.link > link * EVIDENCE) {
            self.speed[..self.step].fill(None);
            self.link = None;
        }
        if now.waiting > RAISE_ABOVE {
            self.link = Some(now.link);
        }
        let (lower, higher) = (self.step.checked_sub(1), Some(self.step + 1).filter(|step| *step < LADDER.len()));
        let is_better = |speed: Option<f64>| speed.is_none_or(|known| known > now.speed * NOTICEABLE);
        // Also where the processors are what makes the link slow: then compression only makes it slower.
        let climbing_did_not_pay =
            lower.is_some_and(|lower| self.speed[lower].is_some() && is_better(self.speed[lower]));
        let wanted = match () {
            () if climbing_did_not_pay => lower,
            () if now.waiting > RAISE_ABOVE => higher,
            () if now.waiting < LOWER_BELOW => lower,
            () => None,
        };
        let Some(wanted) = wanted else { return };
        // Down also to what is just as fast: it takes less of the processors.
        let is_as_good = self.speed[wanted].is_none_or(|known| known * NOTICEABLE > now.speed);
        if is_better(self.speed[wanted]) || (wanted < self.step && is_as_good) {
            self.go_to(wanted);
        } else {
            self.refuse(wanted);
        }
    }

    fn go_to(&mut self, step: usize) {
        self.step = step;
        self.speed[step] = None;
        self.settling = SETTLING;
        self.window = None;
        self.refusals = 0;
    }

    fn refuse(&mut self, step: usize) {
        self.refusals += 1;
        if self.refusals >= self.patience {
            self.refusals = 0;
            self.patience = self.patience.saturating_mul(2);
            self.speed[step] = None;
        }
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

    /// A link and what feeds it, in played time.
    struct Play {
        pace: Pace,
        now: Instant,
    }

    impl Play {
        fn new() -> Play {
            Play { pace: Pace::default(), now: Instant::now() }
        }

        /// A link that takes `raw_time` for a raw chunk, and data that each level makes smaller than the one before, in twice
        /// the time. Returns the levels it went through.
        fn run(&mut self, raw_time: Duration, chunks: usize) -> Vec<usize> {
            (0..chunks)
                .map(|_| {
                    let step = self.pace.step as u32;
                    let encode = Duration::from_micros(300) * (1 << step);
                    let waited = (raw_time / (step + 1)).saturating_sub(encode);
                    self.pass(encode, waited, CHUNK_BYTES / (step as usize + 1), true)
                })
                .collect()
        }

        fn pass(&mut self, encode_time: Duration, waited: Duration, sent_bytes: usize, at_level: bool) -> usize {
            self.now += encode_time + waited;
            let passed = Passed { at: self.now, raw_bytes: CHUNK_BYTES, sent_bytes, encode_time, waited, at_level };
            self.pace.observe(&passed);
            self.pace.step
        }
    }

    #[test]
    fn an_unlimited_link_is_not_compressed_for() {
        let mut play = Play::new();
        play.run(Duration::ZERO, 100);
        assert_eq!(play.pace.level(), Level::Raw);
    }

    #[test]
    fn a_slow_link_gets_the_highest_level_that_pays() {
        let mut play = Play::new();
        let steps = play.run(Duration::from_millis(1000), 300);
        assert_eq!(steps.last(), Some(&(LADDER.len() - 1)));
    }

    #[test]
    fn it_settles_between_and_rarely_tries_what_was_too_slow() {
        let mut play = Play::new();
        play.run(Duration::from_millis(10), 100);
        let steps = play.run(Duration::from_millis(10), 400);
        let moves = steps.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(steps.iter().all(|step| (1..=5).contains(step)), "{steps:?}");
        assert!(moves <= 12, "{moves} changes: {steps:?}");
    }

    #[test]
    fn a_level_without_waiting_is_kept_where_the_link_is_slower_without_it() {
        let mut play = Play::new();
        // Text on a gigabit link: 9 ms raw; compressed to a tenth, which takes longer than the link does.
        let mut compressed = 0;
        for _ in 0..1000 {
            let step = play.pace.step as u32;
            compressed += u32::from(step > 0);
            match step {
                0 => play.pass(Duration::from_micros(500), Duration::from_millis(9), CHUNK_BYTES, true),
                _ => play.pass(Duration::from_millis(1) * step, Duration::ZERO, CHUNK_BYTES / 10, true),
            };
        }
        assert!(compressed > 900, "{compressed} of 1000 compressed");
    }

    #[test]
    fn incompressible_chunks_between_do_not_hide_that_compression_pays() {
        let mut play = Play::new();
        let mut compressed = 0;
        for number in 0..1000 {
            let raw = play.pace.step == 0 || number % 2 == 0;
            compressed += u32::from(!raw);
            match raw {
                true => {
                    play.pass(Duration::from_micros(500), Duration::from_millis(9), CHUNK_BYTES, play.pace.step == 0)
                }
                false => play.pass(Duration::from_millis(2), Duration::ZERO, CHUNK_BYTES / 10, true),
            };
        }
        assert!(compressed > 400, "{compressed} of 500 compressed");
    }

    #[test]
    fn compression_that_only_takes_the_receivers_time_is_given_up() {
        let mut play = Play::new();
        // Both ends on the same processors: whatever compression takes makes the receiver slower still.
        let mut raw = 0;
        for _ in 0..500 {
            let step = play.pace.step as u32;
            let encode = Duration::from_micros(300) * (1 << step);
            let waited = Duration::from_micros(700) + Duration::from_micros(300) * step;
            play.pass(encode, waited, CHUNK_BYTES / (step as usize + 1), true);
            raw += u32::from(play.pace.level() == Level::Raw);
        }
        assert!(raw > 400, "{raw} of 500 raw");
    }

    #[test]
    fn it_comes_down_when_the_link_becomes_fast() {
        let mut play = Play::new();
        play.run(Duration::from_millis(1000), 300);
        let steps = play.run(Duration::ZERO, 200);
        assert_eq!(steps.last(), Some(&0), "{steps:?}");
    }

    #[test]
    fn a_source_that_has_little_to_say_tells_nothing() {
        let mut play = Play::new();
        for _ in 0..200 {
            play.now += Duration::from_millis(50);
            play.pass(Duration::from_micros(100), Duration::from_millis(1), CHUNK_BYTES, true);
        }
        assert_eq!(play.pace.level(), Level::Raw);
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
