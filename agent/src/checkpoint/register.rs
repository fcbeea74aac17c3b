//! In a cluster: what its record says about checkpoints, from where the leader takes them when a node is gone.
//!
//! What the record lists is kept here for as long as it does; the leader strikes out what is too old. A checkpoint that a newer one has overtaken on its way
//! into the record is of no more use and goes. Who tells the record is `conduct::kept`; who has what the leader hears from the
//! holders themselves ([`Checkpoints::holdings`]).

use std::time::Duration;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{LoadEntry, Proof};
use migrate_proto::name::WorkloadName;

use super::Checkpoints;
use crate::host::Host;

/// How long the record may take to hear what was seen of a checkpoint.
const PATIENCE: Duration = Duration::from_secs(5);

/// Says what a look at a checkpoint has shown, once, where the record lists it; that nobody hears it does no harm.
pub(super) async fn prove(host: &Host, load: &WorkloadName, id: CheckpointId, proof: Proof) {
    let since = host.tenure.entry(load).and_then(|entry| Some(entry.checkpoint(id)?.since));
    let Some(since) = since else { return };
    let command = Command::Proved { load: load.clone(), checkpoint: id, since, proof };
    match tokio::time::timeout(PATIENCE, host.tenure.settle(command)).await {
        Ok(Ok(_)) => {}
        Ok(Err(refusal)) => tracing::debug!(%refusal, "what was seen of a checkpoint is not in the record"),
        Err(_) => tracing::debug!("what was seen of a checkpoint is not in the record yet"),
    }
}

/// Whether the record lists this checkpoint.
pub(super) fn is_listed(entry: Option<&LoadEntry>, id: CheckpointId) -> bool {
    entry.is_some_and(|entry| entry.checkpoint(id).is_some())
}

/// Of these, oldest first, those that the record does not list though it lists a later one.
pub(super) fn overtaken(entry: Option<&LoadEntry>, oldest_first: &[CheckpointId]) -> Vec<CheckpointId> {
    let last = oldest_first.iter().rposition(|id| is_listed(entry, *id)).unwrap_or(0);
    oldest_first[..last].iter().copied().filter(|id| !is_listed(entry, *id)).collect()
}

impl Checkpoints {
    /// Which checkpoints are here, of all workloads, and whether all of each is.
    pub fn holdings(&self) -> Vec<(WorkloadName, CheckpointId, bool)> {
        let Ok(vault) = self.vault() else { return Vec::new() };
        let all = vault.workloads().into_iter().flat_map(|workload| vault.generations(&workload));
        all.map(|generation| (generation.about.spec.name.clone(), generation.id, generation.is_usable())).collect()
    }

    /// The number of the next checkpoint of a workload: higher than all that is known of.
    pub(crate) fn next_number(&self, host: &Host, workload: &WorkloadName) -> u64 {
        let here = self.vault().map_or(1, |vault| vault.next_number(workload));
        let elsewhere = self.replicas.elsewhere(workload).iter().map(|held| held.number).max().unwrap_or(0);
        let listed = host.tenure.entry(workload).map_or(0, |entry| entry.numbered);
        here.max(elsewhere.max(listed) + 1)
    }
}
