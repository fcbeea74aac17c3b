//! Commands about checkpoints: what there is to recover a workload from.

use std::collections::BTreeSet;

use super::{Applied, CheckpointEntry, Life, MAX_CHECKPOINTS, Proof, Record, Refusal, Since};
use crate::cluster::command::EntryKey;
use crate::cluster::{CheckpointId, Claim};
use crate::id::Epoch;
use crate::name::{NodeName, WorkloadName};

impl Record {
    /// Only if: the node owns the workload in this epoch, in a session that is not fenced; the number was never used; two nodes
    /// or a depot have it, or the node is alone (its lease has no end); there is room.
    pub(super) fn kept(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        epoch: Epoch,
        by: &Claim,
        checkpoint: &CheckpointEntry,
    ) -> Result<Applied, Refusal> {
        if self.load(load)?.checkpoint(checkpoint.id).is_some() {
            return Ok(Applied::AlreadySo);
        }
        self.spoken_for(load, epoch, by)?;
        let alone = !self.node(&by.node)?.finite;
        if checkpoint.holders.len() < 2 && checkpoint.depots.is_empty() && !alone {
            return Err(Refusal::OneHolder { checkpoint: checkpoint.id });
        }
        let entry = self.load_mut(load)?;
        if checkpoint.number <= entry.numbered {
            return Err(Refusal::OldNumber { load: load.clone(), number: entry.numbered });
        }
        if entry.checkpoints.len() >= MAX_CHECKPOINTS {
            return Err(Refusal::TooMany { load: load.clone() });
        }
        entry.numbered = checkpoint.number;
        entry.checkpoints.push(CheckpointEntry { since: revision, ..checkpoint.clone() });
        Ok(Applied::Changed)
    }

    /// Only if: it is listed, and nobody said anything about it meanwhile.
    pub(super) fn held(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        id: CheckpointId,
        since: u64,
        holders: &BTreeSet<NodeName>,
    ) -> Result<Applied, Refusal> {
        let checkpoint = self.listed(load, id)?;
        if checkpoint.holders == *holders {
            return Ok(Applied::AlreadySo);
        }
        checkpoint.since.must_be(since, EntryKey::Load(load.clone()))?;
        checkpoint.holders.clone_from(holders);
        checkpoint.since = revision;
        Ok(Applied::Changed)
    }

    /// Only if: it is listed, and nobody said anything about it meanwhile.
    pub(super) fn stored(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        id: CheckpointId,
        since: u64,
        depots: &BTreeSet<String>,
    ) -> Result<Applied, Refusal> {
        let checkpoint = self.listed(load, id)?;
        if checkpoint.depots == *depots {
            return Ok(Applied::AlreadySo);
        }
        checkpoint.since.must_be(since, EntryKey::Load(load.clone()))?;
        checkpoint.depots.clone_from(depots);
        checkpoint.since = revision;
        Ok(Applied::Changed)
    }

    /// Only if: it is listed, and nobody said anything about it meanwhile. What is damaged stays so.
    pub(super) fn proved(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        id: CheckpointId,
        since: u64,
        proof: Proof,
    ) -> Result<Applied, Refusal> {
        let checkpoint = self.listed(load, id)?;
        let so = match proof {
            Proof::Sound { at_ms } => checkpoint.sound_ms == Some(at_ms),
            Proof::Restored(restored) => checkpoint.restored == Some(restored),
            Proof::Damaged => checkpoint.damaged,
        };
        if so {
            return Ok(Applied::AlreadySo);
        }
        if checkpoint.damaged {
            return Err(Refusal::Damaged { load: load.clone(), checkpoint: id });
        }
        checkpoint.since.must_be(since, EntryKey::Load(load.clone()))?;
        match proof {
            Proof::Sound { at_ms } => checkpoint.sound_ms = Some(at_ms),
            Proof::Restored(restored) => checkpoint.restored = Some(restored),
            Proof::Damaged => checkpoint.damaged = true,
        }
        checkpoint.since = revision;
        Ok(Applied::Changed)
    }

    /// Only if: nobody said anything about it meanwhile; it is not the newest that can be used, and nothing is being recovered
    /// from it.
    pub(super) fn dropped(&mut self, load: &WorkloadName, id: CheckpointId, since: u64) -> Result<Applied, Refusal> {
        let entry = self.load_mut(load)?;
        let Some(checkpoint) = entry.checkpoint(id) else { return Ok(Applied::AlreadySo) };
        checkpoint.since.must_be(since, EntryKey::Load(load.clone()))?;
        let newest = entry.newest_sound().is_some_and(|newest| newest.id == id);
        if newest || entry.life == (Life::Recovering { from: id }) {
            return Err(Refusal::Needed { load: load.clone(), checkpoint: id });
        }
        entry.checkpoints.retain(|checkpoint| checkpoint.id != id);
        Ok(Applied::Changed)
    }

    /// Whether a workload can be brought back from this checkpoint.
    pub(super) fn usable(&self, load: &WorkloadName, id: CheckpointId) -> Result<(), Refusal> {
        match self.load(load)?.checkpoint(id) {
            None => Err(Refusal::UnknownCheckpoint { load: load.clone(), checkpoint: id }),
            Some(checkpoint) if checkpoint.damaged => Err(Refusal::Damaged { load: load.clone(), checkpoint: id }),
            Some(_) => Ok(()),
        }
    }

    fn listed(&mut self, load: &WorkloadName, id: CheckpointId) -> Result<&mut CheckpointEntry, Refusal> {
        let entry = self.load_mut(load)?;
        let found = entry.checkpoints.iter_mut().find(|checkpoint| checkpoint.id == id);
        found.ok_or_else(|| Refusal::UnknownCheckpoint { load: load.clone(), checkpoint: id })
    }
}
