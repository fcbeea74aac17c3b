//! Commands about who owns a workload. Each that succeeds begins an epoch; nothing else does.

use super::{Applied, Life, LoadEntry, Origin, Record, Refusal, Since, Wanted};
use crate::cluster::command::{Begin, EntryKey, Reassignment};
use crate::cluster::{CheckpointId, Claim};
use crate::id::{Epoch, HandoverId};
use crate::name::{NodeName, WorkloadName};

impl Record {
    /// The workload, if there is one of that name.
    pub fn load(&self, load: &WorkloadName) -> Result<&LoadEntry, Refusal> {
        self.loads.get(load).ok_or_else(|| Refusal::UnknownLoad { load: load.clone() })
    }

    pub(super) fn load_mut(&mut self, load: &WorkloadName) -> Result<&mut LoadEntry, Refusal> {
        self.loads.get_mut(load).ok_or_else(|| Refusal::UnknownLoad { load: load.clone() })
    }

    /// The workload, if it is in this epoch.
    pub(super) fn in_epoch(&mut self, load: &WorkloadName, epoch: Epoch) -> Result<&mut LoadEntry, Refusal> {
        let entry = self.load_mut(load)?;
        if entry.epoch == epoch {
            return Ok(entry);
        }
        let (owner, via) = (entry.owner.clone(), entry.via);
        Err(Refusal::OtherEpoch { load: load.clone(), epoch: entry.epoch, owner, via })
    }

    /// The workload, if it is in this epoch and this node owns it.
    pub(super) fn owned_in(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        owner: &NodeName,
    ) -> Result<&mut LoadEntry, Refusal> {
        let entry = self.in_epoch(load, epoch)?;
        if entry.owner.as_ref() == Some(owner) {
            return Ok(entry);
        }
        Err(Refusal::OtherOwner { load: load.clone(), owner: entry.owner.clone() })
    }

    /// The workload, if it is in this epoch and this is who may speak for it.
    pub(super) fn spoken_for(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        by: &Claim,
    ) -> Result<&mut LoadEntry, Refusal> {
        self.owned_in(load, epoch, &by.node)?;
        self.holds(by)?;
        self.load_mut(load)
    }

    /// Only if: the name is free, and no workload was removed since the asker looked (it could have been this one);
    /// the owner, where one is named, is in that session and takes workloads.
    pub(super) fn declare(
        &mut self,
        revision: u64,
        since: u64,
        asked: LoadEntry,
        owner: Option<&Claim>,
    ) -> Result<Applied, Refusal> {
        let load = asked.spec.name.clone();
        if let Some(present) = self.loads.get(&load) {
            if present.ticket == asked.ticket {
                return Ok(Applied::AlreadySo);
            }
            return Err(Refusal::NameTaken { load });
        }
        self.cluster.removed.must_be(since, EntryKey::Cluster)?;
        if let Some(owner) = owner {
            self.holds(owner)?;
            self.takes(&owner.node)?;
        }
        let entry = LoadEntry { submitted: revision, wished: revision, epoch: self.cluster.floor, ..asked };
        self.loads.insert(load.clone(), entry);
        let life = if owner.is_some() { Life::Starting } else { Life::Queued };
        self.begin_epoch(&load, Origin::Declared, owner.map(|owner| &owner.node), life, None, None)
    }

    /// Only if: the source owns it in this epoch, in a session that is not fenced, and it has not ended; the target takes workloads;
    /// this move was not refused.
    pub(super) fn transfer(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        from: &Claim,
        to: &NodeName,
        handover: HandoverId,
    ) -> Result<Applied, Refusal> {
        let present = self.load(load)?;
        if present.epoch == epoch.next() && present.owner.as_ref() == Some(to) && present.via == Some(handover) {
            return Ok(Applied::AlreadySo);
        }
        let life = self.spoken_for(load, epoch, from)?.life.clone();
        if matches!(life, Life::Stopped(_) | Life::Failed(_)) {
            return Err(Refusal::InLife { load: load.clone(), life });
        }
        self.not_refused(load, handover)?;
        self.takes(to)?;
        self.begin_epoch(load, Origin::Transferred, Some(to), life, Some(handover), None)
    }

    /// Only if: it is still in this epoch, that is, the move has not been decided the other way.
    pub(super) fn refuse(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        handover: HandoverId,
    ) -> Result<Applied, Refusal> {
        let entry = self.in_epoch(load, epoch)?;
        if entry.refused.contains(&handover) {
            return Ok(Applied::AlreadySo);
        }
        entry.refused.push(handover);
        Ok(Applied::Changed)
    }

    /// Only if: the node owns it in this epoch, in a session that is not fenced; it is wanted to run.
    pub(super) fn revive(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        by: &Claim,
        from: Option<CheckpointId>,
        lost_ms: Option<u64>,
    ) -> Result<Applied, Refusal> {
        if self.began_with(load, epoch, Origin::Revived, Some(&by.node), None, from)? {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.spoken_for(load, epoch, by)?;
        if entry.wish != Wanted::Run {
            return Err(Refusal::Wished { load: load.clone(), wish: entry.wish });
        }
        let life = from.map_or(Life::Starting, |from| Life::Recovering { from });
        entry.restarts.revived += 1;
        entry.lost_ms = lost_ms;
        self.begin_epoch(load, Origin::Revived, Some(&by.node), life, None, from)
    }

    /// Only if: that owner owns it in this epoch, and is fenced or has said that it could not run it; no checkpoint was kept since
    /// the leader looked; who gets it takes workloads, and it is to run there; what it begins from is listed and not damaged, or
    /// a move that was not refused.
    pub(super) fn reassign(&mut self, reassignment: &Reassignment) -> Result<Applied, Refusal> {
        let Reassignment { load, epoch, owner, to, begin, numbered, lost_ms } = reassignment;
        let (via, from) = match *begin {
            Begin::Afresh => (None, None),
            Begin::Checkpoint(from) => (None, Some(from)),
            Begin::Image(via) => (Some(via), None),
        };
        if self.began_with(load, *epoch, Origin::Reassigned, to.as_ref(), via, from)? {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.owned_in(load, *epoch, owner)?;
        if entry.numbered > *numbered {
            return Err(Refusal::OldNumber { load: load.clone(), number: entry.numbered });
        }
        let life = life_elsewhere(entry, to.is_some(), *begin);
        let released = matches!(entry.life, Life::Failed(_));
        if let Some(from) = from {
            self.usable(load, from)?;
        }
        if let Some(handover) = via {
            self.not_refused(load, handover)?;
            to.as_ref().ok_or_else(|| Refusal::Nobody { load: load.clone() })?;
        }
        if !released {
            self.is_fenced(owner)?;
        }
        if let Some(to) = to {
            self.takes(to)?;
            // It has nothing to do there, and its files are here.
            if matches!(life, Life::Stopped(_)) {
                return Err(Refusal::InLife { load: load.clone(), life: self.load(load)?.life.clone() });
            }
        }
        let entry = self.load_mut(load)?;
        entry.restarts.recovered += 1;
        entry.lost_ms = *lost_ms;
        self.begin_epoch(load, Origin::Reassigned, to.as_ref(), life, via, from)
    }

    /// Only if: nobody owns it, and it waits for a node in this epoch; the node takes workloads.
    pub(super) fn assign(&mut self, load: &WorkloadName, epoch: Epoch, to: &NodeName) -> Result<Applied, Refusal> {
        let present = self.load(load)?;
        if self.began_with(load, epoch, Origin::Assigned, Some(to), None, present.from)? {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.in_epoch(load, epoch)?;
        if entry.owner.is_some() {
            return Err(Refusal::OtherOwner { load: load.clone(), owner: entry.owner.clone() });
        }
        let (life, from) = match entry.life {
            Life::Queued => (Life::Starting, None),
            Life::Recovering { from } => (Life::Recovering { from }, Some(from)),
            _ => return Err(Refusal::InLife { load: load.clone(), life: entry.life.clone() }),
        };
        self.takes(to)?;
        self.begin_epoch(load, Origin::Assigned, Some(to), life, None, from)
    }

    /// Whether what followed this epoch is exactly this. Nothing else can have led there: only one command ends an epoch.
    fn began_with(
        &self,
        load: &WorkloadName,
        after: Epoch,
        origin: Origin,
        owner: Option<&NodeName>,
        via: Option<HandoverId>,
        from: Option<CheckpointId>,
    ) -> Result<bool, Refusal> {
        let entry = self.load(load)?;
        let how = (entry.origin, entry.owner.as_ref(), entry.via, entry.from);
        Ok(entry.epoch == after.next() && how == (origin, owner, via, from))
    }

    fn not_refused(&self, load: &WorkloadName, handover: HandoverId) -> Result<(), Refusal> {
        if self.load(load)?.refused.contains(&handover) {
            return Err(Refusal::HandoverRefused { load: load.clone(), handover });
        }
        Ok(())
    }

    /// The one place where an epoch rises and an owner changes.
    fn begin_epoch(
        &mut self,
        load: &WorkloadName,
        origin: Origin,
        to: Option<&NodeName>,
        life: Life,
        via: Option<HandoverId>,
        from: Option<CheckpointId>,
    ) -> Result<Applied, Refusal> {
        let entry = self.load_mut(load)?;
        let before = std::mem::replace(&mut entry.owner, to.cloned());
        entry.epoch = entry.epoch.next();
        (entry.origin, entry.life, entry.via, entry.from) = (origin, life, via, from);
        entry.refused.clear();
        self.count(before.as_ref(), to);
        Ok(Applied::Changed)
    }

    /// A workload has gone from one node to another.
    pub(super) fn count(&mut self, from: Option<&NodeName>, to: Option<&NodeName>) {
        if let Some(node) = from.and_then(|from| self.nodes.get_mut(from)) {
            node.owns = node.owns.saturating_sub(1);
        }
        if let Some(node) = to.and_then(|to| self.nodes.get_mut(to)) {
            node.owns += 1;
        }
    }
}

/// How a workload goes on where its owner cannot. What has ended is not begun again by that, nor what is not wanted.
fn life_elsewhere(entry: &LoadEntry, somewhere: bool, begin: Begin) -> Life {
    match (&entry.life, begin) {
        (ended @ Life::Stopped(_), _) => ended.clone(),
        (_, _) if entry.wish != Wanted::Run => Life::Stopped(None),
        (_, Begin::Checkpoint(from)) => Life::Recovering { from },
        (Life::Running, Begin::Image(_)) => Life::Running,
        (waits @ (Life::Failed(_) | Life::Lost(_)), Begin::Afresh) if !somewhere => waits.clone(),
        (_, Begin::Afresh) if !somewhere => Life::Queued,
        _ => Life::Starting,
    }
}
