//! The owner tells the record which checkpoints of its workloads another node, or a depot, has, too: only from those a workload is brought
//! back when its owner is gone.
//!
//! The record numbers them anew: whatever a node counts for itself, of two that it lists the one that was taken later has the higher number.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_image::vault::Generation;
use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{CheckpointEntry, CheckpointKind, LoadEntry};
use migrate_proto::error::Problem;
use migrate_proto::name::{NodeName, WorkloadName};

use crate::checkpoint::short;
use crate::events::Kind;
use crate::handover::Ground;

/// How often it is looked, should nothing change.
const LOOK: Duration = Duration::from_secs(1);
/// How long the record may take to answer before it is looked again.
const PATIENCE: Duration = Duration::from_secs(3);

/// Goes on for as long as the agent runs. Returns at once where there is no cluster.
pub async fn run(ground: Ground) {
    if !ground.host.tenure.in_cluster() {
        return;
    }
    let mut changes = ground.host.checkpoints().changes();
    loop {
        changes.mark_unchanged();
        if let Some(claim) = ground.host.tenure.lease_now().claim().cloned() {
            for workload in ground.registry.all() {
                if let Err(problem) = tell(&ground, workload.name(), &claim).await {
                    tracing::info!(workload = %workload.name(), %problem, "what is kept of it was not written down");
                }
            }
        }
        let _ = tokio::time::timeout(LOOK, changes.changed()).await;
    }
}

/// All there is to say about one workload.
async fn tell(ground: &Ground, load: &WorkloadName, by: &Claim) -> Result<(), Problem> {
    let tenure = &ground.host.tenure;
    loop {
        let Some(entry) = tenure.entry(load).filter(|entry| entry.owner.as_ref() == Some(&by.node)) else {
            return Ok(());
        };
        let (kept, name) = (ground.host.clone(), load.clone());
        let all = tokio::task::spawn_blocking(move || kept.checkpoints().of(&name)).await.map_err(Problem::internal)?;
        let replicas = &ground.host.checkpoints().replicas;
        let holders = |generation: &Generation| replicas.holders(load, generation.id);
        let depots = |generation: &Generation, had: &BTreeSet<String>| {
            ground.host.checkpoints().depots.holders(load, generation.id, had)
        };
        let Some(command) = next(load, &entry, by, &all, holders, depots) else { return Ok(()) };
        tenure.ask(command.clone(), PATIENCE, "a checkpoint was not listed").await?;
        if let Command::Kept { checkpoint, .. } = &command
            && checkpoint.kind == CheckpointKind::Asked
        {
            say_listed(ground, load, checkpoint);
        }
        // This node's copy of the record is a little behind the answer.
        let mut record = tenure.record();
        let learned = record.wait_for(|record| {
            let known = record.as_ref().and_then(|record| record.loads.get(load));
            known.is_none_or(|known| *known != entry)
        });
        let _ = tokio::time::timeout(PATIENCE, learned).await;
    }
}

/// Who asked for it may rely on it from now on.
fn say_listed(ground: &Ground, load: &WorkloadName, checkpoint: &CheckpointEntry) {
    let (id, me) = (short(checkpoint.id), ground.host.node());
    let others = checkpoint.holders.iter().filter(|node| *node != me).map(NodeName::as_str);
    let others: Vec<&str> = others.chain(checkpoint.depots.iter().map(String::as_str)).collect();
    let message =
        format!("checkpoint {id} is on {} too: should {me} be lost, it is brought back from it", others.join(", "));
    ground.host.events.record(Kind::Checkpointed, Some(load), None, message);
}

/// What the record does not know yet: the oldest that is not listed and newer than all that are; else who has one that is.
fn next(
    load: &WorkloadName,
    entry: &LoadEntry,
    by: &Claim,
    all: &[Generation],
    elsewhere: impl Fn(&Generation) -> BTreeSet<NodeName>,
    in_depots: impl Fn(&Generation, &BTreeSet<String>) -> BTreeSet<String>,
) -> Option<Command> {
    let mine = |generation: &&Generation| {
        generation.about.node == by.node && generation.about.epoch == entry.epoch && generation.is_usable()
    };
    let mine: Vec<&Generation> = all.iter().filter(mine).collect();
    let listed = mine.iter().rposition(|generation| entry.checkpoint(generation.id).is_some());
    for generation in mine.iter().skip(listed.map_or(0, |last| last + 1)) {
        let (holders, depots) = (elsewhere(generation), in_depots(generation, &BTreeSet::new()));
        if holders.is_empty() && depots.is_empty() {
            continue;
        }
        let (about, mut holders) = (&generation.about, holders);
        holders.insert(by.node.clone());
        let checkpoint = CheckpointEntry {
            id: generation.id,
            number: entry.numbered + 1,
            since: 0,
            taken_ms: about.taken_ms,
            kind: about.kind,
            healthy: about.healthy,
            bytes: generation.raw_bytes,
            holders,
            depots,
            damaged: false,
            sound_ms: None,
            restored: None,
        };
        return Some(Command::Kept { load: load.clone(), epoch: entry.epoch, by: by.clone(), checkpoint });
    }
    all.iter().filter(|generation| generation.is_usable()).find_map(|generation| {
        let known = entry.checkpoint(generation.id)?;
        // Who has not said anything since this agent started may have it yet.
        let holders: BTreeSet<NodeName> =
            known.holders.iter().cloned().chain(elsewhere(generation)).chain([by.node.clone()]).collect();
        let depots = in_depots(generation, &known.depots);
        let (load, checkpoint, since) = (load.clone(), generation.id, known.since);
        if holders != known.holders {
            return Some(Command::Held { load, checkpoint, since, holders });
        }
        (depots != known.depots).then_some(Command::Stored { load, checkpoint, since, depots })
    })
}
