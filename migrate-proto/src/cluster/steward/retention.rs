//! Which checkpoints are kept, and who has them.

use std::collections::BTreeSet;

use super::{Round, Steward, Subject};
use crate::cluster::CheckpointId;
use crate::cluster::command::Command;
use crate::cluster::record::{CheckpointEntry, Life, LoadEntry, MAX_CHECKPOINTS, Proof, Record, Standing};
use crate::name::{NodeName, WorkloadName};

/// How much of the list stays free for those that are just being taken.
const FREE: usize = 4;

impl Steward {
    pub(super) fn retention(&mut self, round: &mut Round<'_>) {
        let record = round.record;
        let keeps = record.cluster.policy.keep;
        for (name, load) in &record.loads {
            let needed = self.needed(name, load, usize::from(load.policy.keep.unwrap_or(keeps)));
            for checkpoint in &load.checkpoints {
                let (load, id, since) = (name.clone(), checkpoint.id, checkpoint.since);
                let subject = Subject::Checkpoint(load.clone(), id);
                if !needed.contains(&id) {
                    self.propose(round, subject, Command::Dropped { load, checkpoint: id, since });
                } else if let Some(holders) = self.other_holders(record, name, checkpoint) {
                    let command = if holders.is_empty() && checkpoint.depots.is_empty() {
                        Command::Proved { load, checkpoint: id, since, proof: Proof::Damaged }
                    } else {
                        Command::Held { load, checkpoint: id, since, holders }
                    };
                    self.propose(round, subject, command);
                }
            }
        }
    }

    /// Those who have it, if they are others than those who are listed.
    fn other_holders(
        &self,
        record: &Record,
        load: &WorkloadName,
        checkpoint: &CheckpointEntry,
    ) -> Option<BTreeSet<NodeName>> {
        let gone = |node: &NodeName| record.nodes.get(node).is_none_or(|node| node.standing == Standing::Forgotten);
        let holders: BTreeSet<NodeName> =
            self.holders(load, checkpoint).filter(|holder| !gone(holder)).cloned().collect();
        (holders != checkpoint.holders && !checkpoint.damaged).then_some(holders)
    }

    /// Those who have it, as the record says and as they have said themselves since.
    pub(super) fn holders<'a>(
        &'a self,
        load: &WorkloadName,
        checkpoint: &'a CheckpointEntry,
    ) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        let said = self.copies.get(&(load.clone(), checkpoint.id));
        let whole = move |node: &NodeName| said.and_then(|said| said.get(node)).copied();
        let listed = checkpoint.holders.iter().filter(move |holder| whole(holder).is_none());
        listed.chain(said.into_iter().flatten().filter(|(_, whole)| **whole).map(|(node, _)| node))
    }

    /// The newest ones; the newest that was healthy, the newest that was verified since, and the newest that a living node has;
    /// that from which it is being brought back. What is damaged is needed only there.
    fn needed(&self, name: &WorkloadName, load: &LoadEntry, keep: usize) -> BTreeSet<CheckpointId> {
        let sound = || load.checkpoints.iter().rev().filter(|checkpoint| !checkpoint.damaged);
        let healthy = sound().find(|checkpoint| checkpoint.healthy);
        let verified = sound().find(|checkpoint| checkpoint.sound_ms.is_some());
        let at_hand = sound().find(|checkpoint| self.holders(name, checkpoint).any(|holder| self.is_alive(holder)));
        let mut needed: BTreeSet<CheckpointId> = sound()
            .take(keep.clamp(1, MAX_CHECKPOINTS - FREE))
            .chain(healthy)
            .chain(verified)
            .chain(at_hand)
            .map(|checkpoint| checkpoint.id)
            .collect();
        if let Life::Recovering { from } = load.life {
            needed.insert(from);
        }
        needed
    }
}
