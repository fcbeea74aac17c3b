//! A leader at its desk: a record, four nodes that are well, and a clock.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::command::Command;
use crate::cluster::lease::{LogId, Voters};
use crate::cluster::record::{
    Applied, CheckpointEntry, CheckpointKind, ClusterPolicy, Life, LoadEntry, LoadPolicy, Record, Wanted,
};
use crate::cluster::steward::{Act, Event, Figures, Health, Limits, Note, Steward};
use crate::cluster::{CheckpointId, Claim, ClusterId, Ticket, VoterId};
use crate::handover::Millis;
use crate::id::{Epoch, StateMark};
use crate::name::{NodeName, WorkloadName};
use crate::spec::WorkloadSpec;
use crate::version::Versions;

pub(super) const GIB: u64 = 1 << 30;
/// What the clock on the wall shows when a desk is opened, and how old every checkpoint is then.
const WALL: u64 = 1_700_000_000_000;
pub(super) const AGE: u64 = 12_000;

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(super) fn load(name: &str) -> WorkloadName {
    name.parse().unwrap()
}

pub(super) fn claim(name: &str, session: u64) -> Claim {
    Claim { node: node(name), session }
}

pub(super) fn mark(name: &str) -> StateMark {
    StateMark([name.as_bytes()[0]; 8])
}

pub(super) fn voter(name: &str) -> VoterId {
    VoterId::from(mark(name))
}

/// The checkpoint of a workload with this number.
pub(super) fn checkpoint_id(of: &str, number: u8) -> CheckpointId {
    let mut id = [number; 32];
    id[..of.len()].copy_from_slice(of.as_bytes());
    CheckpointId(id)
}

fn figures(memory_free: u64) -> Figures {
    Figures {
        arch: "x86_64".to_owned(),
        cpu_flags: ["sse2".to_owned()].into(),
        memory_total: 16 * GIB,
        memory_free,
        disk_free: 100 * GIB,
        volumes: None,
    }
}

pub(super) struct Desk {
    pub(super) record: Record,
    pub(super) steward: Steward,
    nodes: BTreeMap<NodeName, (Health, u64)>,
    pub(super) now: u64,
    pub(super) at: u64,
    /// Everything but proposals, until somebody looks.
    pub(super) acts: Vec<Act>,
    /// Every proposal, in the order in which they were carried out.
    pub(super) proposed: Vec<Command>,
    /// What is done with proposals.
    pub(super) carried_out: bool,
}

impl Desk {
    /// Four nodes `a` to `d`, each in session 1; `a`, `b` and `c` vote.
    pub(super) fn new() -> Desk {
        let mut record = Record::new(ClusterId([7; 16]), ClusterPolicy::default());
        let sets = vec![["a", "b", "c"].map(voter).into()];
        assert!(record.set_voters(1, Voters { config: LogId { term: 1, index: 1 }, sets }));
        let mut desk = Desk {
            record,
            steward: Steward::new(Limits::default()),
            nodes: BTreeMap::new(),
            now: 1_000_000,
            at: 1,
            acts: Vec::new(),
            proposed: Vec::new(),
            carried_out: true,
        };
        for name in ["a", "b", "c", "d"] {
            desk.join(name);
        }
        desk.begin_to_lead();
        desk
    }

    /// Another leader, who is told what everybody is told.
    pub(super) fn begin_to_lead(&mut self) {
        self.steward = Steward::new(Limits::default());
        for (node, (health, memory_free)) in self.nodes.clone() {
            self.hear(Event::Member { node: node.clone(), health });
            self.hear(Event::Figures { node, figures: figures(memory_free) });
        }
        self.acts.clear();
        self.show();
    }

    pub(super) fn join(&mut self, name: &str) {
        let (address, versions) = (format!("{name}:7000"), Versions { min: 1, max: 1 });
        self.tell(Command::Admit { node: node(name), mark: mark(name), address, versions, since: 0 });
        self.tell(Command::OpenSession { node: node(name), mark: mark(name), after: 0, finite: true });
        self.member(name, Health::Alive);
        self.room(name, 8 * GIB);
    }

    /// Somebody else's command takes effect.
    pub(super) fn tell(&mut self, command: Command) {
        self.at += 1;
        assert_eq!(self.record.apply(self.at, &command), Ok(Applied::Changed), "{command:?}");
        self.show();
    }

    fn show(&mut self) {
        self.hear(Event::Record(Arc::new(self.record.clone())));
    }

    pub(super) fn member(&mut self, name: &str, health: Health) {
        self.nodes.entry(node(name)).or_insert((health, 0)).0 = health;
        self.hear(Event::Member { node: node(name), health });
    }

    pub(super) fn room(&mut self, name: &str, memory_free: u64) {
        self.nodes.entry(node(name)).or_insert((Health::Alive, 0)).1 = memory_free;
        self.hear(Event::Figures { node: node(name), figures: figures(memory_free) });
    }

    pub(super) fn lapsed(&mut self, name: &str, session: u64) {
        let voters = self.record.cluster.voters.now.config;
        self.hear(Event::Lapsed { claim: claim(name, session), voters });
    }

    /// The node is gone, and its lease is over.
    pub(super) fn dies(&mut self, name: &str) {
        self.member(name, Health::Down);
        self.lapsed(name, self.record.nodes[&node(name)].session);
    }

    pub(super) fn hear(&mut self, event: Event) {
        let acts = self.steward.step(Millis(self.now), event);
        let mut carried_out = false;
        for act in acts {
            match act {
                Act::Propose(command) => {
                    if self.carried_out {
                        self.at += 1;
                        let answer = self.record.apply(self.at, &command);
                        assert_eq!(answer, Ok(Applied::Changed), "what is proposed by this record: {command:?}");
                        carried_out = true;
                    }
                    self.proposed.push(command);
                }
                other => self.acts.push(other),
            }
        }
        if carried_out {
            self.show();
        }
    }

    /// This long passes, with a tick whenever the leader asks for one.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        let wall = |now: u64| Event::Tick { wall_ms: WALL + now - 1_000_000 };
        while let Some(next) = self.steward.deadline().filter(|next| next.0 <= end) {
            assert!(next.0 > self.now, "a deadline that has passed is none");
            self.now = next.0;
            self.hear(wall(self.now));
        }
        self.now = end;
        self.hear(wall(end));
    }

    /// A workload that runs on `owner`, with `checkpoints` of it there and on the holders.
    pub(super) fn runs(&mut self, name: &str, owner: &str, checkpoints: u8, holders: &[&str]) {
        self.declare(name, Some(owner), |_| {});
        let (load, by) = (load(name), claim(owner, self.record.nodes[&node(owner)].session));
        let epoch = self.entry(name).epoch;
        self.tell(Command::Began { load, epoch, by });
        for number in 1..=checkpoints {
            self.keep(name, owner, number, holders);
        }
    }

    pub(super) fn declare(&mut self, name: &str, owner: Option<&str>, change: impl FnOnce(&mut Asked)) {
        let mut asked = Asked { policy: LoadPolicy::default(), priority: 0, memory: GIB };
        change(&mut asked);
        let spec = Box::new(WorkloadSpec {
            name: load(name),
            argv: vec!["work".into()],
            env: Vec::new(),
            dir: None,
            user: None,
            volumes: Vec::new(),
            own_root: false,
            memory_bytes: Some(asked.memory),
            cpu_milli: None,
            layer_bytes: GIB,
        });
        let (ticket, since) = (Ticket(self.at), self.record.cluster.removed);
        let owner = owner.map(|owner| claim(owner, self.record.nodes[&node(owner)].session));
        let (policy, priority) = (asked.policy, asked.priority);
        self.tell(Command::Declare { ticket, since, spec, policy, owner, priority });
    }

    pub(super) fn keep(&mut self, name: &str, owner: &str, number: u8, holders: &[&str]) {
        self.keep_in(name, owner, number, holders, &[]);
    }

    pub(super) fn keep_in(&mut self, name: &str, owner: &str, number: u8, holders: &[&str], depots: &[&str]) {
        let checkpoint = CheckpointEntry {
            id: checkpoint_id(name, number),
            number: number.into(),
            since: 0,
            taken_ms: WALL - AGE,
            kind: CheckpointKind::Periodic,
            healthy: true,
            bytes: GIB,
            holders: [owner].iter().chain(holders).map(|name| node(name)).collect(),
            depots: depots.iter().map(|&depot| depot.to_owned()).collect(),
            damaged: false,
            sound_ms: None,
            restored: None,
        };
        let (load, epoch) = (load(name), self.entry(name).epoch);
        let by = claim(owner, self.record.nodes[&node(owner)].session);
        self.tell(Command::Kept { load, epoch, by, checkpoint });
    }

    /// The owner says that it could not run it.
    pub(super) fn breaks(&mut self, name: &str) {
        let entry = self.entry(name);
        let (epoch, owner) = (entry.epoch, entry.owner.clone().unwrap());
        let began = !matches!(entry.life, Life::Starting | Life::Recovering { .. });
        let session = self.record.nodes[&owner].session;
        let by = Claim { node: owner, session };
        self.tell(Command::Broke { load: load(name), epoch, by, began, reason: "it fell".to_owned() });
    }

    pub(super) fn wish(&mut self, name: &str, wish: Wanted) {
        let entry = self.entry(name);
        let (epoch, since) = (entry.epoch, entry.wished);
        self.tell(Command::Wish { load: load(name), epoch, since, wish });
    }

    pub(super) fn entry(&self, name: &str) -> &LoadEntry {
        &self.record.loads[&load(name)]
    }

    /// Who owns it, in which epoch, and how it is.
    pub(super) fn state(&self, name: &str) -> (Option<&str>, u64, Life) {
        let Epoch(epoch) = self.entry(name).epoch;
        (self.entry(name).owner.as_ref().map(NodeName::as_str), epoch, self.entry(name).life.clone())
    }

    /// What was said since the last look.
    pub(super) fn words(&mut self) -> Vec<String> {
        let words = self.acts.iter().filter_map(|act| match act {
            Act::Say(note) => Some(Note::to_string(note)),
            _ => None,
        });
        let words = words.collect();
        self.acts.retain(|act| !matches!(act, Act::Say(_)));
        words
    }
}

/// What can be asked for beside the name.
pub(super) struct Asked {
    pub(super) policy: LoadPolicy,
    pub(super) priority: i16,
    pub(super) memory: u64,
}
