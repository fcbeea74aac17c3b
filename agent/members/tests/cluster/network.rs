//! Real `Swim`s on a network that exists only in memory, in virtual time. One seed is one history.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use migrate_members::{Health, Member, Out, Settings, Swim};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) const MS: fn(u64) -> Duration = Duration::from_millis;
pub(crate) const S: fn(u64) -> Duration = Duration::from_secs;

/// A node that gets no processor for a while, again and again.
#[derive(Clone, Copy)]
pub(crate) struct Slow {
    /// It stands still for up to so many milliseconds…
    pub(crate) still: u64,
    /// …and then runs for up to so many.
    pub(crate) runs: u64,
}

/// A machine with an address. Whose name it has is said when it starts.
struct Machine {
    swim: Option<Swim>,
    /// What the socket holds while nobody reads.
    inbox: VecDeque<Bytes>,
    still: bool,
    slow: Option<Slow>,
    /// Which part of a parted network it is in.
    part: u8,
    sent: u64,
    /// When it is woken next.
    wakes: Option<Duration>,
}

enum Event {
    Arrives { at: usize, bytes: Bytes },
    Wakes { machine: usize },
    Stops { machine: usize },
    GoesOn { machine: usize },
}

/// What a node said, besides datagrams.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) at: Duration,
    pub(crate) by: usize,
    pub(crate) what: Out,
}

pub(crate) struct Network {
    pub(crate) now: Duration,
    /// Of a hundred datagrams.
    pub(crate) lost: u32,
    /// Of a hundred datagrams: those with one byte that is another one.
    pub(crate) damaged: u32,
    /// The longest way, in milliseconds.
    pub(crate) delay: u64,
    pub(crate) said: Vec<Said>,
    settings: Settings,
    random: StdRng,
    machines: Vec<Machine>,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    bodies: BTreeMap<u64, Event>,
    count: u64,
}

impl Network {
    /// So many machines on which nothing runs.
    pub(crate) fn new(machines: usize, seed: u64) -> Network {
        let machine =
            || Machine { swim: None, inbox: VecDeque::new(), still: false, slow: None, part: 0, sent: 0, wakes: None };
        Network {
            now: Duration::ZERO,
            lost: 0,
            damaged: 0,
            delay: 2,
            said: Vec::new(),
            settings: Settings::default(),
            random: StdRng::seed_from_u64(seed),
            machines: std::iter::repeat_with(machine).take(machines).collect(),
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            count: 0,
        }
    }

    /// A cluster of that size, begun in any order within a second, in which everybody knows everybody.
    pub(crate) fn cluster(size: usize, seed: u64) -> Network {
        let mut network = Network::new(size, seed);
        for machine in 0..size {
            let pause = network.random.random_range(0..1000 / size as u64 + 1);
            network.run(MS(pause));
            network.start(machine, &name(machine), mark(machine), 1);
        }
        assert!(network.settle(S(30), |network| network.all_know_all()), "{}", network.picture());
        network
    }

    /// Starts a node of that name, mark and generation; it joins through the first two machines.
    pub(crate) fn start(&mut self, machine: usize, name: &NodeName, mark: u8, generation: u64) {
        let me = Member::new(name.clone(), StateMark([mark; 8]), generation, address(machine)).unwrap();
        let mut seed = [0; 32];
        self.random.fill(&mut seed[..]);
        let mut swim = Swim::new(me, self.settings.clone(), seed, self.now).unwrap();
        let seeds = (0..2).map(|n| Member::unheard(self::name(n), address(n)).unwrap()).collect();
        let outs = swim.announce(self.now, seeds);
        self.machines[machine].inbox.clear();
        self.machines[machine].swim = Some(swim);
        self.perform(machine, outs);
    }

    /// Loses its power.
    pub(crate) fn kill(&mut self, machine: usize) {
        self.machines[machine].swim = None;
    }

    /// Says goodbye, and is gone.
    pub(crate) fn leave(&mut self, machine: usize) {
        let now = self.now;
        let outs = self.swim_mut(machine).leave(now);
        assert_eq!(self.swim(machine).deadline(), None);
        self.perform(machine, outs);
        self.kill(machine);
    }

    /// From now on it stands still again and again.
    pub(crate) fn slow(&mut self, machine: usize, slow: Slow) {
        self.machines[machine].slow = Some(slow);
        self.at(Duration::ZERO, Event::Stops { machine });
    }

    /// Stands still for so long, once.
    pub(crate) fn stop(&mut self, machine: usize, time: Duration) {
        self.machines[machine].still = true;
        self.at(time, Event::GoesOn { machine });
    }

    /// Parts the network: machines hear only those of the same number.
    pub(crate) fn part(&mut self, of: impl Fn(usize) -> u8) {
        self.machines.iter_mut().enumerate().for_each(|(n, machine)| machine.part = of(n));
    }

    pub(crate) fn swim(&self, machine: usize) -> &Swim {
        self.machines[machine].swim.as_ref().unwrap()
    }

    fn swim_mut(&mut self, machine: usize) -> &mut Swim {
        self.machines[machine].swim.as_mut().unwrap()
    }

    pub(crate) fn live(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|machine| self.machines[*machine].swim.is_some()).collect()
    }

    /// How many datagrams each node sends in a second, on average over the next so many.
    pub(crate) fn sent_a_second(&mut self, over: Duration) -> f64 {
        let total = |network: &Network| network.machines.iter().map(|machine| machine.sent).sum::<u64>();
        let before = total(self);
        self.run(over);
        (total(self) - before) as f64 / self.live().len() as f64 / over.as_secs_f64()
    }

    /// How `of` is in the eyes of `by`, in its present life.
    pub(crate) fn health(&self, by: usize, of: &NodeName) -> Option<Health> {
        self.swim(by).member(of).map(|view| view.health)
    }

    /// Whether every live node knows every other live one, in its present life, as one that lives, and no others.
    pub(crate) fn all_know_all(&self) -> bool {
        let live = self.live();
        let present: Vec<&Member> = live.iter().map(|machine| self.swim(*machine).me()).collect();
        live.iter().all(|by| {
            let knows = |of: &Member| {
                self.swim(*by).member(of.name()).is_some_and(|view| view.member == *of && view.health.lives())
            };
            present.iter().all(|of| *of == self.swim(*by).me() || knows(of))
        })
    }

    /// Whether every live node says this of a name.
    pub(crate) fn all_say(&self, of: &NodeName, health: Health) -> bool {
        self.live().into_iter().all(|by| self.health(by, of) == Some(health))
    }

    /// Runs until something is so, at most for `most`. Returns whether it is.
    pub(crate) fn settle(&mut self, most: Duration, so: impl Fn(&Network) -> bool) -> bool {
        let end = self.now + most;
        while !so(self) {
            if self.now >= end {
                return false;
            }
            self.run(MS(10));
        }
        true
    }

    /// Runs for so long.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, count))) = self.events.peek().copied()
            && at <= end
        {
            self.events.pop();
            self.now = at;
            let event = self.bodies.remove(&count).unwrap();
            self.happen(event);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives { at, bytes } => {
                if self.machines[at].swim.is_some() {
                    self.machines[at].inbox.push_back(bytes);
                    self.serve(at);
                }
            }
            Event::Wakes { machine } => {
                self.machines[machine].wakes.take_if(|wakes| *wakes <= self.now);
                self.serve(machine);
            }
            Event::Stops { machine } => {
                self.machines[machine].still = true;
                let still = self.machines[machine].slow.map_or(0, |slow| self.random.random_range(0..=slow.still));
                self.at(MS(still), Event::GoesOn { machine });
            }
            Event::GoesOn { machine } => {
                self.machines[machine].still = false;
                self.serve(machine);
                if let Some(slow) = self.machines[machine].slow {
                    let runs = self.random.random_range(0..=slow.runs);
                    self.at(MS(runs), Event::Stops { machine });
                }
            }
        }
    }

    /// What an agent does when it runs: first the socket, then the timers.
    fn serve(&mut self, machine: usize) {
        let Machine { swim: Some(swim), inbox, still: false, .. } = &mut self.machines[machine] else { return };
        let mut outs = Vec::new();
        for bytes in inbox.drain(..) {
            outs.extend(swim.datagram(self.now, &bytes));
        }
        if swim.deadline().is_some_and(|deadline| deadline <= self.now) {
            outs.extend(swim.due(self.now));
        }
        self.perform(machine, outs);
    }

    /// Somebody sends these bytes.
    pub(crate) fn hand_in(&mut self, machine: usize, bytes: &[u8]) {
        let now = self.now;
        let outs = self.swim_mut(machine).datagram(now, bytes);
        self.perform(machine, outs);
    }

    fn perform(&mut self, machine: usize, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send { to, bytes } => self.send(machine, to.address(), bytes),
                what => self.said.push(Said { at: self.now, by: machine, what }),
            }
        }
        if let Some(deadline) = self.swim(machine).deadline()
            && self.machines[machine].wakes.is_none_or(|wakes| deadline < wakes)
        {
            self.machines[machine].wakes = Some(deadline);
            self.at(deadline.saturating_sub(self.now), Event::Wakes { machine });
        }
    }

    fn send(&mut self, from: usize, to: &str, mut bytes: Bytes) {
        assert!(bytes.len() <= migrate_members::MAX_DATAGRAM_BYTES);
        self.machines[from].sent += 1;
        // What was damaged may name machines that are not there.
        let at = to.strip_prefix("machine:").and_then(|number| number.parse::<usize>().ok());
        let Some(at) = at.filter(|at| *at < self.machines.len()) else { return };
        if self.random.random_range(0..100) < self.damaged {
            let mut other = bytes.to_vec();
            let place = self.random.random_range(0..other.len());
            other[place] = self.random.random();
            bytes = other.into();
        }
        let lost = self.random.random_range(0..100) < self.lost;
        let delay = Duration::from_micros(self.random.random_range(100..=self.delay * 1000));
        if !lost && self.machines[from].part == self.machines[at].part {
            self.at(delay, Event::Arrives { at, bytes });
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((self.now + after, self.count)));
        self.bodies.insert(self.count, event);
    }

    /// For people who read a failure.
    pub(crate) fn picture(&self) -> String {
        let line = |by: usize| {
            let views: Vec<String> =
                self.swim(by).members().map(|view| format!("{:?} {:?}", view.member, view.health)).collect();
            format!("{:?}: {}\n", self.swim(by).me(), views.join(", "))
        };
        self.live().into_iter().map(line).collect()
    }
}

/// What a machine's node is called where nothing else is said.
pub(crate) fn name(machine: usize) -> NodeName {
    format!("node{machine}").parse().unwrap()
}

/// The mark of the state that a machine begins with.
pub(crate) fn mark(machine: usize) -> u8 {
    machine as u8 + 1
}

fn address(machine: usize) -> String {
    format!("machine:{machine}")
}
