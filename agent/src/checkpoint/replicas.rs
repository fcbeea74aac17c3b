//! Who else has the checkpoints of this node's workloads: what other nodes said last; and who shall have them.
//!
//! Holders are chosen by rendezvous hashing: every node gives each workload's holders the same order, and when one node is gone
//! only what it had moves. A node that does not answer is waited for; then the next one takes its place.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::message::HeldCheckpoint;
use migrate_proto::name::{NodeName, WorkloadName};

use super::locked;

/// How long a holder may be away before another one takes its place; one that the members take for dead, or that has left, less: until
/// another has its copies the next death may be one too many.
const PATIENCE: Duration = Duration::from_secs(30);
const DEAD: Duration = Duration::from_secs(5);
/// How long one that had no room is not asked again.
const FULL: Duration = Duration::from_secs(300);
/// How long it is told that a workload was removed.
const TOLD: Duration = Duration::from_secs(3600);

/// Who has what, as far as was heard.
#[derive(Default)]
pub struct Replicas(Mutex<State>);

#[derive(Default)]
struct State {
    said: BTreeMap<NodeName, BTreeMap<WorkloadName, Vec<HeldCheckpoint>>>,
    away: HashMap<NodeName, Instant>,
    gone: HashMap<NodeName, Instant>,
    full: HashMap<NodeName, Instant>,
    removed: BTreeMap<WorkloadName, (Epoch, Instant)>,
}

impl Replicas {
    /// A node has said what it has of a workload. False where it said the same before.
    pub(super) fn heard(&self, node: &NodeName, workload: &WorkloadName, all: Vec<HeldCheckpoint>) -> bool {
        let said = &mut locked(&self.0).said;
        let before = said.entry(node.clone()).or_default().insert(workload.clone(), all);
        before.as_ref() != said.get(node).and_then(|of| of.get(workload))
    }

    /// What a node said that it has of a workload; `None` where it was not asked.
    pub(super) fn of(&self, node: &NodeName, workload: &WorkloadName) -> Option<Vec<HeldCheckpoint>> {
        locked(&self.0).said.get(node)?.get(workload).cloned()
    }

    /// The nodes that have all of a checkpoint.
    pub fn holders(&self, workload: &WorkloadName, id: CheckpointId) -> BTreeSet<NodeName> {
        let state = locked(&self.0);
        let has = |all: &Vec<HeldCheckpoint>| all.iter().any(|held| held.id == id && held.whole);
        let holders = state.said.iter().filter(|(_, of)| of.get(workload).is_some_and(has));
        holders.map(|(node, _)| node.clone()).collect()
    }

    /// What other nodes have of a workload, each once.
    pub(super) fn elsewhere(&self, workload: &WorkloadName) -> Vec<HeldCheckpoint> {
        let state = locked(&self.0);
        let all = state.said.values().filter_map(|of| of.get(workload)).flatten().filter(|held| held.whole);
        all.map(|held| (held.id, *held)).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// The workload is not this node's any more.
    pub(super) fn forget(&self, workload: &WorkloadName) {
        locked(&self.0).said.values_mut().for_each(|of| drop(of.remove(workload)));
    }

    /// A workload was removed: others are told for a while.
    pub(super) fn removed(&self, workload: &WorkloadName, epoch: Epoch) {
        locked(&self.0).removed.insert(workload.clone(), (epoch, Instant::now()));
    }

    /// Those that were removed lately, and in which epoch.
    pub(super) fn all_removed(&self) -> Vec<(WorkloadName, Epoch)> {
        let mut state = locked(&self.0);
        state.removed.retain(|_, (_, since)| since.elapsed() < TOLD);
        state.removed.iter().map(|(name, (epoch, _))| (name.clone(), *epoch)).collect()
    }

    /// A node answers. False where that is no news.
    pub(super) fn answers(&self, node: &NodeName) -> bool {
        locked(&self.0).away.remove(node).is_some()
    }

    /// A node does not answer.
    pub(super) fn is_silent(&self, node: &NodeName) {
        locked(&self.0).away.entry(node.clone()).or_insert_with(Instant::now);
    }

    /// Whether a node did not answer when it was called last.
    pub(super) fn is_away(&self, node: &NodeName) -> bool {
        locked(&self.0).away.contains_key(node)
    }

    /// Whether a node is taken for dead, or has left.
    pub(super) fn is_gone(&self, node: &NodeName, is_gone: bool) {
        let gone = &mut locked(&self.0).gone;
        match is_gone {
            true => drop(gone.entry(node.clone()).or_insert_with(Instant::now)),
            false => drop(gone.remove(node)),
        }
    }

    /// A node had no room.
    pub(super) fn had_no_room(&self, node: &NodeName) {
        locked(&self.0).full.insert(node.clone(), Instant::now());
    }

    /// Whether a node can be a holder: it is there, or was a moment ago, and has room.
    pub(super) fn can_hold(&self, node: &NodeName) -> bool {
        let state = locked(&self.0);
        let lately = |since: Option<&Instant>, span| since.is_some_and(|since: &Instant| since.elapsed() < span);
        let there = |since: Option<&Instant>, span| since.is_none() || lately(since, span);
        there(state.away.get(node), PATIENCE)
            && there(state.gone.get(node), DEAD)
            && !lately(state.full.get(node), FULL)
    }
}

/// The first `count` of these nodes in the order that this workload gives them.
pub fn chosen(workload: &WorkloadName, nodes: impl IntoIterator<Item = NodeName>, count: usize) -> Vec<NodeName> {
    let weight = |node: &NodeName| Digest::of(format!("{workload}\n{node}").as_bytes()).0;
    let mut nodes: Vec<_> = nodes.into_iter().map(|node| (weight(&node), node)).collect();
    nodes.sort_unstable();
    nodes.into_iter().rev().take(count).map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn nodes(count: usize) -> Vec<NodeName> {
        (1..=count).map(|number| format!("node{number}").parse().unwrap()).collect()
    }

    #[test]
    fn only_what_a_node_had_moves_when_it_goes() {
        let mut load = HashMap::new();
        for number in 0..300 {
            let workload: WorkloadName = format!("w{number}").parse().unwrap();
            let all = chosen(&workload, nodes(6), 2);
            let reversed = chosen(&workload, nodes(6).into_iter().rev(), 2);
            assert_eq!(all, reversed, "the order of asking does not matter");
            all.iter().for_each(|node| *load.entry(node.clone()).or_insert(0) += 1);
            let gone = &nodes(6)[2];
            let without = chosen(&workload, nodes(6).into_iter().filter(|node| node != gone), 2);
            let moved = without.iter().filter(|node| !all.contains(node)).count();
            assert_eq!(moved, usize::from(all.contains(gone)), "{all:?} {without:?}");
        }
        assert!(load.len() == 6 && load.values().all(|count| (60..140).contains(count)), "{load:?}");
        assert_eq!(chosen(&"w".parse().unwrap(), nodes(1), 2), nodes(1));
    }

    #[test]
    fn who_has_what_is_what_they_said_last() {
        let (replicas, name, node) = (Replicas::default(), "w".parse().unwrap(), nodes(1).remove(0));
        let held = HeldCheckpoint {
            id: CheckpointId([1; 32]),
            number: 1,
            epoch: Epoch(1),
            taken_ms: 5,
            healthy: true,
            whole: true,
        };
        assert!(replicas.of(&node, &name).is_none());
        assert!(replicas.heard(&node, &name, vec![held]) && !replicas.heard(&node, &name, vec![held]));
        assert_eq!(replicas.holders(&name, held.id), BTreeSet::from([node.clone()]));
        assert_eq!(replicas.elsewhere(&name), [held]);
        assert!(replicas.heard(&node, &name, vec![HeldCheckpoint { whole: false, ..held }]));
        assert!(replicas.holders(&name, held.id).is_empty() && replicas.elsewhere(&name).is_empty());
        assert!(replicas.can_hold(&node) && !replicas.answers(&node));
        replicas.is_silent(&node);
        assert!(replicas.can_hold(&node), "it is waited for");
        assert!(replicas.answers(&node));
        replicas.had_no_room(&node);
        assert!(!replicas.can_hold(&node));
        replicas.forget(&name);
        assert!(replicas.of(&node, &name).is_none());
    }
}
