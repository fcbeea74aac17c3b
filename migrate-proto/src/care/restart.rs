//! When a workload that has ended is begun again, and when that is given up.
//!
//! It waits 1 s, then 2 s, 4 s … up to a minute, until it has been well for a minute. Five ends within two minutes are a crash loop: it
//! stays as it is, and a person is told.
//!
//! Times are of the clock on the wall, since they outlive the node they were taken on. A clock that was set makes a wait longer or
//! shorter by at most its usual length.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::Exit;
use crate::handover::Millis;

#[cfg(test)]
mod tests;

/// The first wait.
pub const FIRST_WAIT_MS: u64 = 1000;
/// The longest.
pub const LONGEST_WAIT_MS: u64 = 60_000;
/// Who has been well for so long begins with the first wait again.
pub const WELL_MS: u64 = 60_000;
/// So many ends …
pub const LOOP_ENDS: usize = 5;
/// … within this time are a crash loop.
pub const LOOP_MS: u64 = 120_000;

/// Whether a workload is begun again when it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// If it ended with an error; so many times in a row at most, where a number is given.
    OnFailure(Option<u32>),
    /// However it ended. One that a person stopped begins again with the agent.
    Always,
    /// However it ended. One that a person stopped stays stopped.
    UnlessStopped,
}

/// That a policy was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a restart policy is one of no, on-failure, on-failure:N, always, unless-stopped")]
pub struct InvalidPolicy;

impl FromStr for Policy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Policy, InvalidPolicy> {
        match text {
            "no" => Ok(Policy::No),
            "on-failure" => Ok(Policy::OnFailure(None)),
            "always" => Ok(Policy::Always),
            "unless-stopped" => Ok(Policy::UnlessStopped),
            _ => {
                let count = text.strip_prefix("on-failure:").filter(|count| count.bytes().all(|b| b.is_ascii_digit()));
                Ok(Policy::OnFailure(Some(count.and_then(|count| count.parse().ok()).ok_or(InvalidPolicy)?)))
            }
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = InvalidPolicy;

    fn try_from(text: String) -> Result<Policy, InvalidPolicy> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> String {
        policy.to_string()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::No => f.write_str("no"),
            Policy::OnFailure(None) => f.write_str("on-failure"),
            Policy::OnFailure(Some(count)) => write!(f, "on-failure:{count}"),
            Policy::Always => f.write_str("always"),
            Policy::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// How a workload came to be without processes, though nobody stopped it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its main process ended.
    Exit(Exit),
    /// It was ended, because it hung or was ill.
    Ill(String),
    /// Its processes went with the node's power.
    Lost(String),
    /// It could not be started.
    NotStarted(String),
}

impl End {
    fn is_failure(&self) -> bool {
        *self != End::Exit(Exit::Code(0))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Exit(Exit::Code(code)) => write!(f, "ended with code {code}"),
            End::Exit(Exit::Signal(signal)) => write!(f, "was ended by signal {signal}"),
            End::Ill(why) => write!(f, "was ended: {why}"),
            End::Lost(why) => write!(f, "was lost: {why}"),
            End::NotStarted(why) => write!(f, "could not be started: {why}"),
        }
    }
}

/// What follows from an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is begun again after this time.
    Again {
        /// Milliseconds.
        after_ms: u64,
    },
    /// It has ended, as its policy allows.
    Rest,
    /// It is not begun again, although its policy would like it: a person has to look.
    GiveUp(String),
}

/// How a workload has ended and was begun again. Durable, and moves with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// How often it was begun again.
    #[serde(default)]
    pub restarts: u32,
    /// The same, since it was last well for long.
    #[serde(default)]
    streak: u32,
    /// When it ended lately.
    #[serde(default)]
    ends: Vec<Millis>,
    /// Since when it has been well, where it is.
    #[serde(default)]
    well_since: Option<Millis>,
    /// What is being done.
    #[serde(default)]
    stage: Stage,
}

/// What is being done about a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// As far as is known it runs: an end is news.
    #[default]
    Up,
    /// It has ended, and is begun again.
    Waiting {
        /// When.
        due: Millis,
        /// How it had ended.
        after: String,
    },
    /// It has ended, and stays so.
    AtRest,
}

impl Past {
    /// What is being done.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// It is seen to run. Says whether that is because it was begun again; then it has been counted.
    pub fn runs(&mut self) -> bool {
        let again = matches!(self.stage, Stage::Waiting { .. });
        if again {
            self.restarts = self.restarts.saturating_add(1);
        }
        if self.stage != Stage::Up {
            (self.stage, self.well_since) = (Stage::Up, None);
        }
        again
    }

    /// It is well, or runs and nothing is known to the contrary. Says whether that is news.
    pub fn is_well(&mut self, now: Millis) -> bool {
        let news = self.well_since.is_none();
        self.well_since.get_or_insert(now);
        news
    }

    /// It is not well. Says whether that is news.
    pub fn is_unwell(&mut self) -> bool {
        self.well_since.take().is_some()
    }

    /// It has ended without anybody's wish.
    pub fn ended(&mut self, now: Millis, policy: Policy, end: &End) -> Next {
        let well_ms = self.well_since.take().map_or(0, |since| now.0.saturating_sub(since.0));
        if well_ms >= WELL_MS {
            (self.streak, self.ends) = (0, Vec::new());
        }
        // A clock that was set back must not make old ends young again and again.
        self.ends.iter_mut().for_each(|at| *at = (*at).min(now));
        self.ends.retain(|at| now.0 - at.0 < LOOP_MS);
        self.ends.push(now);
        let surplus = self.ends.len().saturating_sub(LOOP_ENDS);
        self.ends.drain(..surplus);
        let next = self.judge(policy, end);
        self.stage = match next {
            Next::Again { after_ms } => {
                Stage::Waiting { due: now.plus(after_ms), after: super::shorten(&end.to_string()) }
            }
            Next::Rest | Next::GiveUp(_) => Stage::AtRest,
        };
        next
    }

    fn judge(&mut self, policy: Policy, end: &End) -> Next {
        let most = match policy {
            Policy::No => return Next::Rest,
            Policy::OnFailure(_) if !end.is_failure() => return Next::Rest,
            Policy::OnFailure(most) => most,
            Policy::Always | Policy::UnlessStopped => None,
        };
        if most.is_some_and(|most| self.streak >= most) {
            return Next::GiveUp(format!("it {end}, after {} of {} restarts", self.streak, most.unwrap_or_default()));
        }
        if self.ends.len() >= LOOP_ENDS {
            let minutes = LOOP_MS / 60_000;
            let message = format!(
                "a crash loop: it has ended {LOOP_ENDS} times within {minutes} minutes; the last time it {end}"
            );
            return Next::GiveUp(message);
        }
        self.streak = self.streak.saturating_add(1);
        Next::Again { after_ms: wait_ms(self.streak) }
    }

    /// How long it still has to wait; `None` where it does not.
    pub fn waits_ms(&self, now: Millis) -> Option<u64> {
        match &self.stage {
            Stage::Waiting { due, .. } => Some(due.0.saturating_sub(now.0).min(LONGEST_WAIT_MS)),
            Stage::Up | Stage::AtRest => None,
        }
    }

    /// A person begins it anew: what was before does not count. The number of restarts stays.
    pub fn forgive(&mut self) {
        *self = Past { restarts: self.restarts, ..Past::default() };
    }

    /// A person stops it.
    pub fn stop(&mut self) {
        (self.stage, self.well_since) = (Stage::AtRest, None);
    }

    /// It was stopped by a person, and its policy is that this ends with the agent: it is begun at once.
    pub fn wake(&mut self, now: Millis) {
        self.forgive();
        self.stage = Stage::Waiting { due: now, after: "was stopped before the agent was restarted".to_owned() };
    }

    /// Whether it is no longer than it can become here.
    pub(super) fn is_bounded(&self) -> bool {
        self.ends.len() <= LOOP_ENDS
    }
}

/// The wait before the restart of this number, counted from 1.
fn wait_ms(number: u32) -> u64 {
    let doubled = 1u64.checked_shl(number.saturating_sub(1)).unwrap_or(u64::MAX);
    FIRST_WAIT_MS.saturating_mul(doubled).min(LONGEST_WAIT_MS)
}
