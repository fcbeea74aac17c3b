//! Looks at every checkpoint again from time to time: a disk that forgets is to be noticed before somebody needs what it had. And drops
//! what has become too old.

use std::sync::Arc;
use std::time::Duration;

use migrate_image::vault::{Generation, Looked, Vault};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::name::WorkloadName;

use super::{of_vault, short};
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
        let due = {
            let host = ground.host.clone();
            let look = move || {
                tidy(&host);
                due(&host)
            };
            tokio::task::spawn_blocking(look).await.ok().flatten()
        };
        if let Some((workload, id)) = due {
            look_at(ground.host.clone(), workload, id).await;
        }
    }
}

/// Drops what has become too old since the last checkpoint of its workload.
fn tidy(host: &Arc<Host>) {
    for workload in host.checkpoints().vault().map(Vault::workloads).unwrap_or_default() {
        if let Err(problem) = host.checkpoints().tidy(&workload) {
            tracing::warn!(%workload, %problem, "old checkpoints could not be removed");
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

async fn look_at(host: Arc<Host>, workload: WorkloadName, id: CheckpointId) {
    let looked = tokio::task::spawn_blocking(move || {
        let checkpoints = host.checkpoints();
        let vault = checkpoints.vault()?;
        let _in_use = checkpoints.use_it(id);
        let looked = match vault.check(id, Some(PACE)).and_then(|checked| vault.check_segments(id).map(|()| checked)) {
            Ok(_) => Looked::Sound { at_ms: SystemClock.now_ms() },
            Err(error) => {
                let what = error.to_string();
                let message = format!("checkpoint {} is damaged: {what}; the next one is stored whole", short(id));
                host.events.record(Kind::Warning, Some(&workload), None, message);
                Looked::Damaged { what }
            }
        };
        vault.note(id, looked).map_err(of_vault)
    });
    if let Ok(Err(problem)) = looked.await {
        // It was dropped meanwhile.
        tracing::debug!(%problem, "what was seen of a checkpoint was not written down");
    }
}
