//! When a voter stands up to lead of its own accord, beside raft's own clock.
//!
//! Raft waits three times as long where a voter was ever refused for what it lacked, and remembers that until it stands again, be it for
//! hours. So each voter has a clock of its own, which starts when a leader was last heard. Voters stand up one after the other, and who was refused
//! because another has more lets that one try: if both went on, each would undo the other's attempt, for ever.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_proto::cluster::VoterId;
use tokio::time::Instant;

use super::settings::Timing;

/// What a voter knows about whose turn it is.
pub(crate) struct Candidacy {
    election_max: Duration,
    stagger: Duration,
    state: Mutex<State>,
}

struct State {
    /// When a leader was last heard, or this was started.
    heard: Instant,
    /// When this node has last tried to lead, or was started.
    stood: Instant,
    /// Another has more: this node cannot win before it has heard a leader.
    outdone: bool,
    standing_up: bool,
}

impl Candidacy {
    pub(crate) fn new(me: VoterId, timing: &Timing) -> Candidacy {
        let Timing { election_min, election_max, .. } = *timing;
        let stagger = (election_max - election_min) * (me.0 % 16) as u32 / 16;
        let now = Instant::now();
        let state = Mutex::new(State { heard: now, stood: now, outdone: false, standing_up: false });
        Candidacy { election_max, stagger, state }
    }

    /// A leader has sent something.
    pub(crate) fn heard_a_leader(&self) {
        let mut state = self.state();
        (state.heard, state.outdone) = (Instant::now(), false);
    }

    /// Whether a leader has sent something since.
    pub(crate) fn heard_since(&self, moment: Instant) -> bool {
        self.state().heard > moment
    }

    /// It was refused by a voter that has what it lacks.
    pub(crate) fn is_outdone(&self) {
        self.state().outdone = true;
    }

    /// When there should have been an election, had a leader not been heard by then; again some time after this node has stood up. `None`:
    /// one is under way.
    pub(crate) fn overdue(&self) -> Option<Instant> {
        let state = self.state();
        let patience = if state.outdone { 6 } else { 2 };
        let last = state.heard.max(state.stood);
        (!state.standing_up).then(|| last + patience * self.election_max + self.stagger)
    }

    /// Whether to stand up now. If so, [`Candidacy::stood`] ends it.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.state();
        let begins = !state.standing_up && state.heard.elapsed() > self.election_max;
        if begins {
            (state.standing_up, state.outdone) = (true, false);
        }
        begins
    }

    /// Whether another attempt is of use.
    pub(crate) fn may_win(&self) -> bool {
        !self.state().outdone
    }

    /// It has tried.
    pub(crate) fn stood(&self) {
        let mut state = self.state();
        (state.standing_up, state.stood) = (false, Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_outdone_lets_the_other_try_first() {
        let timing = Timing::default();
        let (candidacy, last) = (Candidacy::new(VoterId(3), &timing), Candidacy::new(VoterId(15), &timing));
        assert!(candidacy.overdue() < last.overdue(), "they stand up one after the other");
        assert!(!candidacy.begin(), "a leader may still be there");
        tokio::time::advance(3 * timing.election_max).await;
        assert!(candidacy.overdue().is_some_and(|at| at <= Instant::now()));
        assert!(candidacy.begin() && candidacy.overdue().is_none() && !candidacy.begin(), "it stands up once");
        assert!(candidacy.may_win());
        candidacy.is_outdone();
        assert!(!candidacy.may_win());
        candidacy.stood();
        last.stood();
        assert!(candidacy.overdue() > last.overdue().map(|at| at + timing.election_max), "another's turn comes first");
        candidacy.heard_a_leader();
        last.heard_a_leader();
        assert!(candidacy.overdue() < last.overdue(), "it has what it lacked");
    }
}
