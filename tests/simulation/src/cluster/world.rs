//! What happens, in one order: messages that are late, lost or doubled, processes that stand still or begin anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Ack, Ask, Lapse, Page, Renew, Terms};
use migrate_proto::cluster::{CheckpointId, VoterId};
use migrate_proto::id::{Epoch, HandoverId};
use migrate_proto::name::NodeName;

use super::bug::Bug;
use super::campaign::Tally;
use super::conduct::Voice;
use super::invariants::{self, Invariant, Ledger, Violation};
use super::log::{Answer, Log};
use super::node::{Image, Job, Node};
use crate::random::Random;

pub(crate) const MS: u64 = 1_000_000;
/// For how many leases there are faults, and for how many more everything has to come to rest.
const TROUBLED: u64 = 14;
const PATIENCE: u64 = 40;
/// How many leases long it must stay at rest.
const RESTING: u64 = 3;

/// Who proposes something, and what for.
#[derive(Debug, Clone)]
pub(crate) struct Proposal {
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) voice: Voice,
    pub(crate) command: Command,
}

/// What one node tells another about a move or a checkpoint.
#[derive(Debug, Clone)]
pub(crate) enum Word {
    /// Here is the image.
    Image { load: usize, image: Image },
    /// It is restored, and held.
    Restored { load: usize, handover: HandoverId },
    /// Nothing comes of it.
    Aborted { load: usize, handover: HandoverId },
    /// What has come of it?
    WhatBecame { load: usize, handover: HandoverId, epoch: u64, by: usize },
    /// It is yours. (Only a source that does not ask the record says that.)
    Yours { load: usize, handover: HandoverId },
    /// Keep this.
    Store { load: usize, id: CheckpointId, number: u64, by: usize },
    /// It is kept.
    Stored { load: usize, id: CheckpointId, by: usize },
    /// This node has the image of a move that is not decided.
    Holds { load: usize, handover: HandoverId, epoch: u64, numbered: u64, by: usize },
    /// This node has a checkpoint, or has it no more.
    Copy { load: usize, id: CheckpointId, by: usize, whole: bool },
    /// Everything is ready here.
    Ready { load: usize, by: usize },
    /// Move this there: you drain.
    Drain { load: usize, epoch: Epoch, to: NodeName },
}

#[rustfmt::skip]
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Renewal { node: usize, life: u64 },
    Renew { to: usize, from: usize, renew: Renew },
    Ack { to: usize, ack: Ack },
    Write { node: usize, life: u64, page: Page },
    Look { node: usize, load: usize, turn: u64 },
    Probe { node: usize, life: u64 },
    Ask { to: usize, from: usize, ask: Ask },
    Lapse { to: usize, lapse: Lapse },
    Propose(Box<Proposal>),
    Answer { to: usize, life: u64, voice: Voice, index: u64, answer: Answer },
    Learn { node: usize, len: usize, sent: u64 },
    Elect,
    ChangeVoters { by: usize, to: BTreeSet<VoterId> },
    SecondStep,
    Done { node: usize, life: u64, load: usize, turn: u64, job: Job },
    Word { to: usize, word: Box<Word> },
    StartAgent { node: usize, life: u64 },
    Wake { node: usize },
    PowerOn { node: usize },
    Mend { cuts: Vec<(usize, usize)> },
    Declare { load: usize },
    Strike,
    Undrain,
}

impl Event {
    /// Whose agent has to be there and must not stand still.
    fn needs(&self) -> Option<usize> {
        match *self {
            Event::Renewal { node, .. } | Event::Write { node, .. } | Event::Probe { node, .. } => Some(node),
            Event::Done { node, .. } | Event::Learn { node, .. } => Some(node),
            Event::Renew { to, .. } | Event::Ack { to, .. } | Event::Ask { to, .. } | Event::Lapse { to, .. } => {
                Some(to)
            }
            Event::Answer { to, .. } | Event::Word { to, .. } => Some(to),
            _ => None,
        }
    }
}

/// One history. Times are nanoseconds of a clock that nobody has.
pub struct World {
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) bug: Option<Bug>,
    /// Only this is judged.
    pub(crate) only: Option<Invariant>,
    pub(crate) faulty: bool,
    pub(crate) terms: Terms,
    /// How late an init may be.
    pub(crate) margin: u64,
    /// In percent.
    pub(crate) loss: u64,
    /// How long things take on their way, at most.
    pub(crate) slow: u64,
    /// What goes wrong, the more often the more often it is named.
    pub(crate) menu: Vec<super::faults::Fault>,
    /// How rare faults are.
    pub(crate) calm: u64,
    /// Who was deposed does not hear of it for long.
    pub(crate) stubborn: bool,
    pub(crate) nodes: Vec<Node>,
    pub(crate) log: Log,
    /// From whom to whom nothing gets.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    pub(crate) ledger: Ledger,
    pub(crate) tally: Tally,
    planned: BTreeMap<(u64, u64), Event>,
    order: u64,
    trace: Option<VecDeque<String>>,
}

impl World {
    /// The world of a seed; nothing has happened yet.
    pub fn new(seed: u64, bug: Option<Bug>, traced: bool) -> World {
        super::genesis::world(seed, bug, traced.then(VecDeque::new))
    }

    /// One without anything in it.
    pub(super) fn empty(
        random: Random,
        terms: Terms,
        log: Log,
        bug: Option<Bug>,
        trace: Option<VecDeque<String>>,
    ) -> World {
        World {
            now: 0,
            random,
            bug,
            only: None,
            faulty: true,
            terms,
            margin: terms.lease() / 10,
            loss: 0,
            slow: 0,
            menu: Vec::new(),
            calm: 1,
            stubborn: false,
            nodes: Vec::new(),
            log,
            cuts: BTreeSet::new(),
            ledger: Ledger::default(),
            tally: Tally::default(),
            planned: BTreeMap::new(),
            order: 0,
            trace,
        }
    }

    /// Judges one invariant alone: with a bug, another may be violated first.
    pub fn judge_only(mut self, only: Invariant) -> World {
        self.only = Some(only);
        self
    }

    /// Everything, to the end.
    pub fn live(&mut self) -> Result<(), Violation> {
        self.until(TROUBLED * self.lease())?;
        self.heal();
        let verdict = self.come_to_rest();
        self.tally_up();
        verdict
    }

    /// It is at rest when it is so, and stays so.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        let mut resting = 0;
        for _ in 0..PATIENCE {
            self.until(self.now + self.lease())?;
            resting = if invariants::judge_the_end(self).is_ok() { resting + 1 } else { 0 };
            if resting == RESTING {
                return Ok(());
            }
        }
        invariants::judge_the_end(self)?;
        Err(Violation { invariant: Invariant::EventuallySettled, how: "it does not stay at rest".to_owned() })
    }

    fn until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some(next) = self.planned.first_entry().filter(|next| next.key().0 <= end) {
            let ((when, _), event) = next.remove_entry();
            self.work(when - self.now);
            self.now = when;
            self.tally.things += 1;
            self.happen(event);
            invariants::judge_now(self)?;
        }
        self.work(end - self.now);
        self.now = end;
        Ok(())
    }

    /// Whatever runs does something.
    fn work(&mut self, long: u64) {
        for node in &mut self.nodes {
            for (load, body) in node.bodies.iter_mut().enumerate() {
                let Some(body) = body.as_mut().filter(|body| body.runs()) else { continue };
                body.work += long;
                let length = self.ledger.loads[load].length;
                if body.work >= length {
                    (body.work, body.ended) = (length, true);
                }
            }
        }
    }

    /// Carries out one event, or keeps it for whoever stands still.
    pub(crate) fn happen(&mut self, event: Event) {
        if let Some(node) = event.needs() {
            if let Some(waiting) = &mut self.nodes[node].stopped {
                waiting.push(event);
                return;
            }
            if self.nodes[node].agent.is_none() {
                return;
            }
        }
        match event {
            Event::Renewal { node, life } => self.renewal(node, life),
            Event::Renew { to, from, renew } => self.renew(to, from, renew),
            Event::Ack { to, ack } => self.ack(to, ack),
            Event::Write { node, life, page } if self.nodes[node].life == life => self.nodes[node].page = Some(page),
            Event::Write { .. } => {}
            Event::Look { node, load, turn } if self.is_planned(node, load, turn) => self.look(node, load),
            Event::Look { .. } => {}
            Event::Probe { node, life } => self.probe(node, life),
            Event::Ask { to, from, ask } => self.ask(to, from, ask),
            Event::Lapse { to, lapse } => self.lapse(to, &lapse),
            Event::Propose(proposal) => self.commit(*proposal),
            Event::Answer { to, life, voice, index, answer } if self.nodes[to].life == life => {
                self.answered(to, voice, index, &answer);
            }
            Event::Answer { .. } => {}
            Event::Learn { node, len, sent } => self.learn(node, len, sent),
            Event::Elect => self.elect(),
            Event::ChangeVoters { by, to } => self.change_voters(by, to),
            Event::SecondStep => self.second_step(),
            Event::Done { node, life, load, turn, job } if self.is_current(node, life, load, turn) => {
                self.done(node, load, job);
            }
            Event::Done { .. } => {}
            Event::Word { to, word } => self.word(to, *word),
            Event::StartAgent { node, life } => self.start_agent(node, life),
            Event::Wake { node } => self.wake(node, false),
            Event::PowerOn { node } => self.power_on(node),
            Event::Mend { cuts } => self.mend(&cuts),
            Event::Declare { load } => self.declare(load),
            Event::Strike => self.strike(),
            Event::Undrain => self.undrain(),
        }
    }

    // ---- time and ways -------------------------------------------------------------------------------------------

    /// Plans an event.
    pub(crate) fn at(&mut self, when: u64, event: Event) {
        self.order += 1;
        self.planned.insert((when.max(self.now), self.order), event);
    }

    pub(crate) fn lease(&self) -> u64 {
        self.terms.lease()
    }

    /// A number that nothing else has.
    pub(crate) fn unique(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// How long something takes on its way.
    pub(crate) fn delay(&mut self) -> u64 {
        let most = if self.faulty && self.random.one_in(8) { self.slow } else { self.lease() / 50 };
        self.random.below(most + 1)
    }

    /// Sends a datagram, which may be lost or doubled.
    pub(crate) fn send(&mut self, from: usize, to: usize, event: Event) {
        if from == to {
            return self.at(self.now, event);
        }
        if self.cuts.contains(&(from, to)) || self.random.below(100) < self.loss {
            return;
        }
        if self.faulty && self.random.one_in(20) {
            let late = self.now + self.delay();
            self.at(late, event.clone());
        }
        let late = self.now + self.delay();
        self.at(late, event);
    }

    /// Tells another node something, over a connection that may end.
    pub(crate) fn tell(&mut self, from: usize, to: usize, word: Word) {
        self.send(from, to, Event::Word { to, word: Box::new(word) });
    }

    /// Proposes something to the record: that may get lost, or arrive once more, late.
    pub(crate) fn propose(&mut self, node: usize, voice: Voice, command: Command) {
        let life = self.nodes[node].life;
        self.note(|| match &command {
            Command::Declare { owner, spec, .. } => format!("somebody asks for {} on {owner:?}", spec.name),
            command => format!("node{} proposes {command:?}", node + 1),
        });
        let proposal = Box::new(Proposal { node, life, voice, command });
        if self.faulty && self.random.one_in(20) {
            let late = self.now + self.random.below(3 * self.lease());
            self.at(late, Event::Propose(proposal.clone()));
        }
        if !(self.faulty && self.random.one_in(20)) {
            let late = self.now + self.delay();
            self.at(late, Event::Propose(proposal));
        }
    }

    /// A proposal reaches the leader, or does not.
    fn commit(&mut self, proposal: Proposal) {
        let Proposal { node, life, voice, command } = proposal;
        let Some(leader) = self.log.leader else { return };
        if !self.has_majority(leader) || self.cuts.contains(&(node, leader)) {
            return;
        }
        let what = self.faults_of(&command);
        let (index, answer) = self.log.append(command, self.bug);
        if answer.is_ok() && self.log.len() as u64 == index {
            let entry = self.trace.is_some().then(|| format!("{:?}", self.log.entries.last()));
            self.note(|| format!("entry {index} is in the log: {}", entry.unwrap_or_default()));
            invariants::agreed(self, &what);
            self.spread();
        } else {
            self.note(|| format!("node{}'s proposal: {answer:?}", node + 1));
        }
        if !(self.faulty && self.random.one_in(20)) {
            let answer = Event::Answer { to: node, life, voice, index, answer };
            self.send(leader, node, answer);
        }
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{:>9.3} ms  {}", now as f64 / MS as f64, what()));
        }
    }

    /// What has happened, where it was written down.
    pub fn trace(&self) -> impl Iterator<Item = &String> {
        self.trace.iter().flatten()
    }
}
