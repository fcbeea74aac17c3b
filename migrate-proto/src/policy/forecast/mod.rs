//! When a figure that grows will meet its limit.
//!
//! A [`Forecast`] hears the figure's values and is asked for an [`Outlook`]. It keeps [`blocks`] of values in sizes that double, draws a [`line`] through
//! the last ones of each size, and takes the smallest size whose slope is beyond doubt. Two things grow without end in sight and come back all the same,
//! and are not foretold: what [levels off](levelling), and what has come back [before](peaks) from as high as it is now.
//!
//! Growth counts only once it has lasted for as long as a move needs: what is faster cannot be told from a burst, and could not be helped in time.

mod blocks;
mod levelling;
mod line;
mod peaks;
#[cfg(test)]
mod tests;

use blocks::{Block, Blocks, SIZES};
use levelling::{Course, noise};
use line::Line;
use peaks::Peaks;

/// How many blocks a line goes through.
const THROUGH: usize = 16;
/// How many of them must be there.
const LEAST: usize = 12;
/// So many errors a slope must be above zero. It is looked at every second for years.
const CERTAIN: f64 = 6.0;
/// Growth that has not lasted so long is none.
pub const LEAST_EVIDENCE_MS: u64 = 64_000;
/// A value may be so much further above the line than any was.
const MORE_ABOVE: f64 = 1.3;
/// The last part of a limit is not there: what comes so near meets it by chance.
const USABLE: f64 = 0.98;
/// So many blocks are of late.
const LATE: usize = 4;
/// Growth by less than this part of what it was is none.
const STOPPED: f64 = 0.2;
/// So many looks in a row have to agree.
const IN_A_ROW: u8 = 3;
const LOOKS_MS: u64 = 6_000;
/// So many errors to either side is what is told.
const TOLD: f64 = 2.0;

/// What is known of one figure. Bounded: some 12 KiB.
#[derive(Debug, Clone, Default)]
pub struct Forecast {
    blocks: Blocks,
    peaks: Peaks,
    last: [Option<f64>; 2],
}

/// Says when it is time to do something about a figure.
#[derive(Debug, Clone, Default)]
pub struct Alarm {
    forecast: Forecast,
    in_a_row: u8,
}

impl Alarm {
    /// Hears a value; says what is foretold where it is time: once, until it is not foretold any more. `total_ms` is how long a move would take.
    pub fn hear(&mut self, now_ms: u64, value: f64, limit: f64, total_ms: u64) -> Option<Outlook> {
        let need_ms = need_ms(total_ms);
        self.forecast.hear(now_ms, value, limit);
        let outlook = self.forecast.look(now_ms, limit, need_ms);
        let soon = outlook.meets.is_some_and(|meets| meets.middle_ms < need_ms as f64);
        self.in_a_row = if soon { self.in_a_row.saturating_add(1) } else { 0 };
        (self.in_a_row == IN_A_ROW).then_some(outlook)
    }
}

/// How long before its end something has to be done that takes so long: three times are left when it begins.
pub fn need_ms(total_ms: u64) -> u64 {
    total_ms * 7 / 2 + LOOKS_MS
}

/// How a figure goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outlook {
    /// How it grows.
    pub growth: Growth,
    /// How much in a second.
    pub per_s: f64,
    /// For how long it has, as far as was looked.
    pub evidence_ms: u64,
    /// When it meets the limit; nothing is never.
    pub meets: Option<Meets>,
}

/// How a figure grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Not beyond doubt.
    None,
    /// Less and less, to a level below the limit.
    LevelsOff,
    /// As it has before, and come back.
    Swings,
    /// Without an end in sight.
    Steady,
}

/// In how many milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Meets {
    /// If it grows faster than it seems to.
    pub early_ms: f64,
    /// As it seems.
    pub middle_ms: f64,
    /// If it grows more slowly.
    pub late_ms: f64,
}

impl Outlook {
    const STILL: Outlook = Outlook { growth: Growth::None, per_s: 0.0, evidence_ms: 0, meets: None };
}

impl Forecast {
    /// Hears a value. `now_ms` never goes back; `scale` is the limit, or what else says how large a value may be.
    pub fn hear(&mut self, now_ms: u64, value: f64, scale: f64) {
        if !value.is_finite() {
            return;
        }
        let [before, last] = self.last;
        self.last = [last, Some(value)];
        // One odd value is none.
        let value = match (before, last) {
            (Some(a), Some(b)) => a.max(b).min(a.min(b).max(value)),
            _ => value,
        };
        self.blocks.hear(now_ms, value);
        self.peaks.hear(value, scale);
    }

    /// What becomes of it, for somebody who needs so long to do something about it.
    pub fn look(&self, now_ms: u64, limit: f64, need_ms: u64) -> Outlook {
        let Some(level) = self.last[1] else { return Outlook::STILL };
        let mut swings = None;
        for size in 0..SIZES {
            let span_ms = blocks::size_ms(size) * THROUGH as u64;
            if span_ms < need_ms.max(LEAST_EVIDENCE_MS) {
                continue;
            }
            let seen = self.blocks.last(size, THROUGH, now_ms);
            if seen.len() < LEAST {
                continue;
            }
            let Some(outlook) = along(&seen, blocks::size_ms(size), level, limit) else { continue };
            if self.peaks.come_back_from(level, limit, span_ms / 1000) {
                // Nothing new within a swing; the swings themselves may rise.
                swings.get_or_insert(Outlook { growth: Growth::Swings, meets: None, ..outlook });
                continue;
            }
            return outlook;
        }
        swings.unwrap_or(Outlook::STILL)
    }
}

/// Where a line through the blocks' means, or through their highest values, leads that is beyond doubt; whichever is more so.
fn along(seen: &[(f64, Block)], size_ms: u64, level: f64, limit: f64) -> Option<Outlook> {
    let points =
        |of: fn(&Block) -> f64| -> Vec<(f64, f64)> { seen.iter().map(|(at_s, block)| (*at_s, of(block))).collect() };
    let drawn =
        [points(Block::mean), points(Block::high)].map(|points| (Line::through(points.iter().copied()), points));
    let (line, points) = drawn.into_iter().max_by(|(a, _), (b, _)| a.certainty().total_cmp(&b.certainty()))?;
    if line.slope <= 0.0 || line.certainty() < CERTAIN {
        return None;
    }
    let values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let course = levelling::course(&values);
    let step_s = size_ms as f64 / 1000.0;
    if course == Course::Begins || has_stopped(&values, line.slope * step_s) {
        return None;
    }
    // Within a block it rises anyway.
    let rises = line.slope * step_s / 2.0;
    let above = seen.iter().map(|(at_s, block)| block.high() - line.at(*at_s) - rises).fold(0.0, f64::max);
    let within = seen.iter().map(|(_, block)| block.high() - block.mean() - rises).fold(0.0, f64::max);
    let of_late = seen.iter().rev().take(LATE).map(|(_, block)| block.high()).fold(0.0, f64::max);
    // A line runs on where the figure has stopped.
    let top = (line.now + above * MORE_ABOVE).min(of_late + above).max(of_late).max(level);
    let room = (limit * USABLE - top).max(0.0);
    let (growth, per_s, hastens) = match course {
        Course::Ends(level) if level + within + CERTAIN / 2.0 * noise(&values) < limit => {
            (Growth::LevelsOff, line.slope, 0.0)
        }
        Course::Slows(per_block) => (Growth::Steady, per_block / step_s, 0.0),
        Course::Hastens { per_block, more } => (Growth::Steady, per_block / step_s, more / step_s / step_s),
        _ => (Growth::Steady, line.slope, 0.0),
    };
    let told = TOLD * line.error;
    let meets = (growth == Growth::Steady).then(|| Meets {
        early_ms: in_ms(room, per_s + told, hastens),
        middle_ms: in_ms(room, per_s, hastens),
        late_ms: in_ms(room, (per_s - told).max(per_s / CERTAIN), 0.0),
    });
    Some(Outlook { growth, per_s, evidence_ms: size_ms * seen.len() as u64, meets })
}

/// Whether the last blocks hardly rise any more.
fn has_stopped(values: &[f64], per_block: f64) -> bool {
    let Some(late) = values.len().checked_sub(LATE).map(|from| &values[from..]) else { return true };
    let (before, last) = late.split_at(LATE / 2);
    let (before, last): (f64, f64) = (before.iter().sum(), last.iter().sum());
    // Each half is a sum of `LATE / 2` values, so many blocks apart.
    last - before < STOPPED * per_block * ((LATE / 2) * (LATE / 2)) as f64
}

/// When `room` is gone at this rate, which grows by `hastens` in a second.
fn in_ms(room: f64, per_s: f64, hastens: f64) -> f64 {
    let per_s = per_s.max(f64::MIN_POSITIVE);
    let seconds = match hastens > 0.0 {
        // Of room = per_s × t + hastens × t² / 2, in the form that does not cancel.
        true => 2.0 * room / (per_s + (per_s * per_s + 2.0 * hastens * room).sqrt()),
        false => room / per_s,
    };
    seconds * 1000.0
}
