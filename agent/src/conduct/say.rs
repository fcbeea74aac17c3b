//! What this node says in the record about a workload that it owns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::name::WorkloadName;
use tokio::task::spawn_blocking;

use super::decide::Word;
use crate::events::Kind;
use crate::handover::Ground;
use crate::tenure::Lease;

/// After so long it is said again, if it is still so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says it, unless nobody answers. All of it may be said twice: the record takes each once.
pub(super) async fn say(ground: &Ground, name: &WorkloadName, entry: &LoadEntry, lease: &Lease, word: Word) -> bool {
    let Some(by) = lease.claim().cloned() else { return false };
    let (load, epoch) = (name.clone(), entry.epoch);
    let command = match word {
        Word::Began => Command::Began { load, epoch, by },
        Word::Ended(exit) => Command::Ended { load, epoch, by, exit },
        Word::Gone => Command::Gone { load, epoch, owner: by.node, session: Some(by.session) },
        Word::Revive(from) => {
            let taken = from.and_then(|from| entry.checkpoint(from)).map(|checkpoint| checkpoint.taken_ms);
            let lost_ms = taken.map(|taken| wall_ms().saturating_sub(taken));
            Command::Revive { load, epoch, by, from, lost_ms }
        }
        Word::Broke { began, reason } => {
            let (registry, gone) = (ground.registry.clone(), name.clone());
            // Once the record knows it, another node may begin it at once.
            match spawn_blocking(move || registry.note_broke(&gone, epoch)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(workload = %name, %error, "that it was given up cannot be written down");
                    return false;
                }
                Err(_) => return false,
            }
            let what = format!("cannot go on on {}: {reason}", ground.host.node());
            ground.host.events.record(Kind::Warning, Some(name), None, what);
            Command::Broke { load, epoch, by, began, reason }
        }
    };
    propose(ground, command).await
}

/// Proposes it until it is definite, or for a while.
pub(super) async fn propose(ground: &Ground, command: Command) -> bool {
    match tokio::time::timeout(PATIENCE, ground.host.tenure.settle(command.clone())).await {
        Ok(Ok(_)) => true,
        Ok(Err(refusal)) => {
            tracing::info!(%refusal, ?command, "the record knows better");
            false
        }
        Err(_) => false,
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
