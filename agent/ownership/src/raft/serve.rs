//! The other side of every question.

use std::sync::Arc;

use bytes::Bytes;
use migrate_proto::cluster::ClusterId;
use openraft::error::{InstallSnapshotError, RaftError};
use tokio::time::Instant;

use super::Shared;
use super::running::Running;
use crate::ownership::ProposeError;
use crate::wire::{self, Answer, Ask, Failure, Message, Question, Who};

impl Shared {
    /// Answers what another node's carrier has brought.
    pub(super) async fn serve(&self, request: &[u8]) -> Bytes {
        let answer = match wire::decode(request) {
            Ok(Message::Question(question)) => self.answer(question).await.unwrap_or_else(Answer::Failed),
            Ok(Message::Answer(_)) => Answer::Failed(Failure::Unreadable("it is an answer".to_owned())),
            Err(error) => Answer::Failed(Failure::Unreadable(error.to_string())),
        };
        answer.encode()
    }

    async fn answer(&self, question: Question) -> Result<Answer, Failure> {
        let Question { cluster, to, ask, .. } = question;
        if to.is_some_and(|to| to != self.id()) {
            return Err(Failure::NotMe(self.id()));
        }
        if let Ask::Who = ask {
            return Ok(Answer::Who(self.introduction()));
        }
        let running = self.running().ok_or(Failure::Forming)?;
        if cluster != Some(running.cluster) {
            self.met_stranger(cluster);
            return Err(Failure::OtherCluster(running.cluster));
        }
        match ask {
            Ask::Vote(_) | Ask::Append(_) | Ask::Snapshot(_) => of_raft(&running, ask).await,
            of_leader => running.as_leader(of_leader, Instant::now() + self.setup.timing.answer).await,
        }
    }

    fn introduction(&self) -> Who {
        let standing = self.standing.borrow();
        // One that no majority answers has led.
        let leader = standing.leader.filter(|leader| standing.leads || *leader != self.id());
        let leader = leader.and_then(|leader| Some((leader, standing.leader_place()?.clone())));
        Who { id: self.id(), place: self.setup.joiner.place.clone(), cluster: standing.cluster, leader }
    }

    fn met_stranger(&self, cluster: Option<ClusterId>) {
        if let Some(cluster) = cluster {
            self.stranger.send_replace(Some((cluster, Instant::now())));
        }
    }
}

async fn of_raft(running: &Arc<Running>, ask: Ask) -> Result<Answer, Failure> {
    let stopped = |error: &dyn std::fmt::Display| Failure::Propose(ProposeError::Stopped(error.to_string()));
    match ask {
        Ask::Vote(vote) => {
            let has = vote.last_log_id;
            let answer = running.raft.vote(vote).await.map_err(|error| stopped(&error))?;
            if !answer.vote_granted && answer.last_log_id > has {
                running.stand_up();
            }
            Ok(Answer::Vote(answer))
        }
        Ask::Append(append) => {
            running.candidacy.heard_a_leader();
            running.raft.append_entries(append).await.map(Answer::Append).map_err(|error| stopped(&error))
        }
        Ask::Snapshot(piece) => match running.raft.install_snapshot(piece).await {
            Ok(answer) => Ok(Answer::Snapshot(answer)),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                Ok(Answer::OtherPiece(mismatch))
            }
            Err(error) => Err(stopped(&error)),
        },
        _ => Err(Failure::NotLeader),
    }
}
