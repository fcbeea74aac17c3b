//! What people do where the cluster cannot help itself: a node that is lost for good, a backup of the record, and a new cluster where a majority of
//! those who vote is lost for good.

use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use migrate_ownership::{Backup, Ownership, Place, ProposeError, from_here, rebuild};
use migrate_proto::api::{NodeState, RebuildRequest, RebuildView};
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{NodeEntry, Record, Standing};
use migrate_proto::cluster::{ClusterId, VoterId};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::agreement::Agreement;
use crate::events::Kind;
use crate::handover::Ground;
use crate::{durable, random};

/// How long a person waits for the cluster.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a majority may take to answer before it is taken for lost.
const SILENCE: Duration = Duration::from_secs(6);

/// What keeps the record here, as long as the agent takes part.
async fn ownership(ground: &Ground) -> Result<Arc<dyn Ownership>, Problem> {
    let tenure = &ground.host.tenure;
    if !tenure.in_cluster() {
        let what = format!("{} is in no cluster: it has a list of peers, or is alone", ground.host.node());
        return Err(Problem::new(Code::WrongState, what));
    }
    let there = tokio::time::timeout(PATIENCE, tenure.ownership()).await;
    there.map_err(|_| Problem::new(Code::Busy, "this node does not keep the cluster's record at the moment"))
}

fn nobody_agrees(what: &str, error: &ProposeError) -> Problem {
    Problem::new(Code::Busy, format!("{what}: {error}"))
        .hint("`migrate nodes` shows who votes; where a majority is lost for good: `migrate cluster rebuild --help`")
}

/// The record as of now.
pub async fn backup(ground: &Ground) -> Result<Backup, Problem> {
    let ownership = ownership(ground).await?;
    let patient = async {
        loop {
            match ownership.export().await {
                Ok(backup) => return backup,
                Err(error) => tracing::debug!(%error, "no backup yet"),
            }
            sleep(AGAIN).await;
        }
    };
    match tokio::time::timeout(PATIENCE, patient).await {
        Ok(backup) => Ok(backup),
        Err(_) => Err(nobody_agrees("there is no backup", &ProposeError::NoQuorum)),
    }
}

/// A node is not waited for any more. What it owned was given away with its fence, or is as soon as there is room.
pub async fn forget(ground: &Ground, node: &NodeName) -> Result<(), Problem> {
    let ownership = ownership(ground).await?;
    let lost = Lost { ground, ownership: &*ownership, node };
    let entry = lost.fenced().await?;
    lost.settled(Command::Forget { node: node.clone(), mark: entry.mark }).await?;
    lost.without_vote(VoterId::from(entry.mark)).await?;
    let what = format!("{node} was forgotten: its machine joins again only with an empty state directory");
    ground.host.events.record(Kind::Leader, None, None, what);
    Ok(())
}

/// A node that is to be forgotten.
struct Lost<'a> {
    ground: &'a Ground,
    ownership: &'a dyn Ownership,
    node: &'a NodeName,
}

impl Lost<'_> {
    /// Its entry, when its lease is over for ever: the leader sees to that for every node that does not answer.
    async fn fenced(&self) -> Result<NodeEntry, Problem> {
        let node = self.node;
        let begun = Instant::now();
        loop {
            let problem = match self.ownership.confirm().await {
                Ok(record) => {
                    let unknown = || Problem::new(Code::UnknownNode, format!("there is no node {node} in the cluster"));
                    let entry = record.nodes.get(node).ok_or_else(unknown)?;
                    self.does_not_answer(entry)?;
                    if entry.fenced {
                        return Ok(entry.clone());
                    }
                    still_has_its_lease(node, entry)
                }
                Err(error) => nobody_agrees(&format!("{node} was not forgotten"), &error),
            };
            if begun.elapsed() >= PATIENCE {
                return Err(problem);
            }
            sleep(AGAIN).await;
        }
    }

    fn does_not_answer(&self, entry: &NodeEntry) -> Result<(), Problem> {
        let node = self.node;
        if node == self.ground.host.node() {
            return Err(Problem::new(Code::SameNode, format!("{node} is the node that was asked"))
                .hint("ask another one, with --node"));
        }
        // What has left, or was forgotten and comes back with its old state, is no member.
        if matches!(entry.standing, Standing::Left | Standing::Forgotten) {
            return Ok(());
        }
        let views = self.ground.peers.views();
        let state = views.iter().find(|view| view.peer.node == *node).and_then(|view| view.state);
        match state {
            Some(NodeState::Alive | NodeState::Draining) => {
                Err(Problem::new(Code::WrongState, format!("{node} answers: only a node that is lost is forgotten"))
                    .hint(format!("move its workloads away and stop its agent, then forget {node}")))
            }
            _ => Ok(()),
        }
    }

    async fn settled(&self, command: Command) -> Result<(), Problem> {
        let what = format!("{} was not forgotten", self.node);
        self.ground.host.tenure.ask(command, PATIENCE, &what).await.map(|_| ())
    }

    /// Who is gone does not vote: else it would count among those of whom a majority must answer.
    async fn without_vote(&self, id: VoterId) -> Result<(), Problem> {
        let begun = Instant::now();
        loop {
            let standing = self.ownership.standing().borrow().clone();
            let voters: Vec<VoterId> = standing.voters.sets.iter().flatten().copied().collect();
            let others = voters.iter().copied().filter(|voter| *voter != id).collect();
            let done = if voters.contains(&id) {
                self.ownership.set_voters(others).await
            } else {
                self.ownership.retire(id).await
            };
            match done {
                Ok(()) if !voters.contains(&id) => return Ok(()),
                Ok(()) => {}
                Err(error) if begun.elapsed() >= PATIENCE => {
                    let what = format!("{} is forgotten, but still among those who vote: {error}", self.node);
                    return Err(Problem::new(Code::Busy, what).hint("say it again"));
                }
                Err(error) => tracing::debug!(%error, "the voters were not changed"),
            }
            sleep(AGAIN).await;
        }
    }
}

fn still_has_its_lease(node: &NodeName, entry: &NodeEntry) -> Problem {
    let what = if entry.finite {
        format!("the lease of {node} is not over: it may still run what it owns")
    } else {
        format!("the lease of {node} has no end: it was alone when it was last heard")
    };
    Problem::new(Code::WrongState, what).hint("`migrate nodes` says how it seems to be; ask again when it is dead")
}

/// Where the agreement is found that a request may end.
pub type Founding = OnceLock<Weak<Agreement>>;

/// A new cluster with this node as its only member, where no majority answers any more.
pub async fn rebuild_here(ground: &Ground, request: RebuildRequest) -> Result<RebuildView, Problem> {
    let ownership = ownership(ground).await?;
    let backup = request.backup.map(read).transpose()?;
    nobody_answers(&*ownership).await?;
    let known = ownership.record().borrow().clone();
    let record = backup.as_ref().map_or(&*known, Backup::record);
    belongs(ground, record)?;
    let me = ground.host.node().clone();
    let is_other = |(name, entry): &(&NodeName, &NodeEntry)| {
        **name != me && matches!(entry.standing, Standing::Member | Standing::Draining)
    };
    let mut view = RebuildView {
        was: record.cluster.id,
        cluster: None,
        others: record.nodes.iter().filter(is_other).map(|(name, _)| name.clone()).collect(),
        workloads: record.loads.len() as u32,
        node: me,
        done: false,
    };
    if request.sure {
        let agreement = ground.host.founding.get().and_then(Weak::upgrade);
        let agreement = agreement.ok_or_else(|| Problem::new(Code::Busy, "the agent is ending"))?;
        view.cluster = Some(agreement.found_anew(backup).await?);
        view.done = true;
    }
    Ok(view)
}

fn read(backup: serde_json::Value) -> Result<Backup, Problem> {
    Backup::from_json(&backup.to_string().into_bytes())
        .map_err(|error| Problem::new(Code::Usage, error.to_string()).hint("take another backup"))
}

/// Where a majority answers there is nothing to rebuild, and it would be a second cluster beside the first.
async fn nobody_answers(ownership: &dyn Ownership) -> Result<(), Problem> {
    let begun = Instant::now();
    while begun.elapsed() < SILENCE {
        if ownership.confirm().await.is_ok() {
            return Err(Problem::new(
                Code::WrongState,
                "a majority of those who vote answers: there is nothing to rebuild",
            )
            .hint("for a node that is lost for good: `migrate nodes forget NODE`"));
        }
        sleep(AGAIN).await;
    }
    Ok(())
}

/// A backup of some other cluster would take this node's workloads for strangers.
fn belongs(ground: &Ground, record: &Record) -> Result<(), Problem> {
    let me = ground.host.node();
    if record.nodes.is_empty() {
        return Err(Problem::new(Code::WrongState, format!("{me} knows no record"))
            .hint("rebuild from a backup, with --from FILE, or on a node that was longer in the cluster"));
    }
    let mark = ground.registry.mark();
    if record.nodes.get(me).is_some_and(|entry| entry.mark == mark) {
        return Ok(());
    }
    Err(Problem::new(
        Code::WrongState,
        format!("{me} is no member of the cluster {} in that record", record.cluster.id),
    )
    .hint("rebuild on a node that was a member when the backup was made"))
}

/// Puts the store of a new cluster in place of the old one, which is kept beside it. The old one must be closed.
pub(super) async fn replace_store(
    ground: &Ground,
    store: &Path,
    place: Place,
    backup: Option<Backup>,
) -> Result<ClusterId, Problem> {
    let mark = ground.registry.mark();
    let failed = |error: &dyn std::fmt::Display| {
        Problem::new(Code::Internal, format!("the cluster was not rebuilt: {error}"))
            .hint("start the agent again: it is as it was")
    };
    let backup = match backup {
        Some(backup) => backup,
        None => from_here(store, mark).await.map_err(|error| failed(&error))?,
    };
    let old = backup.record().clone();
    let fresh = ClusterId(random::bytes().map_err(Problem::internal)?);
    let kept = store.with_extension("redb.replaced");
    std::fs::rename(store, &kept).map_err(|error| failed(&error))?;
    let rebuilt = rebuild(store, mark, place, backup, fresh).await;
    if let Err(error) = rebuilt {
        // Whatever is there of the new one is none yet.
        let _ = std::fs::remove_file(store);
        std::fs::rename(&kept, store).map_err(|error| failed(&error))?;
        return Err(failed(&error));
    }
    durable::write(&super::known_cluster(&ground.host), &fresh).map_err(|error| failed(&error))?;
    raise_epochs(ground, &old);
    Ok(fresh)
}

/// What this node owned in the old cluster is what the new record says that it owns: its epoch rises here as it does there.
fn raise_epochs(ground: &Ground, old: &Record) {
    let me = ground.host.node();
    for workload in ground.registry.all() {
        let Some(entry) = old.loads.get(workload.name()) else { continue };
        let raised = workload.update(|record| {
            if record.owned && entry.owner.as_ref() == Some(me) && entry.epoch == record.epoch {
                record.epoch.0 += migrate_ownership::REBUILT_EPOCHS;
            }
        });
        if let Err(error) = raised {
            tracing::warn!(workload = %workload.name(), %error, "its epoch could not be raised");
        }
    }
}

/// The agent ends after this: everything else here is of the old cluster.
pub(super) fn end(cluster: &Cluster, ground: &Ground, founded: Result<&ClusterId, &Problem>) {
    let problem = match founded {
        Ok(fresh) => {
            let what = format!("{} has begun the cluster {fresh} in place of the old one", ground.host.node());
            ground.host.events.record(Kind::Warning, None, None, what.clone());
            Problem::new(Code::Cancelled, format!("{what}; this agent ends, to be started again"))
        }
        Err(problem) => problem.clone(),
    };
    cluster.give_up(problem);
}
