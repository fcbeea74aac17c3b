//! What goes wrong in a world, and for how long.

use std::collections::BTreeSet;

use super::bug::Bug;
use super::world::{Event, Who, World};
use crate::cluster::VoterId;

/// How many kinds of trouble there are.
const TROUBLES: u64 = 13;

/// Voters forget, one link after another is cut, and leaders sleep.
const GATHERS: [u64; 5] = [0, 11, 11, 11, 10];
/// Agents stand still, and the voters change.
const OPENINGS: [u64; 5] = [3, 3, 6, 7, 0];
/// Agents die, and voters forget or change.
const AGENTS: [u64; 5] = [4, 4, 0, 0, 6];
/// The voters change and forget, one link after another is cut.
const VOTERS: [u64; 5] = [0, 0, 6, 7, 11];

impl World {
    /// One more thing goes wrong.
    pub(super) fn trouble(&mut self) {
        let lease = self.terms.lease();
        let node = self.random.below(self.nodes.len() as u64) as usize;
        let voter = self.random.below(self.voters.len() as u64) as usize;
        let leader = self.random.below(self.leaders.len() as u64) as usize;
        let kind = self.random.below(self.menu.len() as u64) as usize;
        match self.menu[kind] {
            0 | 1 => self.restart_voter(voter),
            2 => {
                let long = self.random.below(2 * lease);
                self.stop(Who::Voter(voter), long);
            }
            3 => {
                let long = self.random.below(3 * lease);
                self.stop(Who::Node(node), long);
            }
            4 => self.end_agent(node),
            5 => self.cut_off(node),
            6 | 7 => self.change_voters(),
            8 => self.fork(),
            9 => self.restart_leader(leader),
            10 => {
                let long = self.random.below(6 * lease);
                self.stop(Who::Leader(leader), long);
            }
            11 => self.cut_one(node, voter),
            _ => self.spread(),
        }
        let soon = lease / 20 + self.random.below(lease / 2);
        self.at(self.now + soon, Event::Trouble);
    }

    /// What goes wrong in one world: some of everything, or what one part of the proof is about. If a rule of that part is left out,
    /// that.
    pub(super) fn any_menu(&mut self) -> Vec<u64> {
        let theme = self.random.of(&[&GATHERS, &OPENINGS, &AGENTS, &VOTERS]);
        match self.bug {
            Some(Bug::GatherWithoutWindow | Bug::WindowWithoutSleep) => GATHERS.to_vec(),
            Some(Bug::JustOpenedIsOver | Bug::OpeningFromTheAnswer | Bug::OpeningWithoutEnd) => OPENINGS.to_vec(),
            Some(Bug::PageForgotten | Bug::LapsedHolderHears) => AGENTS.to_vec(),
            Some(Bug::AloneTooSoon) => VOTERS.to_vec(),
            _ if self.random.one_in(2) => theme.to_vec(),
            _ => (0..2 + self.random.below(8)).map(|_| self.random.below(TROUBLES)).collect(),
        }
    }

    /// One voter and the node hear nothing of each other, for long.
    fn cut_one(&mut self, node: usize, voter: usize) {
        self.cut_to.insert((node, voter));
        self.cut_back.insert((node, voter));
        let long = self.random.below(4 * self.terms.lease());
        self.at(self.now + long, Event::Heal { node, voter: Some(voter) });
    }

    /// The agent dies, and comes back.
    fn end_agent(&mut self, node: usize) {
        self.nodes[node].holder = None;
        self.nodes[node].agent += 1;
        self.wake(Who::Node(node), true);
        let long = self.random.below(2 * self.terms.lease());
        self.at(self.now + long, Event::StartAgent { node });
    }

    /// Some or all voters hear no more of the node, or it of them.
    fn cut_off(&mut self, node: usize) {
        let (to, back) = self.random.of(&[(true, true), (true, false), (false, true)]);
        let all = self.random.one_in(2);
        for voter in 0..self.voters.len() {
            if all || self.random.one_in(2) {
                self.cut_to.extend(to.then_some((node, voter)));
                self.cut_back.extend(back.then_some((node, voter)));
            }
        }
        let long = self.random.below(4 * self.terms.lease());
        self.at(self.now + long, Event::Heal { node, voter: None });
    }

    /// Replaces the voters by others: any of those that there are.
    fn change_voters(&mut self) {
        if self.sole || self.now < self.settled || self.log.voters(self.log.len()).sets.len() > 1 {
            return;
        }
        let old = self.log.voters(self.log.len()).sets[0].clone();
        let new = self.any_voters();
        if new != old {
            self.log.append_voters(vec![old, new]);
            // Until the second step is made, which sets it right.
            self.settled = u64::MAX;
            self.spread();
        }
    }

    /// A leader that loses its office has written a change into the logs of less than half of the voters, and of any others.
    fn fork(&mut self) {
        let len = self.log.len();
        let last = self.log.voters(len).clone();
        let learned = |id: VoterId| self.voters.iter().find(|voter| voter.id == id).map_or(0, |voter| voter.learned);
        if self.sole || last.sets.len() > 1 || !self.log.committed(learned) {
            return;
        }
        let to = self.any_voters();
        let forked = self.log.forked(to);
        let mut few = (last.sets[0].len() - 1) / 2;
        for voter in 0..self.voters.len() {
            let votes = last.contain(self.voters[voter].id);
            // Who votes must have what is committed: the others have it, and are more than half.
            if votes && (few == 0 || self.voters[voter].learned < len) || self.voters[voter].fork.is_some() {
                continue;
            }
            few -= usize::from(votes);
            self.voters[voter].fork = Some(forked.clone());
            let long = self.random.below(3 * self.terms.lease());
            self.at(self.now + long, Event::Unfork { voter });
        }
    }

    fn any_voters(&mut self) -> BTreeSet<VoterId> {
        let many = self.random.of(&[1, 2, 3, 3, 3, 5]);
        let mut all: Vec<VoterId> = self.voters.iter().map(|voter| voter.id).collect();
        let mut any = BTreeSet::new();
        while any.len() < many && !all.is_empty() {
            let which = self.random.below(all.len() as u64) as usize;
            any.insert(all.swap_remove(which));
        }
        any
    }
}
