//! Power that fails, and processes that are killed, between any two writes: what was acknowledged is there, what was under way is
//! there whole or not at all, and the record is what the log says.

use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{
    Entry, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder, SnapshotMeta, StorageHelper, StoredMembership, Vote,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::{Log, Machine, Store, snapshot};
use super::disk::Disk;
use super::{NODE, admit, append, at, create_on, open_on, record_after, voters};
use crate::types::Types;

const SEEDS: u64 = 4;
const TURNS: usize = 30;

/// What is on the disk.
#[derive(Debug, Clone, Default, PartialEq)]
struct Stored {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    log: Vec<Entry<Types>>,
    snapshot: Option<LogId<u64>>,
}

/// Something that raft does.
#[derive(Debug, Clone)]
enum Step {
    Vote(Vote<u64>),
    Append(Vec<Entry<Types>>),
    Truncate(LogId<u64>),
    Commit(LogId<u64>, Vec<Entry<Types>>),
    Snapshot,
    Purge(LogId<u64>),
    Install(LogId<u64>, Vec<Entry<Types>>),
    Reopen,
}

/// A step, and how things are after it.
#[derive(Debug, Clone)]
struct Turn {
    step: Step,
    after: Stored,
    committed: Option<LogId<u64>>,
    /// What of that is on the disk in any case.
    committed_at_least: Option<LogId<u64>>,
}

/// Makes up what raft may do.
struct Author {
    dice: StdRng,
    term: u64,
    now: Turn,
    /// All that was ever agreed, from the first entry on.
    agreed: Vec<Entry<Types>>,
}

impl Author {
    fn new(seed: u64) -> Author {
        let nothing = Turn { step: Step::Reopen, after: Stored::default(), committed: None, committed_at_least: None };
        Author { dice: StdRng::seed_from_u64(seed), term: 1, now: nothing, agreed: Vec::new() }
    }

    fn turns(mut self) -> (Vec<Turn>, Vec<Entry<Types>>) {
        let mut turns = vec![self.now.clone()];
        while turns.len() < TURNS {
            let Some(step) = self.step() else { continue };
            turns.push(self.take(step));
            if let Some(Turn { step: Step::Install(last, _), .. }) = turns.last() {
                let purge = Step::Purge(*last);
                turns.push(self.take(purge));
            }
        }
        (turns, self.agreed)
    }

    fn next_index(&self) -> u64 {
        let last = self.now.after.log.last().map(|entry| entry.log_id).or(self.now.after.purged);
        last.map_or(0, |last| last.index + 1)
    }

    fn entry(&mut self, index: u64) -> Entry<Types> {
        match self.dice.random_range(0..10) {
            0 => Entry { log_id: at(self.term, index), payload: EntryPayload::Blank },
            1 => voters(self.term, index, &[NODE, index + 100]),
            _ => admit(self.term, index),
        }
    }

    fn step(&mut self) -> Option<Step> {
        let next = self.next_index();
        let committed = self.agreed.len() as u64;
        let open: Vec<LogId<u64>> =
            self.now.after.log.iter().map(|entry| entry.log_id).filter(|at| at.index >= committed).collect();
        let one_of_open = if open.is_empty() { None } else { Some(open[self.dice.random_range(0..open.len())]) };
        match self.dice.random_range(0..100) {
            0..40 => {
                let count = self.dice.random_range(1..5);
                Some(Step::Append((next..next + count).map(|index| self.entry(index)).collect()))
            }
            40..50 => Some(Step::Vote(Vote::new(self.term + 1, NODE))),
            50..58 => one_of_open.map(Step::Truncate),
            58..78 => one_of_open.map(|upto| {
                let newly = self.now.after.log.iter().filter(|entry| open.contains(&entry.log_id));
                Step::Commit(upto, newly.filter(|entry| entry.log_id <= upto).cloned().collect())
            }),
            78..86 => (self.now.committed > self.now.after.snapshot).then_some(Step::Snapshot),
            86..92 => {
                let (purged, snapshot) = (self.now.after.purged, self.now.after.snapshot);
                let log = self.now.after.log.iter().map(|entry| entry.log_id);
                let may_go: Vec<_> = log.filter(|at| Some(*at) > purged && Some(*at) <= snapshot).collect();
                may_go.get(self.dice.random_range(0..may_go.len().max(1))).copied().map(Step::Purge)
            }
            92..95 => {
                let (begin, end) = (self.agreed.len() as u64, next.max(committed) + self.dice.random_range(1..4));
                let more: Vec<_> = (begin..end).map(|index| self.entry(index)).collect();
                Some(Step::Install(at(self.term, end - 1), more))
            }
            _ => Some(Step::Reopen),
        }
    }

    fn take(&mut self, step: Step) -> Turn {
        let now = &mut self.now;
        match &step {
            Step::Vote(vote) => {
                self.term += 1;
                now.after.vote = Some(*vote);
            }
            Step::Append(entries) => now.after.log.extend(entries.iter().cloned()),
            Step::Truncate(from) => now.after.log.retain(|entry| entry.log_id < *from),
            Step::Commit(upto, newly) => {
                now.committed = Some(*upto);
                self.agreed.extend(newly.iter().cloned());
            }
            Step::Snapshot => now.after.snapshot = now.committed,
            Step::Purge(upto) => {
                now.after.purged = Some(*upto);
                now.after.log.retain(|entry| entry.log_id.index > upto.index);
            }
            Step::Install(last, more) => {
                self.agreed.extend(more.iter().cloned());
                now.after.snapshot = Some(*last);
            }
            Step::Reopen => {}
        }
        if !matches!(step, Step::Commit(..) | Step::Snapshot | Step::Install(..)) {
            now.committed_at_least = now.committed;
        }
        now.step = step;
        now.clone()
    }
}

/// A node, as far as it has a store.
struct Node {
    disk: Disk,
    log: Log,
    machine: Machine,
    closed: super::super::Closed,
    agreed: Vec<Entry<Types>>,
}

impl Node {
    fn new(disk: Disk, store: Store) -> Node {
        let closed = store.closed();
        let (log, machine) = store.split();
        Node { disk, log, machine, closed, agreed: Vec::new() }
    }

    async fn take(mut self, step: &Step) -> Result<Node, String> {
        let said = |e: openraft::StorageError<u64>| e.to_string();
        match step {
            Step::Vote(vote) => self.log.save_vote(vote).await.map_err(said)?,
            Step::Append(entries) => append(&mut self.log, entries.iter().cloned()).await?,
            Step::Truncate(from) => self.log.truncate(*from).await.map_err(said)?,
            Step::Commit(upto, newly) => {
                self.log.save_committed(Some(*upto)).await.map_err(said)?;
                self.machine.apply(newly.iter().cloned()).await.map_err(said)?;
                self.agreed.extend(newly.iter().cloned());
            }
            Step::Snapshot => {
                self.machine.get_snapshot_builder().await.build_snapshot().await.map_err(said)?;
            }
            Step::Purge(upto) => self.log.purge(*upto).await.map_err(said)?,
            Step::Install(last, more) => {
                self.agreed.extend(more.iter().cloned());
                let (meta, data) = snapshot_of(&self.agreed, *last);
                self.machine.install_snapshot(&meta, Box::new(std::io::Cursor::new(data))).await.map_err(said)?;
            }
            Step::Reopen => {
                drop((self.log, self.machine));
                self.closed.wait().await;
                let store = open_on(&self.disk).await.map_err(|e| e.to_string())?;
                let agreed = self.agreed;
                self = Node { agreed, ..Node::new(self.disk, store) };
                StorageHelper::new(&mut self.log, &mut self.machine).get_initial_state().await.map_err(said)?;
            }
        }
        Ok(self)
    }
}

fn snapshot_of(agreed: &[Entry<Types>], last: LogId<u64>) -> (SnapshotMeta<u64, crate::types::Place>, Vec<u8>) {
    let data = snapshot::encode(&record_after(agreed)).unwrap();
    let membership = agreed.iter().rev().find_map(|entry| match &entry.payload {
        EntryPayload::Membership(membership) => Some(StoredMembership::new(Some(entry.log_id), membership.clone())),
        _ => None,
    });
    let snapshot_id = snapshot::id_of(Some(&last), &data);
    (SnapshotMeta { last_log_id: Some(last), last_membership: membership.unwrap_or_default(), snapshot_id }, data)
}

/// Takes all turns, or as many as the disk lets it. Says how many were acknowledged.
async fn live(disk: &Disk, turns: &[Turn]) -> usize {
    let Ok(store) = open_on(disk).await else { return 1 };
    let mut node = Node::new(disk.clone(), store);
    for (taken, turn) in turns.iter().enumerate().skip(1) {
        let closed = node.closed.clone();
        match node.take(&turn.step).await {
            Ok(next) => node = next,
            Err(_) => {
                closed.wait().await;
                return taken;
            }
        }
    }
    let closed = node.closed.clone();
    drop(node);
    closed.wait().await;
    turns.len()
}

async fn stored(log: &mut Log, machine: &mut Machine) -> Stored {
    Stored {
        vote: log.read_vote().await.unwrap(),
        purged: log.get_log_state().await.unwrap().last_purged_log_id,
        log: log.try_get_log_entries(..).await.unwrap(),
        snapshot: machine.get_current_snapshot().await.unwrap().and_then(|snapshot| snapshot.meta.last_log_id),
    }
}

/// `disk` was found after `taken` turns were acknowledged and the next had perhaps begun.
async fn must_be_consistent(disk: &Disk, turns: &[Turn], taken: usize, agreed: &[Entry<Types>]) {
    let (before, begun) = (&turns[taken - 1], &turns[taken.min(turns.len() - 1)]);
    let (mut log, mut machine) = open_on(disk).await.unwrap().split();
    let found = stored(&mut log, &mut machine).await;
    let under_way = &begun.step;
    assert!(found == before.after || found == begun.after, "{under_way:?} left {found:#?}, before it {before:#?}");
    let committed = log.read_committed().await.unwrap();
    assert!(committed >= before.committed_at_least && committed <= begun.committed, "{committed:?} in {under_way:?}");

    StorageHelper::new(&mut log, &mut machine).get_initial_state().await.unwrap();
    let (applied, _) = machine.applied_state().await.unwrap();
    assert_eq!(applied, committed.max(found.snapshot));
    let expected = record_after(agreed.iter().filter(|entry| Some(entry.log_id) <= applied));
    assert_eq!(**machine.records().borrow(), expected, "after {under_way:?}");
    log.save_vote(&Vote::new(1_000, NODE)).await.unwrap();
}

#[tokio::test]
async fn power_may_fail_between_any_two_writes() {
    let empty = Disk::default();
    let store = create_on(&empty).await.unwrap();
    let closed = store.closed();
    drop(store);
    closed.wait().await;
    let mut dice = StdRng::seed_from_u64(7);
    let mut failures = 0;
    for seed in 0..SEEDS {
        let (turns, agreed) = Author::new(seed).turns();
        let whole = empty.after_kill();
        assert_eq!(live(&whole, &turns).await, turns.len(), "seed {seed}");
        for write in 0..whole.writes() {
            let disk = empty.after_kill();
            disk.dies_at(write);
            let taken = live(&disk, &turns).await;
            must_be_consistent(&disk.after_kill(), &turns, taken, &agreed).await;
            must_be_consistent(&disk.after_power_loss(&mut dice), &turns, taken, &agreed).await;
            let again = disk.after_power_loss(&mut dice);
            again.dies_at(dice.random_range(0..8));
            drop(open_on(&again).await);
            must_be_consistent(&again.after_power_loss(&mut dice), &turns, taken, &agreed).await;
            failures += 1;
        }
    }
    assert!(failures > 300, "{failures}");
}
