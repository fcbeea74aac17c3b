//! A node: its agent, which may die or stand still at any instant; its sandboxes and their inits, which do not care; its disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use migrate_proto::cluster::lease::{Holder, NEVER, Nanos, Page, Promiser, Voters};
use migrate_proto::cluster::record::Record;
use migrate_proto::cluster::steward::Past;
use migrate_proto::cluster::{CheckpointId, VoterId};
use migrate_proto::id::{HandoverId, StateMark};
use migrate_proto::name::NodeName;

use super::clock::Clock;
use super::lead::Lead;
use super::world::Event;

/// One copy of a workload, in a sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// In which it was given to this node.
    pub(crate) epoch: u64,
    /// The session that its init compares with the page.
    pub(crate) armed: u64,
    /// Its init lets it run.
    pub(crate) free: bool,
    /// The guard of a move holds it.
    pub(crate) guarded: bool,
    /// What it has done, in nanoseconds.
    pub(crate) work: u64,
    /// It has ended by itself.
    pub(crate) ended: bool,
    /// Which look of its init is the next.
    pub(crate) turn: u64,
}

impl Body {
    /// One that does not run yet.
    pub(crate) fn new(epoch: u64, work: u64) -> Body {
        Body { epoch, armed: NEVER, free: false, guarded: false, work, ended: false, turn: 0 }
    }

    pub(crate) fn runs(&self) -> bool {
        self.free && !self.guarded && !self.ended
    }
}

/// The image of a move, in the memory of its target.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) handover: HandoverId,
    pub(crate) from: usize,
    pub(crate) epoch: u64,
    pub(crate) work: u64,
    pub(crate) numbered: u64,
}

/// A checkpoint in a vault.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) load: usize,
    pub(crate) number: u64,
    pub(crate) whole: bool,
    pub(crate) since: u64,
}

/// A move whose decision file says `record`.
#[derive(Debug, Clone)]
pub(crate) struct AtRecord {
    pub(crate) handover: HandoverId,
    pub(crate) epoch: u64,
    pub(crate) to: usize,
}

/// What survives the loss of power, for each workload where it is about one.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<CheckpointId, File>,
    /// In which epoch this node believes to own it, and in which session it has looked.
    pub(crate) owned: Vec<Option<(u64, u64)>>,
    /// The epoch in which it has said, or is about to say, that it could not run it: it never begins it in that.
    pub(crate) broke: Vec<Option<u64>>,
    /// The highest number that this node has given to a checkpoint.
    pub(crate) numbered: Vec<u64>,
    pub(crate) at_record: Vec<Option<AtRecord>>,
}

/// The source's side of a move, before its decision file says anything.
#[derive(Debug, Clone)]
pub(crate) struct Departure {
    pub(crate) handover: HandoverId,
    pub(crate) to: usize,
    pub(crate) epoch: u64,
    pub(crate) begun: u64,
}

/// What an agent is busy with for one workload. Only the newest job of each may end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    Start { epoch: u64 },
    Restore { epoch: u64, from: CheckpointId, failed: u32 },
    Drop { epoch: u64 },
}

/// A checkpoint that waits for a peer, or for the record.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) id: CheckpointId,
    pub(crate) epoch: u64,
    pub(crate) number: u64,
    pub(crate) peers: Vec<usize>,
    pub(crate) kept_by: Vec<usize>,
    pub(crate) at: u64,
}

/// One life of an agent.
pub(crate) struct Agent {
    pub(crate) record: Arc<Record>,
    /// How many entries of the log are in that.
    pub(crate) applied: usize,
    /// When it was started.
    pub(crate) started: u64,
    /// Whether the record has been as new as the leader's since then: only then it says what is true.
    pub(crate) ready: bool,
    pub(crate) holder: Option<Holder>,
    /// Which session was given up by proposing the one after it, and when that was proposed first.
    pub(crate) asked: Option<(u64, Nanos)>,
    /// The entry that opened the session which it holds.
    pub(crate) opened: u64,
    pub(crate) promiser: Promiser,
    pub(crate) past: Past,
    /// Those to whom renewals go.
    pub(crate) voters: Voters,
    /// When each node was last heard of.
    pub(crate) heard: Vec<Nanos>,
    pub(crate) lead: Option<Box<Lead>>,
    pub(crate) jobs: Vec<Option<(u64, Job)>>,
    pub(crate) departures: Vec<Option<Departure>>,
    /// Whether the record has refused the transfer of the move that is at `record`.
    pub(crate) refusing: Vec<bool>,
    pub(crate) taken: Vec<Option<Taken>>,
    /// When what was last proposed about each workload.
    pub(crate) proposed: BTreeMap<(usize, u64, &'static str), u64>,
}

/// A node.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) mark: StateMark,
    pub(crate) voter: VoterId,
    pub(crate) clock: Clock,
    pub(crate) powered: bool,
    pub(crate) agent: Option<Agent>,
    /// How many agents there were.
    pub(crate) life: u64,
    /// Its agent stands still: what it would have done meanwhile.
    pub(crate) stopped: Option<Vec<Event>>,
    pub(crate) page: Option<Page>,
    pub(crate) bodies: Vec<Option<Body>>,
    pub(crate) images: Vec<Option<Image>>,
    pub(crate) disk: Disk,
    /// How much of the log is on its disk.
    pub(crate) learned: usize,
    /// The last term in which it led.
    pub(crate) led: bool,
    /// How many workloads there is room for.
    pub(crate) room: u64,
    /// Since when nothing has been wrong with it, as far as others can see.
    pub(crate) well_since: u64,
}

impl Node {
    pub(crate) fn new(number: usize, loads: usize, clock: Clock, room: u64) -> Node {
        let mark = StateMark([number as u8 + 1; 8]);
        Node {
            name: super::genesis::node_name(number),
            mark,
            voter: VoterId::from(mark),
            clock,
            powered: true,
            agent: None,
            life: 0,
            stopped: None,
            page: None,
            bodies: vec![None; loads],
            images: vec![None; loads],
            disk: Disk {
                files: BTreeMap::new(),
                owned: vec![None; loads],
                broke: vec![None; loads],
                numbered: vec![0; loads],
                at_record: vec![None; loads],
            },
            learned: 0,
            led: false,
            room,
            well_since: 0,
        }
    }

    /// Whether somebody would answer who asks its agent now.
    pub(crate) fn answers(&self) -> bool {
        self.powered && self.agent.is_some() && self.stopped.is_none()
    }
}
