//! From the results of probes, or from pulses, to whether a workload is well.
//!
//! A machine: what happened and the time go in, what to do and what is news come out. It does not ask anybody itself. The time is of a
//! clock that only goes forward; nothing of the machine outlives the agent but its [`Word`].
//!
//! A workload that is probed is healthy at once when a probe passes, and unhealthy after so many failures in a row; failures in the
//! first seconds do not count. A workload with a pulse hangs when its pulse has not come for so long. While it is frozen or moves
//! nobody asks; afterwards it has the same patience as after its start.

use serde::{Deserialize, Serialize};

use super::{Timing, Watch};
use crate::handover::Millis;

#[cfg(test)]
mod tests;

/// Until the first probe has passed, it is asked this often: a start is soon known to be good.
const EAGER_MS: u64 = 1000;

/// How a workload is, as `ps` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// Nobody asks.
    #[default]
    None,
    /// It has just begun, and has not been heard of.
    Starting,
    /// It was well when it was last asked.
    Healthy,
    /// Its probes fail.
    Unhealthy,
    /// Its pulse has stopped.
    Hung,
}

impl Word {
    /// As in JSON and the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Word::None => "none",
            Word::Starting => "starting",
            Word::Healthy => "healthy",
            Word::Unhealthy => "unhealthy",
            Word::Hung => "hung",
        }
    }

    /// Whether something should be done about it.
    pub fn is_ill(self) -> bool {
        matches!(self, Word::Unhealthy | Word::Hung)
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// The probe passed.
    Passed,
    /// The probe failed.
    Failed(String),
    /// There was a sign of life.
    Pulse,
    /// It stands still, or is being moved.
    Paused,
    /// It runs on.
    Resumed,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Ask it; the answer is [`Event::Passed`] or [`Event::Failed`].
    Probe,
    /// This is how it is now, and why where it is ill. Said at every change.
    Say(Word, Option<String>),
}

/// Watches one workload from its start to its end.
#[derive(Debug, Clone)]
pub struct Health {
    /// How often a pulse has to come; `None` where it is probed.
    pulse_ms: Option<u64>,
    timing: Timing,
    word: Word,
    /// Failures in a row that count.
    failures: u32,
    /// Since when it runs without a break.
    begun: Millis,
    /// When it is asked next; when it hangs unless a pulse comes.
    next: Millis,
    asking: bool,
    paused: bool,
}

impl Health {
    /// Of a workload that runs, and was like this when it was last asked.
    pub fn new(watch: &Watch, timing: Timing, word: Word, now: Millis) -> Health {
        let pulse_ms = match watch {
            Watch::Pulse(period_ms) => Some(*period_ms),
            Watch::Command(_) | Watch::Tcp(_) | Watch::Http(_) => None,
        };
        // Who was ill is given the time to be well before anything is done about it.
        let word = if word == Word::Healthy { Word::Healthy } else { Word::Starting };
        let mut health =
            Health { pulse_ms, timing, word, failures: 0, begun: now, next: now, asking: false, paused: false };
        health.begin(now);
        health
    }

    fn begin(&mut self, now: Millis) {
        (self.begun, self.failures, self.asking) = (now, 0, false);
        self.next = match self.pulse_ms {
            Some(period_ms) => now.plus(period_ms.max(self.timing.grace_ms)),
            None => now.plus(self.timing.interval_ms.min(EAGER_MS)),
        };
    }

    /// How it is.
    pub fn word(&self) -> Word {
        self.word
    }

    /// When there is something to do unless something happens before; `None` while it is asked or paused.
    pub fn deadline(&self) -> Option<Millis> {
        let hangs_already = self.word == Word::Hung;
        (!self.asking && !self.paused && !hangs_already).then_some(self.next)
    }

    /// The machine.
    pub fn step(&mut self, now: Millis, event: Event) -> Option<Act> {
        match event {
            Event::Paused => {
                (self.paused, self.asking) = (true, false);
                None
            }
            Event::Resumed if self.paused => {
                self.paused = false;
                self.begin(now);
                if self.word.is_ill() { self.say(Word::Starting, None) } else { None }
            }
            Event::Resumed => None,
            // What was seen of a workload that stands still says nothing.
            _ if self.paused => None,
            Event::Pulse => self.beats(now),
            Event::Tick => self.look(now),
            Event::Passed if self.asking => self.passed(now),
            Event::Failed(why) if self.asking => self.failed(now, why),
            // Nobody had asked.
            Event::Passed | Event::Failed(_) => None,
        }
    }

    fn look(&mut self, now: Millis) -> Option<Act> {
        if self.deadline().is_none_or(|at| now < at) {
            return None;
        }
        match self.pulse_ms {
            None => {
                self.asking = true;
                Some(Act::Probe)
            }
            Some(period_ms) => self.say(Word::Hung, Some(format!("no pulse for {}", in_words(period_ms)))),
        }
    }

    fn beats(&mut self, now: Millis) -> Option<Act> {
        let period_ms = self.pulse_ms?;
        // Patience that was given at the start is not taken back by a first sign of life.
        self.next = now.plus(period_ms).max(self.begun.plus(self.timing.grace_ms));
        self.say(Word::Healthy, None)
    }

    fn passed(&mut self, now: Millis) -> Option<Act> {
        (self.asking, self.failures, self.next) = (false, 0, now.plus(self.timing.interval_ms));
        self.say(Word::Healthy, None)
    }

    fn failed(&mut self, now: Millis, why: String) -> Option<Act> {
        self.asking = false;
        let in_grace = now < self.begun.plus(self.timing.grace_ms);
        let eager = in_grace && self.word != Word::Healthy;
        self.next = now.plus(if eager { self.timing.interval_ms.min(EAGER_MS) } else { self.timing.interval_ms });
        if in_grace {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.timing.retries { None } else { self.say(Word::Unhealthy, Some(why)) }
    }

    /// Once for each change.
    fn say(&mut self, word: Word, why: Option<String>) -> Option<Act> {
        let news = word != self.word;
        self.word = word;
        news.then_some(Act::Say(word, why))
    }
}

/// A duration as people type it.
fn in_words(ms: u64) -> String {
    match ms {
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}
