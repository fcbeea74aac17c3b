//! The record's log: one order of commands and of changes of voters. It is never wrong, only late.
//!
//! What raft does is taken for granted here: an entry is there for ever once it is there, a leader has all of them, and a command goes
//! in only where the leader reaches a majority. Who leads changes; who has led may go on believing it.

use std::collections::BTreeSet;
use std::sync::Arc;

use migrate_proto::cluster::VoterId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{LogId, Voters};
use migrate_proto::cluster::record::{Applied, Record, Refusal};

use super::bug::Bug;
use super::world::{Event, World};

/// What a command was answered.
pub(crate) type Answer = Result<Applied, Refusal>;

/// What is agreed about.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Command(Command),
    Voters(Voters),
}

/// The log, and what follows from it.
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    /// The record after so many entries.
    pub(crate) states: Vec<Arc<Record>>,
    pub(crate) term: u64,
    pub(crate) leader: Option<usize>,
    /// Since when nobody who leads reaches a majority.
    vacant: Option<u64>,
    /// When the voters may change again.
    pub(crate) settled: u64,
}

impl Log {
    pub(crate) fn new(record: Record) -> Log {
        let states = vec![Arc::new(record)];
        Log { entries: Vec::new(), states, term: 1, leader: None, vacant: None, settled: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is true.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.states[self.entries.len()]
    }

    /// The last configuration among the first `len` entries.
    pub(crate) fn voters(&self, len: usize) -> &Voters {
        &self.states[len].cluster.voters.now
    }

    pub(crate) fn append_voters(&mut self, sets: Vec<BTreeSet<VoterId>>) {
        let index = self.entries.len() as u64 + 1;
        let voters = Voters { config: LogId { term: self.term, index }, sets };
        let mut record = Record::clone(self.record());
        record.set_voters(index, voters.clone());
        self.entries.push(Entry::Voters(voters));
        self.states.push(Arc::new(record));
    }

    /// Carries a command out, as the last one of all. What changes nothing is not kept.
    pub(crate) fn append(&mut self, command: Command, bug: Option<Bug>) -> (u64, Answer) {
        let index = self.entries.len() as u64 + 1;
        let mut record = Record::clone(self.record());
        let command = doctored(command, &record, bug);
        let answer = apply(&mut record, index, &command, bug);
        if answer == Ok(Applied::Changed) {
            self.entries.push(Entry::Command(command));
            self.states.push(Arc::new(record));
        }
        (index, answer)
    }
}

/// What every node does with a command.
pub(crate) fn apply(record: &mut Record, index: u64, command: &Command, bug: Option<Bug>) -> Answer {
    if bug != Some(Bug::ReassignWithoutFence) {
        return record.apply(index, command);
    }
    // The record is told that the owner is fenced, for as long as it looks.
    let Command::Reassign(reassignment) = command else { return record.apply(index, command) };
    let fence = |record: &mut Record, fenced: bool| {
        record.nodes.get_mut(&reassignment.owner).map(|node| std::mem::replace(&mut node.fenced, fenced))
    };
    let before = fence(record, true);
    let answer = record.apply(index, command);
    if let Some(before) = before {
        fence(record, before);
    }
    answer
}

/// What a record does that does not compare.
fn doctored(command: Command, record: &Record, bug: Option<Bug>) -> Command {
    let doctor = |command: Command| match (command, bug) {
        (Command::Fence { mut lapsed, voters }, Some(Bug::FenceIgnoresSession)) => {
            lapsed.session = record.nodes.get(&lapsed.node).map_or(0, |node| node.session);
            Command::Fence { lapsed, voters }
        }
        (Command::Fence { lapsed, .. }, Some(Bug::FenceIgnoresVoters)) => {
            Command::Fence { lapsed, voters: record.cluster.voters.now.config }
        }
        (Command::Transfer { load, mut epoch, mut from, to, handover }, Some(Bug::TransferNotCompared)) => {
            if let Some((entry, owner)) = record.loads.get(&load).and_then(|entry| Some((entry, entry.owner.clone()?)))
            {
                epoch = entry.epoch;
                from.session = record.nodes.get(&owner).map_or(0, |node| node.session);
                from.node = owner;
            }
            Command::Transfer { load, epoch, from, to, handover }
        }
        (command, _) => command,
    };
    match command {
        Command::Many(commands) => Command::Many(commands.into_iter().map(doctor).collect()),
        command => doctor(command),
    }
}

impl World {
    pub(crate) fn node_of(&self, voter: VoterId) -> Option<usize> {
        self.nodes.iter().position(|node| node.voter == voter)
    }

    /// Whether one reaches the other and hears it.
    pub(crate) fn reach(&self, one: usize, other: usize) -> bool {
        let connected = !self.cuts.contains(&(one, other)) && !self.cuts.contains(&(other, one));
        one == other || connected && self.nodes[one].answers() && self.nodes[other].answers()
    }

    /// Whether a majority of those who vote now is with this node.
    pub(crate) fn has_majority(&self, node: usize) -> bool {
        let voters = self.log.voters(self.log.len());
        self.nodes[node].answers()
            && voters.agree(|voter| self.node_of(voter).is_some_and(|other| self.reach(node, other)))
    }

    /// The log has got longer: a majority has that at once, for it would not be so otherwise; the others hear of it.
    pub(crate) fn spread(&mut self) {
        let Some(leader) = self.log.leader else { return };
        let len = self.log.len();
        for node in 0..self.nodes.len() {
            let votes = self.log.voters(len).contain(self.nodes[node].voter);
            if votes && self.reach(leader, node) {
                self.nodes[node].learned = len;
            }
            let soon = if node == leader { 0 } else { self.delay() };
            self.at(self.now + soon, Event::Learn { node, len, sent: self.now });
        }
    }

    /// Looks whether somebody leads, and who could.
    pub(crate) fn elect(&mut self) {
        self.at(self.now + self.lease() / 4, Event::Elect);
        let voters = self.log.voters(self.log.len());
        if self.log.leader.is_some_and(|leader| voters.contain(self.nodes[leader].voter) && self.has_majority(leader)) {
            self.log.vacant = None;
            return;
        }
        let since = *self.log.vacant.get_or_insert(self.now);
        if self.now - since >= self.lease() / 2 {
            self.another_leader();
        }
    }

    /// One of those who can lead does from now on.
    pub(crate) fn another_leader(&mut self) {
        let len = self.log.len();
        let able = |node: &usize| {
            let here = &self.nodes[*node];
            here.learned == len && self.log.voters(len).contain(here.voter) && self.has_majority(*node)
        };
        let able: Vec<usize> = (0..self.nodes.len()).filter(able).collect();
        if able.is_empty() {
            return;
        }
        let leader = able[self.random.index(able.len())];
        self.log.term += 1;
        self.log.leader = Some(leader);
        self.log.vacant = None;
        self.tally.elections += 1;
        self.note(|| format!("node{} leads", leader + 1));
        self.learn(leader, len, self.now);
        self.begin_to_lead(leader);
    }

    /// The leader wants others to vote: the first of two steps.
    pub(crate) fn change_voters(&mut self, by: usize, to: BTreeSet<VoterId>) {
        let last = self.log.voters(self.log.len()).clone();
        let leads = self.log.leader == Some(by) && self.has_majority(by);
        if !leads || last.sets.len() != 1 || last.sets[0] == to || to.is_empty() || self.now < self.log.settled {
            return;
        }
        // Whoever has not heard for long cannot vote: raft has it catch up first.
        if to.iter().any(|voter| !self.node_of(*voter).is_some_and(|node| self.reach(by, node))) {
            return;
        }
        self.log.append_voters(vec![last.sets[0].clone(), to]);
        self.tally.electorates += 1;
        let sets = self.trace_of_voters();
        self.note(|| format!("the voters begin to change: {sets}"));
        self.spread();
        let soon = self.delay();
        self.at(self.now + soon, Event::SecondStep);
    }

    fn trace_of_voters(&self) -> String {
        let last = &self.log.voters(self.log.len()).sets;
        let named = |set: &BTreeSet<VoterId>| {
            set.iter().filter_map(|voter| self.node_of(*voter)).map(|node| node + 1).collect()
        };
        let sets: Vec<Vec<usize>> = last.iter().map(named).collect();
        format!("{sets:?}")
    }

    /// The second step, as soon as a leader can make it.
    pub(crate) fn second_step(&mut self) {
        let last = self.log.voters(self.log.len()).clone();
        let [_, new] = &last.sets[..] else { return };
        let leader = self.log.leader.filter(|leader| self.has_majority(*leader));
        if let Some(leader) = leader {
            // The first step is committed by those who are reached: they have it from now on, also if they vote no more.
            let len = self.log.len();
            for node in 0..self.nodes.len() {
                if last.contain(self.nodes[node].voter) && self.reach(leader, node) {
                    self.nodes[node].learned = len;
                }
            }
            self.log.append_voters(vec![new.clone()]);
            self.log.settled = self.now + 3 * self.terms.promise();
            self.spread();
        } else {
            self.at(self.now + self.lease() / 2, Event::SecondStep);
        }
    }
}
