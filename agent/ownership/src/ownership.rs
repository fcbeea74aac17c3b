//! The narrow door: what everybody else may ask of whatever keeps the record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::Voters;
use migrate_proto::cluster::record::{Applied, Record, Refusal};
use migrate_proto::cluster::{Claim, ClusterId, VoterId};
use migrate_proto::id::StateMark;
use migrate_proto::version::Versions;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use crate::backup::Backup;
use crate::types::Place;

/// Keeps the record, and says how this node stands to those who keep it with it.
///
/// Every method may be called at any time, from any task, and ends: what cannot be done now is an error soon.
#[async_trait]
pub trait Ownership: Send + Sync {
    /// Has the command carried out. What it does stands at the command; that it is a compare-and-swap makes it safe to propose
    /// again, late, and twice.
    async fn propose(&self, command: Command) -> Result<Applied, ProposeError>;

    /// This node's copy. It only goes forward, and may be behind. Of an unknown cluster (zeros) until there is one.
    fn record(&self) -> watch::Receiver<Arc<Record>>;

    /// A copy that has everything that was carried out before this was called, by whomever.
    async fn confirm(&self) -> Result<Arc<Record>, ProposeError>;

    /// How this node stands to the others that keep the record.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Makes exactly these the voters; who votes no more goes on as a learner. They must be members that have caught up.
    async fn set_voters(&self, voters: BTreeSet<VoterId>) -> Result<(), ProposeError>;

    /// Takes a node in: into the record under its name, and as a learner. Doing it twice is doing it once.
    async fn admit(&self, joiner: Joiner) -> Result<(), ProposeError>;

    /// Sends the record no more to a node that has left or was forgotten. It must not vote any more.
    async fn retire(&self, id: VoterId) -> Result<(), ProposeError>;

    /// Whether the lease of this claim is over for ever, as far as is seen from here: where whatever keeps the record keeps leases, too.
    /// None where those who vote say that.
    fn has_lapsed(&self, _: &Claim) -> Option<bool> {
        None
    }

    /// The whole record as of now, to be written to a file.
    async fn export(&self) -> Result<Backup, ProposeError> {
        Ok(Backup::of(&*self.confirm().await?))
    }
}

/// A node that wants to be a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joiner {
    /// The mark of its state directory.
    pub mark: StateMark,
    /// Its name, and where its agent listens.
    pub place: Place,
    /// What its agent speaks.
    pub versions: Versions,
}

impl Joiner {
    /// As a voter or learner.
    pub fn id(&self) -> VoterId {
        VoterId::from(self.mark)
    }
}

/// Why something was not done, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProposeError {
    /// The record says otherwise. This was definite when it was said; but *an earlier copy* of the same command, whose answer was
    /// lost, may still be under way, and be carried out when the reason for this refusal is gone. Whoever acts on a refusal and
    /// must not be overtaken by that makes it impossible first, by a command: `Refuse` for a `Transfer`.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// It may have been carried out, or may yet be. Propose it again.
    #[error("the answer of the node that leads was lost: it may have been done, or may yet be")]
    Unknown,
    /// Nobody leads, or cannot be reached. Nothing was done.
    #[error("no majority of the voters answers")]
    NoQuorum,
    /// This node has not joined yet, or has not heard of a leader since it started. Nothing was done.
    #[error("this node does not know the cluster's record yet")]
    NotReady,
    /// This node's store has failed; it is opened anew from time to time. Nothing was done.
    #[error("the record's store on this node has stopped: {0}")]
    Stopped(String),
    /// No command is that large. Nothing was done.
    #[error("a command of {bytes} bytes: at most {limit} are carried")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// Another change of the voters has not ended yet. Nothing was done.
    #[error("the voters are just being changed")]
    Changing,
    /// It cannot vote, or not be retired, as things are. Nothing was done.
    #[error("{0}")]
    Voter(#[from] BadVoter),
    /// Whoever keeps the record has not seen this lease end. Nothing was done.
    #[error("it was not seen from here that the lease of {0} is over")]
    NotLapsed(Claim),
    /// No command changes so much at once. Nothing was done.
    #[error("a command about {entries} entries of the record: at most {limit} are changed at once")]
    TooMany {
        /// About how many it is.
        entries: usize,
        /// About how many it may be.
        limit: usize,
    },
}

/// Why a change of those who vote makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the fields are named by the sentences")]
pub enum BadVoter {
    /// Somebody has to vote.
    #[error("no voters at all")]
    Nobody,
    /// It was never admitted.
    #[error("{0} is no member")]
    NoMember(Shown),
    /// It would hold up every command.
    #[error("{0} has not caught up with the record")]
    Behind(Shown),
    /// It votes.
    #[error("{0} still votes")]
    Votes(Shown),
    /// The record is kept by others, who agree among themselves.
    #[error("the cluster's record is kept elsewhere: none of its nodes votes")]
    Elsewhere,
}

/// A voter as people see it: its mark in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Shown(pub VoterId);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node with the mark {:016x}", self.0.0)
    }
}

/// How this node stands to those that keep the record with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// This node.
    pub me: VoterId,
    /// Which cluster it belongs to; none while it has not joined.
    pub cluster: Option<ClusterId>,
    /// What it does.
    pub state: State,
    /// Who leads, as far as is known here.
    pub leader: Option<VoterId>,
    /// How often somebody tried to lead.
    pub term: u64,
    /// Whether this node leads, has heard from a majority just now, and has in its record all that was decided before it led. It is no
    /// permission: what a leader decides must be a compare-and-swap.
    pub leads: bool,
    /// Who votes, according to the last entry of the log that says so, committed or not.
    pub voters: Voters,
    /// All that get the record: voters and learners.
    pub members: BTreeMap<VoterId, Place>,
    /// Those that have (almost) all of it. Known to the leader only.
    pub caught_up: BTreeSet<VoterId>,
    /// What a person should know, and do something about.
    pub trouble: Option<String>,
}

/// What a node does for the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It looks for its cluster.
    Forming,
    /// It gets the record.
    Learner,
    /// It votes.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It leads.
    Leader,
    /// Its store has failed, or it was told to stop.
    Stopped,
}

impl Standing {
    /// Of a node of which nothing is known yet.
    pub(crate) fn forming(me: VoterId) -> Standing {
        Standing {
            me,
            cluster: None,
            state: State::Forming,
            leader: None,
            term: 0,
            leads: false,
            voters: Voters::default(),
            members: BTreeMap::new(),
            caught_up: BTreeSet::new(),
            trouble: None,
        }
    }

    /// Whether this node votes.
    pub fn votes(&self) -> bool {
        self.voters.contain(self.me)
    }

    /// Whether it votes, and nobody else does.
    pub fn is_sole_voter(&self) -> bool {
        !self.voters.is_empty() && self.voters.sets.iter().all(|set| *set == [self.me].into())
    }

    /// Where the leader is.
    pub fn leader_place(&self) -> Option<&Place> {
        self.leader.and_then(|leader| self.members.get(&leader))
    }
}
