//! The leader: the real `Steward` and `Vigil`, and what drives them. Somebody who was deposed may go on for a while.

use std::collections::BTreeMap;
use std::sync::Arc;

use migrate_proto::cluster::command::{Begin, Command, Reassignment};
use migrate_proto::cluster::lease::{Electors, Lapse, LogId};
use migrate_proto::cluster::record::{Life, Record, Standing};
use migrate_proto::cluster::steward::{self, Act, Figures, Health, Limits, Steward, Vigil};
use migrate_proto::cluster::{Claim, lease::Nanos};
use migrate_proto::name::NodeName;

use super::bug::Bug;
use super::conduct::Voice;
use super::genesis::GIB;
use super::world::{Event, MS, Word, World};

/// One node's time as a leader.
pub(crate) struct Lead {
    steward: Steward,
    vigil: Vigil,
    health: Vec<Option<Health>>,
    /// How long the log was when it began.
    since: u64,
    /// Of a wrong leader: whose lapses it has heard of.
    lapsed: BTreeMap<NodeName, LogId>,
}

impl World {
    fn limits(&self) -> Limits {
        let lease = self.lease() / MS;
        Limits {
            patience: lease * 4 / 3,
            again: lease,
            voters_apart: 4 * lease,
            voter_down: 3 * lease,
            spare_memory: 0,
            spare_disk: 0,
            ..Limits::default()
        }
    }

    /// A node leads from now on, with nothing but what it knows anyway.
    pub(crate) fn begin_to_lead(&mut self, node: usize) {
        let (terms, limits, count) = (self.terms, self.limits(), self.nodes.len());
        self.nodes[node].led = true;
        self.remember(node);
        let Some(agent) = self.agent(node) else { return };
        let (record, since) = (Arc::clone(&agent.record), agent.record.revision);
        let (steward, vigil) = (Steward::new(limits), Vigil::new(terms));
        agent.lead = Some(Box::new(Lead { steward, vigil, health: vec![None; count], since, lapsed: BTreeMap::new() }));
        self.look_around(node);
        self.instruct(node, steward::Event::Record(record));
    }

    /// Something happens to a leader's steward, and it acts.
    pub(crate) fn instruct(&mut self, node: usize, event: steward::Event) {
        let now = self.nodes[node].clock.millis(self.now);
        let Some(lead) = self.agent(node).and_then(|agent| agent.lead.as_mut()) else { return };
        let since = lead.since;
        let acts = lead.steward.step(now, event);
        for act in acts {
            self.act(node, since, act);
        }
    }

    fn act(&mut self, node: usize, since: u64, act: Act) {
        match act {
            Act::Propose(command) => {
                if let Some(command) = self.misled(node, since, command) {
                    self.propose(node, Voice::Leader, command);
                }
            }
            Act::Watch(claims) => {
                let now = self.local(node);
                if let Some(agent) = self.agent(node)
                    && let Some(lead) = &mut agent.lead
                {
                    lead.vigil.watch(now, &claims, &agent.past);
                }
                self.ask_voters(node);
            }
            Act::Nudge { node: to, .. } => {
                let len = self.nodes[node].agent.as_ref().map_or(0, |agent| agent.applied);
                if let Some(to) = self.named(&to) {
                    self.send(node, to, Event::Learn { node: to, len, sent: 0 });
                }
            }
            Act::Prepare { load, node: to, .. } => {
                if let (Some(to), Some(load)) = (self.named(&to), self.load_named(&load))
                    && self.random.one_in(2)
                {
                    self.tell(to, node, Word::Ready { load, by: to });
                }
            }
            Act::Move { from, load, epoch, to } => {
                if let (Some(from), Some(load)) = (self.named(&from), self.load_named(&load)) {
                    self.tell(node, from, Word::Drain { load, epoch, to });
                }
            }
            Act::Voters(to) => self.at(self.now, Event::ChangeVoters { by: node, to }),
            Act::Say(note) => self.note(|| format!("node{} says: {note}", node + 1)),
        }
    }

    /// What a wrong leader makes of a proposal.
    fn misled(&self, node: usize, since: u64, command: Command) -> Option<Command> {
        let record = &self.nodes[node].agent.as_ref()?.record;
        match (self.bug, command) {
            (Some(Bug::QueueForgotten), Command::Assign { load, .. })
                if record.loads.get(&load).is_some_and(|entry| entry.submitted <= since) =>
            {
                None
            }
            (Some(Bug::FencedForgotten), Command::Reassign(_) | Command::Lose { .. }) => None,
            (Some(Bug::OldestRestored), command) => Some(oldest(record, command)),
            (_, command) => Some(command),
        }
    }

    /// A leader asks the voters whatever it asks them.
    fn ask_voters(&mut self, node: usize) {
        let now = self.local(node);
        let Some(agent) = self.agent(node) else { return };
        let Some(lead) = agent.lead.as_mut().filter(|lead| !lead.vigil.is_idle()) else { return };
        let (voters, asks) = lead.vigil.asks(now, &agent.past);
        for to in voters.into_iter().filter_map(|voter| self.node_of(voter)).collect::<Vec<_>>() {
            for ask in &asks {
                self.send(node, to, Event::Ask { to, from: node, ask: ask.clone() });
            }
        }
    }

    /// A voter has said that a lease is over.
    pub(crate) fn lapse(&mut self, to: usize, lapse: &Lapse) {
        let now = self.local(to);
        let Some(agent) = self.agent(to) else { return };
        let Some(lead) = agent.lead.as_mut() else { return };
        let Some((claim, voters)) = lead.vigil.heard(now, lapse, &agent.past) else { return };
        lead.lapsed.insert(claim.node.clone(), voters);
        // A leader that knows who votes knows that it is over.
        if voters == self.log.voters(self.log.len()).config || self.bug == Some(Bug::FenceIgnoresVoters) {
            self.note(|| format!("node{} knows by {voters:?} that the lease of {claim} is over", to + 1));
            self.ledger.over.insert((claim.node.clone(), claim.session));
        }
        self.instruct(to, steward::Event::Lapsed { claim, voters });
    }

    /// The record of a node has changed, or its log.
    pub(crate) fn remember(&mut self, node: usize) {
        let (now, terms) = (self.local(node), self.terms);
        let effective = self.log.voters(self.nodes[node].learned).clone();
        let old_ones = self.bug != Some(Bug::OldVotersNotAsked);
        let Some(agent) = self.agent(node) else { return };
        agent.past.learn(now, &agent.record, &effective);
        if !old_ones {
            agent.past.electors = Electors::new(now, effective, Vec::new(), terms);
        }
    }

    /// The record of a leader has changed.
    pub(crate) fn lead_learns(&mut self, node: usize) {
        self.remember(node);
        let Some(agent) = self.agent(node) else { return };
        let record = Arc::clone(&agent.record);
        if agent.lead.is_some() {
            self.instruct(node, steward::Event::Record(record));
        }
    }

    /// A leader's regular round.
    pub(crate) fn lead_on(&mut self, node: usize) {
        if self.agent(node).is_none_or(|agent| agent.lead.is_none()) {
            return;
        }
        // Nobody tells one that it was deposed; sooner or later it finds out.
        let late = if self.stubborn && self.faulty { 20 } else { 2 };
        if self.log.leader != Some(node) && self.random.one_in(late) {
            if let Some(agent) = self.agent(node) {
                agent.lead = None;
            }
            return;
        }
        if self.log.leader == Some(node) && self.has_majority(node) {
            let len = self.log.len();
            for other in 0..self.nodes.len() {
                self.send(node, other, Event::Learn { node: other, len, sent: self.now });
            }
        }
        self.look_around(node);
        self.ask_voters(node);
        if self.bug == Some(Bug::FenceRepeated) {
            self.lapse_again(node);
        }
        let wall_ms = 1_700_000_000_000 + self.now / MS;
        self.instruct(node, steward::Event::Tick { wall_ms });
    }

    /// Who lives, as far as this leader can see, and what they say of themselves.
    fn look_around(&mut self, node: usize) {
        let now = self.local(node);
        for other in 0..self.nodes.len() {
            let health = self.health(node, other, now);
            let name = self.nodes[other].name.clone();
            let Some(agent) = self.agent(node) else { return };
            let claim = agent.record.nodes.get(&name).map(|entry| Claim { node: name.clone(), session: entry.session });
            let quiet = claim.filter(|claim| health == Health::Alive && agent.promiser.quiet(now, claim));
            let Some(lead) = agent.lead.as_mut() else { return };
            let changed = lead.health[other].replace(health) != Some(health);
            let figures = self.figures(other);
            self.instruct(node, steward::Event::Figures { node: name.clone(), figures });
            if changed {
                self.instruct(node, steward::Event::Member { node: name, health });
                if health == Health::Suspect && self.bug == Some(Bug::ReassignWithoutFence) {
                    self.take_from(node, other);
                }
            }
            if let Some(claim) = quiet {
                self.instruct(node, steward::Event::Quiet(claim));
            }
        }
    }

    fn health(&mut self, node: usize, other: usize, now: Nanos) -> Health {
        let (reached, lease) = (self.reach(node, other), self.lease());
        let falsely = self.faulty && node != other && self.random.one_in(60);
        let Some(agent) = self.agent(node) else { return Health::Alive };
        if reached {
            agent.heard[other] = now;
        }
        match now.since(agent.heard[other]) {
            0 if falsely => Health::Suspect,
            silent if silent < lease / 2 => Health::Alive,
            silent if silent < 2 * lease => Health::Suspect,
            _ => Health::Down,
        }
    }

    fn figures(&self, node: usize) -> Figures {
        let here = &self.nodes[node];
        let used = here.bodies.iter().flatten().count() as u64;
        Figures {
            arch: "x86_64".to_owned(),
            cpu_flags: Default::default(),
            memory_total: here.room * GIB,
            memory_free: here.room.saturating_sub(used) * GIB,
            disk_free: 1 << 40,
            volumes: None,
        }
    }

    /// Whom a new leader's agent has heard of last is what it sees now.
    pub(crate) fn named(&self, name: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    // ---- what wrong leaders do -----------------------------------------------------------------------------------

    /// Takes everything from a node that is only suspected.
    fn take_from(&mut self, node: usize, other: usize) {
        let name = self.nodes[other].name.clone();
        let Some(record) = self.agent(node).map(|agent| Arc::clone(&agent.record)) else { return };
        let to = record
            .nodes
            .iter()
            .find(|(to, entry)| **to != name && entry.standing == Standing::Member && record.takes(to).is_ok());
        let Some(to) = to.map(|(to, _)| to.clone()) else { return };
        for (load, entry) in record.loads.iter().filter(|(_, entry)| entry.owner.as_ref() == Some(&name)) {
            let begin = entry.newest_sound().map_or(Begin::Afresh, |checkpoint| Begin::Checkpoint(checkpoint.id));
            if entry.life == Life::Running {
                let (load, epoch, owner, to) = (load.clone(), entry.epoch, name.clone(), Some(to.clone()));
                let (numbered, lost_ms) = (entry.numbered, None);
                let reassign = Command::Reassign(Reassignment { load, epoch, owner, to, begin, numbered, lost_ms });
                self.propose(node, Voice::Leader, reassign);
            }
        }
    }

    /// Takes the lapse of a session for one of the node.
    fn lapse_again(&mut self, node: usize) {
        let Some(agent) = self.agent(node) else { return };
        let Some(lead) = &agent.lead else { return };
        let again: Vec<(Claim, LogId)> = lead
            .lapsed
            .iter()
            .filter_map(|(name, voters)| {
                let session = agent.record.nodes.get(name)?.session;
                Some((Claim { node: name.clone(), session }, *voters))
            })
            .collect();
        for (claim, voters) in again {
            self.instruct(node, steward::Event::Lapsed { claim, voters });
        }
    }
}

fn oldest(record: &Record, command: Command) -> Command {
    match command {
        Command::Many(commands) => Command::Many(commands.into_iter().map(|command| oldest(record, command)).collect()),
        Command::Reassign(Reassignment {
            begin: Begin::Checkpoint(newest),
            load,
            epoch,
            owner,
            to,
            numbered,
            lost_ms,
        }) => {
            let listed = record.loads.get(&load).map_or(&[][..], |entry| &entry.checkpoints);
            let first = listed.iter().find(|checkpoint| !checkpoint.damaged).map_or(newest, |first| first.id);
            let begin = Begin::Checkpoint(first);
            Command::Reassign(Reassignment { load, epoch, owner, to, begin, numbered, lost_ms })
        }
        command => command,
    }
}
