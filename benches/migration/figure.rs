//! A figure, its bound, and whether that held; the table and the JSON of them all.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// What a figure must be. A figure without a bound is only told.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
        }
    }

    fn in_words(self, unit: Unit) -> String {
        match self {
            Bound::AtMost(limit) => format!("<= {}", unit.show(limit)),
            Bound::AtLeast(limit) => format!(">= {}", unit.show(limit)),
        }
    }
}

/// What a value counts.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    Times,
    Milliseconds,
    Mebibytes,
    Percent,
    MegabytesPerSecond,
    Count,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value:.2} x"),
            Unit::Milliseconds => format!("{value:.0} ms"),
            Unit::Mebibytes => format!("{value:.1} MiB"),
            Unit::Percent => format!("{value:.2} %"),
            Unit::MegabytesPerSecond => format!("{value:.0} MB/s"),
            Unit::Count => format!("{value:.0}"),
        }
    }
}

/// One figure.
#[derive(Serialize)]
struct Figure {
    what: String,
    value: f64,
    unit: Unit,
    bound: Option<Bound>,
    held: Option<bool>,
    /// The single measurements, where the value is their median.
    samples: Vec<f64>,
}

/// All figures, in the order of their measurement.
#[derive(Default, Serialize)]
pub(crate) struct Figures {
    figures: Vec<Figure>,
}

impl Figures {
    /// A figure that must keep to a bound.
    pub(crate) fn bounded(&mut self, what: impl Into<String>, value: f64, unit: Unit, bound: Bound) {
        let held = Some(bound.holds(value));
        self.figures.push(Figure { what: what.into(), value, unit, bound: Some(bound), held, samples: Vec::new() });
    }

    /// The median of samples, without a bound. Returns it.
    pub(crate) fn told(&mut self, what: impl Into<String>, samples: &[f64], unit: Unit) -> f64 {
        let value = median(samples);
        let samples = samples.to_vec();
        self.figures.push(Figure { what: what.into(), value, unit, bound: None, held: None, samples });
        value
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        let mut table = format!("{:width$}  {:>11}  {:>13}\n", "FIGURE", "MEASURED", "BOUND");
        for Figure { what, value, unit, bound, held, .. } in &self.figures {
            let bound = bound.map_or_else(String::new, |bound| bound.in_words(*unit));
            let verdict = match held {
                Some(true) => "  held",
                Some(false) => "  MISSED",
                None => "",
            };
            let line = format!("{what:width$}  {:>11}  {bound:>13}{verdict}", unit.show(*value));
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }

    /// For programs: the figures, and what they were measured on.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            machine: Machine,
            #[serde(flatten)]
            figures: &'a Figures,
        }
        let text = serde_json::to_string_pretty(&Document { machine: Machine::here(), figures: self })?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

#[derive(Serialize)]
struct Machine {
    kernel: String,
    processors: usize,
}

impl Machine {
    fn here() -> Machine {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Machine { kernel, processors: std::thread::available_parallelism().map_or(1, usize::from) }
    }
}

/// The smallest sample that so many of a hundred do not exceed.
pub(crate) fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// The middle of the samples; of two in the middle the mean.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}
