//! How long a move will take, judged by those that were.
//!
//! A source keeps what its last moves to each target took ([`Move`]) and fits four lines through them, each
//! `fixed + per byte × bytes`: copying ahead, dumping, restoring, and the rest. Moves that are long ago count less. A target that
//! was never met is like the others, and before the first move there is what was measured when this was written.
//! What is predicted is kept beside what is then measured: their distance is the figure by which to judge all this.
//!
//! [`Rates`] is pure. [`Forecasts`] keeps it in a file, whose loss costs nothing but experience: it is not waited for, and one that
//! is damaged is begun anew.

mod line;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrate_proto::api::PredictionView;
use migrate_proto::name::NodeName;
use serde::{Deserialize, Serialize};

use crate::durable;
use line::{Line, Point};

/// Moves that are kept for each target.
const KEPT: usize = 16;
/// Targets that are kept.
const TARGETS: usize = 64;
/// No move takes longer than this; one that did measured something else.
const LONGEST_MS: f64 = 24.0 * 3600.0 * 1000.0;
/// How much each older move counts, against the one after it.
const FADING: f64 = 0.8;
/// A byte of the layer is only read and compared in the pause; a byte of memory is dumped.
const LAYER_SHARE: f64 = 0.125;
const GIB: f64 = (1_u64 << 30) as f64;

/// How much there is to move, as the offer says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Memory.
    pub memory: u64,
    /// What the layer takes.
    pub files: u64,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The pause.
    pub downtime_ms: f64,
    /// The whole.
    pub total_ms: f64,
}

/// A move that took place, as its source measured it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// How much there was to move.
    pub size: Size,
    /// What crossed the network.
    pub sent: u64,
    /// Copying ahead.
    pub copy_ms: f64,
    /// The target's CRIU at work.
    pub restore_ms: f64,
    /// The whole pause.
    pub downtime_ms: f64,
    /// The whole.
    pub total_ms: f64,
    /// What had been expected.
    pub expected: Option<Forecast>,
}

impl Move {
    fn is_plausible(&self) -> bool {
        let times = [self.copy_ms, self.restore_ms, self.downtime_ms, self.total_ms];
        // Clocks are read in whole milliseconds, phase by phase.
        let whole = self.total_ms + 20.0;
        times.iter().all(|ms| (0.0..=LONGEST_MS).contains(ms))
            && self.total_ms > 0.0
            && self.restore_ms <= self.downtime_ms + 20.0
            && self.downtime_ms + self.copy_ms <= whole
    }

    fn dump_ms(&self) -> f64 {
        (self.downtime_ms - self.restore_ms).max(0.0)
    }

    fn rest_ms(&self) -> f64 {
        (self.total_ms - self.downtime_ms - self.copy_ms).max(0.0)
    }
}

/// A part of a move: how many bytes it depends on, how long it took, and what it takes before anything is known.
struct Part {
    bytes: fn(Size) -> f64,
    took: fn(&Move) -> f64,
    first: Line,
}

const fn line(fixed_ms: f64, ms_per_gib: f64) -> Line {
    Line { fixed: fixed_ms, slope: ms_per_gib / GIB }
}

const COPY: Part = Part { bytes: everything, took: |seen| seen.copy_ms, first: line(200.0, 1000.0) };
const DUMP: Part = Part { bytes: in_the_pause, took: Move::dump_ms, first: line(60.0, 750.0) };
const RESTORE: Part = Part { bytes: memory, took: |seen| seen.restore_ms, first: line(50.0, 750.0) };
const REST: Part = Part { bytes: |_| 0.0, took: Move::rest_ms, first: line(60.0, 0.0) };

fn everything(size: Size) -> f64 {
    size.memory as f64 + size.files as f64
}

fn in_the_pause(size: Size) -> f64 {
    size.memory as f64 + size.files as f64 * LAYER_SHARE
}

fn memory(size: Size) -> f64 {
    size.memory as f64
}

/// What a source has learned. Bounded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// The newest move last.
    targets: BTreeMap<NodeName, VecDeque<Move>>,
}

impl Rates {
    /// What a move of this size to `to` would take.
    pub fn forecast(&self, to: &NodeName, size: Size) -> Forecast {
        let of = |part: &Part| self.fit(part, to).at((part.bytes)(size)).clamp(0.0, LONGEST_MS);
        let downtime_ms = of(&DUMP) + of(&RESTORE);
        Forecast { downtime_ms, total_ms: downtime_ms + of(&COPY) + of(&REST) }
    }

    /// From the first values to the moves to all targets, and from there to those to this one.
    fn fit(&self, part: &Part, to: &NodeName) -> Line {
        let points = |moves: &VecDeque<Move>| -> Vec<Point> {
            let point = |(age, seen): (usize, &Move)| Point {
                x: (part.bytes)(seen.size),
                y: (part.took)(seen),
                weight: FADING.powi(age as i32),
            };
            moves.iter().rev().enumerate().map(point).collect()
        };
        let all: Vec<Point> = self.targets.values().flat_map(points).collect();
        let general = line::drawn(part.first, GIB, &all);
        self.targets.get(to).map_or(general, |moves| line::drawn(general, GIB, &points(moves)))
    }

    /// Takes in a move. Says `false` to what cannot be.
    pub fn learn(&mut self, to: &NodeName, seen: Move) -> bool {
        if !seen.is_plausible() {
            return false;
        }
        if !self.targets.contains_key(to) && self.targets.len() >= TARGETS {
            self.targets.pop_first();
        }
        let moves = self.targets.entry(to.clone()).or_default();
        moves.push_back(seen);
        while moves.len() > KEPT {
            moves.pop_front();
        }
        true
    }

    /// How far off the forecasts of the kept moves were.
    pub fn error(&self) -> PredictionView {
        let told = || self.targets.values().flatten().filter_map(|seen| Some((seen, seen.expected?)));
        let mean = |off: fn(&Move, Forecast) -> (f64, f64)| {
            let errors: Vec<f64> = told()
                .map(|(seen, expected)| off(seen, expected))
                .filter(|(_, measured)| *measured > 0.0)
                .map(|(expected, measured)| (expected - measured).abs() / measured)
                .collect();
            (!errors.is_empty()).then(|| errors.iter().sum::<f64>() / errors.len() as f64)
        };
        PredictionView {
            moves: told().count() as u32,
            downtime_error: mean(|seen, expected| (expected.downtime_ms, seen.downtime_ms)),
            total_error: mean(|seen, expected| (expected.total_ms, seen.total_ms)),
        }
    }

    /// What was read from a file may be anything.
    fn tidied(self) -> Rates {
        let mut tidy = Rates::default();
        for (target, moves) in self.targets {
            for seen in moves {
                tidy.learn(&target, seen);
            }
        }
        tidy
    }
}

/// [`Rates`] in a file.
#[derive(Debug)]
pub struct Forecasts {
    path: PathBuf,
    rates: Mutex<Rates>,
}

impl Forecasts {
    /// What earlier agents have learned, kept in `state`.
    pub fn open(state: &Path) -> Forecasts {
        let path = state.join("forecasts.json");
        let rates = durable::read(&path).unwrap_or_else(|error| {
            tracing::warn!(%error, "what was learned about moves is begun anew");
            None
        });
        Forecasts { path, rates: Mutex::new(rates.map(Rates::tidied).unwrap_or_default()) }
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a move of this size to `to` would take.
    pub fn forecast(&self, to: &NodeName, size: Size) -> Forecast {
        self.rates().forecast(to, size)
    }

    /// Takes in a move, and keeps it.
    pub fn learn(&self, to: &NodeName, seen: Move) {
        let mut rates = self.rates();
        if !rates.learn(to, seen) {
            return tracing::debug!(?seen, "a move that cannot be was not learned from");
        }
        if let Err(error) = durable::write_soon(&self.path, &*rates) {
            tracing::warn!(%error, "what was learned about moves lasts as long as this agent");
        }
    }

    /// How far off the forecasts of the last moves were.
    pub fn error(&self) -> PredictionView {
        self.rates().error()
    }
}
