//! In a cluster: checkpoints in its record, from where the leader takes them when a node is gone.
//!
//! The owner says that a checkpoint is kept when it and one other node, or a depot, have it; who alone can give it is no help. Who gets it later the
//! leader hears from the holders themselves ([`Checkpoints::holdings`]). What the record lists is kept here for as long as it does; the
//! leader strikes out what is too old. A checkpoint that a newer one has overtaken on its way into the record is kept like any other where there is
//! no record.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_image::vault::{Generation, Looked};
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{CheckpointEntry, LoadEntry, Proof};
use migrate_proto::cluster::{CheckpointId, Claim};
use migrate_proto::name::{NodeName, WorkloadName};

use super::{Checkpoints, holding};
use crate::handover::Ground;
use crate::host::Host;
use crate::tenure::Lease;

/// How long one proposal may take before everything is looked at anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked, should nothing be heard.
const LOOK: Duration = Duration::from_secs(2);

/// Says what is kept, for as long as the agent lives. Returns at once where there is no cluster.
pub async fn run(ground: Ground) {
    let tenure = &ground.host.tenure;
    if !tenure.in_cluster() {
        return;
    }
    let mut changes = ground.host.checkpoints().changes.subscribe();
    let (mut records, mut leases) = (tenure.record(), tenure.lease());
    loop {
        changes.mark_unchanged();
        records.mark_unchanged();
        leases.mark_unchanged();
        for command in due(&ground) {
            match tokio::time::timeout(PATIENCE, tenure.settle(command)).await {
                Ok(Ok(_)) => {}
                // The record has changed meanwhile: what is still true is said again.
                Ok(Err(refusal)) => tracing::info!(%refusal, "a checkpoint is not in the record"),
                Err(_) => break,
            }
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = records.changed() => {}
            _ = leases.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What there is to say about checkpoints of this node's workloads.
fn due(ground: &Ground) -> Vec<Command> {
    let tenure = &ground.host.tenure;
    let Lease::Held { claim, finite } = tenure.lease_now() else { return Vec::new() };
    let mut commands = Vec::new();
    for workload in ground.registry.all().into_iter().filter(holding::is_owner) {
        let (name, epoch) = (workload.name(), workload.record().epoch);
        let Some(entry) = tenure.entry(name) else { continue };
        if entry.owner.as_ref() != Some(&claim.node) || entry.epoch != epoch {
            continue;
        }
        let checkpoints = ground.host.checkpoints();
        for generation in checkpoints.of(name) {
            let id = generation.id;
            let holders = checkpoints.replicas.holders(name, id);
            let depots = BTreeSet::new();
            let newer = generation.about.epoch == epoch && generation.about.number > entry.numbered;
            let enough = !holders.is_empty() || !depots.is_empty() || !finite;
            if newer && enough && generation.is_usable() {
                commands.push(kept(name, &claim, &generation, holders, depots));
            }
        }
    }
    commands
}

fn kept(
    load: &WorkloadName,
    by: &Claim,
    generation: &Generation,
    mut holders: BTreeSet<NodeName>,
    depots: BTreeSet<String>,
) -> Command {
    holders.insert(by.node.clone());
    let about = &generation.about;
    let sound_ms = match generation.looked {
        Some(Looked::Sound { at_ms }) => Some(at_ms),
        _ => None,
    };
    let checkpoint = CheckpointEntry {
        id: generation.id,
        number: about.number,
        since: 0,
        taken_ms: about.taken_ms,
        kind: about.kind,
        healthy: about.healthy,
        bytes: generation.raw_bytes,
        holders,
        depots,
        damaged: false,
        sound_ms,
        restored: None,
    };
    Command::Kept { load: load.clone(), epoch: about.epoch, by: by.clone(), checkpoint }
}

/// All of a checkpoint was read and is as it was taken: the record may say so.
pub(super) fn proved(host: &Host, load: &WorkloadName, id: CheckpointId, proof: Proof) -> Option<Command> {
    let since = host.tenure.entry(load)?.checkpoint(id)?.since;
    Some(Command::Proved { load: load.clone(), checkpoint: id, since, proof })
}

/// Says it once; that nobody hears it does no harm.
pub(super) async fn say(host: &Host, command: Option<Command>) {
    let Some(command) = command else { return };
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

/// Whether a checkpoint that is not listed has no place in the record any more, where another one has.
pub(super) fn is_overtaken(entry: Option<&LoadEntry>, number: u64) -> bool {
    entry.is_some_and(|entry| number <= entry.numbered && entry.checkpoints.iter().any(|listed| !listed.damaged))
}

impl Checkpoints {
    /// Which checkpoints are here, of all workloads, and whether all of each is.
    pub fn holdings(&self) -> Vec<(WorkloadName, CheckpointId, bool)> {
        let Ok(vault) = self.vault() else { return Vec::new() };
        let all = vault.workloads().into_iter().flat_map(|workload| vault.generations(&workload));
        all.map(|generation| (generation.about.spec.name.clone(), generation.id, generation.is_usable())).collect()
    }

    /// Counts the changes of that, and of what others have.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The number of the next checkpoint of a workload: higher than all that is known of.
    pub(super) fn next_number(&self, host: &Host, workload: &WorkloadName) -> u64 {
        let here = self.vault().map_or(1, |vault| vault.next_number(workload));
        let elsewhere = self.replicas.elsewhere(workload).iter().map(|held| held.number).max().unwrap_or(0);
        let listed = host.tenure.entry(workload).map_or(0, |entry| entry.numbered);
        here.max(elsewhere.max(listed) + 1)
    }
}
