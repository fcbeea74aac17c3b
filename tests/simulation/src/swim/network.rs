//! The network: machines, each with one node, and datagrams under way. One seed is one history.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use migrate_members::{Member, Out, Swim};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;

use super::Circumstances;
use crate::random::Random;

/// A slow node stands still for at most so long…
const STILL: Duration = Duration::from_millis(800);
/// …and then runs for at most so long.
const RUNS: Duration = Duration::from_millis(200);

/// What a node said about another, besides datagrams.
pub(super) struct Said {
    pub(super) at: Duration,
    pub(super) of: Option<usize>,
    /// Whether it lived when this was said.
    pub(super) lives: bool,
    pub(super) what: Out,
}

struct Machine {
    /// None: without power.
    swim: Option<Swim>,
    /// What the socket holds while nobody reads.
    inbox: VecDeque<bytes::Bytes>,
    slow: bool,
    still: bool,
    /// When it is woken next.
    wakes: Option<Duration>,
    /// Datagrams, bytes.
    sent: (u64, u64),
}

enum Event {
    Arrives { bytes: bytes::Bytes },
    Wakes,
    Stops,
    GoesOn,
}

struct Entry {
    at: Duration,
    count: u64,
    machine: usize,
    event: Event,
}

pub(super) struct Network {
    now: Duration,
    /// Of a thousand.
    lost: u64,
    delay: Duration,
    random: Random,
    machines: Vec<Machine>,
    events: BinaryHeap<Reverse<Entry>>,
    count: u64,
    said: Vec<Said>,
}

impl Network {
    /// A cluster in which everybody knows everybody.
    pub(super) fn new(circumstances: &Circumstances, seed: u64) -> Network {
        let Circumstances { nodes, lost, delay, slow, ref settings } = *circumstances;
        let mut network = Network {
            now: Duration::ZERO,
            lost,
            delay,
            random: Random::new(seed),
            machines: Vec::with_capacity(nodes),
            events: BinaryHeap::new(),
            count: 0,
            said: Vec::new(),
        };
        let members: Vec<Member> = (0..nodes).filter_map(member).collect();
        for (machine, me) in members.iter().enumerate() {
            let mut numbers = [0; 32];
            numbers.fill_with(|| network.random.below(256) as u8);
            // They were not started in the same moment. What becomes known by that is no news.
            let begins = network.up_to(settings.period);
            let mut swim = Swim::new(me.clone(), settings.clone(), numbers, begins).ok();
            let outs = swim.as_mut().map(|swim| swim.know(begins, members.clone())).unwrap_or_default();
            drop(outs);
            let slow = (machine as u64 * slow) / 1000 != ((machine as u64 + 1) * slow) / 1000;
            let sent = (0, 0);
            network.machines.push(Machine { swim, inbox: VecDeque::new(), slow, still: false, wakes: None, sent });
            network.at(begins, machine, Event::Wakes);
            if slow {
                network.at(begins, machine, Event::Stops);
            }
        }
        network
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn said(&self) -> &[Said] {
        &self.said
    }

    /// Datagrams and bytes that each machine has sent.
    pub(super) fn sent(&self) -> Vec<(u64, u64)> {
        self.machines.iter().map(|machine| machine.sent).collect()
    }

    pub(super) fn living(&self) -> usize {
        self.machines.iter().filter(|machine| machine.swim.is_some()).count()
    }

    /// One that lives, and is not slow, loses its power.
    pub(super) fn kill_one(&mut self) -> usize {
        let living = |(number, machine): (usize, &Machine)| (machine.swim.is_some() && !machine.slow).then_some(number);
        let candidates: Vec<usize> = self.machines.iter().enumerate().filter_map(living).collect();
        let victim = candidates[self.random.index(candidates.len())];
        self.machines[victim].swim = None;
        victim
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.events.peek().is_some_and(|Reverse(entry)| entry.at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// The next thing happens.
    pub(super) fn step(&mut self) {
        let Some(Reverse(Entry { at, machine, event, .. })) = self.events.pop() else { return };
        self.now = at;
        match event {
            Event::Arrives { bytes } => {
                self.machines[machine].inbox.push_back(bytes);
                self.serve(machine);
            }
            Event::Wakes => {
                self.machines[machine].wakes.take_if(|wakes| *wakes <= at);
                self.serve(machine);
            }
            Event::Stops => {
                self.machines[machine].still = true;
                let still = self.up_to(STILL);
                self.at(still, machine, Event::GoesOn);
            }
            Event::GoesOn => {
                self.machines[machine].still = false;
                self.serve(machine);
                let runs = self.up_to(RUNS);
                self.at(runs, machine, Event::Stops);
            }
        }
    }

    /// What an agent does when it runs: first the socket, then the timers.
    fn serve(&mut self, number: usize) {
        let now = self.now;
        let Machine { swim: Some(swim), inbox, still: false, .. } = &mut self.machines[number] else { return };
        let mut outs = Vec::new();
        for bytes in inbox.drain(..) {
            outs.extend(swim.datagram(now, &bytes));
        }
        if swim.deadline().is_some_and(|deadline| deadline <= now) {
            outs.extend(swim.due(now));
        }
        let deadline = swim.deadline();
        outs.into_iter().for_each(|out| self.perform(number, out));
        if let Some(deadline) = deadline
            && self.machines[number].wakes.is_none_or(|wakes| deadline < wakes)
        {
            self.machines[number].wakes = Some(deadline);
            self.at(deadline.saturating_sub(now), number, Event::Wakes);
        }
    }

    fn perform(&mut self, from: usize, out: Out) {
        match out {
            Out::Send { to, bytes } => {
                let sent = &mut self.machines[from].sent;
                *sent = (sent.0 + 1, sent.1 + bytes.len() as u64);
                if let Some(to) = number(&to)
                    && self.random.below(1000) >= self.lost
                {
                    let least = self.delay / 20;
                    let delay = least + self.up_to(self.delay - least);
                    self.at(delay, to, Event::Arrives { bytes });
                }
            }
            what => {
                let of = match &what {
                    Out::Up(member)
                    | Out::Suspect(member)
                    | Out::Refuted(member)
                    | Out::Down(member)
                    | Out::Left(member) => number(member),
                    _ => None,
                };
                let lives = of.is_some_and(|of| self.machines[of].swim.is_some());
                self.said.push(Said { at: self.now, of, lives, what });
            }
        }
    }

    fn up_to(&mut self, time: Duration) -> Duration {
        Duration::from_micros(self.random.below(time.as_micros() as u64 + 1))
    }

    fn at(&mut self, after: Duration, machine: usize, event: Event) {
        self.count += 1;
        self.events.push(Reverse(Entry { at: self.now + after, count: self.count, machine, event }));
    }
}

/// The member on a machine: the address is the machine's number.
fn member(machine: usize) -> Option<Member> {
    let name: NodeName = format!("node{machine}").parse().ok()?;
    Member::new(name, StateMark((machine as u64).to_be_bytes()), 1, format!("machine:{machine}")).ok()
}

fn number(member: &Member) -> Option<usize> {
    member.address().strip_prefix("machine:")?.parse().ok()
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.count).cmp(&(other.at, other.count))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}
