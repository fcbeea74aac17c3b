//! What a drain does with workloads. Each takes its time, beside the others, and tells when it is done.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::api::Outcome;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::drain::{Event, Prospect};
use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_sandbox::process;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use crate::events::Kind;
use crate::handover::Ground;
use crate::handover::departure::Departure;
use crate::predict::Size;
use crate::workload::Workload;
use crate::{checkpoint, clock};

/// How long a checkpoint takes beside its pages, and how many of those in a millisecond, for want of something better.
const BEGIN_MS: u64 = 300;
const BYTES_A_MS: u64 = 300 << 10;
/// How long a peer may take to have a checkpoint where there is no deadline.
const PEER: Duration = Duration::from_secs(10);
/// What is predicted to work, and what is not known to anybody.
const LIKELY: u16 = 900;

/// What is to be expected of a workload.
pub(super) async fn prospect(ground: &Ground, workload: &Arc<Workload>, to: Option<NodeName>) -> Prospect {
    let looked = workload.clone();
    let memory = tokio::task::spawn_blocking(move || {
        let tree = looked.pid().map(process::tree).unwrap_or_default();
        tree.into_iter().map(process::resident).sum::<u64>()
    });
    let memory = memory.await.unwrap_or(0);
    let where_to = to.clone().unwrap_or_else(|| ground.host.node().clone());
    let forecast = ground.host.forecasts.forecast(&where_to, Size { memory, files: 0 });
    let priority = ground.host.tenure.entry(workload.name()).map_or(0, |entry| entry.priority);
    Prospect {
        priority,
        move_ms: forecast.total_ms as u64,
        pause_ms: forecast.downtime_ms as u64,
        chance: LIKELY,
        checkpoint_ms: BEGIN_MS + memory / BYTES_A_MS,
        to,
    }
}

pub(super) fn move_away(ground: &Ground, load: WorkloadName, to: NodeName, tell: UnboundedSender<Event>) {
    let ground = ground.clone();
    tokio::spawn(async move {
        let moved = match moved(&ground, &load, to.clone()).await {
            Ok(moved) => moved,
            Err(problem) => {
                let message = format!("it was not moved to {to}, although this node drains: {}", problem.message);
                ground.host.events.record(Kind::Stayed, Some(&load), None, message);
                false
            }
        };
        let _ = tell.send(Event::Moved(load, moved));
        crate::handover::rest().await;
    });
}

async fn moved(ground: &Ground, load: &WorkloadName, to: NodeName) -> Result<bool, Problem> {
    let workload = here(ground, load)?;
    let turn = workload.turn_soon().await?;
    crate::check::standing(ground, &workload, Some(&to))?;
    let departure = Departure::new(ground.clone(), workload, to, Arc::default())?;
    let report = departure.run(CancellationToken::new()).await;
    drop(turn);
    Ok(report.outcome == Outcome::Moved)
}

fn here(ground: &Ground, load: &WorkloadName) -> Result<Arc<Workload>, Problem> {
    let gone = || Problem::new(Code::UnknownWorkload, format!("{load} is not here any more"));
    ground.registry.get(load).ok_or_else(gone)
}

pub(super) fn checkpoint(ground: &Ground, load: WorkloadName, last: bool, tell: UnboundedSender<Event>) {
    let ground = ground.clone();
    tokio::spawn(async move {
        let kept = if last { hand_over(&ground, &load).await } else { keep(&ground, &load).await };
        if let Err(problem) = &kept {
            let message = format!("its checkpoint is on no other node, although this one drains: {}", problem.message);
            ground.host.events.record(Kind::Warning, Some(&load), None, message);
        }
        let _ = tell.send(Event::Kept(load, kept.is_ok()));
    });
}

/// One that a peer has; the workload runs on.
async fn keep(ground: &Ground, load: &WorkloadName) -> Result<(), Problem> {
    let taken = checkpoint::take::take(ground, &here(ground, load)?, CheckpointKind::Drain).await?;
    a_peer_has(ground, load, taken.generation.id).await
}

/// One with which it ends here. What it does between the checkpoint and its last freeze, some milliseconds, is lost.
async fn hand_over(ground: &Ground, load: &WorkloadName) -> Result<(), Problem> {
    let workload = here(ground, load)?;
    let taken = checkpoint::take::take(ground, &workload, CheckpointKind::Drain).await?;
    let held = workload.clone();
    blocking(move || held.disarm()).await?;
    let kept = a_peer_has(ground, load, taken.generation.id).await;
    let given_up = match kept {
        Ok(()) => give_up(ground, &workload).await,
        Err(problem) => Err(problem),
    };
    if given_up.is_err() {
        // It goes on where it is, for as long as there is a lease.
        let (host, held) = (ground.host.clone(), workload.clone());
        blocking(move || held.arm(&host)).await?;
    }
    given_up
}

/// It ends here, and the leader brings it back elsewhere. That it never begins here again in this epoch is on the disk first.
async fn give_up(ground: &Ground, workload: &Arc<Workload>) -> Result<(), Problem> {
    let turn = workload.turn_soon().await?;
    let (load, epoch) = (workload.name().clone(), workload.record().epoch);
    let tenure = &ground.host.tenure;
    let Some(by) = tenure.lease_now().claim().cloned() else {
        return Err(Problem::new(Code::Busy, "this node has no lease"));
    };
    let (noting, name) = (ground.clone(), load.clone());
    blocking(move || noting.registry.note_broke(&name, epoch).map_err(Problem::internal)).await?;
    let (ending, ended) = (ground.clone(), workload.clone());
    blocking(move || ended.drop_sandbox(&ending.host)).await?;
    let reason = format!("{} drains: it goes on from a last checkpoint", ground.host.node());
    let broke = Command::Broke { load: load.clone(), epoch, by, began: true, reason };
    if let Err(refusal) = tenure.settle(broke).await {
        tracing::info!(%load, %refusal, "it was given up");
    }
    let (forgetting, name) = (ground.clone(), load.clone());
    blocking(move || forgetting.registry.remove(&name).map_err(Problem::internal)).await?;
    drop(turn);
    ground.host.events.record(Kind::Draining, Some(&load), None, "ended here with a last checkpoint that a peer has");
    Ok(())
}

/// The record lists what a peer has.
async fn a_peer_has(ground: &Ground, load: &WorkloadName, id: CheckpointId) -> Result<(), Problem> {
    let mut record = ground.host.tenure.record();
    let listed = record.wait_for(|record| {
        let entry = record.as_ref().and_then(|record| record.loads.get(load));
        entry.is_some_and(|entry| entry.checkpoint(id).is_some())
    });
    let deadline = *ground.drains.deadline.borrow();
    let until = deadline.map_or_else(|| tokio::time::Instant::now() + PEER, clock::instant);
    match tokio::time::timeout_at(until, listed).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            Err(Problem::new(Code::TimedOut, format!("no other node has its checkpoint {} yet", checkpoint::short(id))))
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}
