//! From what a workload can be brought back on this node, wherever that is; and whether it may be.

use futures_util::future::join_all;
use migrate_image::vault::Generation;
use migrate_proto::api::CheckpointView;
use migrate_proto::care::trust::Place;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::{NodeName, WorkloadName};

use super::fetch::fetch;
use crate::control::Scope;
use crate::elsewhere;
use crate::handover::Ground;

/// A checkpoint from which a workload could be brought back.
pub(super) struct Candidate {
    pub(super) id: CheckpointId,
    pub(super) place: Place,
    pub(super) healthy: bool,
    holders: Vec<NodeName>,
    in_depot: bool,
}

impl Candidate {
    /// Makes it whole on this node.
    pub(super) async fn at_hand(&self, ground: &Ground, name: &WorkloadName) -> Result<Generation, Problem> {
        let here = ground.host.checkpoints().vault()?.generation(self.id);
        match here {
            // What a person asks for is tried whatever is known of it, if there is no better one.
            Some(here) if here.is_usable() || self.holders.is_empty() && !self.in_depot => Ok(here),
            _ => fetch(ground, name, self.id, &self.holders).await,
        }
    }
}

/// From what it can be brought back, here and elsewhere, the best first. One that was asked for is tried whatever is known of it.
pub(super) async fn candidates(
    ground: &Ground,
    name: &WorkloadName,
    asked: Option<&str>,
) -> Result<Vec<Candidate>, Problem> {
    ground.host.checkpoints().vault()?;
    let mut all = super::all(ground, Some(name.clone()), Scope::Cluster).await?;
    // One of a later epoch is of an earlier workload of that name.
    let latest = ground.registry.get(name).map(|workload| workload.record().epoch);
    all.retain(|view| view.workload == *name && latest.is_none_or(|latest| view.epoch <= latest));
    all.reverse();
    let me = ground.host.node();
    let candidate = |view: &CheckpointView| Candidate {
        id: view.id,
        place: (view.epoch, view.number),
        healthy: view.healthy,
        holders: match view.damaged {
            None => view.nodes.iter().filter(|node| *node != me).cloned().collect(),
            Some(_) => Vec::new(),
        },
        in_depot: !view.depots.is_empty(),
    };
    let Some(asked) = asked else {
        let usable = |view: &&CheckpointView| view.damaged.is_none() || !view.depots.is_empty();
        return Ok(all.iter().filter(usable).map(candidate).collect());
    };
    all.retain(|view| view.id.to_string().starts_with(asked));
    let refuse = |what: String| {
        Err(Problem::new(Code::Usage, what).hint(format!("`migrate checkpoints {name}` shows what there is")))
    };
    match all.len() {
        1 => Ok(all.iter().map(candidate).collect()),
        0 => refuse(format!("there is no checkpoint {} of {name}", asked.escape_debug())),
        _ => refuse(format!("{} checkpoints of {name} begin with {}", all.len(), asked.escape_debug())),
    }
}

/// A workload that this node does not have is brought back here only if no other node has it, or may have it.
pub(super) async fn nobody_else_has(ground: &Ground, name: &WorkloadName, force: bool) -> Result<(), Problem> {
    let peers = ground.peers.all();
    let asked = join_all(peers.iter().map(|peer| elsewhere::workloads(&ground.peers, &peer.node))).await;
    let mut silent = ground.peers.gone();
    for (peer, answer) in peers.iter().zip(asked) {
        match answer {
            Ok(views) if views.iter().any(|view| view.name == *name) => {
                let message = format!("{name} is on {}: it is not brought back beside itself", peer.node);
                let hint = format!("`migrate restore {name} --on {}`, or `--as NEW` for a second one", peer.node);
                return Err(Problem::new(Code::NameTaken, message).hint(hint));
            }
            Ok(_) => {}
            Err(_) => silent.push(peer.node.clone()),
        }
    }
    if silent.is_empty() || force {
        return Ok(());
    }
    let names: Vec<&str> = silent.iter().map(NodeName::as_str).collect();
    let message = format!("{name} may run on a node that does not answer: {}", names.join(", "));
    let hint = "where that is certainly not so, `--force`; or `--as NEW` for a second one";
    Err(Problem::new(Code::PeerDown, message).hint(hint))
}
