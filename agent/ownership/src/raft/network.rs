//! Raft's own requests, over the agent's carrier.
//!
//! Whatever goes wrong on the way is `Unreachable`, for which raft waits a little, or a time-out; never a `NetworkError`, after which it
//! tries again at once and for ever.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::VoterId;
use migrate_proto::cluster::record::Record;
use openraft::error::{InstallSnapshotError, PayloadTooLarge, RPCError, RaftError, RemoteError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use thiserror::Error;
use tokio::sync::watch;

use super::ask::{AskError, Asker};
use super::candidacy::Candidacy;
use crate::carrier::{CallError, Whom};
use crate::types::{Place, Types};
use crate::wire::{Answer, Ask, Failure, WireError};

const PAUSE: Duration = Duration::from_millis(200);

/// Makes a line to each node that raft talks to.
pub(crate) struct Lines {
    pub(crate) asker: Asker,
    /// Who has moved to another address is found there.
    pub(crate) record: watch::Receiver<Arc<Record>>,
    pub(crate) candidacy: Arc<Candidacy>,
}

impl RaftNetworkFactory<Types> for Lines {
    type Network = Line;

    async fn new_client(&mut self, target: u64, place: &Place) -> Line {
        let (asker, record, candidacy) = (self.asker.clone(), self.record.clone(), Arc::clone(&self.candidacy));
        Line { asker, record, candidacy, target, place: place.clone() }
    }
}

/// The way to one node.
pub(crate) struct Line {
    asker: Asker,
    record: watch::Receiver<Arc<Record>>,
    candidacy: Arc<Candidacy>,
    target: u64,
    place: Place,
}

/// What came back was of no use.
#[derive(Debug, Error)]
enum Useless {
    #[error("{0}: {1}")]
    Ask(Place, AskError),
    #[error("{0}: {1}")]
    Failed(Place, Failure),
    #[error("{0} answered something else")]
    Other(Place),
}

type Answered<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, Place, RaftError<u64, E>>>;

impl Line {
    async fn ask(&self, ask: Ask, ttl: Duration) -> Result<Answer, AskError> {
        self.asker.ask(Some(VoterId(self.target)), self.whom(), ask, ttl).await
    }

    /// The record knows where a node is since it was last started; raft's list of members, where it was when it joined.
    fn whom(&self) -> Whom {
        whereabouts(&self.record.borrow(), VoterId(self.target), &self.place)
    }

    fn failed<E: std::error::Error>(
        &self,
        action: RPCTypes,
        ttl: Duration,
        error: AskError,
    ) -> RPCError<u64, Place, RaftError<u64, E>> {
        match error {
            AskError::Call(CallError::Late(_)) => {
                Timeout { action, id: self.asker.me.0, target: self.target, timeout: ttl }.into()
            }
            error => Unreachable::new(&Useless::Ask(self.place.clone(), error)).into(),
        }
    }

    fn useless<E: std::error::Error>(&self, answer: Answer) -> RPCError<u64, Place, RaftError<u64, E>> {
        let place = self.place.clone();
        let useless = match answer {
            Answer::Failed(failure) => Useless::Failed(place, failure),
            _ => Useless::Other(place),
        };
        Unreachable::new(&useless).into()
    }
}

impl RaftNetwork<Types> for Line {
    async fn append_entries(
        &mut self,
        append: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Answered<AppendEntriesResponse<u64>> {
        let (ttl, entries) = (option.hard_ttl(), append.entries.len() as u64);
        match self.ask(Ask::Append(append), ttl).await {
            Ok(Answer::Append(answer)) => Ok(answer),
            Ok(other) => Err(self.useless(other)),
            Err(AskError::Unsent(WireError::Long { .. })) if entries > 1 => {
                Err(PayloadTooLarge::new_entries_hint(entries / 2).into())
            }
            Err(error) => Err(self.failed(RPCTypes::AppendEntries, ttl, error)),
        }
    }

    async fn install_snapshot(
        &mut self,
        piece: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Answered<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        let ttl = option.hard_ttl();
        match self.ask(Ask::Snapshot(piece), ttl).await {
            Ok(Answer::Snapshot(answer)) => Ok(answer),
            Ok(Answer::OtherPiece(mismatch)) => {
                let mismatch = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RemoteError::new(self.target, mismatch).into())
            }
            Ok(other) => Err(self.useless(other)),
            Err(error) => Err(self.failed(RPCTypes::InstallSnapshot, ttl, error)),
        }
    }

    async fn vote(&mut self, vote: VoteRequest<u64>, option: RPCOption) -> Answered<VoteResponse<u64>> {
        let (ttl, has) = (option.hard_ttl(), vote.last_log_id);
        match self.ask(Ask::Vote(vote), ttl).await {
            Ok(Answer::Vote(answer)) => {
                if !answer.vote_granted && answer.last_log_id > has {
                    self.candidacy.is_outdone();
                }
                Ok(answer)
            }
            Ok(other) => Err(self.useless(other)),
            Err(error) => Err(self.failed(RPCTypes::Vote, ttl, error)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}

/// Where a member is: as the record says if it is still the same machine, else as it was when it joined.
pub(crate) fn whereabouts(record: &Record, id: VoterId, place: &Place) -> Whom {
    let known = record.nodes.get(&place.name).filter(|node| VoterId::from(node.mark) == id);
    let address = known.map_or(&place.address, |node| &node.address);
    Whom { name: Some(place.name.clone()), address: address.clone() }
}
