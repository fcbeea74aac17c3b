//! What is in depots, seen by whoever needs it; and back from there. Every segment is compared with its name, as if it came from a node.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use migrate_depot::{AT_ONCE, Depot, Stored};
use migrate_image::vault::{About, Generation, Looked, Outline};
use migrate_proto::api::CheckpointView;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::WorkloadName;

use super::super::{locked, of_vault, short};
use super::{Depots, of_depot};
use crate::events::{Clock, Kind, SystemClock, timestamp};
use crate::host::Host;

/// How long a depot may take to say what it has: who asks has other places to look at.
const ANSWER: Duration = Duration::from_secs(3);
/// How many files of generations are remembered.
const MOST_OUTLINES: usize = 256;

/// Makes a checkpoint whole on this node that a depot has. What is wrong with one depot is said, and the next one asked.
pub(in super::super) async fn fetch(
    host: &Host,
    workload: &WorkloadName,
    id: CheckpointId,
) -> Result<Generation, Problem> {
    let mut worst: Option<Problem> = None;
    for depot in &host.checkpoints().depots.all {
        match fetch_from(host, depot, workload, id).await {
            Ok(generation) => {
                let message = format!("checkpoint {} was fetched from {}", short(id), depot.name());
                tracing::info!(%workload, "{message}");
                return Ok(generation);
            }
            Err(problem) => {
                let message = format!("checkpoint {} could not be had from a depot: {}", short(id), problem.message);
                host.events.record(Kind::Warning, Some(workload), None, message);
                if worst.as_ref().is_none_or(|worst| worst.code != Code::Corrupt) {
                    worst = Some(problem);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| Problem::new(Code::PeerDown, format!("no depot has checkpoint {}", short(id)))))
}

/// It may be on several shelves.
async fn fetch_from(
    host: &Host,
    depot: &Depot,
    workload: &WorkloadName,
    id: CheckpointId,
) -> Result<Generation, Problem> {
    let there = depot.generations(workload).await.map_err(of_depot)?;
    let mut worst = Problem::new(Code::PeerDown, format!("{} has no checkpoint {}", depot.name(), short(id)));
    for stored in there.iter().rev().filter(|stored| stored.id == id) {
        match fetch_stored(host, depot, workload, stored).await {
            Ok(generation) => return Ok(generation),
            Err(problem) => worst = problem,
        }
    }
    Err(worst)
}

async fn fetch_stored(
    host: &Host,
    depot: &Depot,
    workload: &WorkloadName,
    stored: &Stored,
) -> Result<Generation, Problem> {
    let file = depot.generation(workload, stored).await.map_err(of_depot)?;
    let outline = Outline::read(&file).map_err(of_vault)?;
    if outline.about.spec.name != *workload {
        return Err(Problem::new(Code::Corrupt, format!("{} has another workload there", depot.name())));
    }
    let (vault, id) = (host.checkpoints().vault()?.clone(), stored.id);
    // One that is known to be damaged is read, so that only what is wrong with it comes again.
    let damaged = vault.generation(id).is_some();
    let (looking, segments) = (vault.clone(), outline.segments);
    let looked = tokio::task::spawn_blocking(move || {
        let mut receiving = looking.receive();
        let lacking = match damaged {
            true => receiving.missing_or_damaged(&segments).map_err(of_vault)?,
            false => receiving.missing(&segments),
        };
        Ok::<_, Problem>((receiving, lacking))
    });
    let (mut receiving, lacking) = looked.await.map_err(Problem::internal)??;
    let coming = lacking.into_iter().map(|digest| async move {
        depot.segment(workload, &stored.shelf, digest).await.map(|segment| (digest, segment)).map_err(of_depot)
    });
    let mut coming = stream::iter(coming).buffer_unordered(AT_ONCE);
    while let Some(came) = coming.next().await {
        let (digest, segment) = came?;
        let put = tokio::task::spawn_blocking(move || {
            receiving.put(digest, &segment).map_err(of_vault)?;
            Ok::<_, Problem>(receiving)
        });
        receiving = put.await.map_err(Problem::internal)??;
    }
    let installed = tokio::task::spawn_blocking(move || {
        let generation = receiving.install(&file).map_err(of_vault)?;
        let looked = Looked::Sound { at_ms: SystemClock.now_ms() };
        vault.note(id, looked.clone()).map_err(of_vault)?;
        Ok(Generation { looked: Some(looked), ..generation })
    });
    let installed = installed.await.map_err(Problem::internal)?;
    host.checkpoints().changed();
    installed
}

/// The checkpoints of a workload that are in depots, without the nodes that have them. A depot that does not answer soon has none.
pub(in super::super) async fn views(host: &Host, workload: &WorkloadName) -> Vec<CheckpointView> {
    let depots = &host.checkpoints().depots;
    let asked = depots.all.iter().map(|depot| async move {
        let answer = tokio::time::timeout(ANSWER, of_one(depots, depot, workload)).await;
        let late = |_| Err(Problem::new(Code::TimedOut, format!("{} said nothing for {ANSWER:?}", depot.name())));
        answer.unwrap_or_else(late)
    });
    let mut views: Vec<CheckpointView> = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(there) => {
                for view in there {
                    match views.iter_mut().find(|known| known.id == view.id) {
                        Some(known) => known.depots.extend(view.depots),
                        None => views.push(view),
                    }
                }
            }
            Err(problem) => tracing::warn!(%problem, "what a depot has is not shown"),
        }
    }
    views
}

async fn of_one(depots: &Depots, depot: &Depot, workload: &WorkloadName) -> Result<Vec<CheckpointView>, Problem> {
    let mut views: Vec<CheckpointView> = Vec::new();
    for stored in depot.generations(workload).await.map_err(of_depot)? {
        if views.iter().any(|known| known.id == stored.id) {
            continue;
        }
        match outline(depots, depot, workload, &stored).await {
            Ok((about, bytes)) => views.push(view(&about, bytes, stored.id, depot)),
            Err(problem) => tracing::warn!(%problem, "a checkpoint in a depot cannot be read"),
        }
    }
    Ok(views)
}

async fn outline(
    depots: &Depots,
    depot: &Depot,
    workload: &WorkloadName,
    stored: &Stored,
) -> Result<(About, u64), Problem> {
    let known = locked(&depots.outlines).get(&stored.id).cloned();
    if let Some(known) = known {
        return Ok(known);
    }
    let file = depot.generation(workload, stored).await.map_err(of_depot)?;
    let outline = Outline::read(&file).map_err(of_vault)?;
    let outline = (outline.about, outline.raw_bytes);
    let mut outlines = locked(&depots.outlines);
    if outlines.len() >= MOST_OUTLINES {
        outlines.clear();
    }
    outlines.insert(stored.id, outline.clone());
    Ok(outline)
}

fn view(about: &About, bytes: u64, id: CheckpointId, depot: &Depot) -> CheckpointView {
    CheckpointView {
        id,
        workload: about.spec.name.clone(),
        number: about.number,
        at: timestamp::format(about.taken_ms),
        age_s: SystemClock.now_ms().saturating_sub(about.taken_ms) / 1000,
        bytes,
        bytes_stored: 0,
        nodes: Vec::new(),
        depots: vec![depot.name().to_owned()],
        verified: None,
        damaged: None,
        tested: None,
        kind: about.kind,
        epoch: about.epoch,
        healthy: about.healthy,
    }
}
