//! What must be true. Each invariant is a function from the world to a verdict; all but the last are judged after everything
//! that happens.

mod at_most_one_running;
mod epochs_only_rise;
mod eventually_settled;
mod no_resume_after_commit;
mod nothing_lost;

use std::fmt;

use crate::world::World;

/// Something that must be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// At no time two copies of a workload run.
    AtMostOneRunning,
    /// Somebody can always run it, from where it was.
    NothingLost,
    /// A workload's epoch only rises, and no two nodes own it in the same one.
    EpochsOnlyRise,
    /// The source never runs it after the commit, the target never without.
    NoResumeAfterCommit,
    /// When the faults have ended everything comes to an end, and both sides agree.
    EventuallySettled,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// In what way.
    pub how: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}

type Judge = fn(&World, usize) -> Result<(), String>;

/// Judges what must hold at all times.
pub(crate) fn judge_now(world: &World) -> Result<(), Violation> {
    const JUDGES: [(Invariant, Judge); 4] = [
        (Invariant::AtMostOneRunning, at_most_one_running::judge),
        (Invariant::NothingLost, nothing_lost::judge),
        (Invariant::EpochsOnlyRise, epochs_only_rise::judge),
        (Invariant::NoResumeAfterCommit, no_resume_after_commit::judge),
    ];
    for load in 0..world.ledger.fates.len() {
        for (invariant, judge) in
            JUDGES.iter().filter(|(invariant, _)| world.only.is_none_or(|only| only == *invariant))
        {
            let invariant = *invariant;
            judge(world, load).map_err(|how| Violation { invariant, how: format!("load {load}: {how}") })?;
        }
    }
    Ok(())
}

/// Judges what must hold when everything has had its time.
pub(crate) fn judge_the_end(world: &World) -> Result<(), Violation> {
    let invariant = Invariant::EventuallySettled;
    if world.only.is_some_and(|only| only != invariant) {
        return Ok(());
    }
    for load in 0..world.ledger.fates.len() {
        let verdict = eventually_settled::judge(world, load);
        verdict.map_err(|how| Violation { invariant, how: format!("load {load}: {how}") })?;
    }
    Ok(())
}

/// Remembers what later verdicts need.
pub(crate) fn remember(world: &mut World) {
    epochs_only_rise::remember(world);
}
