//! Which nodes there are to put workloads on, as this step has filled them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Steward;
use crate::cluster::CheckpointId;
use crate::cluster::place::{Candidate, Needs, NoRoom, PlaceRules, rank};
use crate::cluster::record::{CheckpointEntry, Life, LoadEntry, NodeEntry, Record};
use crate::name::NodeName;
use crate::text::Text;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// The machine, as `uname -m` says.
    pub arch: String,
    /// The features of its CPU.
    pub cpu_flags: BTreeSet<String>,
    /// Memory there is.
    pub memory_total: u64,
    /// Memory that is free.
    pub memory_free: u64,
    /// Disk that is free where layers live.
    pub disk_free: u64,
    /// The volumes that it was seen to have; `None` where it was not asked.
    pub volumes: Option<BTreeSet<Text>>,
}

/// From what a workload goes on, or begins, on its next node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    Afresh,
    Checkpoint(&'a CheckpointEntry),
    Move,
}

/// Every node that has said what it is like.
pub(super) struct Seats {
    nodes: Vec<Candidate>,
    rules: PlaceRules,
    closed: BTreeSet<NodeName>,
}

impl Steward {
    pub(super) fn seats(&self, record: &Record) -> Seats {
        let mut held: BTreeMap<&NodeName, BTreeSet<CheckpointId>> = BTreeMap::new();
        let mut promised: BTreeMap<&NodeName, (u64, u16)> = BTreeMap::new();
        for (name, load) in &record.loads {
            for checkpoint in &load.checkpoints {
                for holder in self.holders(name, checkpoint) {
                    held.entry(holder).or_default().insert(checkpoint.id);
                }
            }
            let Some(owner) = &load.owner else { continue };
            let (memory, recovering) = promised.entry(owner).or_default();
            if matches!(load.life, Life::Starting | Life::Recovering { .. }) {
                *memory += memory_of(load);
                *recovering += u16::from(matches!(load.life, Life::Recovering { .. }));
            }
        }
        let candidate = |(name, node): (&NodeName, &NodeEntry)| {
            let figures = self.figures.get(name)?;
            let (memory_promised, recovering) = promised.get(name).copied().unwrap_or_default();
            Some(Candidate {
                node: name.clone(),
                alive: self.is_alive(name),
                takes: record.takes(name).is_ok(),
                versions: node.versions,
                arch: figures.arch.clone(),
                cpu_flags: figures.cpu_flags.clone(),
                memory_total: figures.memory_total,
                memory_free: figures.memory_free,
                memory_promised,
                disk_free: figures.disk_free,
                volumes: figures.volumes.clone(),
                holds: held.get(name).cloned().unwrap_or_default(),
                workloads: node.owns,
                recovering,
            })
        };
        let rules = PlaceRules {
            speaks: record.cluster.policy.speaks,
            spare_memory: self.limits.spare_memory,
            spare_disk: self.limits.spare_disk,
            recover_at_once: record.cluster.policy.recover_at_once,
        };
        Seats { nodes: record.nodes.iter().filter_map(candidate).collect(), rules, closed: BTreeSet::new() }
    }

    /// What a workload needs of its next node. Processes that go on need a machine like the one that they were on.
    pub(super) fn needs(&self, load: &LoadEntry, from: Origin<'_>) -> Needs {
        let goes_on = !matches!(from, Origin::Afresh);
        let machine = load.owner.as_ref().filter(|_| goes_on).and_then(|owner| self.figures.get(owner));
        let checkpoint = if let Origin::Checkpoint(checkpoint) = from { Some(checkpoint) } else { None };
        Needs {
            arch: machine.map(|machine| machine.arch.clone()),
            cpu_flags: machine.map(|machine| machine.cpu_flags.clone()).unwrap_or_default(),
            memory_bytes: memory_of(load),
            disk_bytes: checkpoint.map_or(0, |checkpoint| checkpoint.bytes),
            volumes: load.spec.volumes.iter().map(|volume| volume.source.clone()).collect(),
            checkpoint: checkpoint.map(|checkpoint| checkpoint.id),
            tried: load.tried.clone(),
        }
    }
}

impl Seats {
    /// The best node for this, or the preferred one if it fits; its room is taken.
    pub(super) fn take(&mut self, needs: &Needs, prefer: Option<&NodeName>) -> Result<NodeName, NoRoom> {
        let ranking = rank(needs, &self.nodes, &self.rules);
        let preferred = prefer.filter(|prefer| ranking.fit.contains(prefer));
        let Some(node) = preferred.or(ranking.fit.first()).cloned() else {
            return Err(NoRoom { rejected: ranking.rejected });
        };
        if let Some(candidate) = self.nodes.iter_mut().find(|candidate| candidate.node == node) {
            candidate.memory_promised += needs.memory_bytes;
            candidate.disk_free = candidate.disk_free.saturating_sub(needs.disk_bytes);
            candidate.workloads += 1;
            candidate.recovering += u16::from(needs.checkpoint.is_some());
        }
        Ok(node)
    }

    /// From now on nothing goes there.
    pub(super) fn close(&mut self, node: &NodeName) {
        self.closed.insert(node.clone());
        self.nodes.iter_mut().filter(|candidate| candidate.node == *node).for_each(|candidate| candidate.takes = false);
    }

    /// Whether something was found out in this step that keeps a node from getting anything.
    pub(super) fn is_closed(&self, node: &NodeName) -> bool {
        self.closed.contains(node)
    }
}

fn memory_of(load: &LoadEntry) -> u64 {
    load.spec.memory_bytes.unwrap_or(0)
}
