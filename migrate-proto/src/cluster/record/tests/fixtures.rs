//! Short words for commands, and a book that checks with each one what holds for all.

use crate::api::Exit;
use crate::cluster::command::{Begin, Command, Reassignment};
use crate::cluster::lease::{LogId, Voters};
use crate::cluster::record::{
    Applied, CheckpointEntry, CheckpointKind, ClusterPolicy, LoadEntry, LoadPolicy, Record, Refusal, Wanted,
};
use crate::cluster::{CheckpointId, Claim, ClusterId, Ticket, VoterId};
use crate::id::{Epoch, HandoverId, StateMark};
use crate::name::{NodeName, WorkloadName};
use crate::spec::WorkloadSpec;
use crate::version::Versions;

pub(super) type Answer = Result<Applied, Refusal>;

pub(super) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The workload that all tables are about.
pub(super) fn web() -> WorkloadName {
    "web".parse().unwrap()
}

pub(super) fn claim(name: &str, session: u64) -> Claim {
    Claim { node: node(name), session }
}

/// The machine that bears a name at first.
pub(super) fn mark(name: &str) -> StateMark {
    StateMark([name.as_bytes()[0]; 8])
}

pub(super) fn handover(number: u8) -> HandoverId {
    HandoverId([number; 16])
}

pub(super) fn checkpoint_id(number: u8) -> CheckpointId {
    CheckpointId([number; 32])
}

pub(super) fn spec(name: &WorkloadName) -> WorkloadSpec {
    WorkloadSpec {
        name: name.clone(),
        argv: vec!["serve".into(), "--port".into(), "8080".into()],
        env: vec![("MODE".into(), "production".into())],
        dir: None,
        user: None,
        volumes: Vec::new(),
        own_root: false,
        memory_bytes: Some(256 << 20),
        cpu_milli: None,
        layer_bytes: 8 << 30,
    }
}

pub(super) fn admit(name: &str, mark: StateMark, since: u64) -> Command {
    let (address, versions) = (format!("{name}.example:7000"), Versions { min: 1, max: 1 });
    Command::Admit { node: node(name), mark, address, versions, since }
}

pub(super) fn open(name: &str, after: u64) -> Command {
    Command::OpenSession { node: node(name), mark: mark(name), after, finite: true }
}

/// The configuration of voters in all tables: there is none.
pub(super) const VOTERS: LogId = LogId { term: 0, index: 0 };

pub(super) fn voters(index: u64, sets: &[&[u64]]) -> Voters {
    let set = |numbers: &&[u64]| numbers.iter().copied().map(VoterId).collect();
    Voters { config: LogId { term: 1, index }, sets: sets.iter().map(set).collect() }
}

pub(super) fn fence(name: &str, session: u64) -> Command {
    Command::Fence { lapsed: claim(name, session), voters: VOTERS }
}

pub(super) fn leave(name: &str, session: u64) -> Command {
    Command::Leave(claim(name, session))
}

pub(super) fn forget(name: &str) -> Command {
    Command::Forget { node: node(name), mark: mark(name) }
}

pub(super) fn declare(ticket: u64, since: u64, owner: Option<Claim>) -> Command {
    let (spec, policy) = (Box::new(spec(&web())), LoadPolicy::default());
    Command::Declare { ticket: Ticket(ticket), since, spec, policy, owner, priority: 0 }
}

pub(super) fn transfer(epoch: u64, from: Claim, to: &str, number: u8) -> Command {
    Command::Transfer { load: web(), epoch: Epoch(epoch), from, to: node(to), handover: handover(number) }
}

pub(super) fn refuse(epoch: u64, number: u8) -> Command {
    Command::Refuse { load: web(), epoch: Epoch(epoch), handover: handover(number) }
}

pub(super) fn revive(epoch: u64, by: Claim, from: Option<u8>) -> Command {
    let from = from.map(checkpoint_id);
    Command::Revive { load: web(), epoch: Epoch(epoch), by, from, lost_ms: None }
}

pub(super) fn reassign(epoch: u64, owner: &str, to: Option<&str>, begin: Begin) -> Command {
    let (owner, to) = (node(owner), to.map(node));
    let (load, epoch, numbered, lost_ms) = (web(), Epoch(epoch), u64::MAX, None);
    Command::Reassign(Reassignment { load, epoch, owner, to, begin, numbered, lost_ms })
}

pub(super) fn assign(epoch: u64, to: &str) -> Command {
    Command::Assign { load: web(), epoch: Epoch(epoch), to: node(to) }
}

pub(super) fn began(epoch: u64, by: Claim) -> Command {
    Command::Began { load: web(), epoch: Epoch(epoch), by }
}

pub(super) fn ended(epoch: u64, by: Claim) -> Command {
    Command::Ended { load: web(), epoch: Epoch(epoch), by, exit: Some(Exit::Code(0)) }
}

/// It could not be begun.
pub(super) fn broke(epoch: u64, by: Claim) -> Command {
    Command::Broke { load: web(), epoch: Epoch(epoch), by, began: false, reason: "it fell".to_owned() }
}

/// It had begun.
pub(super) fn broke_down(epoch: u64, by: Claim) -> Command {
    Command::Broke { load: web(), epoch: Epoch(epoch), by, began: true, reason: "it fell".to_owned() }
}

pub(super) fn lose(epoch: u64, owner: Claim) -> Command {
    Command::Lose { load: web(), epoch: Epoch(epoch), owner, reason: "nothing was kept".to_owned() }
}

pub(super) fn wish(epoch: u64, since: u64, wish: Wanted) -> Command {
    Command::Wish { load: web(), epoch: Epoch(epoch), since, wish }
}

pub(super) fn gone(epoch: u64, owner: &str, session: Option<u64>) -> Command {
    Command::Gone { load: web(), epoch: Epoch(epoch), owner: node(owner), session }
}

pub(super) fn checkpoint(number: u8, holders: &[&str]) -> CheckpointEntry {
    CheckpointEntry {
        id: checkpoint_id(number),
        number: number.into(),
        since: 0,
        taken_ms: 1_700_000_000_000,
        kind: CheckpointKind::Periodic,
        healthy: true,
        bytes: 10 << 20,
        holders: holders.iter().map(|name| node(name)).collect(),
        depots: [].into(),
        damaged: false,
        sound_ms: None,
        restored: None,
    }
}

pub(super) fn kept(epoch: u64, by: Claim, number: u8) -> Command {
    Command::Kept { load: web(), epoch: Epoch(epoch), by, checkpoint: checkpoint(number, &["a", "b"]) }
}

/// A record, and the number of the last command that it was given.
#[derive(Clone)]
pub(super) struct Book {
    pub(super) record: Record,
    pub(super) at: u64,
}

impl Book {
    /// Of a cluster without nodes.
    pub(super) fn empty() -> Book {
        Book { record: Record::new(ClusterId([7; 16]), ClusterPolicy::default()), at: 0 }
    }

    /// Three members `a`, `b`, `c`, each in its session 1, which ends where nobody keeps it.
    pub(super) fn company() -> Book {
        let mut book = Book::empty();
        for name in ["a", "b", "c"] {
            book.must(admit(name, mark(name), 0)).must(open(name, 0));
        }
        book
    }

    /// `web` runs on `a`, in epoch 1; the checkpoints 1 and 2 of it are kept.
    pub(super) fn running() -> Book {
        let mut book = Book::company();
        book.must(declare(1, 0, Some(claim("a", 1)))).must(began(1, claim("a", 1)));
        book.must(kept(1, claim("a", 1), 1)).must(kept(1, claim("a", 1), 2));
        book
    }

    /// The command's answer. Whatever it is, this holds:
    ///
    /// - a command that is not `Changed` leaves every byte;
    /// - one that is, is `AlreadySo` at once after;
    /// - carried out on the entries that it names alone, it does the same.
    pub(super) fn apply(&mut self, command: &Command) -> Answer {
        let before = self.record.clone();
        self.at += 1;
        let answer = self.record.apply(self.at, command);

        let keys = Record::entries_of(command);
        let mut part = before.part(&keys);
        assert_eq!(part.apply(self.at, command), answer, "on its entries alone: {command:?}");
        let after = self.record.part(&keys);
        assert_eq!(part, after, "on its entries alone: {command:?}");
        let mut put_together = before.clone();
        put_together.put_back(&keys, after);
        put_together.revision = self.record.revision;
        assert_eq!(put_together, self.record, "{command:?} touches nothing else");

        if answer == Ok(Applied::Changed) {
            assert_ne!(self.record, before, "{command:?}");
            let after = self.record.clone();
            self.at += 1;
            assert_eq!(self.record.apply(self.at, command), Ok(Applied::AlreadySo), "again: {command:?}");
            assert_eq!(self.record, after, "again: {command:?}");
        } else {
            assert_eq!(self.record, before, "{command:?}: {answer:?}");
        }
        answer
    }

    /// A command that takes effect.
    pub(super) fn must(&mut self, command: Command) -> &mut Book {
        assert_eq!(self.apply(&command), Ok(Applied::Changed), "{command:?}");
        self
    }

    pub(super) fn web(&self) -> &LoadEntry {
        &self.record.loads[&web()]
    }

    /// The node's entry's number, for commands that compare it; 0 where there is none.
    pub(super) fn since(&self, name: &str) -> u64 {
        self.record.nodes.get(&node(name)).map_or(0, |node| node.since)
    }

    /// The command that drops a checkpoint which is as it is now.
    pub(super) fn dropped(&self, number: u8) -> Command {
        let checkpoint = checkpoint_id(number);
        let listed = self.record.loads.get(&web()).and_then(|load| load.checkpoint(checkpoint));
        Command::Dropped { load: web(), checkpoint, since: listed.map_or(0, |checkpoint| checkpoint.since) }
    }

    /// What drops it takes effect.
    pub(super) fn must_drop(&mut self, number: u8) -> &mut Book {
        self.must(self.dropped(number))
    }
}
