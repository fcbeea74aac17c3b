//! A node: its agent, which may die at any instant; its processes, which do not care; its disk.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use migrate_proto::api::Outcome;
use migrate_proto::handover::source::{self, Source};
use migrate_proto::handover::target::{self, Target};
use migrate_proto::message::Message;
use migrate_proto::phase::Phase;

use crate::clock::Clock;
use crate::disk::Place;

/// The workload's processes on a node. `work` counts what it has done: a copy with less than the latest is a step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing, not even a sandbox.
    Gone,
    /// A sandbox without processes.
    Empty,
    /// Its processes run.
    Running { epoch: u64, work: u64 },
    /// Stopped for a dump, or held by the guard's freezer.
    Frozen { epoch: u64, work: u64 },
    /// Restored, before the first instruction.
    Held { epoch: u64, work: u64 },
    /// The main process has ended; the sandbox knows how.
    Ended,
}

/// Where a dump's CRIU stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dumping {
    /// Held before anything is frozen.
    PreDump,
    /// At work.
    Working,
    /// Held with everything frozen and every image written.
    PostDump,
}

/// The guard of a dump, with its CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Which call this is; what was scheduled for another one is void.
    pub(crate) call: u64,
    /// Of which handover.
    pub(crate) handover: usize,
    /// Where CRIU stands.
    pub(crate) dumping: Dumping,
    /// The agent that is connected, if one is.
    pub(crate) agent: Option<u64>,
}

/// An image of an arriving workload: it lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) handover: usize,
    pub(crate) load: usize,
    pub(crate) epoch: u64,
    pub(crate) work: u64,
    /// Verified, with an index: else it is rubbish.
    pub(crate) complete: bool,
}

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Word {
    /// The peer says this.
    Heard(Message),
    /// There is a new connection.
    Connected(u32),
    /// The connection is over.
    Silence(u32),
}

/// What a side hears.
#[derive(Debug)]
pub(crate) enum Input<E> {
    Event(E),
    Word(Word),
}

/// What both sides of a handover have on a node.
#[derive(Debug)]
pub(crate) struct Side<M, C, E> {
    pub(crate) handover: usize,
    pub(crate) machine: M,
    pub(crate) line: Option<u32>,
    pub(crate) dialing: bool,
    pub(crate) inbox: VecDeque<Input<E>>,
    /// What is still to be done of the last step.
    pub(crate) todo: VecDeque<C>,
    /// A turn is scheduled.
    pub(crate) awake: bool,
    /// When its next tick is scheduled.
    pub(crate) tick: Option<u64>,
    /// The machine has finished; this is left to be done.
    pub(crate) end: Option<Outcome>,
    /// From the journal of an earlier agent.
    pub(crate) recovered: bool,
}

impl<M, C, E> Side<M, C, E> {
    pub(crate) fn new(handover: usize, machine: M, line: Option<u32>) -> Self {
        let (inbox, todo) = (VecDeque::new(), VecDeque::new());
        let (dialing, awake, tick, end, recovered) = (false, false, None, None, false);
        Side { handover, machine, line, dialing, inbox, todo, awake, tick, end, recovered }
    }

    pub(crate) fn has_work(&self) -> bool {
        self.end.is_some() || !self.todo.is_empty() || !self.inbox.is_empty()
    }
}

/// `agent/src/handover/departure.rs`.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) side: Side<Source, source::Command, source::Event>,
    pub(crate) load: usize,
    /// The call of the guard that this agent has a line to.
    pub(crate) dump: Option<u64>,
    /// Ends or resumes; a repeated command joins.
    pub(crate) settling: bool,
    /// Decisions that are being written.
    pub(crate) deciding: u32,
}

/// `agent/src/handover/arrival.rs` and `hands.rs`.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) side: Side<Target, target::Command, target::Event>,
    pub(crate) load: usize,
    /// The name is taken: there is a workload to build and to drop.
    pub(crate) taken: bool,
    /// The workload's turn.
    pub(crate) turn: bool,
    /// Compares or builds.
    pub(crate) building: bool,
    /// Lets go or restores again; a repeated command joins.
    pub(crate) reviving: bool,
    /// The layer's file is there, chunks can be taken.
    pub(crate) reception: bool,
    /// `LayerAheadDone` came before there was a reception.
    pub(crate) layer_waits: bool,
}

/// The agent: all of this is gone when it dies.
#[derive(Debug)]
pub(crate) struct Agent {
    /// No two agents have the same.
    pub(crate) life: u64,
    /// Which workloads it knows.
    pub(crate) known: Vec<bool>,
    pub(crate) departures: Vec<Departure>,
    pub(crate) arrivals: Vec<Arrival>,
    /// Nothing is said about handovers that are not under way.
    pub(crate) silent: bool,
    /// Of which handovers nothing is said.
    pub(crate) withheld: Vec<usize>,
    /// Which workloads wait for a person.
    pub(crate) doubted: Vec<bool>,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) agent: Option<Agent>,
    /// Counts losses of power.
    pub(crate) boot: u64,
    pub(crate) disk_full: bool,
    pub(crate) places: Vec<Place>,
    /// `received/`: handovers whose workload came, and has moved on before the source had heard that.
    pub(crate) received: BTreeMap<usize, Rc<target::Entry>>,
    pub(crate) bodies: Vec<Body>,
    pub(crate) guards: Vec<Option<Guard>>,
    pub(crate) images: Vec<Image>,
    /// CRIU was killed with the workload in its hands, and the agent saw that.
    pub(crate) unclean: Vec<bool>,
    /// The restore's guard says that the processes were let go: it is in the sandbox's directory.
    pub(crate) released: Vec<bool>,
}

impl Node {
    /// A node with nothing on it.
    pub(crate) fn new(clock: Clock, loads: usize) -> Node {
        Node {
            clock,
            agent: None,
            boot: 0,
            disk_full: false,
            places: (0..loads).map(|_| Place::default()).collect(),
            bodies: vec![Body::Gone; loads],
            guards: vec![None; loads],
            received: BTreeMap::new(),
            images: Vec::new(),
            unclean: vec![false; loads],
            released: vec![false; loads],
        }
    }

    /// The complete image of a handover.
    pub(crate) fn image(&self, handover: usize) -> Option<&Image> {
        self.images.iter().find(|image| image.handover == handover && image.complete)
    }

    /// Ends whatever is in the workload's sandbox, and the sandbox.
    pub(crate) fn drop_sandbox(&mut self, load: usize) {
        self.bodies[load] = Body::Gone;
        self.guards[load] = None;
        self.unclean[load] = false;
        self.released[load] = false;
    }
}

impl Agent {
    /// An agent that knows nothing yet.
    pub(crate) fn new(life: u64, loads: usize) -> Agent {
        Agent {
            life,
            known: vec![false; loads],
            departures: Vec::new(),
            arrivals: Vec::new(),
            silent: false,
            withheld: Vec::new(),
            doubted: vec![false; loads],
        }
    }

    /// The phase of each handover of the workload here: `true` for the source's side.
    pub(crate) fn phases(&self) -> impl Iterator<Item = (bool, Phase)> {
        let departures = self.departures.iter().filter_map(|d| Some((true, d.side.machine.timeline().phase()?)));
        departures.chain(self.arrivals.iter().filter_map(|a| Some((false, a.side.machine.timeline().phase()?))))
    }

    /// Whether somebody has the workload's turn.
    pub(crate) fn is_busy(&self, load: usize) -> bool {
        self.departures.iter().any(|departure| departure.load == load)
            || self.arrivals.iter().any(|arrival| arrival.load == load && arrival.turn)
    }
}
