//! Which node a workload should go to: a function of what it needs, of what the nodes say of themselves, and of the rules.
//!
//! A node that cannot take it is rejected with every reason, for people. Among the others the one is taken that
//!
//! 1. holds the checkpoint that it begins from,
//! 2. would have the larger share of its memory free afterwards, in thousandths,
//! 3. owns fewer workloads,
//! 4. comes first by name.
//!
//! Equal input gives an equal answer, in whatever order the nodes are named. The answer is a proposal: the record has the last
//! word.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::CheckpointId;
use crate::name::NodeName;
use crate::text::Text;
use crate::version::{Version, Versions};

/// What a workload needs of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The machine, as `uname -m` says; any where absent.
    pub arch: Option<String>,
    /// Features that its CPU must have: those of the node where it was checkpointed.
    pub cpu_flags: BTreeSet<String>,
    /// How much memory it will use.
    pub memory_bytes: u64,
    /// How much disk its files and image will take.
    pub disk_bytes: u64,
    /// The volumes that it mounts.
    pub volumes: BTreeSet<Text>,
    /// The checkpoint that it begins from.
    pub checkpoint: Option<CheckpointId>,
    /// Where it was tried, and failed.
    pub tried: BTreeSet<NodeName>,
}

/// A node, as it is known to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub node: NodeName,
    /// Whether it answers.
    pub alive: bool,
    /// Whether the record lets it take workloads: a member, not draining, not fenced.
    pub takes: bool,
    /// What its agent speaks.
    pub versions: Versions,
    /// The machine, as `uname -m` says.
    pub arch: String,
    /// The features of its CPU.
    pub cpu_flags: BTreeSet<String>,
    /// Memory there is.
    pub memory_total: u64,
    /// Memory that is free.
    pub memory_free: u64,
    /// Memory of that which is spoken for.
    pub memory_promised: u64,
    /// Disk that is free where layers live.
    pub disk_free: u64,
    /// The volumes that it was seen to have; `None` where it was not asked.
    pub volumes: Option<BTreeSet<Text>>,
    /// The checkpoints that it holds.
    pub holds: BTreeSet<CheckpointId>,
    /// How many workloads it owns.
    pub workloads: u32,
    /// How many of them are just being recovered.
    pub recovering: u16,
}

/// What holds for every choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceRules {
    /// The version of the protocol that is spoken.
    pub speaks: Version,
    /// Memory that must stay free.
    pub spare_memory: u64,
    /// Disk that must stay free.
    pub spare_disk: u64,
    /// How many workloads are recovered on one node at once.
    pub recover_at_once: u16,
}

/// Why a node cannot take a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum Unfit {
    /// It is not there.
    #[error("does not answer")]
    Silent,
    /// It is no member, drains, or its lease is over.
    #[error("takes no workloads")]
    Closed,
    /// Its agent is too old, or too new.
    #[error("speaks {} to {}, not {speaks}", .versions.min, .versions.max)]
    Versions { versions: Versions, speaks: Version },
    /// Another kind of machine.
    #[error("is {has}, not {wanted}")]
    Arch { has: String, wanted: String },
    /// Its CPU is older.
    #[error("its CPU lacks {}", .missing.join(", "))]
    CpuFlags { missing: Vec<String> },
    /// Too little memory.
    #[error("has {has} bytes of memory for it, {wanted} are needed")]
    Memory { has: u64, wanted: u64 },
    /// Too little disk.
    #[error("has {has} bytes of disk for it, {wanted} are needed")]
    Disk { has: u64, wanted: u64 },
    /// It has not what the workload mounts.
    #[error("lacks the volume {volume}")]
    Volume { volume: Text },
    /// It failed there.
    #[error("was tried already")]
    Tried,
    /// It has enough to do.
    #[error("is recovering {recovering} workloads already")]
    Recovering { recovering: u16 },
}

/// A node that cannot take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Which.
    pub node: NodeName,
    /// Every reason.
    pub reasons: Vec<Unfit>,
}

/// No node can take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub struct NoRoom {
    /// All of them, by name.
    pub rejected: Vec<Rejected>,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rejected.is_empty() {
            return f.write_str("there is no node");
        }
        for (at, Rejected { node, reasons }) in self.rejected.iter().enumerate() {
            let reasons: Vec<String> = reasons.iter().map(Unfit::to_string).collect();
            write!(f, "{}{node} {}", if at == 0 { "" } else { "; " }, reasons.join(" and "))?;
        }
        Ok(())
    }
}

/// Every node, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// Those that can take it, the best first.
    pub fit: Vec<NodeName>,
    /// The others, by name.
    pub rejected: Vec<Rejected>,
}

/// The node that `load` should go to.
pub fn place(load: &Needs, nodes: &[Candidate], rules: &PlaceRules) -> Result<NodeName, NoRoom> {
    let Ranking { fit, rejected } = rank(load, nodes, rules);
    fit.into_iter().next().ok_or(NoRoom { rejected })
}

/// All nodes, in the order in which they should be tried.
pub fn rank(load: &Needs, nodes: &[Candidate], rules: &PlaceRules) -> Ranking {
    let (mut fit, mut rejected) = (Vec::new(), Vec::new());
    for node in nodes {
        let reasons = unfit(load, node, rules);
        if reasons.is_empty() {
            fit.push(node);
        } else {
            rejected.push(Rejected { node: node.node.clone(), reasons });
        }
    }
    fit.sort_by_key(|node| {
        let holds = load.checkpoint.is_some_and(|checkpoint| node.holds.contains(&checkpoint));
        (Reverse(holds), Reverse(share_left(load, node)), node.workloads, &node.node)
    });
    rejected.sort_by(|a, b| a.node.cmp(&b.node));
    Ranking { fit: fit.into_iter().map(|node| node.node.clone()).collect(), rejected }
}

pub(crate) fn unfit(load: &Needs, node: &Candidate, rules: &PlaceRules) -> Vec<Unfit> {
    let mut reasons = Vec::new();
    let mut unless = |fits: bool, reason: Unfit| {
        if !fits {
            reasons.push(reason);
        }
    };
    unless(node.alive, Unfit::Silent);
    unless(node.takes, Unfit::Closed);
    let (versions, speaks) = (node.versions, rules.speaks);
    unless(versions.contains(speaks), Unfit::Versions { versions, speaks });
    if let Some(wanted) = load.arch.clone() {
        unless(node.arch == wanted, Unfit::Arch { has: node.arch.clone(), wanted });
    }
    let missing: Vec<String> = load.cpu_flags.difference(&node.cpu_flags).cloned().collect();
    unless(missing.is_empty(), Unfit::CpuFlags { missing });
    let (has, wanted) = (unpromised(node).saturating_sub(rules.spare_memory), load.memory_bytes);
    unless(has >= wanted, Unfit::Memory { has, wanted });
    let (has, wanted) = (node.disk_free.saturating_sub(rules.spare_disk), load.disk_bytes);
    unless(has >= wanted, Unfit::Disk { has, wanted });
    if let Some(volumes) = &node.volumes {
        for volume in load.volumes.difference(volumes) {
            unless(false, Unfit::Volume { volume: volume.clone() });
        }
    }
    unless(!load.tried.contains(&node.node), Unfit::Tried);
    let recovering = node.recovering;
    let waits = load.checkpoint.is_some() && recovering >= rules.recover_at_once;
    unless(!waits, Unfit::Recovering { recovering });
    reasons
}

fn unpromised(node: &Candidate) -> u64 {
    node.memory_free.saturating_sub(node.memory_promised)
}

/// Which share of the node's memory would be free with the workload on it, in thousandths.
fn share_left(load: &Needs, node: &Candidate) -> u128 {
    let left = unpromised(node).saturating_sub(load.memory_bytes);
    u128::from(left) * 1000 / u128::from(node.memory_total.max(1))
}
