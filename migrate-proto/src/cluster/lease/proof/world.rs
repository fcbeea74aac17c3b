//! What happens, in one order: messages that are late, lost or doubled, processes that stand still or begin anew.

use std::collections::{BTreeMap, BTreeSet};

use super::bug::Bug;
use super::chance::{Clock, Random};
use super::leader::Leader;
use super::log::Log;
use super::node::Node;
use super::voter::Voter;
use crate::cluster::VoterId;
use crate::cluster::lease::{Ack, Ask, Lapse, LogId, Nanos, Page, Promiser, Renew, Terms};

pub(super) const MS: u64 = 1_000_000;
/// The stated bound, and what clocks are really wrong by: a little less, for nanoseconds are rounded.
pub(super) const RHO_PPM: u32 = 10_000;
const RATES_PPM: u64 = 9_999;

/// Who can stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Node(usize),
    Voter(usize),
    Leader(usize),
}

#[rustfmt::skip]
#[derive(Debug, Clone)]
pub(super) enum Event {
    Renewal { node: usize, agent: u64 },
    Renew { node: usize, voter: usize, renew: Renew },
    Ack { node: usize, ack: Ack },
    Write { node: usize, agent: u64, page: Page },
    Look { node: usize, body: u64, turn: u64 },
    Drop { node: usize, body: u64 },
    Asking { leader: usize },
    Ask { leader: usize, voter: usize, ask: Ask },
    Lapse { leader: usize, lapse: Lapse },
    Open { node: usize, agent: u64, after: u64, proposed: Nanos },
    Opened { node: usize, agent: u64, granted: Result<u64, u64>, proposed: Nanos, epoch: u64 },
    Fence { node: usize, session: u64, under: LogId },
    Learn { who: Who, len: usize },
    Wake { who: Who },
    StartAgent { node: usize },
    Heal { node: usize, voter: Option<usize> },
    Unfork { voter: usize },
    Trouble,
}

impl Event {
    /// Whom it needs awake.
    fn needs(&self) -> Option<Who> {
        match *self {
            Event::Renewal { node, .. } | Event::Ack { node, .. } | Event::Write { node, .. } => Some(Who::Node(node)),
            Event::Opened { node, .. } => Some(Who::Node(node)),
            Event::Renew { voter, .. } | Event::Ask { voter, .. } => Some(Who::Voter(voter)),
            Event::Asking { leader } | Event::Lapse { leader, .. } => Some(Who::Leader(leader)),
            _ => None,
        }
    }
}

/// One history. Times are nanoseconds of a clock that nobody has.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) random: Random,
    pub(super) bug: Option<Bug>,
    /// Whether anything but the network fails.
    pub(super) faults: bool,
    pub(super) terms: Terms,
    /// How late an init may be.
    pub(super) margin: u64,
    /// How old a session is before leaders ask about it.
    pub(super) patience: u64,
    /// In percent.
    pub(super) loss: u64,
    pub(super) delay: u64,
    /// There is one voter, for ever, and it is the leader.
    pub(super) sole: bool,
    pub(super) log: Log,
    pub(super) nodes: Vec<Node>,
    pub(super) voters: Vec<Voter>,
    pub(super) leaders: Vec<Leader>,
    /// Pairs of a node and a voter whose messages are lost, in this direction and in that.
    pub(super) cut_to: BTreeSet<(usize, usize)>,
    pub(super) cut_back: BTreeSet<(usize, usize)>,
    /// The claims of which a leader knew that they are over.
    pub(super) over: BTreeSet<(usize, u64)>,
    /// Configurations follow each other at least two promises apart.
    pub(super) settled: u64,
    /// What goes wrong in this world, the more often the more often it is named.
    pub(super) menu: Vec<u64>,
    planned: BTreeMap<(u64, u64), Event>,
    order: u64,
    asleep: BTreeMap<Who, Vec<Event>>,
}

impl World {
    /// A world in which everything goes wrong that may.
    pub(super) fn troubled(seed: u64, bug: Option<Bug>) -> World {
        let mut random = Random::new(seed);
        let lease = random.of(&[600 * MS, 1_500 * MS]);
        let mut shape = Shape {
            nodes: 1 + random.below(2) as usize,
            voters: random.of(&[1, 2, 3, 3, 3, 4, 5]),
            lease,
            loss: random.of(&[0, 5, 30]),
            delay: random.of(&[lease / 50, lease / 5, lease, 2 * lease]),
            patience: random.of(&[0, lease]),
            sole: false,
        };
        shape.sole = shape.voters == 1 && random.one_in(2);
        let mut world = World::new(random, shape, bug);
        world.faults = true;
        world.menu = world.any_menu();
        if world.random.one_in(4) {
            let half = Terms::new(world.terms.lease() / 2, RHO_PPM).unwrap();
            world.voters[0].terms = half;
            world.voters[0].promiser = Promiser::new(world.voters[0].id, world.voters[0].clock.at(0), half);
        }
        world.at(lease, Event::Trouble);
        world
    }

    /// A world in which nothing goes wrong but what the network does.
    pub(super) fn calm(seed: u64, voters: usize, loss: u64) -> World {
        let lease = 1_500 * MS;
        let shape = Shape { nodes: 1, voters, lease, loss, delay: lease / 20, patience: lease, sole: false };
        let mut world = World::new(Random::new(seed), shape, None);
        for voter in &mut world.voters {
            // They have been up for long.
            voter.promiser = Promiser::new(voter.id, Nanos(0), world.terms);
        }
        world
    }

    fn new(mut random: Random, shape: Shape, bug: Option<Bug>) -> World {
        let terms = Terms::new(shape.lease, RHO_PPM).unwrap();
        let promised = if bug == Some(Bug::PromiseWithoutDrift) { Terms::new(shape.lease, 0).unwrap() } else { terms };
        let log = Log::new((0..shape.voters as u64).map(VoterId).collect(), shape.nodes);
        let learned = log.len();
        let spare = if shape.sole { 0 } else { 3 };
        let voters = (0..shape.voters + spare).map(|index| {
            let (id, clock) = (VoterId(index as u64), Clock::new(&mut random, RATES_PPM));
            let promiser = Promiser::new(id, clock.at(0), promised);
            Voter { id, clock, terms: promised, promiser, learned, applied: learned, fork: None }
        });
        let voters = voters.collect();
        let mut world = World {
            now: 0,
            bug,
            faults: false,
            terms,
            margin: shape.lease / 10,
            patience: shape.patience,
            loss: shape.loss,
            delay: shape.delay,
            sole: shape.sole,
            log,
            nodes: Vec::new(),
            voters,
            leaders: Vec::new(),
            cut_to: BTreeSet::new(),
            cut_back: BTreeSet::new(),
            over: BTreeSet::new(),
            settled: 0,
            menu: Vec::new(),
            planned: BTreeMap::new(),
            order: 0,
            asleep: BTreeMap::new(),
            random,
        };
        for node in 0..shape.nodes {
            let clock = Clock::new(&mut world.random, RATES_PPM);
            // As if the first session had been opened and held just now, by an agent that is started anew.
            let page = Page { session: 1, until: clock.at(0).plus(shape.lease) };
            world.nodes.push(Node::new(node, clock, page));
            world.start_agent(node);
            world.look(node, 0);
        }
        for leader in 0..if shape.sole { 1 } else { 2 } {
            let clock = Clock::new(&mut world.random, RATES_PPM);
            let made = world.new_leader(clock, learned);
            world.leaders.push(made);
            world.at(0, Event::Asking { leader });
        }
        world
    }

    /// Plans an event.
    pub(super) fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.planned.insert((when.max(self.now), self.order), event);
    }

    /// Sends a datagram, which may be lost or doubled.
    pub(super) fn send(&mut self, lost: bool, event: Event) {
        if lost || self.random.below(100) < self.loss {
            return;
        }
        if self.random.one_in(20) {
            let late = self.late();
            self.at(late, event.clone());
        }
        let late = self.late();
        self.at(late, event);
    }

    /// Says something to the record, or for it: sometimes that never arrives.
    pub(super) fn propose(&mut self, event: Event) {
        if !(self.faults && self.random.one_in(20)) {
            let late = self.late();
            self.at(late, event);
        }
    }

    fn late(&mut self) -> u64 {
        let most = if self.random.one_in(8) { self.delay } else { self.delay / 20 };
        self.now + self.random.below(most + 1)
    }

    /// The log has got longer: everybody hears of it, sooner or later or never.
    pub(super) fn spread(&mut self) {
        let len = self.log.len();
        let leaders = (0..self.leaders.len()).map(Who::Leader);
        for who in (0..self.voters.len()).map(Who::Voter).chain(leaders).collect::<Vec<_>>() {
            if !(self.faults && self.random.one_in(10)) {
                let most = if self.random.one_in(8) { 3 * self.terms.lease() } else { self.delay };
                let late = self.now + self.random.below(most + 1);
                self.at(late, Event::Learn { who, len });
            }
        }
    }

    /// From now on `who` does nothing, for this long; what comes meanwhile waits.
    pub(super) fn stop(&mut self, who: Who, long: u64) {
        if self.asleep.contains_key(&who) {
            return;
        }
        self.asleep.insert(who, Vec::new());
        match who {
            Who::Voter(voter) if self.random.one_in(2) => self.voters[voter].clock.stand(self.now),
            Who::Leader(leader) if self.bug == Some(Bug::WindowWithoutSleep) => {
                self.leaders[leader].clock.stand(self.now)
            }
            _ => {}
        }
        self.at(self.now + long, Event::Wake { who });
    }

    /// It goes on; what waited has been forgotten, or comes now.
    pub(super) fn wake(&mut self, who: Who, forgotten: bool) {
        let Some(waiting) = self.asleep.remove(&who) else { return };
        match who {
            Who::Voter(voter) => self.voters[voter].clock.go_on(self.now),
            Who::Leader(leader) => self.leaders[leader].clock.go_on(self.now),
            Who::Node(_) => {}
        }
        for event in waiting {
            if !forgotten || matches!(event, Event::Renewal { .. } | Event::Asking { .. }) {
                self.happen(event);
            }
        }
    }

    fn learn(&mut self, who: Who, len: usize) {
        match who {
            Who::Voter(voter) if self.voters[voter].fork.is_none() => {
                let here = &mut self.voters[voter];
                if len > here.learned {
                    (here.applied, here.learned) = (here.learned, len);
                }
            }
            Who::Leader(leader) => self.learn_as_leader(leader, len),
            _ => {}
        }
        let last = self.log.voters(self.log.len()).clone();
        let learned = |id: VoterId| self.voters.iter().find(|voter| voter.id == id).map_or(0, |voter| voter.learned);
        if !self.log.committed(learned) {
            return;
        }
        match <[BTreeSet<VoterId>; 2]>::try_from(last.sets) {
            Ok([_, new]) => {
                self.log.append_voters(vec![new]);
                self.settled = self.now + 2 * self.terms.promise();
                self.spread();
            }
            Err(_) => self.settled = self.settled.min(self.now + 2 * self.terms.promise()),
        }
    }

    /// Carries out one event, or keeps it for whoever stands still.
    pub(super) fn happen(&mut self, event: Event) {
        if let Some(waiting) = event.needs().and_then(|who| self.asleep.get_mut(&who)) {
            waiting.push(event);
            return;
        }
        match event {
            Event::Renewal { node, agent } => self.renewal(node, agent),
            Event::Renew { node, voter, renew } => self.renew(node, voter, renew),
            Event::Ack { node, ack } => self.ack(node, ack),
            Event::Write { node, agent, page } if self.nodes[node].agent == agent => self.nodes[node].page = page,
            Event::Write { .. } => {}
            Event::Look { node, body, turn } if self.is_planned(node, body, turn) => self.look(node, body),
            Event::Look { .. } => {}
            Event::Drop { node, body } => drop(self.nodes[node].bodies.remove(&body)),
            Event::Asking { leader } => self.asking(leader),
            Event::Ask { leader, voter, ask } => self.ask(leader, voter, ask),
            Event::Lapse { leader, lapse } => self.lapse(leader, lapse),
            Event::Open { node, agent, after, proposed } => self.open(node, agent, after, proposed),
            Event::Opened { node, agent, granted, proposed, epoch } => {
                self.opened(node, agent, granted, proposed, epoch);
            }
            Event::Fence { node, session, under } => self.fence(node, session, under),
            Event::Learn { who, len } => self.learn(who, len),
            Event::Wake { who } => self.wake(who, false),
            Event::StartAgent { node } if self.nodes[node].holder.is_none() => self.start_agent(node),
            Event::StartAgent { .. } => {}
            Event::Heal { node, voter } => {
                let stays = |(other, to): &(usize, usize)| *other != node || voter.is_some_and(|voter| voter != *to);
                self.cut_to.retain(stays);
                self.cut_back.retain(stays);
            }
            Event::Unfork { voter } => self.voters[voter].fork = None,
            Event::Trouble => self.trouble(),
        }
    }

    /// Lets time pass until `end`. Says what should not have happened, if it has.
    pub(super) fn live(&mut self, end: u64) -> Result<(), String> {
        while let Some(next) = self.planned.first_entry().filter(|next| next.key().0 <= end) {
            let ((when, _), event) = next.remove_entry();
            self.now = when;
            self.happen(event);
            self.judge()?;
        }
        self.now = end;
        Ok(())
    }

    /// The invariant: what runs is in a session that nobody knows to be over, and is the newest copy.
    fn judge(&self) -> Result<(), String> {
        for (index, node) in self.nodes.iter().enumerate() {
            for body in node.bodies.values().filter(|body| body.running) {
                let over = self.over.contains(&(index, body.armed));
                if over || body.epoch < self.log.epoch(index) {
                    let what = if over { "in a session that is over" } else { "and has been given away" };
                    return Err(format!("{} ns: {} runs, armed with {}, {what}", self.now, node.name, body.armed));
                }
            }
        }
        Ok(())
    }
}

struct Shape {
    nodes: usize,
    voters: usize,
    lease: u64,
    loss: u64,
    delay: u64,
    patience: u64,
    sole: bool,
}
