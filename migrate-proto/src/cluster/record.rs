//! The record: what the cluster agrees about.
//!
//! ```text
//! (revision, command) ──► apply ──► Changed | AlreadySo | Refusal      everything but Changed leaves every byte as it was
//! ```
//!
//! - It is a function of its commands: no clock, no randomness, no float; nothing of it depends on who applies it or with what
//!   version of this program. Times of day come in commands and are for people.
//! - It says who *owns*, never where a sandbox is or how much memory is free, and holds a bounded number of checkpoints.
//! - `AlreadySo` is a statement about the record and no permission: what may run is said by leases.
//! - Who votes is agreed about by whatever orders the commands, and is told to the record in that order: [`Record::set_voters`].
//! - A command reads and writes the entries that [`Record::entries_of`] names and no others: it is carried out on copies of
//!   those alone. So it can be stored entry by entry, and `Many` is all or nothing.
//! - As JSON it lives on disk for years. A field that is not known is refused: dropping what newer agents have agreed on would
//!   make the copies differ. New fields have a default, are left out while they have it, and are used once
//!   [`ClusterPolicy::speaks`] says that everybody knows them.

mod checkpoints;
mod entry;
mod lives;
mod nodes;
mod owners;
mod policy;
mod refusal;
mod voters;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use entry::{
    CheckpointEntry, CheckpointKind, Life, LoadEntry, MAX_CHECKPOINTS, NodeEntry, Origin, Proof, Restarts, Restored,
    Standing, Wanted,
};
pub use policy::{LoadPolicy, RestartPolicy};
pub use refusal::Refusal;
pub use voters::VoterHistory;

use super::ClusterId;
use super::command::{Command, EntryKey};
use crate::id::{Epoch, StateMark};
use crate::name::{NodeName, WorkloadName};
use crate::version::Version;

/// What a command that was not refused has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// It has taken effect.
    Changed,
    /// It took effect before, and still holds.
    AlreadySo,
}

/// Everything that is agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What there is once.
    pub cluster: ClusterEntry,
    /// Every node that has ever been admitted.
    pub nodes: BTreeMap<NodeName, NodeEntry>,
    /// Every workload that has not been removed.
    pub loads: BTreeMap<WorkloadName, LoadEntry>,
    /// The number of the last command that changed something.
    pub revision: u64,
}

/// What there is once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterEntry {
    /// Which cluster this is.
    pub id: ClusterId,
    /// The highest epoch of all workloads that were removed. A new one begins above it, so that under one name epochs rise for
    /// ever: they are fencing tokens.
    pub floor: Epoch,
    /// When a workload was last removed.
    pub removed: u64,
    /// The marks of the nodes that were forgotten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<StateMark>,
    /// What holds for all.
    pub policy: ClusterPolicy,
    /// When that was last set.
    pub policy_since: u64,
    /// Who votes.
    #[serde(default, skip_serializing_if = "VoterHistory::is_empty")]
    pub voters: VoterHistory,
}

/// What holds for the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPolicy {
    /// The version of the protocol that every member must know.
    pub speaks: Version,
    /// How many checkpoints of a workload are kept, where it does not say itself.
    pub keep: u8,
    /// How many nodes beside the owner have each checkpoint, where the workload does not say itself.
    pub replicas: u8,
    /// How many workloads are recovered on one node at once.
    pub recover_at_once: u16,
}

impl Default for ClusterPolicy {
    fn default() -> ClusterPolicy {
        ClusterPolicy { speaks: 1, keep: 3, replicas: 2, recover_at_once: 4 }
    }
}

/// Why bytes are no record.
#[derive(Debug, Error)]
pub enum RecordError {
    /// It cannot be written as JSON.
    #[error("the cluster's record cannot be written: {0}")]
    Write(#[source] serde_json::Error),
    /// It is not JSON, or has fields that are not known here.
    #[error("the cluster's record cannot be read: {0}")]
    Read(#[source] serde_json::Error),
}

impl Record {
    /// Of a cluster that has no node yet.
    pub fn new(id: ClusterId, policy: ClusterPolicy) -> Record {
        let (floor, removed, forgotten, policy_since) = (Epoch(0), 0, Vec::new(), 0);
        let voters = VoterHistory::default();
        let cluster = ClusterEntry { id, floor, removed, forgotten, policy, policy_since, voters };
        Record { cluster, nodes: BTreeMap::new(), loads: BTreeMap::new(), revision: 0 }
    }

    /// Carries out `command`, the one with the number `revision` in the order that everybody agrees about.
    pub fn apply(&mut self, revision: u64, command: &Command) -> Result<Applied, Refusal> {
        if revision <= self.revision {
            return Err(Refusal::Behind { revision: self.revision });
        }
        let keys = Record::entries_of(command);
        let mut part = self.part(&keys);
        let applied = part.carry_out(revision, command)?;
        if applied == Applied::Changed {
            self.put_back(&keys, part);
            self.revision = revision;
        }
        Ok(applied)
    }

    /// Which entries `command` reads and writes, sorted; it depends on nothing else.
    pub fn entries_of(command: &Command) -> Vec<EntryKey> {
        let mut keys = BTreeSet::new();
        add_entries_of(command, &mut keys);
        keys.into_iter().collect()
    }

    /// A record that has only these entries.
    pub fn part(&self, keys: &[EntryKey]) -> Record {
        let mut part = Record::new(self.cluster.id, ClusterPolicy::default());
        part.revision = self.revision;
        for key in keys {
            match key {
                EntryKey::Cluster => part.cluster.clone_from(&self.cluster),
                EntryKey::Node(name) => {
                    part.nodes.extend(self.nodes.get(name).map(|node| (name.clone(), node.clone())))
                }
                EntryKey::Load(name) => {
                    part.loads.extend(self.loads.get(name).map(|load| (name.clone(), load.clone())))
                }
            }
        }
        part
    }

    fn put_back(&mut self, keys: &[EntryKey], mut part: Record) {
        for key in keys {
            match key {
                EntryKey::Cluster => self.cluster.clone_from(&part.cluster),
                EntryKey::Node(name) => replace(&mut self.nodes, name, part.nodes.remove(name)),
                EntryKey::Load(name) => replace(&mut self.loads, name, part.loads.remove(name)),
            }
        }
    }

    /// As it is stored, and sent to those who have nothing yet.
    pub fn to_json(&self) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec(self).map_err(RecordError::Write)
    }

    /// What was stored.
    pub fn from_json(json: &[u8]) -> Result<Record, RecordError> {
        serde_json::from_slice(json).map_err(RecordError::Read)
    }

    /// On a part that is thrown away if this refuses.
    fn carry_out(&mut self, revision: u64, command: &Command) -> Result<Applied, Refusal> {
        match command {
            Command::Admit { node, mark, address, versions, since } => {
                self.admit(revision, node, *mark, address, *versions, *since)
            }
            Command::OpenSession { node, mark, after, finite } => self.open_session(node, *mark, *after, *finite),
            Command::Leave(by) => self.leave(revision, by),
            Command::Forget { node, mark } => self.forget(revision, node, *mark),
            Command::Drain { node, since, draining } => self.drain(revision, node, *since, *draining),
            Command::Fence { lapsed, voters } => self.fence(lapsed, *voters),
            Command::Declare { ticket, since, spec, policy, owner, priority } => {
                self.declare(revision, *since, LoadEntry::asked(*ticket, spec, policy, *priority), owner.as_ref())
            }
            Command::Transfer { load, epoch, from, to, handover } => self.transfer(load, *epoch, from, to, *handover),
            Command::Refuse { load, epoch, handover } => self.refuse(load, *epoch, *handover),
            Command::Revive { load, epoch, by, from, lost_ms } => self.revive(load, *epoch, by, *from, *lost_ms),
            Command::Reassign(reassignment) => self.reassign(reassignment),
            Command::Assign { load, epoch, to } => self.assign(load, *epoch, to),
            Command::Began { load, epoch, by } => self.began(load, *epoch, by),
            Command::Ended { load, epoch, by, exit } => self.ended(load, *epoch, by, *exit),
            Command::Broke { load, epoch, by, began, reason } => self.broke(load, *epoch, by, *began, reason),
            Command::Lose { load, epoch, owner, reason } => self.lose(load, *epoch, owner, reason),
            Command::Wish { load, epoch, since, wish } => self.wish(revision, load, *epoch, *since, *wish),
            Command::Gone { load, epoch, owner, session } => self.gone(revision, load, *epoch, owner, *session),
            Command::Kept { load, epoch, by, checkpoint } => self.kept(revision, load, *epoch, by, checkpoint),
            Command::Held { load, checkpoint, since, holders } => {
                self.held(revision, load, *checkpoint, *since, holders)
            }
            Command::Stored { load, checkpoint, since, depots } => {
                self.stored(revision, load, *checkpoint, *since, depots)
            }
            Command::Proved { load, checkpoint, since, proof } => {
                self.proved(revision, load, *checkpoint, *since, *proof)
            }
            Command::Dropped { load, checkpoint, since } => self.dropped(load, *checkpoint, *since),
            Command::SetPolicy { since, policy } => self.set_policy(revision, *since, policy),
            Command::Many(commands) => self.many(revision, commands),
        }
    }

    /// All, in order. A command that a later one of the same `Many` overtakes makes the whole be refused when it comes again.
    fn many(&mut self, revision: u64, commands: &[Command]) -> Result<Applied, Refusal> {
        let mut all = Applied::AlreadySo;
        for (at, command) in commands.iter().enumerate() {
            match self.carry_out(revision, command) {
                Ok(Applied::Changed) => all = Applied::Changed,
                Ok(Applied::AlreadySo) => {}
                Err(refusal) => return Err(Refusal::OneOfMany { at, refusal: Box::new(refusal) }),
            }
        }
        Ok(all)
    }

    /// Only if: nobody has set another policy meanwhile.
    fn set_policy(&mut self, revision: u64, since: u64, policy: &ClusterPolicy) -> Result<Applied, Refusal> {
        if self.cluster.policy == *policy {
            return Ok(Applied::AlreadySo);
        }
        self.cluster.policy_since.must_be(since, EntryKey::Cluster)?;
        self.cluster.policy.clone_from(policy);
        self.cluster.policy_since = revision;
        Ok(Applied::Changed)
    }
}

fn add_entries_of(command: &Command, keys: &mut BTreeSet<EntryKey>) {
    keys.extend(command.concerns_cluster().then_some(EntryKey::Cluster));
    keys.extend(command.nodes().into_iter().cloned().map(EntryKey::Node));
    keys.extend(command.load().cloned().map(EntryKey::Load));
    if let Command::Many(commands) = command {
        commands.iter().for_each(|command| add_entries_of(command, keys));
    }
}

fn replace<Name: Ord + Clone, Entry>(entries: &mut BTreeMap<Name, Entry>, name: &Name, entry: Option<Entry>) {
    match entry {
        Some(entry) => entries.insert(name.clone(), entry),
        None => entries.remove(name),
    };
}

/// What was last set when it was last set.
trait Since {
    fn must_be(self, expected: u64, entry: EntryKey) -> Result<(), Refusal>;
}

impl Since for u64 {
    fn must_be(self, expected: u64, entry: EntryKey) -> Result<(), Refusal> {
        if self == expected { Ok(()) } else { Err(Refusal::Changed { entry: entry.to_string(), since: self }) }
    }
}
