//! What goes into the keeper, and what comes out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use migrate_members::{Member, Out};
use migrate_proto::cluster::lease::{Ask, Lapse, Nanos, Page, Renew, Terms};
use migrate_proto::cluster::{Claim, ClusterId, VoterId};
use migrate_proto::datagram::Figures;
use migrate_proto::error::Problem;
use migrate_proto::name::NodeName;
use migrate_sandbox::lease::LeasePage;
use migrate_transport::datagram::{Foreign, SocketError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::leases::Bench;
use crate::cluster::join::Joining;
use crate::cluster::roster::{Board, Roster};

/// What the keeper is told.
pub enum Order {
    /// This is how full the node is.
    Figures(Box<Figures>),
    /// This is the cluster that it belongs to.
    Cluster(ClusterId),
    /// These vote.
    Voters(BTreeSet<NodeName>),
    /// This is what leases depend on.
    Bench(Box<Bench>),
    /// This session was opened, and proposed then.
    Open {
        /// Of this node.
        claim: Claim,
        /// Before it was proposed, on the clock that counts sleep.
        proposed: Duration,
    },
    /// This is what an earlier agent has left on the page.
    Resume(Page),
    /// This node leads: ask these voters whether these leases are over.
    Ask(BTreeSet<VoterId>, Vec<Ask>),
    /// Which of these leases has this voter not heard of for as long as it promises?
    Quiet(Vec<Claim>, oneshot::Sender<Vec<Claim>>),
    /// Say this on the page, of a session that is about to be opened.
    Foresee(Page, oneshot::Sender<()>),
    /// Leases are not kept by voters: renewals go there, and what was taken note of comes back.
    Beats(mpsc::Sender<Renew>),
    /// This renewal was taken note of.
    Beaten(Renew),
    /// Say goodbye, and end.
    Leave(oneshot::Sender<()>),
}

/// A lease that is over for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapsed {
    /// Whose.
    pub claim: Claim,
    /// Its last deadline, where it was ever in force.
    pub until: Option<Nanos>,
}

/// What the rest of the agent should know.
#[derive(Debug)]
pub enum News {
    /// This node has joined.
    Joined,
    /// Nobody answers at any of these addresses.
    Nobody(Vec<String>),
    /// Whoever answers belongs to another cluster.
    Stranger(Problem),
    /// This node must not be in the cluster.
    GiveUp(Problem),
    /// Something about a member, or about this node among them.
    Member(Out),
    /// Datagrams under another cluster's key came.
    Foreign(Foreign),
    /// The lease of another node lasts for longer or shorter than those of this one.
    OtherTerms {
        /// Whose.
        node: NodeName,
        /// What it says.
        theirs: Terms,
        /// What is said here.
        ours: Terms,
    },
    /// The lease of this node is over for ever.
    Lapsed(Lapsed),
    /// The keeper has ended, and should not have.
    Broken(SocketError),
}

/// What a keeper begins with.
pub struct Setup {
    /// This node.
    pub me: Member,
    /// The pace.
    pub swim: migrate_members::Settings,
    /// For its choices.
    pub seed: [u8; 32],
    /// How it finds the others.
    pub joining: Joining,
    /// Those that were listed: they are tried again for as long as they are not known.
    pub seeds: Vec<Member>,
    /// The cluster that it belongs to already.
    pub cluster: Option<ClusterId>,
    /// How long leases last.
    pub terms: Terms,
    /// Where the deadline of this node's lease is written.
    pub page: LeasePage,
}

/// Where a keeper's words go.
pub struct Ends {
    /// Orders come from here; when nobody can give any, the keeper ends.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// What others should know.
    pub news: mpsc::UnboundedSender<News>,
    /// Who is known.
    pub roster: watch::Sender<Arc<Roster>>,
    /// Counts its changes.
    pub changes: watch::Sender<u64>,
    /// What members say about themselves.
    pub board: Arc<Board>,
    /// Whether another voter was heard lately, where there is one.
    pub hears_voters: watch::Sender<bool>,
    /// What voters say to a leader that asks.
    pub lapses: broadcast::Sender<Lapse>,
}
