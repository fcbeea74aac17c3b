//! Leases, as the agent keeps them: the holder, the promiser, the page, and the inits that look at it.

use std::sync::Arc;

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Ack, Ask, Holder, Known, Leash, Nanos, Page, Promiser, Renew, Seat, Terms, leash};
use migrate_proto::cluster::record::Applied;
use migrate_proto::cluster::steward::Past;

use super::bug::Bug;
use super::clock::RHO_PPM;
use super::conduct::Voice;
use super::log::Answer;
use super::node::Agent;
use super::world::{Event, World};

impl World {
    /// A node's own time.
    pub(crate) fn local(&self, node: usize) -> Nanos {
        self.nodes[node].clock.at(self.now)
    }

    pub(crate) fn agent(&mut self, node: usize) -> Option<&mut Agent> {
        self.nodes[node].agent.as_mut()
    }

    /// The terms that voters have: a bug of theirs is to have others.
    fn promised(&self) -> Terms {
        let other = if self.bug == Some(Bug::PromiseWithoutDrift) { Terms::new(self.lease(), 0).ok() } else { None };
        other.unwrap_or(self.terms)
    }

    /// A new agent: it goes on from the page, and from a record that may be a little older than the one before it had.
    pub(crate) fn make_agent(&mut self, node: usize, seasoned: bool) -> Agent {
        let now = self.local(node);
        let (nodes, loads, promised) = (self.nodes.len(), self.ledger.loads.len(), self.promised());
        let here = &self.nodes[node];
        let forgets = !seasoned && self.bug != Some(Bug::RestartedVoterAnswers);
        let started = if forgets { now } else { Nanos(0) };
        let holder = here.page.map(|page| Holder::resume(here.name.clone(), page, self.terms));
        let learned = here.learned;
        let back = if seasoned { 0 } else { self.random.below(4) as usize };
        let applied = learned.saturating_sub(back);
        let record = Arc::clone(&self.log.states[applied]);
        let past = Past::new(now, &record, self.log.voters(learned), self.terms);
        Agent {
            applied,
            voters: self.log.voters(learned).clone(),
            record,
            started: self.now,
            ready: seasoned,
            holder,
            asked: None,
            opened: 0,
            promiser: Promiser::new(self.nodes[node].voter, started, promised),
            past,
            heard: vec![now; nodes],
            lead: None,
            jobs: vec![None; loads],
            departures: vec![None; loads],
            refusing: vec![false; loads],
            taken: vec![None; loads],
            proposed: Default::default(),
        }
    }

    /// Renews, or wants another session.
    pub(crate) fn renewal(&mut self, node: usize, life: u64) {
        if self.nodes[node].life != life {
            return;
        }
        let (now, lease, terms) = (self.local(node), self.lease(), self.terms);
        let bug = self.bug;
        let Some(agent) = self.agent(node) else { return };
        if let Some(holder) = agent.holder.as_mut().filter(|holder| holder.lapsed(now))
            && bug == Some(Bug::LapsedHolderHears)
        {
            *holder = Holder::open(holder.claim().clone(), now, terms);
        }
        let renew = agent.holder.as_mut().and_then(|holder| holder.renew(now));
        let voters = agent.voters.sets.iter().flatten().copied().collect::<std::collections::BTreeSet<_>>();
        match renew {
            Some(renew) => {
                for voter in voters {
                    if let Some(to) = self.node_of(voter) {
                        self.send(node, to, Event::Renew { to, from: node, renew: renew.clone() });
                    }
                }
            }
            None => self.ask_for_a_session(node),
        }
        // More often than once in four times would only take longer to simulate.
        self.at(self.now + lease / 4, Event::Renewal { node, life });
    }

    fn ask_for_a_session(&mut self, node: usize) {
        let now = self.local(node);
        let finite = self.bug != Some(Bug::InfiniteLeaseInCompany) || !self.random.one_in(4);
        let once = self.bug == Some(Bug::OpenSessionNotRetried);
        let (name, mark) = (self.nodes[node].name.clone(), self.nodes[node].mark);
        if self.bug == Some(Bug::SalvageDroppedEarly) {
            self.nodes[node].bodies.fill(None);
        }
        let Some(agent) = self.agent(node).filter(|agent| agent.ready) else { return };
        let known = agent.record.nodes.get(&name).map_or(0, |entry| entry.session);
        let held = agent.holder.as_ref().map_or(0, |holder| holder.claim().session);
        let after = known.max(held).max(agent.asked.map_or(0, |(after, _)| after));
        let first = agent.asked.filter(|(asked, _)| *asked == after);
        if once && agent.asked.is_some() {
            return;
        }
        agent.asked = Some(first.unwrap_or((after, now)));
        let open = Command::OpenSession { node: name, mark, after, finite };
        self.propose(node, Voice::Open { after }, open);
    }

    /// The record has answered a wish for a session.
    pub(crate) fn opened(&mut self, node: usize, after: u64, index: u64, answer: &Answer) {
        let (now, terms) = (self.local(node), self.terms);
        let name = self.nodes[node].name.clone();
        let Some(agent) = self.agent(node) else { return };
        // What was so already may have been asked for by an agent before this one.
        let granted = *answer == Ok(Applied::Changed);
        // Whoever has proposed the next one never takes this one up.
        let Some((_, proposed)) = agent.asked.filter(|(asked, _)| *asked == after && granted) else { return };
        let session = after + 1;
        if agent.holder.as_ref().is_some_and(|holder| holder.claim().session >= session) {
            return;
        }
        let holder = Holder::open(Claim { node: name, session }, proposed, terms);
        if holder.lapsed(now) {
            return;
        }
        agent.holder = Some(holder);
        agent.opened = index;
        self.nodes[node].page = Some(Page { session, until: Nanos(0) });
        self.tally.sessions += 1;
        self.note(|| format!("node{} is in session {session}", node + 1));
        let life = self.nodes[node].life;
        self.at(self.now, Event::Renewal { node, life });
        self.conduct(node);
    }

    /// A renewal reaches a voter.
    pub(crate) fn renew(&mut self, to: usize, from: usize, mut renew: Renew) {
        let now = self.local(to);
        let (mine, theirs) = (self.promised(), self.terms);
        let len = self.log.len();
        let voters = self.log.voters(self.nodes[to].learned).clone();
        let leads = self.log.leader == Some(to);
        let voter = self.nodes[to].voter;
        let Some(agent) = self.agent(to) else { return };
        let alone = leads && agent.applied == len && agent.record.cluster.voters.are_only(voter);
        let known = agent.record.nodes.get(&renew.claim.node);
        let known = known.map(|node| Known { session: node.session, fenced: node.fenced });
        renew.terms = if mine == theirs { renew.terms } else { mine };
        let Some(mut ack) = agent.promiser.renew(now, &renew, Seat { voters: &voters, known, alone }) else { return };
        ack.terms = theirs;
        self.send(to, from, Event::Ack { to: from, ack });
    }

    /// A voter has answered.
    pub(crate) fn ack(&mut self, to: usize, mut ack: Ack) {
        let (now, life) = (self.local(to), self.nodes[to].life);
        if self.bug == Some(Bug::DeadlineFromReceipt) {
            ack.sent = now;
        }
        let Some(agent) = self.agent(to) else { return };
        if ack.voters.config > agent.voters.config {
            agent.voters.clone_from(&ack.voters);
        }
        let Some(until) = agent.holder.as_mut().and_then(|holder| holder.heard(now, &ack)) else { return };
        let page = Page { session: ack.claim.session, until };
        // An agent may stand still for any time between what it decides and what it does.
        if self.faulty && self.random.one_in(150) {
            let long = self.random.below(3 * self.lease());
            self.stop(to, long);
        }
        self.happen(Event::Write { node: to, life, page });
    }

    /// A leader asks a voter.
    pub(crate) fn ask(&mut self, to: usize, from: usize, mut ask: Ask) {
        let now = self.local(to);
        let (mine, theirs) = (self.promised(), self.terms);
        let Some(agent) = self.agent(to) else { return };
        ask.terms = if mine == theirs { ask.terms } else { mine };
        let Some(mut lapse) = agent.promiser.lapsed(now, &ask) else { return };
        lapse.terms = theirs;
        self.send(to, from, Event::Lapse { to: from, lapse });
    }

    /// The session that this node holds and may arm its inits with, if it does and its record knows.
    pub(crate) fn session(&self, node: usize) -> Option<u64> {
        let (here, now) = (&self.nodes[node], self.local(node));
        let agent = here.agent.as_ref().filter(|agent| agent.ready)?;
        let holder = agent.holder.as_ref().filter(|holder| !holder.lapsed(now))?;
        let known = agent.record.revision >= agent.opened && agent.record.holds(holder.claim()).is_ok();
        known.then(|| holder.claim().session)
    }

    /// Init looks at the page, and obeys it.
    pub(crate) fn look(&mut self, node: usize, load: usize) {
        let bug = self.bug;
        let margin = if bug == Some(Bug::LeashWithoutMargin) { 0 } else { self.margin };
        let now = self.local(node);
        let here = &mut self.nodes[node];
        let page = here.page.unwrap_or_default();
        let Some(body) = here.bodies[load].as_mut() else { return };
        let armed =
            if bug == Some(Bug::ThawWithoutSession) && body.armed < u64::MAX { page.session } else { body.armed };
        let decided = leash(armed, page, now, margin);
        let (Leash::Run { look_at } | Leash::Freeze { look_at }) = decided;
        let runs = matches!(decided, Leash::Run { .. });
        body.free = runs;
        body.turn += 1;
        let (turn, clock) = (body.turn, here.clock.clone());
        let Some(look_at) = look_at else { return };
        // It may be late by as much as the margin; while it holds the workload it may be as late as it likes.
        let latest = self.margin - 1_000;
        let late = match (runs, self.faulty) {
            (true, true) => [0, latest, latest, self.margin / 2][self.random.index(4)],
            (true, false) => 0,
            (false, _) => self.lease() / 6,
        };
        let next = clock.when(look_at.plus(late)).max(self.now + 1);
        self.at(next, Event::Look { node, load, turn });
    }

    /// Whether an init's look is the one that was planned last.
    pub(crate) fn is_planned(&self, node: usize, load: usize, turn: u64) -> bool {
        self.nodes[node].bodies[load].as_ref().is_some_and(|body| body.turn == turn)
    }

    /// Arms an init, which obeys before it answers.
    pub(crate) fn arm(&mut self, node: usize, load: usize, session: u64) {
        if let Some(body) = self.nodes[node].bodies[load].as_mut() {
            body.armed = session;
            self.look(node, load);
        }
    }
}

/// The stated bound is what the terms are made with.
pub(crate) fn terms(lease: u64) -> Terms {
    match Terms::new(lease, RHO_PPM) {
        Ok(terms) => terms,
        Err(why) => unreachable!("{why}"),
    }
}
