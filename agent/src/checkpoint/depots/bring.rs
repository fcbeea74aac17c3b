//! One checkpoint of this node into one depot: only segments travel that are not there.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use migrate_depot::{AT_ONCE, Contents, Depot, DepotError, Shelf, Stored};
use migrate_image::vault::{Generation, Vault};
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Digest;
use migrate_proto::name::WorkloadName;

use super::super::{of_vault, scrub, short};
use super::of_depot;
use crate::handover::Ground;

/// Puts it on this shelf, and adds it to what is known to be there.
pub(super) async fn bring(
    ground: &Ground,
    depot: &Depot,
    workload: &WorkloadName,
    shelf: &Shelf,
    generation: &Generation,
    contents: &mut Contents,
) -> Result<(), Problem> {
    let (checkpoints, id) = (ground.host.checkpoints(), generation.id);
    let _in_use = checkpoints.use_it(id);
    let vault = checkpoints.vault()?.clone();
    let reading = vault.clone();
    let outline = tokio::task::spawn_blocking(move || reading.outline(id)).await.map_err(Problem::internal)?;
    let (file, segments) = outline.map_err(of_vault)?;
    let there = contents.segments_on(shelf);
    let lacking: Vec<Digest> = segments.iter().filter(|digest| !there.contains(digest)).copied().collect();
    let bytes = AtomicU64::new(file.len() as u64);
    let to = To { depot, workload, shelf, vault };
    let known = |digest: &Digest| (*digest, contents.elsewhere(*digest, shelf).cloned());
    let all: Vec<(Digest, Option<Shelf>)> = lacking.iter().map(known).collect();
    let (to, count) = (&to, &bytes);
    let putting = all.into_iter().map(|(digest, known)| async move {
        to.put(digest, known.as_ref()).await.map(|travelled| count.fetch_add(travelled, Ordering::Relaxed))
    });
    let put = stream::iter(putting).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await;
    if let Err(problem) = put {
        if problem.code == Code::Corrupt {
            scrub::look_at(ground.clone(), workload.clone(), id, None).await;
        }
        return Err(problem);
    }
    let stored = Stored { shelf: shelf.clone(), number: generation.about.number, id };
    depot.put_generation(workload, &stored, file.into()).await.map_err(of_depot)?;
    contents.segments.entry(shelf.clone()).or_default().extend(lacking);
    contents.generations.push(stored);
    checkpoints.depots.has(workload, depot, id);
    checkpoints.changed();
    let kib = bytes.into_inner() >> 10;
    tracing::info!(%workload, depot = depot.name(), id = %short(id), "a checkpoint was brought there: {kib} KiB");
    Ok(())
}

struct To<'a> {
    depot: &'a Depot,
    workload: &'a WorkloadName,
    shelf: &'a Shelf,
    vault: Vault,
}

impl To<'_> {
    /// How many bytes had to travel.
    async fn put(&self, digest: Digest, known: Option<&Shelf>) -> Result<u64, Problem> {
        if let Some(known) = known {
            match self.depot.copy_segment(self.workload, known, self.shelf, digest).await {
                Ok(()) => return Ok(0),
                // It has gone meanwhile; or the store cannot copy.
                Err(DepotError::Missing { .. }) => {}
                Err(error) => tracing::debug!(%error, "a segment is put into a depot once more"),
            }
        }
        let reading = self.vault.clone();
        let segment = tokio::task::spawn_blocking(move || reading.segment(digest)).await.map_err(Problem::internal)?;
        let segment = segment.map_err(of_vault)?;
        let length = segment.len() as u64;
        let put = self.depot.put_segment(self.workload, self.shelf, digest, segment.into()).await;
        put.map(|()| length).map_err(of_depot)
    }
}
