//! The world: nodes, connections, and what is going to happen when.
//!
//! One thing happens at a time. After each, every invariant that holds at all times is judged. Between any two things an
//! agent may die, a node lose power, a link be cut: see `faults`.

use std::collections::{BinaryHeap, VecDeque};

use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::{Budgets, source, target};
use migrate_proto::message::Offer;

use crate::bug::Bug;
use crate::campaign::Outcome;
use crate::clock::Clock;
use crate::coverage::Coverage;
use crate::faults::Fault;
use crate::genesis;
use crate::invariants::{self, Invariant, Violation};
use crate::ledger::Ledger;
use crate::network::{Envelope, Network};
use crate::node::{Arrival, Body, Departure, Input, Node, Word};
use crate::random::Random;

/// How many things happen while there are faults.
const TROUBLED: u64 = 220;
/// After how many things without faults a world never settles.
const PATIENCE: u64 = 6_000;

/// A side of a handover in the life of one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whom {
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) handover: usize,
    pub(crate) source: bool,
}

/// What an executor does beside its loop: it takes its time, and goes on when the machine has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Job {
    Inspect,
    CopyLayer,
    StreamChanges { session: Option<u32>, call: u64 },
    Decide(migrate_proto::handover::Decision),
    DisownSource,
    DropSource,
    ResumeSource,
    Check,
    Build,
    StartRestore,
    Verify,
    Restore,
    Resume,
    RestoreAgain,
}

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Wake(Whom),
    Tick { whom: Whom, at: u64 },
    Deliver(Box<Envelope>),
    Do(Whom, Job),
    Silence { node: usize, handover: usize, session: u32 },
    Dial { whom: Whom, patience: u64 },
    Guard { node: usize, load: usize, boot: u64, call: u64 },
    StartAgent { node: usize, boot: u64 },
    TakeOver { node: usize, life: u64, load: usize },
    Mend { one: usize, other: usize },
    DiskFree { node: usize },
    Ask { load: usize, to: usize },
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    serial: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

/// One history, while it happens.
#[derive(Debug)]
pub struct World {
    pub(crate) random: Random,
    /// Milliseconds.
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) ledger: Ledger,
    pub(crate) coverage: Coverage,
    pub(crate) bug: Option<Bug>,
    /// Only this is judged.
    pub(crate) only: Option<Invariant>,
    pub(crate) faulty: bool,
    /// How rare faults are; differs between histories, so that some get far.
    pub(crate) calm: u64,
    pub(crate) budgets: Budgets,
    pub(crate) offers: Vec<Offer>,
    pub(crate) things: u64,
    pub(crate) restored_again: u64,
    queue: BinaryHeap<Scheduled>,
    serial: u64,
    trace: Option<VecDeque<String>>,
}

impl World {
    /// The world of a seed; nothing has happened yet.
    pub fn new(seed: u64, bug: Option<Bug>, traced: bool) -> World {
        let mut random = Random::new(seed);
        let (nodes, loads) = (random.between(3, 5) as usize, random.between(1, 4) as usize);
        let mut world = World {
            now: 0,
            nodes: (0..nodes).map(|_| Node::new(Clock::new(&mut random), loads)).collect(),
            network: Network::default(),
            ledger: Ledger::default(),
            coverage: Coverage::default(),
            bug,
            only: None,
            faulty: true,
            calm: 1 << random.below(5),
            budgets: genesis::budgets(),
            offers: Vec::new(),
            things: 0,
            restored_again: 0,
            queue: BinaryHeap::with_capacity(64),
            serial: 0,
            trace: traced.then(VecDeque::new),
            random,
        };
        for load in 0..loads {
            world.begin_workload(load);
        }
        for node in 0..nodes {
            world.start_agent(node, 0);
        }
        world
    }

    /// Judges one invariant alone: with a bug, another may be violated first.
    pub fn judge_only(mut self, only: Invariant) -> World {
        self.only = Some(only);
        self
    }

    /// Everything, to the end.
    pub fn live(&mut self) -> Result<(), Violation> {
        while self.things < TROUBLED && self.happen()? {}
        self.heal();
        let end = self.things + PATIENCE;
        while self.things < end && self.happen()? {}
        invariants::judge_the_end(self)
    }

    /// The next thing happens; `false` where there is none.
    fn happen(&mut self) -> Result<bool, Violation> {
        let Some(Scheduled { at, what, .. }) = self.queue.pop() else { return Ok(false) };
        self.now = self.now.max(at);
        self.things += 1;
        match what {
            Happening::Wake(whom) => self.wake(whom),
            Happening::Tick { whom, at } => self.tick(whom, at),
            Happening::Deliver(envelope) => self.deliver(*envelope),
            Happening::Do(whom, job) if whom.source => self.do_departure(whom, job),
            Happening::Do(whom, job) => self.do_arrival(whom, job),
            Happening::Silence { node, handover, session } => self.hear(node, handover, Word::Silence(session)),
            Happening::Dial { whom, patience } => self.redial(whom, patience),
            Happening::Guard { node, load, boot, call } => self.guard_goes_on(node, load, boot, call),
            Happening::StartAgent { node, boot } => self.start_agent(node, boot),
            Happening::TakeOver { node, life, load } => self.take_over_late(node, life, load),
            Happening::Mend { one, other } => self.network.mend(one, other),
            Happening::DiskFree { node } => self.nodes[node].disk_full = false,
            Happening::Ask { load, to } => self.ask_for_a_move(load, to),
        }
        invariants::judge_now(self)?;
        self.work();
        if self.strike() {
            invariants::judge_now(self)?;
        }
        invariants::remember(self);
        Ok(true)
    }

    /// Whatever runs does something.
    fn work(&mut self) {
        for load in 0..self.ledger.fates.len() {
            for node in &mut self.nodes {
                if let Body::Running { work, .. } = &mut node.bodies[load] {
                    *work += 1;
                    let fate = &mut self.ledger.fates[load];
                    // A copy that has fallen back does not catch up unseen.
                    if *work == fate.work + 1 {
                        fate.work = *work;
                    }
                }
            }
        }
    }

    /// The faults end: whatever is down comes up.
    fn heal(&mut self) {
        self.faulty = false;
        self.note(|| "the faults end".to_owned());
        self.network.mend_all();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk_full = false;
            self.start_agent(node, self.nodes[node].boot);
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    pub(crate) fn at(&mut self, at: u64, what: Happening) {
        self.serial += 1;
        self.queue.push(Scheduled { at, serial: self.serial, what });
    }

    /// Between `low` and `high` milliseconds from now.
    pub(crate) fn later(&mut self, low: u64, high: u64, what: Happening) {
        let at = self.now + self.random.between(low, high.max(low + 1));
        self.at(at, what);
    }

    /// A number that nothing else has.
    pub(crate) fn unique(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let (now, things) = (self.now, self.things);
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{things:>5} {now:>7} ms  {}", what()));
        }
    }

    /// What has happened, where it was written down.
    pub fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }

    /// Adds what this history was to what others were.
    pub(crate) fn count(&self, outcome: &mut Outcome) {
        outcome.things += self.things;
        outcome.restored_again += self.restored_again;
        outcome.handovers += self.ledger.handovers.len() as u64;
        outcome.moved += self.ledger.handovers.iter().filter(|handover| handover.committed).count() as u64;
        outcome.lost += self.ledger.fates.iter().filter(|fate| fate.lost).count() as u64;
        outcome.coverage.add(&self.coverage);
    }

    pub(crate) fn problem(&self, what: &str) -> Problem {
        Problem::new(Code::Internal, what)
    }

    // ---- who is there --------------------------------------------------------------------------------------------

    pub(crate) fn departure(&mut self, whom: Whom) -> Option<&mut Departure> {
        let agent = self.nodes[whom.node].agent.as_mut().filter(|agent| agent.life == whom.life)?;
        agent.departures.iter_mut().find(|departure| departure.side.handover == whom.handover)
    }

    pub(crate) fn arrival(&mut self, whom: Whom) -> Option<&mut Arrival> {
        let agent = self.nodes[whom.node].agent.as_mut().filter(|agent| agent.life == whom.life)?;
        agent.arrivals.iter_mut().find(|arrival| arrival.side.handover == whom.handover)
    }

    /// Whoever would be the side of this handover here, if the agent lives.
    pub(crate) fn whom(&self, node: usize, handover: usize) -> Option<Whom> {
        let life = self.nodes[node].agent.as_ref()?.life;
        Some(Whom { node, life, handover, source: self.ledger.handovers[handover].from == node })
    }

    /// Whether the agent that this was begun by still lives.
    pub(crate) fn lives(&self, whom: Whom) -> bool {
        self.nodes[whom.node].agent.as_ref().is_some_and(|agent| agent.life == whom.life)
    }

    /// The connection of the side, if there is such a side.
    pub(crate) fn line_of(&mut self, node: usize, handover: usize) -> Option<Option<u32>> {
        let whom = self.whom(node, handover)?;
        if whom.source {
            self.departure(whom).map(|departure| departure.side.line)
        } else {
            self.arrival(whom).map(|arrival| arrival.side.line)
        }
    }

    pub(crate) fn sides_on(&self, node: usize) -> Vec<Whom> {
        let Some(agent) = &self.nodes[node].agent else { return Vec::new() };
        let departures = agent.departures.iter().map(|departure| departure.side.handover);
        let handovers = departures.chain(agent.arrivals.iter().map(|arrival| arrival.side.handover));
        handovers.filter_map(|handover| self.whom(node, handover)).collect()
    }

    pub(crate) fn handovers_of(&self, node: usize, load: usize) -> Vec<usize> {
        let mine = |whom: &Whom| self.ledger.handovers[whom.handover].load == load;
        self.sides_on(node).into_iter().filter(mine).map(|whom| whom.handover).collect()
    }

    // ---- what reaches a side -------------------------------------------------------------------------------------

    pub(crate) fn tell_departure(&mut self, node: usize, handover: usize, event: source::Event) {
        let Some(whom) = self.whom(node, handover) else { return };
        if let Some(departure) = self.departure(whom) {
            departure.side.inbox.push_back(Input::Event(event));
            self.rouse(whom, 3);
        }
    }

    pub(crate) fn tell_arrival(&mut self, node: usize, handover: usize, event: target::Event) {
        let Some(whom) = self.whom(node, handover) else { return };
        if let Some(arrival) = self.arrival(whom) {
            arrival.side.inbox.push_back(Input::Event(event));
            self.rouse(whom, 3);
        }
    }

    pub(crate) fn hear(&mut self, node: usize, handover: usize, word: Word) {
        let Some(whom) = self.whom(node, handover) else { return };
        if whom.source {
            let Some(departure) = self.departure(whom) else { return };
            departure.side.inbox.push_back(Input::Word(word));
        } else {
            let Some(arrival) = self.arrival(whom) else { return };
            arrival.side.inbox.push_back(Input::Word(word));
        }
        self.rouse(whom, 3);
    }

    /// The side gets a turn within `within` milliseconds.
    pub(crate) fn rouse(&mut self, whom: Whom, within: u64) {
        let awake = if whom.source {
            self.departure(whom).map(|departure| &mut departure.side.awake)
        } else {
            self.arrival(whom).map(|arrival| &mut arrival.side.awake)
        };
        if let Some(awake) = awake
            && !std::mem::replace(awake, true)
        {
            self.later(0, within + 1, Happening::Wake(whom));
        }
    }

    /// What takes its time is done in its time.
    pub(crate) fn do_soon(&mut self, whom: Whom, job: Job) {
        let slow = if self.faulty && self.random.one_in(10) { 3_000 } else { 60 };
        self.later(1, slow, Happening::Do(whom, job));
    }

    /// Whether the node's disk takes nothing now.
    pub(crate) fn disk_is_full(&mut self, whom: Whom) -> bool {
        let full = self.nodes[whom.node].disk_full;
        if full {
            self.mark_one(whom.node, whom.handover, Fault::DiskFull);
        }
        full
    }
}
