//! A node with a lease: its agent, its page, and the sandboxes whose inits look at that.

use std::collections::BTreeMap;

use super::bug::Bug;
use super::chance::Clock;
use super::world::{Event, Who, World};
use crate::cluster::Claim;
use crate::cluster::lease::{Ack, Holder, Leash, Nanos, Page, leash};
use crate::name::NodeName;

pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) clock: Clock,
    pub(super) page: Page,
    /// `None`: no agent runs.
    pub(super) holder: Option<Holder>,
    /// Which agent it is: one that has died hears nothing that was meant for it.
    pub(super) agent: u64,
    /// The newest session that it knows of.
    after: u64,
    /// The newest one that this node has given up: it has proposed to open the one after it.
    given_up: u64,
    pub(super) bodies: BTreeMap<u64, Body>,
}

/// One copy of the node's workload.
pub(super) struct Body {
    /// In which it was given to this node.
    pub(super) epoch: u64,
    pub(super) armed: u64,
    pub(super) running: bool,
    turn: u64,
}

impl Node {
    pub(super) fn new(index: usize, clock: Clock, page: Page) -> Node {
        let body = Body { epoch: 0, armed: 1, running: false, turn: 0 };
        Node {
            name: format!("node{index}").parse().unwrap(),
            clock,
            page,
            holder: None,
            agent: 0,
            after: 1,
            given_up: 0,
            bodies: BTreeMap::from([(0, body)]),
        }
    }
}

impl World {
    /// An agent starts: it goes on from the page.
    pub(super) fn start_agent(&mut self, node: usize) {
        let now = self.nodes[node].clock.at(self.now);
        let here = &mut self.nodes[node];
        here.agent += 1;
        let page = here.page;
        here.holder = Some(if self.bug == Some(Bug::PageForgotten) {
            Holder::open(Claim { node: here.name.clone(), session: page.session }, now, self.terms)
        } else {
            Holder::resume(here.name.clone(), page, self.terms)
        });
        let agent = here.agent;
        self.at(self.now, Event::Renewal { node, agent });
    }

    /// Renews, or wants another session.
    pub(super) fn renewal(&mut self, node: usize, agent: u64) {
        let now = self.nodes[node].clock.at(self.now);
        let here = &mut self.nodes[node];
        let Some(holder) = here.holder.as_mut().filter(|_| here.agent == agent) else { return };
        if holder.lapsed(now) && self.bug == Some(Bug::LapsedHolderHears) {
            *holder = Holder::open(holder.claim().clone(), now, self.terms);
        }
        let next = match holder.renew(now) {
            Some(renew) => {
                let next = here.clock.when(holder.next(now)).max(self.now + 1);
                for voter in 0..self.voters.len() {
                    let lost = self.cut_to.contains(&(node, voter));
                    self.send(lost, Event::Renew { node, voter, renew: renew.clone() });
                }
                next
            }
            None => {
                here.after = here.after.max(holder.claim().session);
                let after = here.after;
                here.given_up = after;
                // In a troubled world the record may be reached by ways that renewals do not take.
                if self.faults || (0..self.voters.len()).any(|voter| !self.cut_to.contains(&(node, voter))) {
                    self.propose(Event::Open { node, agent, after, proposed: now });
                }
                self.now + self.terms.lease() / 4
            }
        };
        self.at(next, Event::Renewal { node, agent });
    }

    /// The record has heard the wish for a session.
    pub(super) fn open(&mut self, node: usize, agent: u64, after: u64, proposed: Nanos) {
        let granted = self.log.open(node, after);
        if granted.is_ok() {
            self.spread();
        }
        let epoch = self.log.epoch(node);
        self.propose(Event::Opened { node, agent, granted, proposed, epoch });
    }

    /// The record has answered: what is still this node's goes on in the new session, the rest goes when there is time for it.
    pub(super) fn opened(&mut self, node: usize, agent: u64, granted: Result<u64, u64>, proposed: Nanos, epoch: u64) {
        let here = &mut self.nodes[node];
        let now = here.clock.at(self.now);
        let (Ok(session) | Err(session)) = granted;
        if here.agent != agent || here.after >= session && granted.is_err() {
            return;
        }
        let Some(holder) = here.holder.as_mut() else { return };
        here.after = here.after.max(session);
        if granted.is_err() || session <= holder.claim().session {
            return;
        }
        if session <= here.given_up && self.bug != Some(Bug::GivenUpIsTakenUp) {
            return;
        }
        let proposed = match self.bug {
            Some(Bug::OpeningWithoutEnd) => proposed.plus(u64::MAX / 2),
            Some(Bug::OpeningFromTheAnswer) => now,
            _ => proposed,
        };
        *holder = Holder::open(Claim { node: here.name.clone(), session }, proposed, self.terms);
        here.page = Page { session, until: Nanos(0) };
        if here.bodies.values().all(|body| body.epoch != epoch) {
            here.bodies.insert(epoch, Body { epoch, armed: session, running: false, turn: 0 });
        }
        let old: Vec<u64> = here.bodies.keys().copied().filter(|body| *body != epoch).collect();
        here.bodies.get_mut(&epoch).unwrap().armed = session;
        self.look(node, epoch);
        for body in old {
            let soon = self.random.below(3 * self.terms.lease());
            self.at(self.now + soon, Event::Drop { node, body });
        }
    }

    /// A voter has answered.
    pub(super) fn ack(&mut self, node: usize, mut ack: Ack) {
        let here = &mut self.nodes[node];
        let now = here.clock.at(self.now);
        let Some(holder) = here.holder.as_mut() else { return };
        match self.bug {
            Some(Bug::DeadlineFromReceipt) => ack.sent = now,
            Some(Bug::NewVotersNotCounted) => ack.voters = self.log.voters(1).clone(),
            Some(Bug::NewVotersCountedAlone) => drop(ack.voters.sets.drain(..ack.voters.sets.len() - 1)),
            _ => {}
        }
        let Some(until) = holder.heard(now, &ack) else { return };
        let write = Event::Write { node, agent: here.agent, page: Page { session: ack.claim.session, until } };
        // An agent may stand still for any time between what it decides and what it does.
        if self.faults && self.random.one_in(100) {
            let long = self.random.below(4 * self.terms.lease());
            self.stop(Who::Node(node), long);
        }
        self.happen(write);
    }

    /// Init looks at the page, and obeys it.
    pub(super) fn look(&mut self, node: usize, body: u64) {
        let here = &mut self.nodes[node];
        let now = here.clock.at(self.now);
        let Some(it) = here.bodies.get_mut(&body) else { return };
        let margin = if self.bug == Some(Bug::LeashWithoutMargin) { 0 } else { self.margin };
        let armed = if self.bug == Some(Bug::LeashIgnoresSession) { here.page.session } else { it.armed };
        let decided = leash(armed, here.page, now, margin);
        let (Leash::Run { look_at } | Leash::Freeze { look_at }) = decided;
        it.running = matches!(decided, Leash::Run { .. });
        it.turn += 1;
        let turn = it.turn;
        // It may be late by as much as the margin, and often is by nearly that.
        let latest = self.margin - 1_000;
        let late = if self.faults { self.random.of(&[0, latest, latest, self.margin / 2]) } else { 0 };
        let next = here.clock.when(look_at.unwrap().plus(late)).max(self.now + 1);
        self.at(next, Event::Look { node, body, turn });
    }

    /// Whether a body's look is the one that was planned last.
    pub(super) fn is_planned(&self, node: usize, body: u64, turn: u64) -> bool {
        self.nodes[node].bodies.get(&body).is_some_and(|body| body.turn == turn)
    }
}
