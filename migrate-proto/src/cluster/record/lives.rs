//! Commands about how a workload is, and what is wanted of it. None begins an epoch.

use super::{Applied, Life, LoadEntry, Record, Refusal, Since, Wanted};
use crate::api::Exit;
use crate::cluster::Claim;
use crate::cluster::command::EntryKey;
use crate::id::Epoch;
use crate::name::{NodeName, WorkloadName};

impl Record {
    /// Only if: the node owns it in this epoch, in a session that is not fenced; it was being begun, or taken for lost.
    pub(super) fn began(&mut self, load: &WorkloadName, epoch: Epoch, by: &Claim) -> Result<Applied, Refusal> {
        let entry = self.spoken_for(load, epoch, by)?;
        match entry.life {
            Life::Running => return Ok(Applied::AlreadySo),
            Life::Starting | Life::Recovering { .. } | Life::Lost(_) => {}
            _ => return Err(in_life(load, entry)),
        }
        (entry.life, entry.ran) = (Life::Running, true);
        entry.tried.clear();
        Ok(Applied::Changed)
    }

    /// Only if: the node owns it in this epoch, in a session that is not fenced; it had not ended.
    pub(super) fn ended(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        by: &Claim,
        exit: Option<Exit>,
    ) -> Result<Applied, Refusal> {
        let entry = self.spoken_for(load, epoch, by)?;
        match entry.life {
            Life::Stopped(how) if how == exit => return Ok(Applied::AlreadySo),
            Life::Stopped(_) | Life::Failed(_) | Life::Queued => return Err(in_life(load, entry)),
            _ => entry.life = Life::Stopped(exit),
        }
        Ok(Applied::Changed)
    }

    /// Only if: the node owns it in this epoch, in a session that is not fenced; it runs, or is being begun, as was said, or is lost.
    pub(super) fn broke(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        by: &Claim,
        began: bool,
        reason: &str,
    ) -> Result<Applied, Refusal> {
        let entry = self.spoken_for(load, epoch, by)?;
        match &entry.life {
            Life::Failed(why) if why == reason => return Ok(Applied::AlreadySo),
            Life::Running if began => {}
            Life::Starting | Life::Recovering { .. } if !began => {}
            Life::Lost(_) => {}
            _ => return Err(in_life(load, entry)),
        }
        entry.life = Life::Failed(reason.to_owned());
        entry.tried.insert(by.node.clone());
        Ok(Applied::Changed)
    }

    /// Only if: that owner owns it in this epoch, and is fenced in this session; it had not ended.
    pub(super) fn lose(
        &mut self,
        load: &WorkloadName,
        epoch: Epoch,
        owner: &Claim,
        reason: &str,
    ) -> Result<Applied, Refusal> {
        self.owned_in(load, epoch, &owner.node)?;
        let node = self.node(&owner.node)?;
        if node.session != owner.session {
            return Err(Refusal::OtherSession { node: owner.node.clone(), session: node.session });
        }
        self.is_fenced(&owner.node)?;
        let entry = self.load_mut(load)?;
        match &entry.life {
            Life::Lost(why) if why == reason => return Ok(Applied::AlreadySo),
            Life::Starting | Life::Running | Life::Recovering { .. } => entry.life = Life::Lost(reason.to_owned()),
            _ => return Err(in_life(load, entry)),
        }
        Ok(Applied::Changed)
    }

    /// Only if: it is in this epoch, and nobody has wished anything else meanwhile; it is not to be removed. What nobody owns
    /// follows at once.
    pub(super) fn wish(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        epoch: Epoch,
        since: u64,
        wish: Wanted,
    ) -> Result<Applied, Refusal> {
        if wish == Wanted::Remove && !self.loads.contains_key(load) && since < self.cluster.removed {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.load_mut(load)?;
        let follows = if entry.owner.is_none() { unowned(&entry.life, wish) } else { None };
        if entry.wish == wish && follows.is_none() {
            return Ok(Applied::AlreadySo);
        }
        if entry.wish == Wanted::Remove {
            return Err(Refusal::Wished { load: load.clone(), wish: entry.wish });
        }
        let entry = self.in_epoch(load, epoch)?;
        entry.wished.must_be(since, EntryKey::Load(load.clone()))?;
        (entry.wish, entry.wished) = (wish, revision);
        if let Some(life) = follows {
            entry.life = life;
        }
        if entry.owner.is_none() && wish == Wanted::Remove {
            self.remove(revision, load);
        }
        Ok(Applied::Changed)
    }

    /// Only if: that owner owns it in this epoch, and says so itself in a session that is not fenced, or is fenced; it is to be
    /// removed.
    pub(super) fn gone(
        &mut self,
        revision: u64,
        load: &WorkloadName,
        epoch: Epoch,
        owner: &NodeName,
        session: Option<u64>,
    ) -> Result<Applied, Refusal> {
        if !self.loads.contains_key(load) && epoch <= self.cluster.floor {
            return Ok(Applied::AlreadySo);
        }
        let entry = self.owned_in(load, epoch, owner)?;
        if entry.wish != Wanted::Remove {
            return Err(Refusal::Wished { load: load.clone(), wish: entry.wish });
        }
        match session {
            Some(session) => self.holds(&Claim { node: owner.clone(), session })?,
            None => self.is_fenced(owner)?,
        }
        self.count(Some(owner), None);
        self.remove(revision, load);
        Ok(Applied::Changed)
    }

    fn remove(&mut self, revision: u64, load: &WorkloadName) {
        if let Some(entry) = self.loads.remove(load) {
            self.cluster.floor = self.cluster.floor.max(entry.epoch);
            self.cluster.removed = revision;
        }
    }
}

/// What becomes of a workload that nobody owns, where a wish changes that.
fn unowned(life: &Life, wish: Wanted) -> Option<Life> {
    match (wish, life) {
        (Wanted::Run, Life::Stopped(_) | Life::Failed(_) | Life::Lost(_)) => Some(Life::Queued),
        (Wanted::Stop, Life::Queued | Life::Recovering { .. }) => Some(Life::Stopped(None)),
        _ => None,
    }
}

fn in_life(load: &WorkloadName, entry: &LoadEntry) -> Refusal {
    Refusal::InLife { load: load.clone(), life: entry.life.clone() }
}
