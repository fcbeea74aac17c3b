//! The owner's side: the checkpoints of this node's workloads are brought to other nodes, and these are told what is kept.
//!
//! One courier for each other node. It goes whenever something has changed, and now and then to see whether the node is still there. For
//! each workload it says what is kept ([`Message::Keep`]), hears what is there, and gives what is not, the newest first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use migrate_image::vault::Generation;
use migrate_proto::api::NodeState;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_proto::message::{HeldCheckpoint, MOST_CHECKPOINTS, Message};
use migrate_proto::name::{NodeName, WorkloadName};
use tokio::task::AbortHandle;

use super::crossing::{self, give, next};
use super::replicas::chosen;
use super::{holding, short};
use crate::events::Kind;
use crate::handover::Ground;
use crate::talk::{Purpose, Talk, unexpected};

/// How often it is looked who is there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a courier rests where nothing has changed.
const REST: Duration = Duration::from_secs(5);
/// How often a holder is seen though there is nothing to say.
const VISIT: Duration = Duration::from_secs(20);

/// Ends a courier with whoever sent it.
struct Courier(AbortHandle);

impl Drop for Courier {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Brings checkpoints to others for as long as the agent lives.
pub async fn run(ground: Ground) {
    let mut couriers: HashMap<NodeName, Courier> = HashMap::new();
    loop {
        let replicas = &ground.host.checkpoints().replicas;
        let mut there = Vec::new();
        for view in ground.peers.views() {
            let is_gone = matches!(view.state, Some(NodeState::Dead | NodeState::Left));
            replicas.is_gone(&view.peer.node, is_gone);
            if !is_gone {
                there.push(view.peer.node);
            }
        }
        couriers.retain(|node, courier| there.contains(node) && !courier.0.is_finished());
        for node in there {
            let begin = || Courier(tokio::spawn(courier(ground.clone(), node.clone())).abort_handle());
            couriers.entry(node.clone()).or_insert_with(begin);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a node was told last of a workload.
#[derive(PartialEq, Eq)]
struct Told {
    epoch: Epoch,
    keep: Vec<CheckpointId>,
    removed: bool,
}

/// What there is to do about a workload at one node.
struct Errand {
    workload: WorkloadName,
    told: Told,
    /// It shall have them all.
    is_holder: bool,
}

async fn courier(ground: Ground, node: NodeName) {
    let checkpoints = ground.host.checkpoints();
    let mut changes = checkpoints.changes.subscribe();
    let (mut told, mut seen, mut said) = (HashMap::new(), Instant::now(), None);
    loop {
        changes.borrow_and_update();
        let visit = seen.elapsed() > VISIT || checkpoints.replicas.is_away(&node);
        let errands = errands(&ground, &node, &told, visit);
        if !errands.is_empty() || checkpoints.replicas.is_away(&node) {
            match go(&ground, &node, errands, &mut told).await {
                Ok(()) => (seen, said) = (Instant::now(), None),
                Err(problem) => {
                    told.clear();
                    if !matches!(problem.code, Code::NoDisk | Code::Corrupt) {
                        checkpoints.replicas.is_silent(&node);
                    }
                    if said.as_ref() != Some(&problem.message) {
                        tracing::info!(%node, %problem, "checkpoints were not brought there");
                        said = Some(problem.message);
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        // Nobody waits for an agent that ends.
        let _ = tokio::time::timeout(REST, changes.changed()).await;
    }
}

/// What is to be said and brought there.
fn errands(ground: &Ground, node: &NodeName, told: &HashMap<WorkloadName, Told>, visit: bool) -> Vec<Errand> {
    let checkpoints = ground.host.checkpoints();
    let replicas = &checkpoints.replicas;
    let gone = replicas.all_removed().into_iter().map(|(workload, epoch)| Errand {
        told: Told { epoch, keep: Vec::new(), removed: true },
        workload,
        is_holder: false,
    });
    let removed = gone.filter(|errand| {
        // One of that name may be there again.
        told.get(&errand.workload) != Some(&errand.told) && ground.registry.get(&errand.workload).is_none()
    });
    let mine = ground.registry.all().into_iter().filter(holding::is_owner).map(|workload| {
        let (name, epoch) = (workload.name().clone(), workload.record().epoch);
        let mut keep = checkpoints.kept(&name, epoch, ground.host.tenure.entry(&name).as_ref());
        keep.truncate(MOST_CHECKPOINTS);
        let is_holder = holders(ground, &name).contains(node);
        Errand { told: Told { epoch, keep, removed: false }, workload: name, is_holder }
    });
    let mine = mine.filter(|errand| {
        let said = replicas.of(node, &errand.workload);
        // Others may have older ones, from when the workload was theirs: all are asked once. A record says who has any.
        let Some(said) = said else { return errand.is_holder || has_by_record(ground, &errand.workload, node) };
        if errand.told.keep.is_empty() {
            return false;
        }
        let news = told.get(&errand.workload) != Some(&errand.told) && (errand.is_holder || !said.is_empty());
        news || errand.is_holder && (visit || !lacking(&checkpoints.of(&errand.workload), &said).is_empty())
    });
    removed.chain(mine).collect()
}

/// Whether a node may have checkpoints of a workload, as far as the record knows; without one anybody may.
fn has_by_record(ground: &Ground, workload: &WorkloadName, node: &NodeName) -> bool {
    let tenure = &ground.host.tenure;
    let listed = |entry: LoadEntry| entry.checkpoints.iter().any(|listed| listed.holders.contains(node));
    !tenure.in_cluster() || tenure.entry(workload).is_some_and(listed)
}

/// The nodes that shall have a workload's checkpoints, beside this one.
pub fn holders(ground: &Ground, workload: &WorkloadName) -> Vec<NodeName> {
    let checkpoints = ground.host.checkpoints();
    let views = ground.peers.views().into_iter().filter(|view| view.state != Some(NodeState::Draining));
    let nodes = views.map(|view| view.peer.node).filter(|node| checkpoints.replicas.can_hold(node));
    let wished = ground.host.tenure.entry(workload).and_then(|entry| entry.policy.replicas);
    chosen(workload, nodes, wished.map_or(checkpoints.copies, usize::from))
}

/// What of these is not there, the newest first.
fn lacking(here: &[Generation], there: &[HeldCheckpoint]) -> Vec<CheckpointId> {
    let has = |id| there.iter().any(|held| held.id == id && held.whole);
    let usable = here.iter().rev().filter(|generation| generation.is_usable());
    usable.map(|generation| generation.id).filter(|id| !has(*id)).collect()
}

/// One visit.
async fn go(
    ground: &Ground,
    node: &NodeName,
    errands: Vec<Errand>,
    told: &mut HashMap<WorkloadName, Told>,
) -> Result<(), Problem> {
    let mut talk = ground.peers.call(node, Purpose::Checkpoint).await?;
    let checkpoints = ground.host.checkpoints();
    if checkpoints.replicas.answers(node) {
        checkpoints.changed();
    }
    for errand in errands {
        let Errand { workload, told: what, is_holder } = errand;
        let (epoch, keep, removed) = (what.epoch, what.keep.clone(), what.removed);
        talk.speaker
            .say(&Message::Keep { workload: workload.clone(), epoch, checkpoints: keep.clone(), removed })
            .await?;
        let there = match next(&mut talk).await? {
            (Message::Holding { checkpoints }, _) => checkpoints,
            (Message::Refused(problem), _) => return Err(problem),
            (other, _) => return Err(unexpected(&other)),
        };
        told.insert(workload.clone(), what);
        if removed {
            continue;
        }
        if checkpoints.replicas.heard(node, &workload, there.clone()) {
            checkpoints.changed();
        }
        if is_holder {
            let lacking = lacking(&checkpoints.of(&workload), &there);
            bring(ground, &mut talk, &workload, lacking.into_iter().filter(|id| keep.contains(id)), there).await?;
        }
    }
    talk.speaker.close().await
}

/// Gives these checkpoints to a node that lacks them.
async fn bring(
    ground: &Ground,
    talk: &mut Talk,
    workload: &WorkloadName,
    lacking: impl Iterator<Item = CheckpointId>,
    mut there: Vec<HeldCheckpoint>,
) -> Result<(), Problem> {
    let (checkpoints, node) = (ground.host.checkpoints(), talk.peer.node.clone());
    let vault = checkpoints.vault()?;
    for id in lacking {
        let _in_use = checkpoints.use_it(id);
        // It may have been dropped meanwhile.
        let Some(generation) = vault.generation(id) else { continue };
        match give(talk, vault, workload, id).await {
            Ok(given) => {
                tracing::info!(%workload, %node, "a checkpoint was brought there: {}", crossing::told(given, id));
                there.retain(|held| held.id != id);
                there.push(HeldCheckpoint { whole: true, ..holding::held(&generation) });
                checkpoints.replicas.heard(&node, workload, there.clone());
                checkpoints.changed();
            }
            Err(problem) => {
                if problem.code == Code::NoDisk {
                    let message = format!("{node} has no room for checkpoint {}: {}", short(id), problem.message);
                    ground.host.events.record(Kind::Warning, Some(workload), None, message);
                    checkpoints.replicas.had_no_room(&node);
                    checkpoints.changed();
                }
                if problem.code == Code::Corrupt {
                    super::scrub::look_at(ground.clone(), workload.clone(), id, None).await;
                }
                return Err(problem);
            }
        }
    }
    Ok(())
}
