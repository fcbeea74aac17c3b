//! When each phase was entered.

use thiserror::Error;

use super::Millis;
use crate::phase::Phase;

/// An attempt to enter a phase that does not come after the present one, or earlier in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("phase {to} cannot follow phase {from}")]
pub struct Backwards {
    /// The present phase.
    pub from: Phase,
    /// The phase that was asked for.
    pub to: Phase,
}

/// The phases entered so far, in order. Phases may be left out, but neither phase nor time goes backwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    entered: Vec<(Phase, Millis)>,
}

impl Timeline {
    /// Records that `phase` begins at `now`.
    pub fn enter(&mut self, phase: Phase, now: Millis) -> Result<(), Backwards> {
        if let Some(&(from, since)) = self.entered.last()
            && (phase <= from || now < since)
        {
            return Err(Backwards { from, to: phase });
        }
        self.entered.push((phase, now));
        Ok(())
    }

    /// Every phase entered, and when.
    pub fn entered(&self) -> &[(Phase, Millis)] {
        &self.entered
    }

    /// The present phase.
    pub fn phase(&self) -> Option<Phase> {
        self.entered.last().map(|&(phase, _)| phase)
    }

    /// When `phase` was entered.
    pub fn at(&self, phase: Phase) -> Option<Millis> {
        self.entered.iter().find(|(entered, _)| *entered == phase).map(|&(_, at)| at)
    }

    /// How long each phase took, the last one until `end`.
    pub fn durations(&self, end: Millis) -> Vec<(Phase, u64)> {
        let ends = self.entered.iter().skip(1).map(|&(_, at)| at).chain([end]);
        self.entered.iter().zip(ends).map(|(&(phase, from), to)| (phase, to.0.saturating_sub(from.0))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn neither_phases_nor_time_go_backwards() {
        let mut timeline = Timeline::default();
        timeline.enter(Phase::Prepare, Millis(5)).unwrap();
        let refused = |from, to| Err(Backwards { from, to });
        assert_eq!(timeline.enter(Phase::Prepare, Millis(6)), refused(Phase::Prepare, Phase::Prepare));
        assert_eq!(timeline.enter(Phase::Negotiate, Millis(6)), refused(Phase::Prepare, Phase::Negotiate));
        assert_eq!(timeline.enter(Phase::Freeze, Millis(4)), refused(Phase::Prepare, Phase::Freeze));
        timeline.enter(Phase::Verify, Millis(5)).unwrap();
        assert_eq!(timeline.entered(), [(Phase::Prepare, Millis(5)), (Phase::Verify, Millis(5))]);
        assert_eq!((timeline.phase(), timeline.at(Phase::Freeze)), (Some(Phase::Verify), None));
    }

    #[test]
    fn durations_cover_the_whole() {
        let mut timeline = Timeline::default();
        timeline.enter(Phase::Negotiate, Millis(10)).unwrap();
        timeline.enter(Phase::Freeze, Millis(25)).unwrap();
        assert_eq!(timeline.durations(Millis(27)), [(Phase::Negotiate, 15), (Phase::Freeze, 2)]);
    }
}
