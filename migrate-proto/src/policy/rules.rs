//! When a figure is a reason to do something: above a line, sustained, also now, and not already on its way back.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::figure::{Figure, NodeFigure};

/// A rule about one figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", bound(deserialize = "F: Figure + Deserialize<'de>"))]
pub struct Rule<F: Figure> {
    /// About what.
    pub figure: F,
    /// It is a reason above this.
    pub above: f64,
    /// And none any more below this.
    pub clear_below: f64,
    /// For so many seconds, on average.
    pub sustained_s: u32,
    /// And for so many until now.
    pub now_s: u32,
    /// How much it counts against others.
    #[serde(default = "one")]
    pub weight: f64,
    /// What follows.
    #[serde(default)]
    pub then: Then,
}

fn one() -> f64 {
    1.0
}

/// What follows from a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// Somebody is told.
    Warn,
    /// A checkpoint is taken, too.
    Checkpoint,
    /// Something leaves, where that helps.
    #[default]
    Move,
}

/// The longest time that a rule may look back on.
const LONGEST_S: u32 = 3600;

/// What is wrong with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum Nonsense {
    /// It can never be, or always is.
    #[error("{what} = {value} can never be: this figure is from {least} to {most}")]
    OutOfRange { what: &'static str, value: f64, least: f64, most: f64 },
    /// It would trip again at once.
    #[error("clear-below = {clear_below} is not below above = {above}")]
    NoGap { above: f64, clear_below: f64 },
    /// It is not known for so long.
    #[error("sustained-s = {sustained_s} is not between 1 and {LONGEST_S}")]
    Sustained { sustained_s: u32 },
    /// The end is longer than the whole.
    #[error("now-s = {now_s} is not between 1 and sustained-s = {sustained_s}")]
    Now { now_s: u32, sustained_s: u32 },
    /// It counts nothing.
    #[error("weight = {weight} is not above 0")]
    Weight { weight: f64 },
}

impl<F: Figure> Rule<F> {
    /// What is wrong with it, if anything.
    pub fn check(&self) -> Result<(), Nonsense> {
        let Rule { above, clear_below, sustained_s, now_s, weight, .. } = *self;
        let range = self.figure.range();
        for (what, value) in [("above", above), ("clear-below", clear_below)] {
            if !range.contains(&value) {
                return Err(Nonsense::OutOfRange { what, value, least: *range.start(), most: *range.end() });
            }
        }
        if clear_below >= above {
            return Err(Nonsense::NoGap { above, clear_below });
        }
        if !(1..=LONGEST_S).contains(&sustained_s) {
            return Err(Nonsense::Sustained { sustained_s });
        }
        if !(1..=sustained_s).contains(&now_s) {
            return Err(Nonsense::Now { now_s, sustained_s });
        }
        if !(weight > 0.0 && weight.is_finite()) {
            return Err(Nonsense::Weight { weight });
        }
        Ok(())
    }
}

/// What counts on nodes where nobody has said otherwise, after what well-run systems use: systemd-oomd's lines for pressure and swap, rasdaemon's for
/// memory errors.
pub const NODE_DEFAULTS: [Rule<NodeFigure>; 12] = [
    rule(NodeFigure::Cpu, 0.95, 0.80, [120, 30], 0.5, Then::Move),
    rule(NodeFigure::Memory, 0.92, 0.85, [60, 10], 1.0, Then::Move),
    rule(NodeFigure::Swap, 0.90, 0.70, [60, 10], 1.0, Then::Move),
    rule(NodeFigure::Disk, 0.92, 0.88, [60, 10], 1.0, Then::Move),
    rule(NodeFigure::PressureCpu, 0.80, 0.50, [120, 30], 0.5, Then::Move),
    rule(NodeFigure::PressureMemory, 0.60, 0.40, [30, 10], 1.0, Then::Move),
    rule(NodeFigure::PressureMemoryFull, 0.20, 0.10, [30, 10], 2.0, Then::Move),
    rule(NodeFigure::PressureIoFull, 0.50, 0.30, [120, 30], 0.5, Then::Move),
    rule(NodeFigure::Temperature, 0.97, 0.90, [60, 10], 2.0, Then::Move),
    rule(NodeFigure::MemoryErrors, 50.0, 10.0, [1, 1], 2.0, Then::Move),
    rule(NodeFigure::MemoryErrorsUncorrected, 0.5, 0.1, [1, 1], 10.0, Then::Move),
    rule(NodeFigure::DisksFailing, 0.5, 0.1, [1, 1], 10.0, Then::Move),
];

const fn rule<F: Figure>(
    figure: F,
    above: f64,
    clear_below: f64,
    times_s: [u32; 2],
    weight: f64,
    then: Then,
) -> Rule<F> {
    let [sustained_s, now_s] = times_s;
    Rule { figure, above, clear_below, sustained_s, now_s, weight, then }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// As systemd-oomd acts.
    const OOMD: Rule<NodeFigure> = Rule {
        figure: NodeFigure::PressureMemory,
        above: 0.6,
        clear_below: 0.4,
        sustained_s: 30,
        now_s: 10,
        weight: 1.0,
        then: Then::Move,
    };

    #[test]
    fn nonsense_is_refused_in_words() {
        assert_eq!(OOMD.check(), Ok(()));
        for (rule, said) in [
            (Rule { above: 60.0, ..OOMD }, "above = 60 can never be: this figure is from 0 to 1"),
            (Rule { above: f64::NAN, ..OOMD }, "above = NaN can never be: this figure is from 0 to 1"),
            (Rule { clear_below: 0.6, ..OOMD }, "clear-below = 0.6 is not below above = 0.6"),
            (Rule { sustained_s: 0, ..OOMD }, "sustained-s = 0 is not between 1 and 3600"),
            (Rule { now_s: 31, ..OOMD }, "now-s = 31 is not between 1 and sustained-s = 30"),
            (Rule { weight: 0.0, ..OOMD }, "weight = 0 is not above 0"),
            (Rule { weight: f64::INFINITY, ..OOMD }, "weight = inf is not above 0"),
        ] {
            assert_eq!(rule.check().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn the_defaults_make_sense() {
        for rule in NODE_DEFAULTS {
            assert_eq!(rule.check(), Ok(()), "{rule:?}");
        }
    }

    #[test]
    fn a_rule_is_read_as_people_write_it() {
        let written =
            r#"{"figure": "pressure-memory", "above": 0.6, "clear-below": 0.4, "sustained-s": 30, "now-s": 10}"#;
        assert_eq!(serde_json::from_str::<Rule<NodeFigure>>(written).unwrap(), OOMD);
        let unknown = written.replace("above", "over");
        assert!(serde_json::from_str::<Rule<NodeFigure>>(&unknown).is_err());
    }
}
