//! Watches one figure for one rule.

use std::collections::VecDeque;

use super::figure::Figure;
use super::rules::Rule;

/// A rule's time is kept in so many parts at most, of a second at least.
const PARTS: u64 = 60;
const PART_MS: u64 = 1000;
/// So much of the time has to be known.
const KNOWN: f64 = 0.8;
/// Nearer to its clear line by this part of the way than a moment ago, it is on its way back.
const RECOVERING: f64 = 0.1;

/// What a rule has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It has become a reason.
    Tripped,
    /// It is none any more.
    Cleared,
}

/// One rule on one node or workload. What it has seen outlasts a rule that is changed in its weight only.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    parts: VecDeque<Part>,
    tripped: bool,
}

/// Some values of one time.
#[derive(Debug, Clone, Copy)]
struct Part {
    number: u64,
    sum: f64,
    count: u32,
}

/// A rule's times.
#[derive(Debug, Clone, Copy)]
struct Time {
    part_ms: u64,
    /// In parts.
    whole: u64,
    late: u64,
}

impl Time {
    fn of<F: Figure>(rule: &Rule<F>) -> Time {
        let [whole_ms, late_ms] = [rule.sustained_s, rule.now_s].map(|seconds| u64::from(seconds) * 1000);
        let part_ms = (whole_ms / PARTS).max(PART_MS);
        Time { part_ms, whole: whole_ms.div_ceil(part_ms), late: late_ms.div_ceil(part_ms) }
    }
}

impl Watcher {
    /// Whether the rule is a reason now.
    pub fn is_tripped(&self) -> bool {
        self.tripped
    }

    /// Hears what the figure is, where that is known: what is absent changes nothing. `now_ms` never goes back.
    pub fn hear<F: Figure>(&mut self, now_ms: u64, value: Option<f64>, rule: &Rule<F>) -> Option<Said> {
        let value = value?;
        let time = Time::of(rule);
        let number = now_ms / time.part_ms;
        match self.parts.back_mut() {
            Some(part) if part.number >= number => {
                part.sum += value;
                part.count += 1;
            }
            _ => self.parts.push_back(Part { number, sum: value, count: 1 }),
        }
        // As many as may lie within the time, and two times the last of it.
        self.parts.retain(|part| part.number + 2 * time.whole >= number);
        if self.tripped {
            self.tripped = value >= rule.clear_below;
            return (!self.tripped).then_some(Said::Cleared);
        }
        self.tripped = self.is_reason(number, value, rule, time);
        self.tripped.then_some(Said::Tripped)
    }

    fn is_reason<F: Figure>(&self, number: u64, value: f64, rule: &Rule<F>, time: Time) -> bool {
        let (Some(whole), Some(late)) = (self.mean(number, time.whole), self.mean(number, time.late)) else {
            return false;
        };
        let before = number.checked_sub(time.late).and_then(|before| self.mean(before, time.late));
        let recovering = before.is_some_and(|before| late < before - RECOVERING * (rule.above - rule.clear_below));
        let has_lasted = self.parts.front().is_some_and(|first| first.number + time.whole <= number + 1);
        has_lasted && whole >= rule.above && late >= rule.above && value >= rule.clear_below && !recovering
    }

    /// The mean of the parts' means up to this one; nothing where too little is known.
    fn mean(&self, last: u64, parts: u64) -> Option<f64> {
        let within = self.parts.iter().filter(|part| part.number <= last && part.number + parts > last);
        let means = within.map(|part| part.sum / f64::from(part.count));
        let (sum, count) = means.fold((0.0, 0_u32), |(sum, count), mean| (sum + mean, count + 1));
        (count > 0 && f64::from(count) >= KNOWN * parts as f64).then(|| sum / f64::from(count))
    }
}

#[cfg(test)]
mod tests {
    use super::super::figure::NodeFigure;
    use super::super::rules::Then;
    use super::*;

    const RULE: Rule<NodeFigure> = Rule {
        figure: NodeFigure::PressureMemory,
        above: 0.6,
        clear_below: 0.4,
        sustained_s: 60,
        now_s: 10,
        weight: 1.0,
        then: Then::Move,
    };

    /// What is said when, in seconds; one value a second.
    fn said(values: impl IntoIterator<Item = Option<f64>>) -> Vec<(usize, Said)> {
        let mut watcher = Watcher::default();
        let heard = values.into_iter().enumerate();
        heard.filter_map(|(at, value)| watcher.hear(at as u64 * 1000, value, &RULE).map(|said| (at, said))).collect()
    }

    fn constant(value: f64, seconds: usize) -> impl Iterator<Item = Option<f64>> {
        std::iter::repeat_n(Some(value), seconds)
    }

    #[test]
    fn it_trips_once_it_has_lasted_and_again_only_after_it_was_gone() {
        let storm = || constant(0.1, 30).chain(constant(0.9, 100));
        // In the middle of the last minute it becomes more than 0.6.
        let [(first, Said::Tripped)] = said(storm())[..] else { panic!("{:?}", said(storm())) };
        assert!((60..=80).contains(&first), "{first}");
        // Below the upper line is not gone.
        assert_eq!(said(storm().chain(constant(0.5, 100)).chain(constant(0.9, 200))).len(), 1);
        let again = said(storm().chain(constant(0.3, 100)).chain(constant(0.9, 200)));
        let words: Vec<Said> = again.iter().map(|(_, said)| *said).collect();
        assert_eq!(words, [Said::Tripped, Said::Cleared, Said::Tripped]);
    }

    #[test]
    fn what_is_short_or_over_or_on_its_way_back_is_no_reason() {
        assert_eq!(said(constant(0.1, 100).chain(constant(1.0, 20)).chain(constant(0.1, 100))), []);
        // On average it was above for a minute, but is not now.
        assert_eq!(said(constant(1.0, 50).chain(constant(0.5, 100))), []);
        let falling = (0..100_u32).map(|at| Some(1.0 - f64::from(at) * 0.01));
        let said = said(constant(0.0, 60).chain(constant(1.0, 20)).chain(falling));
        assert_eq!(said, []);
    }

    #[test]
    fn what_is_not_seen_changes_nothing() {
        assert_eq!(said(constant(0.9, 40).chain(std::iter::repeat_n(None, 600))), []);
        // It is still one when it is seen again, and was told.
        let seen_again = constant(0.9, 100).chain(std::iter::repeat_n(None, 600)).chain(constant(0.9, 100));
        assert_eq!(said(seen_again).len(), 1);
        assert_eq!(said(constant(0.9, 20)), [], "nor what was seen too shortly");
    }
}
