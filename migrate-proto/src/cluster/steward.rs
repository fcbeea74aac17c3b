//! What the leader does: it looks at the record and at who lives, and proposes the next step.
//!
//! ```text
//! the record, members, figures, lapses ──► Steward::step ──► proposals, whom to ask, hints to nodes, words for people
//! ```
//!
//! - It keeps nothing that matters: only since when something is so, and what it has said. Whoever begins to lead makes a new one
//!   and feeds it all that is known; it goes on with what was begun, because all of that is in the record.
//! - It decides nothing. What it proposes is a compare-and-swap that the record refuses where something else is true by
//!   then; what it hints at ([`Act::Prepare`], [`Act::Nudge`], [`Act::Move`]) may be ignored.
//! - Nothing is proposed on suspicion alone: a node is fenced when a majority of voters has said that its lease is over
//!   ([`Event::Lapsed`]), and only then its workloads go elsewhere.
//! - In each step it goes through everything in this order: fences, what has lost its owner, the queue, who votes, drains, checkpoints
//!   that nobody needs.
//!
//! What whoever drives it promises: the clock of `now` never goes back; after an [`Event::Record`] no older one; every member's
//! [`Event::Member`] when it begins, and every change; a [`Event::Lapsed`] only from a [`Vigil`] of this leader, or from something as
//! good; the newest [`Act::Watch`] is what the vigil is about; a step at [`Steward::deadline`].

mod drains;
mod electorate;
mod fences;
mod note;
mod queue;
mod recovery;
mod retention;
mod seats;
mod vigil;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use note::Note;
pub use seats::Figures;
pub use vigil::{Past, Vigil};
pub use words::{Act, Event, Health, Held};

use self::seats::Seats;
use super::command::Command;
use super::lease::{LogId, Voters};
use super::record::Record;
use super::{CheckpointId, Claim, VoterId};
use crate::handover::Millis;
use crate::id::Epoch;
use crate::name::{NodeName, WorkloadName};

/// How long it waits for what, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a lease has been over, in milliseconds, when a node is fenced that seems to live.
    pub patience: u64,
    /// How long a proposal is waited for.
    pub again: u64,
    /// How long voters stay before others are chosen. More than two promises of the leases: those whom a holder knows and those
    /// whom a leader asks must have a majority in common.
    pub voters_apart: u64,
    /// How long a voter is down when another is chosen.
    pub voter_down: u64,
    /// How long the newest checkpoint is waited for that only depots have, once a node could not get it from there; then an older one is taken.
    pub depot_patience: u64,
    /// On how many nodes a workload is tried.
    pub attempts: usize,
    /// How many commands are proposed as one.
    pub at_once: usize,
    /// Memory that must stay free on a node.
    pub spare_memory: u64,
    /// Disk that must stay free on a node.
    pub spare_disk: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            patience: 2_000,
            again: 1_000,
            voters_apart: 10_000,
            voter_down: 10_000,
            depot_patience: 30_000,
            attempts: 3,
            at_once: 64,
            spare_memory: 64 << 20,
            spare_disk: 256 << 20,
        }
    }
}

/// What a proposal, or a word, is about. As long as it is about the same, it is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Node(NodeName, u64),
    Load(WorkloadName, Epoch),
    Checkpoint(WorkloadName, CheckpointId),
    Voters,
}

#[derive(Debug, Clone, Copy)]
struct Proposed {
    at: Millis,
    times: u32,
}

/// A leader's soft state.
#[derive(Debug)]
pub struct Steward {
    limits: Limits,
    record: Option<Arc<Record>>,
    members: BTreeMap<NodeName, (Health, Millis)>,
    figures: BTreeMap<NodeName, Figures>,
    /// Until when those are asked about who seem to live and were quiet.
    quiet: BTreeMap<Claim, Millis>,
    lapsed: BTreeMap<Claim, (LogId, Millis)>,
    watched: BTreeSet<Claim>,
    held: BTreeMap<WorkloadName, Held>,
    copies: BTreeMap<(WorkloadName, CheckpointId), BTreeMap<NodeName, bool>>,
    /// Since when nobody can get these.
    out_of_reach: BTreeMap<(WorkloadName, CheckpointId), Millis>,
    /// Who was told to make it ready, who that it has it, and where it was advised to go.
    prepared: BTreeMap<WorkloadName, (Epoch, NodeName)>,
    nudged: BTreeMap<WorkloadName, (Epoch, NodeName)>,
    advised: BTreeMap<WorkloadName, (Epoch, NodeName)>,
    proposed: BTreeMap<Subject, Proposed>,
    said: BTreeMap<Subject, Note>,
    /// Who votes, and since when it is they, as far as this leader has seen.
    voters: Option<(Vec<BTreeSet<VoterId>>, Millis)>,
    wall: Option<(Millis, u64)>,
    wake: Option<Millis>,
}

/// What one step has at hand.
struct Round<'a> {
    now: Millis,
    record: &'a Record,
    seats: Seats,
    acts: Vec<Act>,
}

impl Round<'_> {
    /// Whether a node may be given a workload, by the record and by what this step proposes beside.
    fn takes(&self, node: &NodeName) -> bool {
        self.record.takes(node).is_ok() && !self.seats.is_closed(node)
    }
}

impl Steward {
    /// Of one that has begun to lead just now.
    pub fn new(limits: Limits) -> Steward {
        Steward {
            limits,
            record: None,
            members: BTreeMap::new(),
            figures: BTreeMap::new(),
            quiet: BTreeMap::new(),
            lapsed: BTreeMap::new(),
            watched: BTreeSet::new(),
            held: BTreeMap::new(),
            copies: BTreeMap::new(),
            out_of_reach: BTreeMap::new(),
            prepared: BTreeMap::new(),
            nudged: BTreeMap::new(),
            advised: BTreeMap::new(),
            proposed: BTreeMap::new(),
            said: BTreeMap::new(),
            voters: None,
            wall: None,
            wake: None,
        }
    }

    /// Something has happened. What a node says of itself, or has, is only noted until the next tick.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Act> {
        match event {
            Event::Record(record) => self.learn(now, record),
            Event::Member { node, health } => {
                let since = self.members.get(&node).filter(|(known, _)| *known == health).map_or(now, |(_, at)| *at);
                self.members.insert(node, (health, since));
            }
            Event::Lapsed { claim, voters } => {
                let since = self.lapsed.get(&claim).map_or(now, |(_, since)| *since);
                self.lapsed.insert(claim, (voters, since));
            }
            Event::Quiet(claim) => drop(self.quiet.insert(claim, now.plus(self.limits.again))),
            Event::Holds { load, held } => drop(self.held.insert(load, held)),
            Event::Tick { wall_ms } => self.wall = Some((now, wall_ms)),
            Event::Figures { node, figures } => {
                self.figures.insert(node, figures);
                return Vec::new();
            }
            Event::Copy { load, checkpoint, node, whole } => {
                self.copies.entry((load, checkpoint)).or_default().insert(node, whole);
                return Vec::new();
            }
            Event::Ready { load, node } => {
                if let Some((_, prepared)) = self.prepared.get_mut(&load) {
                    *prepared = node;
                }
                return Vec::new();
            }
        }
        self.reconcile(now)
    }

    /// When to step again with a tick, whatever happens until then.
    pub fn deadline(&self) -> Option<Millis> {
        self.wake
    }

    fn learn(&mut self, now: Millis, record: Arc<Record>) {
        let Voters { config, sets } = &record.cluster.voters.now;
        if self.voters.as_ref().is_none_or(|(known, _)| known != sets) {
            self.voters = Some((sets.clone(), now));
        }
        let current = |claim: &Claim| record.holds(claim).is_ok();
        // A fence by older voters is refused: those of now must be asked.
        self.lapsed.retain(|claim, (voters, _)| current(claim) && *voters >= *config);
        self.quiet.retain(|claim, _| current(claim));
        let load = |name: &WorkloadName, epoch: Epoch| record.loads.get(name).is_some_and(|load| load.epoch <= epoch);
        self.held.retain(|name, held| load(name, held.epoch));
        self.prepared.retain(|name, (epoch, _)| load(name, *epoch));
        self.nudged.retain(|name, (epoch, _)| load(name, *epoch));
        self.advised.retain(|name, (epoch, _)| load(name, *epoch));
        let listed = |(name, id): &(WorkloadName, CheckpointId)| {
            record.loads.get(name).is_some_and(|load| load.checkpoint(*id).is_some())
        };
        self.copies.retain(|which, _| listed(which));
        self.out_of_reach.retain(|which, _| listed(which));
        let still = |subject: &Subject| match subject {
            Subject::Node(node, session) => record.nodes.get(node).is_some_and(|node| node.session == *session),
            Subject::Load(name, epoch) => load(name, *epoch),
            Subject::Checkpoint(name, id) => listed(&(name.clone(), *id)),
            Subject::Voters => true,
        };
        self.proposed.retain(|subject, _| still(subject));
        self.said.retain(|subject, _| still(subject));
        self.record = Some(record);
    }

    fn reconcile(&mut self, now: Millis) -> Vec<Act> {
        self.wake = None;
        let Some(record) = self.record.clone() else { return Vec::new() };
        let seats = self.seats(&record);
        let mut round = Round { now, record: &record, seats, acts: Vec::new() };
        self.fences(&mut round);
        self.recovery(&mut round);
        self.queue(&mut round);
        self.electorate(&mut round);
        self.drains(&mut round);
        self.retention(&mut round);
        self.nudges(&mut round);
        round.acts
    }

    fn health(&self, node: &NodeName) -> Option<Health> {
        self.members.get(node).map(|(health, _)| *health)
    }

    fn is_alive(&self, node: &NodeName) -> bool {
        self.health(node) == Some(Health::Alive)
    }

    /// Since when this member has seemed to be gone, if it does.
    fn down_since(&self, node: &NodeName) -> Option<Millis> {
        let (health, since) = self.members.get(node)?;
        matches!(health, Health::Down | Health::Left).then_some(*since)
    }

    /// There is something to look at by then.
    fn look_at(&mut self, at: Millis) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Whether it is time to propose something about this. If so, it is taken for proposed; says how often it was before.
    fn may_propose(&mut self, now: Millis, subject: Subject) -> Option<u32> {
        let times = match self.proposed.get(&subject) {
            Some(proposed) if now < proposed.at.plus(self.limits.again) => {
                let at = proposed.at.plus(self.limits.again);
                self.look_at(at);
                return None;
            }
            Some(proposed) => proposed.times,
            None => 0,
        };
        self.proposed.insert(subject, Proposed { at: now, times: times + 1 });
        self.look_at(now.plus(self.limits.again));
        Some(times)
    }

    /// Proposes something about this, unless that was done a moment ago.
    fn propose(&mut self, round: &mut Round<'_>, subject: Subject, command: Command) {
        if self.may_propose(round.now, subject).is_some() {
            round.acts.push(Act::Propose(command));
        }
    }

    /// Tells people, unless it is what they were told last about this.
    fn say(&mut self, round: &mut Round<'_>, subject: Subject, note: Note) {
        if self.said.get(&subject) != Some(&note) {
            self.said.insert(subject, note.clone());
            round.acts.push(Act::Say(note));
        }
    }

    /// The same, about something that may change by itself: it is looked at again soon.
    fn wait(&mut self, round: &mut Round<'_>, subject: Subject, note: Note) {
        self.look_at(round.now.plus(self.limits.again / 2));
        self.say(round, subject, note);
    }

    /// How long ago that was, as people reckon it.
    fn ago(&self, now: Millis, taken_ms: u64) -> Option<u64> {
        let (at, wall) = self.wall?;
        Some((wall + now.0.saturating_sub(at.0)).saturating_sub(taken_ms))
    }
}
