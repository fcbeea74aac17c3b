//! Checkpoints of workloads, in the vault of this node's state directory: taken while they run, and what is brought back from them.
//!
//! - [`take`]: one checkpoint: a dump that is always refused, so that the workload goes on where it was.
//! - `outlet`: from the dump into the vault.
//! - [`every`]: those that are taken by the clock.
//! - [`interrupted`]: restores that were not ended.
//! - [`scrub`]: those that there are, looked at again. [`prove`]: restored for a test.
//! - [`restore`]: a workload, brought back; or a second one made of it. `candidates`: from what.
//! - [`ship`]: to other nodes; [`holding`]: what these do with them; [`fetch`]: back from there. `crossing`: how one crosses. [`replicas`]: who has
//!   what. [`depots`]: to stores that outlive nodes, and back. [`register`]: what of it the cluster's record says.
//! - [`Checkpoints`]: the vault, what is known of its pages, which of them are kept.

mod candidates;
mod crossing;
pub mod depots;
pub mod every;
pub mod fetch;
pub mod holding;
pub mod interrupted;
mod outlet;
pub mod prove;
pub mod register;
pub mod replicas;
pub mod restore;
pub mod scrub;
pub mod ship;
pub mod take;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::join_all;
use migrate_depot::Depot;
use migrate_image::vault::{Broken, Generation, Known, Limits, Looked, Vault, VaultError, WriteError};
use migrate_proto::api::{CheckpointView, LastCheckpoint};
use migrate_proto::care::retain::{Candidate, Retention, Soundness, retain};
use migrate_proto::care::trust::{Place, Trust};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::message::HeldCheckpoint;
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::watch;

use crate::control::Scope;
use crate::elsewhere;
use crate::events::{Clock, SystemClock, timestamp};
use crate::handover::Ground;

/// What of the disk checkpoints leave alone: layers need it.
const KEEP_FREE: u64 = 128 << 20;

/// How many checkpoints are kept, and how much they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Of each workload.
    pub retention: Retention,
    /// All together.
    pub bytes: u64,
    /// On how many other nodes.
    pub copies: u32,
}

impl Default for Keeping {
    fn default() -> Keeping {
        Keeping { retention: Retention::default(), bytes: 32 << 30, copies: 2 }
    }
}

/// The checkpoints of this node.
pub struct Checkpoints {
    vault: Result<Vault, Problem>,
    retention: Retention,
    /// What the next checkpoint of a workload need not store again. Lost with the agent, and read anew.
    known: Mutex<HashMap<WorkloadName, Known>>,
    /// Held by whoever takes one: each has the workload stand still, and the disk has one arm.
    alone: tokio::sync::Mutex<()>,
    in_use: Mutex<Vec<CheckpointId>>,
    /// The one that is being tested.
    pub proving: prove::Proving,
    /// When they were tested.
    pub tests: prove::Tests,
    /// Of workloads that are asked whether they are well.
    trust: Mutex<HashMap<WorkloadName, Trust>>,
    /// On how many other nodes they are wanted.
    copies: usize,
    /// Who else has them.
    pub replicas: replicas::Replicas,
    /// Stores that have them, too.
    pub depots: depots::Depots,
    heard: holding::Heard,
    halves: crossing::Halves,
    changes: watch::Sender<u64>,
}

impl Checkpoints {
    /// Opens the vault. Where that fails this node takes none, and says why; what else it does is not touched by it. Blocks.
    pub fn open(state: &Path, keeping: Keeping, depots: Vec<Depot>) -> (Checkpoints, Vec<Broken>) {
        let dir = state.join("vault");
        let limits = Limits { bytes: keeping.bytes, keep_free: KEEP_FREE };
        let (vault, broken) = match Vault::open(dir, limits) {
            Ok((vault, broken)) => (Ok(vault), broken),
            Err(error) => {
                (Err(Problem::internal(format!("the checkpoints of this node cannot be used: {error}"))), Vec::new())
            }
        };
        let checkpoints = Checkpoints {
            vault,
            retention: keeping.retention,
            known: Mutex::default(),
            alone: tokio::sync::Mutex::default(),
            in_use: Mutex::default(),
            proving: prove::Proving::default(),
            tests: prove::Tests::open(state),
            trust: Mutex::default(),
            copies: keeping.copies as usize,
            replicas: replicas::Replicas::default(),
            depots: depots::Depots::of(depots),
            heard: holding::Heard::default(),
            halves: crossing::Halves::default(),
            changes: watch::Sender::new(0),
        };
        (checkpoints, broken)
    }

    /// Counts what has changed about them, here and elsewhere.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where they are.
    pub fn vault(&self) -> Result<&Vault, Problem> {
        self.vault.as_ref().map_err(Clone::clone)
    }

    /// The checkpoints of a workload, oldest first.
    pub fn of(&self, workload: &WorkloadName) -> Vec<Generation> {
        let mut all = self.vault.as_ref().map_or_else(|_| Vec::new(), |vault| vault.generations(workload));
        // Each owner counts anew where there is no record that counts for all of them.
        all.sort_by_key(|generation| (generation.about.epoch, generation.about.number));
        all
    }

    /// Of all workloads, or of this one; oldest first.
    pub fn views(&self, workload: Option<&WorkloadName>, node: &NodeName) -> Result<Vec<CheckpointView>, Problem> {
        let vault = self.vault()?;
        let of = match workload {
            Some(workload) => vec![workload.clone()],
            None => vault.workloads(),
        };
        Ok(of
            .iter()
            .flat_map(|workload| vault.generations(workload))
            .map(|generation| {
                let (name, had) = (&generation.about.spec.name, BTreeSet::new());
                let depots = self.depots.holders(name, generation.id, &had).into_iter().collect();
                let tested = self.tests.of(generation.id, name);
                let view = view(&generation, node);
                let trusted = locked(&self.trust).get(name).is_none_or(|trust| trust.allows(generation.id));
                CheckpointView { depots, tested, healthy: view.healthy && trusted, ..view }
            })
            .collect())
    }

    /// What `ps` shows: the newest that can be used, here or elsewhere.
    pub fn last(&self, workload: &WorkloadName) -> Option<LastCheckpoint> {
        let here = self.of(workload).into_iter().filter(Generation::is_usable).map(|here| (holding::held(&here), 1));
        let elsewhere = self.replicas.elsewhere(workload).into_iter().map(|held| (held, 0));
        let (newest, here) = here.chain(elsewhere).max_by_key(|(held, here)| (held.epoch, held.number, *here))?;
        Some(LastCheckpoint {
            id: newest.id,
            at: timestamp::format(newest.taken_ms),
            age_s: SystemClock.now_ms().saturating_sub(newest.taken_ms) / 1000,
            replicas: here + self.replicas.holders(workload, newest.id).len() as u32,
            tested: self.tests.shown(workload),
        })
    }

    /// Which checkpoints of a workload of this node were taken while it was well, as far as is known by now.
    pub(crate) fn trusts(&self, workload: &WorkloadName, trust: Trust) {
        locked(&self.trust).insert(workload.clone(), trust);
    }

    /// All checkpoints of a workload that are known here.
    pub(crate) fn places(&self, workload: &WorkloadName) -> Vec<(CheckpointId, Place)> {
        let here = self.of(workload).into_iter();
        let here = here.map(|generation| (generation.id, (generation.about.epoch, generation.about.number)));
        let elsewhere = self.replicas.elsewhere(workload).into_iter().map(|held| (held.id, (held.epoch, held.number)));
        here.chain(elsewhere).collect()
    }

    /// Which checkpoints of a workload of this node are kept, here and elsewhere; and which are not.
    fn judged(
        &self,
        workload: &WorkloadName,
        epoch: Epoch,
        listed: Option<&LoadEntry>,
    ) -> (Vec<CheckpointId>, Vec<CheckpointId>) {
        let in_use = locked(&self.in_use).clone();
        let mut all: Vec<_> = self.of(workload).iter().map(|here| candidate(here, &in_use)).collect();
        for held in self.replicas.elsewhere(workload) {
            // One of a later epoch is of an earlier workload of that name.
            if held.epoch <= epoch && !all.iter().any(|(_, known)| known.id == held.id) {
                all.push((held.epoch, of_another_node(&held)));
            }
        }
        all.sort_by_key(|(epoch, candidate)| (*epoch, candidate.number));
        if let Some(trust) = locked(&self.trust).get(workload) {
            for (epoch, candidate) in &mut all {
                candidate.healthy &= trust.vouches_for(candidate.id, (*epoch, candidate.number));
            }
        }
        let in_order: Vec<CheckpointId> = all.iter().map(|(_, candidate)| candidate.id).collect();
        let mut dropped = register::overtaken(listed, &in_order);
        let of_the_well =
            all.iter().rev().find(|(_, candidate)| candidate.healthy && candidate.state != Soundness::Damaged);
        let of_the_well = of_the_well.map(|(_, candidate)| candidate.id);
        dropped.retain(|id| !in_use.contains(id) && of_the_well != Some(*id));
        let ranked = (1..).zip(all).map(|(number, (_, candidate))| Candidate { number, ..candidate });
        let all: Vec<Candidate> = ranked.collect();
        let old = retain(&all, self.retention, SystemClock.now_ms()).into_iter();
        // What the record lists goes when it does not any more.
        dropped.extend(old.filter(|id| !register::is_listed(listed, *id)));
        let kept = all.iter().map(|candidate| candidate.id).filter(|id| !dropped.contains(id)).collect();
        (kept, dropped)
    }

    /// Those that are kept.
    fn kept(&self, workload: &WorkloadName, epoch: Epoch, listed: Option<&LoadEntry>) -> Vec<CheckpointId> {
        self.judged(workload, epoch, listed).0
    }

    /// Drops what need not be kept of a workload of this node, of which the record says `listed`. Blocks.
    pub fn tidy(&self, workload: &WorkloadName, epoch: Epoch, listed: Option<&LoadEntry>) -> Result<(), Problem> {
        let vault = self.vault()?;
        for id in self.judged(workload, epoch, listed).1 {
            if vault.generation(id).is_some() {
                tracing::debug!(%workload, %id, "a checkpoint is not needed any more");
                vault.drop_generation(id).map_err(of_vault)?;
            }
        }
        self.changed();
        Ok(())
    }

    fn is_in_use(&self, id: CheckpointId) -> bool {
        locked(&self.in_use).contains(&id)
    }

    /// A workload of this node was removed: its checkpoints go, here and elsewhere. Blocks.
    pub fn removed(&self, workload: &WorkloadName, epoch: Epoch) -> Result<(), Problem> {
        self.replicas.forget(workload);
        self.replicas.removed(workload, epoch);
        self.changed();
        self.forget(workload)
    }

    /// Drops all checkpoints of a workload. Blocks.
    pub fn forget(&self, workload: &WorkloadName) -> Result<(), Problem> {
        locked(&self.known).remove(workload);
        locked(&self.trust).remove(workload);
        let Ok(vault) = &self.vault else { return Ok(()) };
        vault
            .generations(workload)
            .iter()
            .try_for_each(|generation| vault.drop_generation(generation.id))
            .map_err(of_vault)
    }

    /// What the newest checkpoint of a workload holds, to be known again; read from disk after a restart of the agent. Blocks.
    fn known(&self, vault: &Vault, workload: &WorkloadName) -> Option<Known> {
        let newest = vault.generations(workload).into_iter().rev().find(Generation::is_usable)?;
        let known = locked(&self.known).remove(workload).filter(|known| known.generation() == newest.id);
        known.or_else(|| {
            let read = vault.known(newest.id);
            read.inspect_err(|error| tracing::warn!(%workload, %error, "its next checkpoint is stored whole")).ok()
        })
    }

    /// The next checkpoint of this workload is not soon, or not here.
    fn unlearn(&self, workload: &WorkloadName) {
        locked(&self.known).remove(workload);
    }

    /// Nobody drops it until this is dropped.
    pub(crate) fn use_it(&self, id: CheckpointId) -> InUse<'_> {
        locked(&self.in_use).push(id);
        InUse { of: self, id }
    }
}

/// The checkpoints of this node, or of all that answer; of each workload the oldest first.
pub async fn all(
    ground: &Ground,
    workload: Option<WorkloadName>,
    scope: Scope,
) -> Result<Vec<CheckpointView>, Problem> {
    let (host, of) = (ground.host.clone(), workload.clone());
    let own = tokio::task::spawn_blocking(move || host.checkpoints().views(of.as_ref(), host.node()));
    let mut views = own.await.map_err(Problem::internal)??;
    if scope == Scope::Cluster {
        let others = ground.peers.all();
        let asked = others.iter().map(|peer| elsewhere::checkpoints(&ground.peers, &peer.node, workload.as_ref()));
        let in_depots = async {
            match &workload {
                Some(workload) => depots::views(&ground.host, workload).await,
                None => Vec::new(),
            }
        };
        let (of_others, in_depots) = tokio::join!(join_all(asked), in_depots);
        for view in of_others.into_iter().flatten().flatten() {
            match views.iter_mut().find(|known| known.id == view.id) {
                Some(known) => join(known, view),
                None => views.push(view),
            }
        }
        for view in in_depots {
            match views.iter_mut().find(|known| known.id == view.id) {
                Some(known) => known.depots = view.depots,
                None => views.push(view),
            }
        }
    }
    let order = |view: &CheckpointView| (view.workload.clone(), view.epoch, view.number, view.id);
    views.sort_by_cached_key(order);
    Ok(views)
}

/// The same checkpoint, seen by two: a node whose copy is damaged does not have it if another one does.
fn join(known: &mut CheckpointView, other: CheckpointView) {
    match (known.damaged.is_some(), other.damaged.is_some()) {
        (true, false) => *known = other,
        (false, true) => {}
        (true, true) | (false, false) => {
            known.nodes.extend(other.nodes);
            known.depots.extend(other.depots);
            known.depots.sort();
            known.depots.dedup();
            known.verified = known.verified.take().max(other.verified);
            known.tested = known.tested.take().max(other.tested);
        }
    }
}

/// A checkpoint that somebody works with.
pub(crate) struct InUse<'a> {
    of: &'a Checkpoints,
    id: CheckpointId,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        let mut in_use = locked(&self.of.in_use);
        if let Some(place) = in_use.iter().position(|id| *id == self.id) {
            in_use.swap_remove(place);
        }
    }
}

fn candidate(generation: &Generation, in_use: &[CheckpointId]) -> (Epoch, Candidate) {
    let candidate = Candidate {
        id: generation.id,
        number: generation.about.number,
        taken_ms: generation.about.taken_ms,
        healthy: generation.about.healthy,
        state: match generation.looked {
            None => Soundness::NotLooked,
            Some(Looked::Sound { .. }) => Soundness::Verified,
            Some(Looked::Damaged { .. }) => Soundness::Damaged,
        },
        in_use: in_use.contains(&generation.id),
    };
    (generation.about.epoch, candidate)
}

/// What it verified when it came there, or was taken.
fn of_another_node(held: &HeldCheckpoint) -> Candidate {
    Candidate {
        id: held.id,
        number: held.number,
        taken_ms: held.taken_ms,
        healthy: held.healthy,
        state: Soundness::Verified,
        in_use: false,
    }
}

/// A checkpoint as it is shown.
pub fn view(generation: &Generation, node: &NodeName) -> CheckpointView {
    let about = &generation.about;
    let (verified, damaged) = match &generation.looked {
        None => (None, None),
        Some(Looked::Sound { at_ms }) => (Some(timestamp::format(*at_ms)), None),
        Some(Looked::Damaged { what }) => (None, Some(what.clone())),
    };
    CheckpointView {
        id: generation.id,
        workload: about.spec.name.clone(),
        number: about.number,
        at: timestamp::format(about.taken_ms),
        age_s: SystemClock.now_ms().saturating_sub(about.taken_ms) / 1000,
        bytes: generation.raw_bytes,
        bytes_stored: generation.new_bytes,
        nodes: vec![node.clone()],
        depots: Vec::new(),
        verified,
        damaged,
        tested: None,
        kind: about.kind,
        epoch: about.epoch,
        healthy: about.healthy,
    }
}

/// As much of an identity as a person needs.
pub fn short(id: CheckpointId) -> String {
    id.to_string().chars().take(12).collect()
}

/// What the vault says, as it is told to people.
pub fn of_vault(error: VaultError) -> Problem {
    let code = match &error {
        VaultError::DiskFull { .. } | VaultError::OverBudget { .. } => Code::NoDisk,
        VaultError::Damaged { .. } | VaultError::Segment { .. } | VaultError::Manifest(_) => Code::Corrupt,
        VaultError::Unknown { .. } | VaultError::NoImage { .. } => Code::Usage,
        _ => Code::Internal,
    };
    let hint = match code {
        Code::NoDisk => "make room on the disk of the state directory, or keep fewer checkpoints",
        _ => "",
    };
    Problem::new(code, error.to_string()).hint(hint)
}

fn of_write(error: WriteError) -> Problem {
    match error {
        WriteError::Vault(error) => of_vault(error),
        other => Problem::internal(other),
    }
}

/// Whoever panicked while it was locked left it whole: nothing is changed in more than one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
