//! A voter: its agent forgets its promises when it is started anew, its log remembers.

use super::bug::Bug;
use super::chance::Clock;
use super::world::{Event, Who, World};
use crate::cluster::VoterId;
use crate::cluster::lease::{Ask, Nanos, Promiser, Renew, Seat, Terms, Voters};

pub(super) struct Voter {
    pub(super) id: VoterId,
    pub(super) clock: Clock,
    /// Those it was configured with, which may be others than everyone's.
    pub(super) terms: Terms,
    pub(super) promiser: Promiser,
    /// How much of the log it has.
    pub(super) learned: usize,
    /// How much of that it has carried out: a configuration counts from when it is written, a session from then on.
    pub(super) applied: usize,
    /// What it has instead of the rest, and will lose.
    pub(super) fork: Option<Voters>,
}

impl World {
    pub(super) fn restart_voter(&mut self, voter: usize) {
        self.wake(Who::Voter(voter), true);
        let here = &mut self.voters[voter];
        let forgets = self.bug != Some(Bug::RestartedVoterAnswers);
        let started = if forgets { here.clock.at(self.now) } else { Nanos(0) };
        here.promiser = Promiser::new(here.id, started, here.terms);
        if self.sole && voter == 0 {
            self.restart_leader(0);
        }
    }

    pub(super) fn renew(&mut self, node: usize, voter: usize, mut renew: Renew) {
        let translated = self.translated();
        let here = &mut self.voters[voter];
        if self.sole {
            (here.learned, here.applied) = (self.log.len(), self.log.len());
        }
        let now = here.clock.at(self.now);
        let history: Vec<&Voters> = self.log.configurations(here.learned).collect();
        let only = |voters: &&Voters| voters.sets.iter().all(|set| set.len() == 1 && set.contains(&here.id));
        let alone = match self.bug {
            Some(Bug::RestartedVoterAcknowledges) => true,
            Some(Bug::AloneTooSoon) => history.last().is_some_and(only),
            _ => self.sole && history.iter().all(only),
        };
        let voters = here.fork.as_ref().unwrap_or(history[history.len() - 1]);
        let seat = Seat { voters, known: Some(self.log.known(here.applied, node)), alone };
        if translated {
            renew.terms = here.terms;
        }
        let Some(mut ack) = here.promiser.renew(now, &renew, seat) else { return };
        if translated {
            ack.terms = self.terms;
        }
        let lost = self.cut_back.contains(&(node, voter));
        self.send(lost, Event::Ack { node, ack });
    }

    pub(super) fn ask(&mut self, leader: usize, voter: usize, mut ask: Ask) {
        let translated = self.translated();
        let here = &mut self.voters[voter];
        let now = here.clock.at(self.now);
        if translated {
            ask.terms = here.terms;
        }
        let before = here.promiser.clone();
        let Some(mut lapse) = here.promiser.lapsed(now, &ask) else { return };
        if self.bug == Some(Bug::LapseDoesNotClose) {
            here.promiser = before;
        }
        if translated {
            lapse.terms = self.terms;
        }
        self.send(false, Event::Lapse { leader, lapse });
    }

    /// Whether voters read what they are told as if it had been said under their own terms.
    fn translated(&self) -> bool {
        matches!(self.bug, Some(Bug::PromiseWithoutDrift | Bug::StrangersTermsHeard))
    }
}
