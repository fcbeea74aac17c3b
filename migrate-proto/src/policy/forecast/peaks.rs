//! From how high a figure has come back.

use std::collections::VecDeque;

/// A fall by this part of the scale is a turn.
const TURN: f64 = 0.05;
/// Or by so many times what it usually changes by from one value to the next.
const TURN_NOISE: f64 = 6.0;
/// From here on it was not coming back by itself.
const TOO_HIGH: f64 = 0.95;
/// A peak is as high as the one before up to this part more.
const AS_HIGH: f64 = 1.1;
/// How slowly the usual change is learnt, per value.
const LEARNING: f64 = 0.01;
/// Peaks that are remembered, and days of which the highest one is.
const REMEMBERED: usize = 8;
const DAYS: usize = 14;
const DAY: u64 = 86_400;

/// The peaks of a figure. Times are counted in values, one a second.
#[derive(Debug, Clone, Default)]
pub(super) struct Peaks {
    /// The highest value since it last rose, and the lowest since it last fell.
    high: f64,
    low: f64,
    falls: bool,
    noise: f64,
    last: Option<f64>,
    heard: u64,
    /// Each with when it was.
    turns: VecDeque<(u64, f64)>,
    /// The highest of each day that had one.
    days: VecDeque<(u64, f64)>,
}

impl Peaks {
    /// Takes a value; `scale` is how large it may be.
    pub(super) fn hear(&mut self, value: f64, scale: f64) {
        let last = self.last.replace(value).unwrap_or(value);
        self.heard += 1;
        self.noise += LEARNING * ((value - last).abs() - self.noise);
        let turn = (TURN * scale).max(TURN_NOISE * self.noise);
        if self.falls {
            self.low = self.low.min(value);
            if value > self.low + turn {
                (self.falls, self.high) = (false, value);
            }
            return;
        }
        self.high = self.high.max(value);
        if value < self.high - turn {
            self.turn(scale);
            (self.falls, self.low) = (true, value);
        }
    }

    /// It comes back from where it was.
    fn turn(&mut self, scale: f64) {
        push(&mut self.turns, (self.heard, self.high), REMEMBERED);
        if self.high >= TOO_HIGH * scale {
            return;
        }
        let day = self.heard / DAY;
        match self.days.back_mut() {
            Some((last, high)) if *last == day => *high = high.max(self.high),
            _ => push(&mut self.days, (day, self.high), DAYS),
        }
    }

    /// Whether it has come back from `level` or higher, and has not turned several times within the last so many seconds, so that what rises is not one
    /// swing but all of them.
    pub(super) fn come_back_from(&self, level: f64, limit: f64, within_s: u64) -> bool {
        let known = self.days.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
        let turned = self.turns.iter().filter(|(at, _)| at + within_s >= self.heard).count();
        level < (known * AS_HIGH).min(TOO_HIGH * limit) && turned < 3
    }
}

fn push<T>(into: &mut VecDeque<T>, new: T, most: usize) {
    into.push_back(new);
    if into.len() > most {
        into.pop_front();
    }
}
