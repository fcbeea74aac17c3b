//! What the leader wants of a node: the words, and what the node does. Each may be lost, and may come late or from somebody who leads no
//! more: none of them decides anything.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::cluster::steward::Held;
use migrate_proto::error::Problem;
use migrate_proto::id::Epoch;
use migrate_proto::name::{NodeName, WorkloadName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Post;
use crate::cluster::calls::What;
use crate::cluster::membership::Membership;
use crate::handover::{Ground, arrival};
use crate::preflight;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Errand {
    /// Say what kind of machine you are: a [`Likeness`].
    Likeness,
    /// Say which images of moves you hold that are not decided: a list of [`InDoubt`].
    InDoubt,
    /// Say which checkpoints you have: a list of [`Holding`].
    Holdings,
    /// You own this workload: look at the record at once.
    Nudge {
        /// The workload.
        load: WorkloadName,
        /// In which epoch.
        epoch: Epoch,
    },
    /// You drain: this workload would be taken there.
    Move {
        /// The workload.
        load: WorkloadName,
        /// In which epoch.
        epoch: Epoch,
        /// Where.
        to: NodeName,
    },
}

/// What kind of machine a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likeness {
    /// As `uname -m` says.
    pub arch: String,
    /// The features of its CPU.
    pub cpu_flags: BTreeSet<String>,
}

/// The image of a move that is not decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InDoubt {
    /// The workload.
    pub load: WorkloadName,
    /// Who holds it, and which it is.
    pub held: Held,
}

/// A checkpoint that a node has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Of which workload.
    pub load: WorkloadName,
    /// Which.
    pub checkpoint: CheckpointId,
    /// Whether all of it is there.
    pub whole: bool,
}

/// Has a node do this, which may be this very node.
pub(super) async fn run<A: DeserializeOwned>(
    post: &Post,
    node: &NodeName,
    errand: &Errand,
    ttl: Duration,
) -> Result<A, String> {
    let said = serde_json::to_vec(errand).map_err(|error| error.to_string())?;
    let answer = if node == post.ground.host.node() {
        carry_out(&post.ground, &said).await.map_err(|problem| problem.message)?
    } else {
        let to = post.cluster.members.address(node).map_err(|problem| problem.message)?;
        post.calls.call(&to, What::Leader, said, ttl).await.map_err(|error| error.to_string())?
    };
    serde_json::from_slice(&answer).map_err(|error| error.to_string())
}

/// Does what the leader, or who takes itself for it, wants.
pub async fn carry_out(ground: &Ground, said: &[u8]) -> Result<Vec<u8>, Problem> {
    let errand = serde_json::from_slice(said).map_err(Problem::internal)?;
    tracing::debug!(?errand, "the leader wants something");
    let ground = ground.clone();
    let answer = match errand {
        Errand::Likeness => blocking(likeness).await?,
        Errand::InDoubt => blocking(move || Ok(in_doubt(&ground))).await?,
        Errand::Holdings => blocking(move || Ok(holdings(&ground))).await?,
        Errand::Nudge { .. } => {
            // Whoever follows the record sees it as soon as it is here.
            tokio::spawn(async move { ground.host.tenure.confirmed().await });
            serde_json::to_vec(&())
        }
        Errand::Move { load, epoch, to } => {
            ground.drains.advise(load, epoch, to);
            serde_json::to_vec(&())
        }
    };
    answer.map_err(Problem::internal)
}

async fn blocking<A: Serialize + Send + 'static>(
    look: impl FnOnce() -> Result<A, Problem> + Send + 'static,
) -> Result<serde_json::Result<Vec<u8>>, Problem> {
    let seen = tokio::task::spawn_blocking(look).await.map_err(Problem::internal)??;
    Ok(serde_json::to_vec(&seen))
}

fn likeness() -> Result<Likeness, Problem> {
    let (arch, cpu_flags) = preflight::machine()?;
    Ok(Likeness { arch, cpu_flags: cpu_flags.into_iter().collect() })
}

fn holdings(ground: &Ground) -> Vec<Holding> {
    let all = ground.host.checkpoints().holdings().into_iter();
    all.map(|(load, checkpoint, whole)| Holding { load, checkpoint, whole }).collect()
}

fn in_doubt(ground: &Ground) -> Vec<InDoubt> {
    arrival::in_doubt(ground).into_iter().map(|(load, held)| InDoubt { load, held }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn errands_are_said_in_words_that_stay() {
        let (load, to): (WorkloadName, NodeName) = ("web".parse().unwrap(), "node2".parse().unwrap());
        let errands = [
            (Errand::Likeness, r#""likeness""#),
            (Errand::InDoubt, r#""in-doubt""#),
            (Errand::Holdings, r#""holdings""#),
            (Errand::Nudge { load: load.clone(), epoch: Epoch(3) }, r#"{"nudge":{"load":"web","epoch":3}}"#),
            (Errand::Move { load, epoch: Epoch(3), to }, r#"{"move":{"load":"web","epoch":3,"to":"node2"}}"#),
        ];
        for (errand, said) in errands {
            assert_eq!(serde_json::to_string(&errand).unwrap(), said);
            assert_eq!(serde_json::from_str::<Errand>(said).unwrap(), errand);
        }
    }

    #[test]
    fn a_machine_knows_what_it_is() {
        let likeness = likeness().unwrap();
        assert!(!likeness.arch.is_empty() && !likeness.cpu_flags.is_empty(), "{likeness:?}");
    }
}
