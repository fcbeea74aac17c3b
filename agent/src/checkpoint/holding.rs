//! The holder's side: what other nodes bring, fetch, and say about the checkpoints that are here.
//!
//! A holder keeps what it has until the owner says that it is not kept any more. What nobody speaks for is kept for as long as any
//! checkpoint: if every other node answers and none has the workload, it goes then. In a cluster its record says who owns what: what it knows
//! nothing of goes after an hour.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use migrate_image::vault::Generation;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::message::{HeldCheckpoint, MOST_CHECKPOINTS, Message};
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::sync::Semaphore;

use super::crossing::{self, Offered, give, take};
use super::{locked, of_vault, register, short};
use crate::elsewhere;
use crate::events::{Clock, SystemClock};
use crate::handover::Ground;
use crate::registry::Doing;
use crate::talk::{Talk, unexpected};
use crate::workload::Workload;

/// How long what the record knows nothing of is kept.
const UNRECORDED_MS: u64 = 3600 * 1000;
/// How long the record may take to confirm that it knows nothing of it.
const CONFIRM: Duration = Duration::from_secs(5);
/// How many checkpoints cross at once, in either direction; more wait.
static CROSSING: Semaphore = Semaphore::const_new(2);

/// When an owner has spoken for its checkpoints last.
#[derive(Default)]
pub(super) struct Heard(Mutex<HashMap<WorkloadName, Instant>>);

/// Whether this node speaks for the workload's checkpoints.
pub(super) fn is_owner(workload: &Arc<Workload>) -> bool {
    let record = workload.record();
    record.owned && record.doing != Doing::Arriving && !workload.is_moving()
}

/// As it is told to others.
pub(super) fn held(generation: &Generation) -> HeldCheckpoint {
    let about = &generation.about;
    HeldCheckpoint {
        id: generation.id,
        number: about.number,
        epoch: about.epoch,
        taken_ms: about.taken_ms,
        healthy: about.healthy,
        whole: generation.is_usable(),
    }
}

/// A peer has begun a conversation about checkpoints.
pub async fn answer(ground: Ground, mut talk: Talk) {
    let peer = talk.peer.node.clone();
    if let Err(problem) = converse(&ground, &mut talk).await {
        tracing::info!(%peer, %problem, "a conversation about checkpoints ended");
    }
}

async fn converse(ground: &Ground, talk: &mut Talk) -> Result<(), Problem> {
    loop {
        let heard = tokio::time::timeout(super::crossing::NEXT_WORD, talk.listener.hear()).await;
        let late = |_| Problem::new(Code::TimedOut, "the peer said nothing more");
        let Some((message, _)) = heard.map_err(late)?? else { return talk.speaker.close().await };
        match message {
            Message::Keep { workload, epoch, checkpoints, removed } => {
                let (ground, from) = (ground.clone(), talk.peer.node.clone());
                let obeyed = tokio::task::spawn_blocking(move || {
                    let said = Said { from, workload, epoch, keep: checkpoints, removed };
                    obey(&ground, &said)
                });
                let answer = match obeyed.await.map_err(Problem::internal)? {
                    Ok(checkpoints) => Message::Holding { checkpoints },
                    Err(problem) => Message::Refused(problem),
                };
                talk.speaker.say(&answer).await?;
            }
            Message::Have { workload, checkpoint, bytes } => {
                // Never closed.
                let Ok(_turn) = CROSSING.acquire().await else { return Ok(()) };
                let peer = talk.peer.node.clone();
                let generation = take(&ground.host, talk, Offered { workload, checkpoint, bytes }).await?;
                tracing::info!(%peer, workload = %generation.about.spec.name, id = %short(checkpoint), "holds a checkpoint");
            }
            Message::Lack { workload, checkpoint } => {
                let Ok(_turn) = CROSSING.acquire().await else { return Ok(()) };
                let vault = ground.host.checkpoints().vault()?;
                let known = vault.generation(checkpoint).filter(|known| known.about.spec.name == workload);
                if known.is_none() {
                    let message = format!("{} has no checkpoint {}", ground.host.node(), short(checkpoint));
                    talk.speaker.say(&Message::Refused(Problem::new(Code::Usage, message))).await?;
                    continue;
                }
                let _in_use = ground.host.checkpoints().use_it(checkpoint);
                let given = give(talk, vault, &workload, checkpoint).await?;
                tracing::info!(peer = %talk.peer.node, %workload, "fetched {}", crossing::told(given, checkpoint));
            }
            other => return Err(unexpected(&other)),
        }
    }
}

/// What an owner says.
struct Said {
    from: NodeName,
    workload: WorkloadName,
    epoch: Epoch,
    keep: Vec<CheckpointId>,
    removed: bool,
}

/// Drops what the owner does not keep, and says what is here then. Blocks.
fn obey(ground: &Ground, said: &Said) -> Result<Vec<HeldCheckpoint>, Problem> {
    let checkpoints = ground.host.checkpoints();
    let vault = checkpoints.vault()?;
    let own = ground.registry.get(&said.workload).is_some_and(|workload| workload.record().owned);
    let entry = ground.host.tenure.entry(&said.workload);
    let another = entry.as_ref().and_then(|entry| entry.owner.as_ref()).is_some_and(|owner| *owner != said.from);
    if own || another {
        tracing::info!(from = %said.from, workload = %said.workload, "speaks for checkpoints of a workload that it has not");
    } else {
        locked(&checkpoints.heard.0).insert(said.workload.clone(), Instant::now());
        // Who keeps none at all may only not know yet what there is.
        let speaks = said.removed || !said.keep.is_empty();
        let goes = |generation: &&Generation| {
            let stays = said.keep.contains(&generation.id) || register::is_listed(entry.as_ref(), generation.id);
            speaks && generation.about.epoch <= said.epoch && !stays
        };
        for generation in vault.generations(&said.workload).iter().filter(goes) {
            if checkpoints.is_in_use(generation.id) {
                continue;
            }
            tracing::debug!(workload = %said.workload, id = %short(generation.id), "its owner does not keep it");
            vault.drop_generation(generation.id).map_err(of_vault)?;
        }
    }
    Ok(vault.generations(&said.workload).iter().rev().take(MOST_CHECKPOINTS).map(held).collect())
}

/// Drops checkpoints of workloads that nobody has any more.
pub(super) async fn drop_orphans(ground: &Ground) {
    let checkpoints = ground.host.checkpoints();
    let Ok(vault) = checkpoints.vault() else { return };
    let tenure = &ground.host.tenure;
    let record = tenure.record_now();
    if tenure.in_cluster() && record.is_none() {
        return;
    }
    // Where there is no record, what nobody answers for may be all that is left of a workload.
    let age_ms = if record.is_some() { UNRECORDED_MS } else { checkpoints.retention.age_ms };
    let age = Duration::from_millis(age_ms);
    let mut orphans = Vec::new();
    for workload in vault.workloads() {
        let is_recorded = record.as_ref().is_some_and(|record| record.loads.contains_key(&workload));
        if is_recorded || ground.registry.get(&workload).is_some() {
            continue;
        }
        let heard = *locked(&checkpoints.heard.0).entry(workload.clone()).or_insert_with(Instant::now);
        let now = SystemClock.now_ms();
        let old = |generation: &Generation| now.saturating_sub(generation.about.taken_ms) > age_ms;
        if heard.elapsed() > age && vault.generations(&workload).iter().all(old) {
            orphans.push(workload);
        }
    }
    if record.is_some() && !orphans.is_empty() {
        // A copy that is behind may not know of them yet.
        let Ok(record) = tokio::time::timeout(CONFIRM, tenure.confirmed()).await else { return };
        orphans.retain(|workload| !record.loads.contains_key(workload));
    }
    if record.is_none() && !orphans.is_empty() {
        if !ground.peers.gone().is_empty() {
            return;
        }
        let peers = ground.peers.all();
        let asked = join_all(peers.iter().map(|peer| elsewhere::workloads(&ground.peers, &peer.node))).await;
        // Who does not answer may have them.
        let Ok(known) = asked.into_iter().collect::<Result<Vec<_>, Problem>>() else { return };
        orphans.retain(|workload| !known.iter().flatten().any(|view| view.name == *workload));
    }
    let host = ground.host.clone();
    let dropped = tokio::task::spawn_blocking(move || {
        orphans.iter().try_for_each(|workload| host.checkpoints().forget(workload))
    });
    if let Ok(Err(problem)) = dropped.await {
        tracing::warn!(%problem, "checkpoints of workloads that are no more could not be removed");
    }
}
