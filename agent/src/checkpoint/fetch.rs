//! A checkpoint that is not here, or not whole, is fetched from a node that has it: segment by segment, and from the next one what the
//! first one could not give. Where no node that seems to be there can give it, from a depot; then from those that may be there after all.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_image::vault::Generation;
use migrate_proto::api::NodeState;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::Message;
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::time::timeout;

use super::crossing::{Offered, next, take};
use super::{depots, short};
use crate::events::Kind;
use crate::handover::Ground;
use crate::talk::{Purpose, unexpected};

/// How long a node may take to be reached; one that does not seem to be there has less: somebody waits for the workload.
const THERE: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(3);

/// Makes a checkpoint whole on this node. Tries these holders, one after the other, and depots.
pub async fn fetch(
    ground: &Ground,
    workload: &WorkloadName,
    checkpoint: CheckpointId,
    holders: &[NodeName],
) -> Result<Generation, Problem> {
    let vault = ground.host.checkpoints().vault()?;
    if let Some(here) = vault.generation(checkpoint).filter(Generation::is_usable) {
        return Ok(here);
    }
    let mut worst: Option<Problem> = None;
    for source in sources(ground, holders) {
        let Source::Node(holder, patience) = source else {
            match depots::fetch(&ground.host, workload, checkpoint).await {
                Ok(generation) => return Ok(generation),
                Err(problem) if problem.code == Code::Corrupt || worst.is_none() => worst = Some(problem),
                Err(_) => continue,
            }
            continue;
        };
        match fetch_from(ground, workload, checkpoint, holder, patience).await {
            Ok(generation) => {
                let message = format!("checkpoint {} was fetched from {holder}", short(checkpoint));
                tracing::info!(%workload, "{message}");
                return Ok(generation);
            }
            Err(problem) => {
                let message =
                    format!("checkpoint {} could not be had from {holder}: {}", short(checkpoint), problem.message);
                ground.host.events.record(Kind::Warning, Some(workload), None, message);
                // That it cannot be reached says less than that it is damaged.
                if worst.as_ref().is_none_or(|worst| worst.code != Code::Corrupt) {
                    worst = Some(problem);
                }
            }
        }
    }
    let id = short(checkpoint);
    Err(match worst {
        Some(problem) => {
            Problem { message: format!("no node could give checkpoint {id}: {}", problem.message), ..problem }
        }
        None => Problem::new(Code::PeerDown, format!("no node that answers has checkpoint {id} of {workload}")),
    })
}

/// Where a checkpoint may be had.
enum Source<'a> {
    /// It may take so long to be reached.
    Node(&'a NodeName, Duration),
    Depots,
}

/// Whom to ask first: a call to a node that is dead takes long to fail.
fn sources<'a>(ground: &Ground, holders: &'a [NodeName]) -> Vec<Source<'a>> {
    let away = |state| matches!(state, Some(NodeState::Suspect | NodeState::Dead | NodeState::Left));
    let views = ground.peers.views().into_iter().filter(|view| away(view.state));
    let away: BTreeSet<NodeName> = views.map(|view| view.peer.node).collect();
    let others = holders.iter().filter(|holder| *holder != ground.host.node());
    let (away, there): (Vec<_>, Vec<_>) = others.partition(|holder| away.contains(*holder));
    let depots = ground.host.checkpoints().depots.any().then_some(Source::Depots);
    let there = there.into_iter().map(|holder| Source::Node(holder, THERE));
    there.chain(depots).chain(away.into_iter().map(|holder| Source::Node(holder, AWAY))).collect()
}

async fn fetch_from(
    ground: &Ground,
    workload: &WorkloadName,
    checkpoint: CheckpointId,
    holder: &NodeName,
    patience: Duration,
) -> Result<Generation, Problem> {
    let called = timeout(patience, ground.peers.call(holder, Purpose::Checkpoint)).await;
    let late = |_| Problem::new(Code::PeerDown, format!("{holder} could not be reached for {} s", patience.as_secs()));
    let mut talk = called.map_err(late)??;
    talk.speaker.say(&Message::Lack { workload: workload.clone(), checkpoint }).await?;
    let bytes = match next(&mut talk).await? {
        (Message::Have { checkpoint: offered, bytes, .. }, _) if offered == checkpoint => bytes,
        (Message::Refused(problem), _) => return Err(problem),
        (other, _) => return Err(unexpected(&other)),
    };
    let generation = take(&ground.host, &mut talk, Offered { workload: workload.clone(), checkpoint, bytes }).await?;
    let _ = talk.speaker.close().await;
    Ok(generation)
}
