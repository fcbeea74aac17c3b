//! What the keeper knows, for everybody else on this node to look at; and the members as [`Membership`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use migrate_members::{Health, Member, View};
use migrate_proto::api::{NodeState, NodeView};
use migrate_proto::cluster::record::{Record, Standing};
use migrate_proto::datagram::Figures;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use migrate_transport::link::PeerAddress;
use tokio::sync::watch;

use super::membership::{self, MemberView, Membership, Offices};
use crate::config::Peer;

/// Who is known, as of one moment.
#[derive(Debug, Clone)]
pub struct Roster {
    /// This node as the others know it.
    pub me: Member,
    /// Whether it has joined.
    pub joined: bool,
    /// Everybody else that was ever heard of.
    pub members: Vec<View>,
}

/// What members say about themselves, each its newest.
#[derive(Default)]
pub struct Board(Mutex<BTreeMap<NodeName, Figures>>);

impl Board {
    /// A node has said this. What is older than what it said last is not heard.
    pub fn note(&self, node: NodeName, figures: Figures) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |figures: &Figures| (figures.generation, figures.count);
        if board.get(&node).is_none_or(|last| age(last) < age(&figures)) {
            board.insert(node, figures);
        }
    }

    /// What a node said last.
    pub fn of(&self, node: &NodeName) -> Option<Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

/// Whom a person has given up: SWIM never forgets anybody, and goes on telling who seems to be dead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Forgotten {
    marks: Vec<StateMark>,
    names: BTreeSet<NodeName>,
}

impl Forgotten {
    /// By the record. A name that was given to another machine since is not forgotten.
    fn by(record: &Record) -> Forgotten {
        let names = record.nodes.iter().filter(|(_, node)| node.standing == Standing::Forgotten);
        let names = names.map(|(name, _)| name.clone()).collect();
        Forgotten { marks: record.cluster.forgotten.clone(), names }
    }

    /// Whether it need not be shown. One that came back is: it has to be told.
    fn hides(&self, view: &View) -> bool {
        !view.health.lives() && self.marks.contains(&view.member.mark())
    }
}

/// The members that the keeper knows.
pub struct SwimMembers {
    roster: watch::Receiver<Arc<Roster>>,
    changes: watch::Receiver<u64>,
    board: Arc<Board>,
    listed: Vec<Peer>,
    offices: watch::Sender<Offices>,
    forgotten: watch::Sender<Forgotten>,
}

impl SwimMembers {
    /// `listed`: those that belong to the cluster also where they were never heard.
    pub fn new(
        roster: watch::Receiver<Arc<Roster>>,
        changes: watch::Receiver<u64>,
        board: Arc<Board>,
        listed: Vec<Peer>,
    ) -> SwimMembers {
        let (offices, forgotten) = (watch::Sender::default(), watch::Sender::default());
        SwimMembers { roster, changes, board, listed, offices, forgotten }
    }

    /// Who leads and who votes, from now on.
    pub fn note_offices(&self, offices: Offices) {
        self.offices.send_replace(offices);
    }

    /// What the record says, from now on.
    pub fn note_forgotten(&self, record: &Record) {
        let now = Forgotten::by(record);
        self.forgotten.send_if_modified(|before| {
            let is_news = *before != now;
            if is_news {
                *before = now;
            }
            is_news
        });
    }

    /// As the keeper knows them, but for those that were forgotten.
    fn known(&self) -> Roster {
        let (known, forgotten) = (self.roster.borrow().clone(), self.forgotten.borrow());
        let members = known.members.iter().filter(|view| !forgotten.hides(view)).cloned().collect();
        Roster { me: known.me.clone(), joined: known.joined, members }
    }

    /// Those that were listed and never heard.
    fn unheard<'a>(&'a self, roster: &'a Roster) -> impl Iterator<Item = PeerAddress> + 'a {
        let heard =
            |node: &NodeName| node == roster.me.name() || roster.members.iter().any(|view| view.member.name() == node);
        let forgotten = self.forgotten.borrow().names.clone();
        let listed = self.listed.iter().filter(move |peer| !heard(&peer.node) && !forgotten.contains(&peer.node));
        listed.map(|peer| PeerAddress { node: peer.node.clone(), address: peer.address.clone() })
    }

    fn said(&self, view: &View) -> Option<Box<NodeView>> {
        let figures = self.board.of(view.member.name())?;
        Some(Box::new(NodeView {
            name: view.member.name().clone(),
            address: view.member.address().to_owned(),
            state: state(view.health),
            leader: false,
            voter: false,
            cpu_percent: Some(f64::from(figures.cpu_permille) / 10.0),
            memory_used_bytes: Some(figures.memory_used_bytes),
            memory_total_bytes: Some(figures.memory_total_bytes),
            disk_free_bytes: Some(figures.disk_free_bytes),
            workloads: Some(figures.workloads),
            agent_version: Some(figures.agent_version),
            criu_version: figures.criu_version,
            keys: Vec::new(),
        }))
    }
}

impl Membership for SwimMembers {
    fn all(&self) -> Vec<PeerAddress> {
        let roster = self.known();
        roster.members.iter().filter(|view| view.health.lives()).map(|view| address(&view.member)).collect()
    }

    fn address(&self, node: &NodeName) -> Result<PeerAddress, Problem> {
        let roster = self.known();
        let found = roster.members.iter().find(|view| view.member.name() == node);
        match found {
            Some(view) if view.health == Health::Left => {
                let what = format!("{node} has left the cluster");
                Err(Problem::new(Code::UnknownNode, what).hint("`migrate nodes` shows the nodes"))
            }
            Some(view) => Ok(address(&view.member)),
            None => self
                .unheard(&roster)
                .find(|peer| peer.node == *node)
                .ok_or_else(|| membership::unknown(node, roster.members.iter().map(|view| view.member.name()))),
        }
    }

    fn views(&self) -> Vec<MemberView> {
        let roster = self.known();
        let seen = roster.members.iter().map(|view| MemberView {
            peer: address(&view.member),
            state: Some(state(view.health)),
            said: self.said(view),
        });
        let silent = |peer| MemberView { peer, state: Some(NodeState::Suspect), said: None };
        seen.chain(self.unheard(&roster).map(silent)).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    fn own_address(&self) -> Option<String> {
        Some(self.known().me.address().to_owned())
    }

    fn offices(&self) -> Offices {
        self.offices.borrow().clone()
    }
}

fn address(member: &Member) -> PeerAddress {
    PeerAddress { node: member.name().clone(), address: member.address().to_owned() }
}

fn state(health: Health) -> NodeState {
    match health {
        Health::Alive => NodeState::Alive,
        Health::Suspect => NodeState::Suspect,
        Health::Down => NodeState::Dead,
        Health::Left => NodeState::Left,
    }
}
