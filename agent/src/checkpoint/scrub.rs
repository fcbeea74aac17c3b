//! Looks at every checkpoint again from time to time: a disk that forgets is to be noticed before somebody needs what it had. And drops
//! what has become too old.

use std::sync::Arc;
use std::time::Duration;

use migrate_image::vault::{Generation, Looked};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::record::Proof;
use migrate_proto::name::WorkloadName;

use super::fetch::fetch;
use super::{holding, of_vault, register, short};
use crate::control::Scope;
use crate::events::{Clock, Kind, SystemClock};
use crate::handover::Ground;
use crate::host::Host;

/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(60);
/// How long one is believed to be as it was.
const BELIEVED_MS: u64 = 6 * 3600 * 1000;
/// Bytes a second: hardly to be noticed.
const PACE: u64 = 20 << 20;

/// Looks for as long as the agent lives.
pub async fn run(ground: Ground) {
    loop {
        tokio::time::sleep(LOOK).await;
        holding::drop_orphans(&ground).await;
        ground.host.checkpoints().halves.tidy();
        let looking = ground.clone();
        let look = move || {
            tidy(&looking);
            due(&looking.host)
        };
        let due = tokio::task::spawn_blocking(look).await.ok().flatten();
        if let Some((workload, id)) = due {
            look_at(ground.clone(), workload, id, Some(PACE)).await;
        }
    }
}

/// Drops what has become too old since the last checkpoint of its workload. What others own is theirs to drop.
fn tidy(ground: &Ground) {
    for workload in ground.registry.all().iter().filter(|workload| holding::is_owner(workload)) {
        let (name, epoch) = (workload.name(), workload.record().epoch);
        if let Err(problem) = ground.host.checkpoints().tidy(name, epoch, ground.host.tenure.entry(name).as_ref()) {
            tracing::warn!(workload = %name, %problem, "old checkpoints could not be removed");
        }
    }
}

/// The one that was looked at the longest time ago, where that is too long.
fn due(host: &Arc<Host>) -> Option<(WorkloadName, CheckpointId)> {
    let vault = host.checkpoints().vault().ok()?;
    let all = vault.workloads().into_iter().flat_map(|workload| vault.generations(&workload));
    let seen = |generation: &Generation| match generation.looked {
        None => Some(0),
        Some(Looked::Sound { at_ms }) => Some(at_ms),
        Some(Looked::Damaged { .. }) => None,
    };
    let (at_ms, generation) = all.filter_map(|found| Some((seen(&found)?, found))).min_by_key(|(at_ms, _)| *at_ms)?;
    let is_due = SystemClock.now_ms().saturating_sub(at_ms) > BELIEVED_MS;
    is_due.then_some((generation.about.spec.name, generation.id))
}

/// Reads all of a checkpoint, at this pace. What is damaged is told, and mended where another node has it.
pub(super) async fn look_at(ground: Ground, workload: WorkloadName, id: CheckpointId, pace: Option<u64>) {
    let host = ground.host.clone();
    let _in_use = ground.host.checkpoints().use_it(id);
    let looked = tokio::task::spawn_blocking(move || {
        let vault = host.checkpoints().vault()?;
        let checked = vault.check(id, pace).and_then(|checked| vault.check_segments(id).map(|()| checked));
        let damage = checked.err().map(|error| error.to_string());
        let looked = match damage.clone() {
            None => Looked::Sound { at_ms: SystemClock.now_ms() },
            Some(what) => Looked::Damaged { what },
        };
        vault.note(id, looked).map_err(of_vault).map(|()| damage)
    });
    ground.host.checkpoints().changed();
    match looked.await {
        Ok(Ok(Some(what))) => mend(&ground, &workload, id, &what).await,
        Ok(Ok(None)) => {
            let proof = Proof::Sound { at_ms: SystemClock.now_ms() };
            register::prove(&ground.host, &workload, id, proof).await;
        }
        // It was dropped meanwhile.
        Ok(Err(problem)) => tracing::debug!(%problem, "what was seen of a checkpoint was not written down"),
        Err(error) => tracing::warn!(%error, "a look at a checkpoint ended"),
    }
}

/// Has what is damaged come again from a node that has it.
async fn mend(ground: &Ground, workload: &WorkloadName, id: CheckpointId, what: &str) {
    let views = super::all(ground, Some(workload.clone()), Scope::Cluster).await.unwrap_or_default();
    let sound = views.iter().find(|view| view.id == id && view.damaged.is_none());
    let holders = sound.map(|view| view.nodes.clone()).unwrap_or_default();
    let (short, events) = (short(id), &ground.host.events);
    let message = match fetch(ground, workload, id, &holders).await {
        Ok(_) => format!("checkpoint {short} was damaged: {what}; it was mended from another node"),
        Err(_) => format!("checkpoint {short} is damaged: {what}; the next one is stored whole"),
    };
    events.record(Kind::Warning, Some(workload), None, message);
}
