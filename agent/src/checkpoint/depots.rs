//! Checkpoints in depots: stores that are there when no node with a checkpoint is.
//!
//! The owner of a workload brings its checkpoints there once other nodes have them, and removes what is not kept any more; segments first, the
//! generation's file last. It writes on a shelf of its own (its epoch and its name): what is on an earlier owner's is copied there within the
//! depot, and the earlier shelf goes once nothing on it is needed. Who is not sure that the workload is its touches nothing.
//!
//! Each depot is looked after by a task of its own: one that hangs, is full or away holds up neither another one nor what goes to other nodes.
//!
//! - `bring`: one checkpoint into one depot. `fetch`: back from there.

mod bring;
mod fetch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use migrate_depot::{Contents, Depot, DepotError, Shelf, Stored};
use migrate_image::vault::{About, Generation, Outline};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::name::WorkloadName;

pub(super) use self::fetch::{fetch, views};
use super::{holding, locked, of_vault, ship};
use crate::events::{Clock, Kind, SystemClock};
use crate::handover::Ground;
use crate::workload::Workload;

/// How often it is looked whether there is anything to do, should nothing be heard.
const LOOK: Duration = Duration::from_secs(5);
/// How soon again where something waits.
const SOON: Duration = Duration::from_secs(2);
/// How soon again where the depot could not be used.
const AGAIN: Duration = Duration::from_secs(10);
/// How often a depot is asked what it has of a workload whose checkpoints have not changed.
const COMPARE: Duration = Duration::from_secs(600);
/// How long other nodes may take before a checkpoint is brought to depots all the same.
const NODES_FIRST_MS: u64 = 20_000;

/// The depots of this node, and what of its workloads is there.
#[derive(Default)]
pub struct Depots {
    all: Vec<Depot>,
    /// What each said last.
    said: Mutex<BTreeMap<WorkloadName, BTreeMap<String, BTreeSet<CheckpointId>>>>,
    /// What the files of generations said that were read, and how much they are of.
    outlines: Mutex<BTreeMap<CheckpointId, (About, u64)>>,
}

impl Depots {
    pub(super) fn of(all: Vec<Depot>) -> Depots {
        Depots { all, ..Depots::default() }
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        !self.all.is_empty()
    }

    /// The depots that have a checkpoint of a workload of this node. Those that were not asked since the agent began may still have what they `had`.
    pub fn holders(&self, workload: &WorkloadName, id: CheckpointId, had: &BTreeSet<String>) -> BTreeSet<String> {
        let said = locked(&self.said);
        let said = said.get(workload);
        let asked = |name: &String| said.is_some_and(|said| said.contains_key(name));
        let have = said.into_iter().flatten().filter(|(_, all)| all.contains(&id)).map(|(name, _)| name);
        have.chain(had.iter().filter(|name| !asked(name))).cloned().collect()
    }

    /// A depot has said what it has. False where that is no news.
    fn heard(&self, workload: &WorkloadName, depot: &Depot, all: BTreeSet<CheckpointId>) -> bool {
        let mut said = locked(&self.said);
        let before = said.entry(workload.clone()).or_default().insert(depot.name().to_owned(), all.clone());
        before.unwrap_or_default() != all
    }

    /// A checkpoint is there now.
    fn has(&self, workload: &WorkloadName, depot: &Depot, id: CheckpointId) {
        locked(&self.said).entry(workload.clone()).or_default().entry(depot.name().to_owned()).or_default().insert(id);
    }

    /// What is known of other workloads than these is not needed.
    fn only(&self, mine: &HashSet<WorkloadName>) {
        locked(&self.said).retain(|workload, _| mine.contains(workload));
    }
}

/// Looks after all depots for as long as the agent lives.
pub async fn run(ground: Ground) {
    let depots = &ground.host.checkpoints().depots;
    join_all(depots.all.iter().map(|depot| look_after(&ground, depot))).await;
}

async fn look_after(ground: &Ground, depot: &Depot) {
    let checkpoints = ground.host.checkpoints();
    let mut changes = checkpoints.changes();
    let (mut known, mut said) = (Known::default(), None);
    loop {
        changes.mark_unchanged();
        match visit(ground, depot, &mut known).await {
            Ok(rest) => {
                if said.take().is_some() {
                    let what = format!("checkpoints are brought to {} again", depot.name());
                    ground.host.events.record(Kind::Checkpointed, None, None, what);
                }
                let _ = tokio::time::timeout(rest, changes.changed()).await;
            }
            Err(problem) => {
                if problem.code != Code::Corrupt {
                    known = Known::default();
                }
                if said.as_ref() != Some(&problem.message) {
                    let what = format!("checkpoints are not brought to a depot: {}", problem.message);
                    ground.host.events.record(Kind::Warning, None, None, what);
                    said = Some(problem.message);
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// What was done at a depot, so that it is not asked all the time.
#[derive(Default)]
struct Known {
    /// What was as it should be, and when.
    settled: HashMap<WorkloadName, (Wanted, Instant)>,
    forgotten: HashMap<WorkloadName, Epoch>,
}

/// What of a workload should be in a depot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    shelf: Shelf,
    /// What is kept, wherever it is.
    keep: Vec<CheckpointId>,
    /// What of it is whole here.
    here: Vec<CheckpointId>,
}

/// Sees to all workloads. How long it may rest then.
async fn visit(ground: &Ground, depot: &Depot, known: &mut Known) -> Result<Duration, Problem> {
    let checkpoints = ground.host.checkpoints();
    for (workload, epoch) in checkpoints.replicas.all_removed() {
        if ground.registry.get(&workload).is_none() && known.forgotten.get(&workload) != Some(&epoch) {
            depot.forget(&workload, epoch).await.map_err(of_depot)?;
            known.forgotten.insert(workload, epoch);
        }
    }
    let all = ground.registry.all().into_iter();
    let mine: Vec<_> = all.filter(|workload| holding::is_owner(workload) && is_surely_mine(ground, workload)).collect();
    let names = mine.iter().map(|workload| workload.name().clone()).collect();
    checkpoints.depots.only(&names);
    known.settled.retain(|workload, _| names.contains(workload));
    let (mut rest, mut damaged) = (LOOK, None);
    for workload in mine {
        let (name, epoch) = (workload.name(), workload.record().epoch);
        let keep = checkpoints.kept(name, epoch, ground.host.tenure.entry(name).as_ref());
        if keep.is_empty() {
            continue;
        }
        let here = checkpoints.of(name).into_iter().filter(|here| here.is_usable() && keep.contains(&here.id));
        let here: Vec<Generation> = here.collect();
        let shelf = Shelf { epoch, node: ground.host.node().clone() };
        let wanted = Wanted { shelf, keep, here: here.iter().map(|here| here.id).collect() };
        let settled = known.settled.get(name);
        if settled.is_some_and(|(settled, since)| *settled == wanted && since.elapsed() < COMPARE) {
            continue;
        }
        match see_to(ground, depot, name, &wanted, here).await {
            Ok(Seen::Settled) => drop(known.settled.insert(name.clone(), (wanted, Instant::now()))),
            Ok(Seen::Waits) => rest = SOON,
            // What is wrong with one workload is no reason to do nothing for the others.
            Err(problem) if problem.code == Code::Corrupt => damaged = Some(problem),
            Err(problem) => return Err(problem),
        }
    }
    damaged.map_or(Ok(rest), Err)
}

/// In a cluster: the record says so, and this node may act on it. So whoever was cut off removes nothing.
fn is_surely_mine(ground: &Ground, workload: &Workload) -> bool {
    let (tenure, me) = (&ground.host.tenure, ground.host.node());
    let by_record = || {
        let entry = tenure.entry(workload.name());
        entry.is_some_and(|entry| entry.owner.as_ref() == Some(me) && entry.epoch == workload.record().epoch)
    };
    !tenure.in_cluster() || tenure.lease_now().claim().is_some() && by_record()
}

/// What has come of a look at a workload in a depot.
enum Seen {
    /// All is as it should be.
    Settled,
    /// Something is not brought there yet.
    Waits,
}

async fn see_to(
    ground: &Ground,
    depot: &Depot,
    workload: &WorkloadName,
    wanted: &Wanted,
    here: Vec<Generation>,
) -> Result<Seen, Problem> {
    let checkpoints = ground.host.checkpoints();
    let mut contents = depot.contents(workload).await.map_err(of_depot)?;
    let there = contents.generations.iter().map(|stored| stored.id).filter(|id| wanted.keep.contains(id)).collect();
    if checkpoints.depots.heard(workload, depot, there) {
        checkpoints.changed();
    }
    let mut seen = Seen::Settled;
    for generation in here.iter().rev() {
        if contents.on(&wanted.shelf).any(|stored| stored.id == generation.id) {
            continue;
        }
        if !is_its_turn(ground, workload, generation) {
            seen = Seen::Waits;
            continue;
        }
        bring::bring(ground, depot, workload, &wanted.shelf, generation, &mut contents).await?;
    }
    // What is older may be all that there is until one of this owner's is there.
    if contents.on(&wanted.shelf).any(|stored| wanted.keep.contains(&stored.id)) {
        tidy(ground, depot, workload, wanted, contents).await?;
    }
    Ok(seen)
}

/// Other nodes come first: they are nearer.
fn is_its_turn(ground: &Ground, workload: &WorkloadName, generation: &Generation) -> bool {
    let has = ground.host.checkpoints().replicas.holders(workload, generation.id);
    let wanted = ship::holders(ground, workload);
    let age = SystemClock.now_ms().saturating_sub(generation.about.taken_ms);
    wanted.iter().all(|node| has.contains(node)) || age > NODES_FIRST_MS
}

/// Removes what is not kept any more, and with it the segments that nothing else on the shelf needs; and the shelves of earlier owners, where
/// nothing is on them that is kept and not on this one's.
async fn tidy(
    ground: &Ground,
    depot: &Depot,
    workload: &WorkloadName,
    wanted: &Wanted,
    contents: Contents,
) -> Result<(), Problem> {
    let (mine, useless): (Vec<&Stored>, _) =
        contents.on(&wanted.shelf).partition(|stored| wanted.keep.contains(&stored.id));
    for stored in &useless {
        depot.drop_generation(workload, stored).await.map_err(of_depot)?;
    }
    let mut needed: HashSet<Digest> = HashSet::new();
    for stored in &mine {
        needed.extend(segments_of(ground, depot, workload, stored).await?);
    }
    let rubbish = contents.segments_on(&wanted.shelf).into_iter().filter(|digest| !needed.contains(digest));
    depot.drop_segments(workload, &wanted.shelf, rubbish).await.map_err(of_depot)?;
    let is_needed = |stored: &Stored| wanted.keep.contains(&stored.id) && !mine.iter().any(|mine| mine.id == stored.id);
    for shelf in contents.shelves() {
        if shelf.epoch < wanted.shelf.epoch && !contents.on(&shelf).any(is_needed) {
            depot.clear(workload, &contents, &shelf).await.map_err(of_depot)?;
        }
    }
    Ok(())
}

/// The segments of a generation, as this node knows it, else as the depot does.
async fn segments_of(
    ground: &Ground,
    depot: &Depot,
    workload: &WorkloadName,
    stored: &Stored,
) -> Result<Vec<Digest>, Problem> {
    let (vault, id) = (ground.host.checkpoints().vault()?.clone(), stored.id);
    let outline = tokio::task::spawn_blocking(move || vault.outline(id)).await.map_err(Problem::internal)?;
    if let Ok((_, segments)) = outline {
        return Ok(segments);
    }
    let file = depot.generation(workload, stored).await.map_err(of_depot)?;
    Ok(Outline::read(&file).map_err(of_vault)?.segments)
}

fn of_depot(error: DepotError) -> Problem {
    let code = match &error {
        DepotError::Damaged { .. } => Code::Corrupt,
        DepotError::Missing { .. } | DepotError::Unusable { .. } => Code::PeerDown,
        DepotError::Refused { .. } => Code::PeerUntrusted,
    };
    let hint = match code {
        Code::PeerUntrusted => "are the credentials right? See `checkpoint_credentials` in docs/configuration.md",
        _ => "",
    };
    Problem::new(code, error.to_string()).hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_was_not_asked_may_still_have_it() {
        let depot = |path: &str| Depot::at(path.parse().unwrap(), None);
        let (first, second) = (depot("dir:/first"), depot("dir:/second"));
        let depots = Depots::of(vec![first.clone(), second.clone()]);
        let (web, id): (WorkloadName, _) = ("web".parse().unwrap(), CheckpointId([1; 32]));
        let names = |all: &[&Depot]| all.iter().map(|depot| depot.name().to_owned()).collect::<BTreeSet<_>>();
        let had = names(&[&first, &second]);
        assert_eq!(depots.holders(&web, id, &had), had);
        assert!(!depots.heard(&web, &first, BTreeSet::new()), "nothing, as before");
        assert_eq!(depots.holders(&web, id, &had), names(&[&second]), "the first one has lost it");
        assert!(depots.heard(&web, &first, [id].into()) && !depots.heard(&web, &first, [id].into()));
        assert_eq!(depots.holders(&web, id, &BTreeSet::new()), names(&[&first]));
        depots.has(&web, &second, id);
        assert_eq!(depots.holders(&web, id, &BTreeSet::new()), had);
        depots.only(&HashSet::new());
        assert!(depots.holders(&web, id, &BTreeSet::new()).is_empty());
    }
}
