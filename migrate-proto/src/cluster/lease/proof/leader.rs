//! Who believes to lead: there are several, for nobody tells one that it was deposed. Each wants to fence everybody.

use std::collections::{BTreeMap, BTreeSet};

use super::bug::Bug;
use super::chance::Clock;
use super::world::{Event, RHO_PPM, Who, World};
use crate::cluster::Claim;
use crate::cluster::lease::{Electors, Gather, Lapse, LogId, Nanos, Terms};

pub(super) struct Leader {
    pub(super) clock: Clock,
    /// How much of the log it has.
    pub(super) learned: usize,
    electors: Electors,
    gathers: BTreeMap<usize, Gather>,
    claims: BTreeMap<usize, (Claim, u64, Nanos)>,
    fenced: BTreeSet<(usize, u64)>,
}

impl World {
    pub(super) fn new_leader(&self, clock: Clock, learned: usize) -> Leader {
        let mut before: Vec<_> = self.log.configurations(learned).rev().take(2).cloned().collect();
        let current = before.remove(0);
        if self.bug == Some(Bug::OldVotersNotAsked) {
            before.clear();
        }
        let electors = Electors::new(clock.at(self.now), current, before, self.terms);
        let (gathers, claims, fenced) = Default::default();
        Leader { clock, learned, electors, gathers, claims, fenced }
    }

    /// It forgets everything, its clock and its log aside.
    pub(super) fn restart_leader(&mut self, leader: usize) {
        self.wake(Who::Leader(leader), true);
        let clock = self.leaders.remove(leader);
        let learned = clock.learned;
        let anew = self.new_leader(clock.clock, learned);
        self.leaders.insert(leader, anew);
    }

    pub(super) fn learn_as_leader(&mut self, leader: usize, len: usize) {
        let here = &mut self.leaders[leader];
        let now = here.clock.at(self.now);
        let known = self.log.configurations(here.learned).count();
        here.learned = here.learned.max(len);
        for voters in self.log.configurations(here.learned).skip(known) {
            if self.bug == Some(Bug::OldVotersNotAsked) {
                here.electors = Electors::new(now, voters.clone(), Vec::new(), self.terms);
            } else {
                here.electors.changed(now, voters.clone());
            }
        }
    }

    /// Asks about everybody who has not been fenced yet and whose session is as old as this world's leaders want it to be.
    pub(super) fn asking(&mut self, leader: usize) {
        for node in 0..self.nodes.len() {
            let here = &mut self.leaders[leader];
            let now = here.clock.at(self.now);
            let known = self.log.known(here.learned, node);
            let claim = Claim { node: self.nodes[node].name.clone(), session: known.session };
            let anew = (claim.clone(), self.now, now);
            let (about, since, at) = here.claims.entry(node).or_insert_with(|| anew.clone());
            if *about != claim {
                (*about, *since, *at) = anew;
                here.gathers.remove(&node);
            }
            if known.fenced || self.now - *since < self.patience {
                continue;
            }
            let terms = match self.bug {
                Some(Bug::GatherWithoutWindow) => Terms::new(300 * self.terms.lease(), RHO_PPM).unwrap(),
                _ => self.terms,
            };
            let known = match self.bug {
                Some(Bug::JustOpenedIsOver) => Nanos(0),
                // With the terms of this gather it would wait for longer.
                _ => Nanos(at.0 - (terms.promise() - self.terms.promise())),
            };
            let gather = here.gathers.entry(node).or_insert_with(|| Gather::new(claim, known, terms));
            let Some(mut ask) = gather.ask(now) else { continue };
            ask.terms = self.terms;
            for voter in here.electors.everyone(now) {
                let voter = self.voters.iter().position(|other| other.id == voter).unwrap();
                self.send(false, Event::Ask { leader, voter, ask: ask.clone() });
            }
        }
        let soon = self.terms.lease() / 50 + self.random.below(self.terms.lease() / 30);
        self.at(self.now + soon, Event::Asking { leader });
    }

    pub(super) fn lapse(&mut self, leader: usize, mut lapse: Lapse) {
        let here = &mut self.leaders[leader];
        let now = here.clock.at(self.now);
        let Some(node) = self.nodes.iter().position(|node| node.name == lapse.claim.node) else { return };
        let Some(gather) = here.gathers.get_mut(&node) else { return };
        if self.bug == Some(Bug::GatherWithoutWindow) {
            lapse.terms = Terms::new(300 * self.terms.lease(), RHO_PPM).unwrap();
        }
        gather.heard(&lapse);
        let session = lapse.claim.session;
        let about = here.claims.get(&node).is_some_and(|(claim, ..)| *claim == lapse.claim);
        if !about || !gather.ready(now, &here.electors) || here.fenced.contains(&(node, session)) {
            return;
        }
        let under = here.electors.config();
        if self.may_fence(under) {
            self.leaders[leader].fenced.insert((node, session));
            self.over.insert((node, session));
            if self.sole {
                // It is in the log of this very process, or nobody ever hears of it.
                self.fence(node, session, under);
            } else {
                self.propose(Event::Fence { node, session, under });
            }
        }
    }

    pub(super) fn fence(&mut self, node: usize, session: u64, under: LogId) {
        if self.may_fence(under) && self.log.fence(node, session) {
            self.spread();
        }
    }

    /// The record refuses a fence by a leader that knows other voters than it.
    fn may_fence(&self, under: LogId) -> bool {
        under == self.log.voters(self.log.len()).config || self.bug == Some(Bug::FenceNamesNoConfiguration)
    }
}
