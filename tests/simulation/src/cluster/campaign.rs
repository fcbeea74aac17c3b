//! Many histories, and what they were like.

use std::fmt;
use std::time::{Duration, Instant};

use super::bug::Bug;
use super::faults::Fault;
use super::invariants::{Invariant, Violation};
use super::world::World;
use migrate_proto::cluster::record::{Life, Origin};

/// What happened, in one history or in many.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Things that happened.
    pub things: u64,
    /// How often somebody else began to lead.
    pub elections: u64,
    /// How often the voters changed.
    pub electorates: u64,
    /// Sessions that were taken up.
    pub sessions: u64,
    /// Leases that were ended.
    pub fences: u64,
    /// Workloads that went on elsewhere, from a checkpoint, from the image of a move, and from nothing.
    pub recovered: [u64; 3],
    /// Moves that were begun, and those that were carried out.
    pub moves: u64,
    /// As above.
    pub moved: u64,
    /// Checkpoints that were told to the record.
    pub checkpoints: u64,
    /// How often a fenced node went on with what was still its own.
    pub salvaged: u64,
    /// How often each fault struck.
    pub faults: [u64; Fault::ALL.len()],
    /// At the end: workloads that run, that have ended, that failed or are lost.
    pub ends: [u64; 3],
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { things, elections, electorates, sessions, fences, moves, moved, checkpoints, salvaged, .. } = self;
        let [from_checkpoints, from_images, from_nothing] = self.recovered;
        let [run, ended, said] = self.ends;
        writeln!(f, "{things} things happened; {elections} elections, {electorates} changes of voters")?;
        writeln!(
            f,
            "{sessions} sessions taken up again, {fences} fenced; {salvaged} lost workloads that came back by themselves"
        )?;
        writeln!(
            f,
            "brought back: {from_checkpoints} from checkpoints, {from_images} from images, {from_nothing} from nothing"
        )?;
        writeln!(f, "{moves} moves, {moved} carried out; checkpoints told to the record {checkpoints} times")?;
        writeln!(f, "at the end {run} workloads run, {ended} have ended, {said} have failed or are lost")?;
        write!(f, "faults:")?;
        Fault::ALL.iter().zip(self.faults).try_for_each(|(fault, count)| write!(f, " {fault:?} {count}"))
    }
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.things += other.things;
        self.elections += other.elections;
        self.electorates += other.electorates;
        self.sessions += other.sessions;
        self.fences += other.fences;
        self.moves += other.moves;
        self.moved += other.moved;
        self.checkpoints += other.checkpoints;
        self.salvaged += other.salvaged;
        let add =
            |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
        add(&mut self.recovered, &other.recovered);
        add(&mut self.faults, &other.faults);
        add(&mut self.ends, &other.ends);
    }
}

impl World {
    /// How everything ended.
    pub(crate) fn tally_up(&mut self) {
        let record = std::sync::Arc::clone(self.log.record());
        for entry in record.loads.values() {
            let which = match entry.life {
                Life::Stopped(_) => 1,
                Life::Failed(_) | Life::Lost(_) => 2,
                _ => 0,
            };
            self.tally.ends[which] += 1;
        }
    }

    /// An entry of the log has changed the record.
    pub(crate) fn tally_entry(&mut self) {
        let (before, after) = match &self.log.states[..] {
            [.., before, after] => (before, after),
            _ => return,
        };
        for (name, node) in &after.nodes {
            let newly = node.fenced && before.nodes.get(name).is_some_and(|before| !before.fenced);
            self.tally.fences += u64::from(newly);
        }
        for (name, load) in &after.loads {
            let Some(was) = before.loads.get(name) else { continue };
            self.tally.salvaged += u64::from(matches!(was.life, Life::Lost(_)) && load.life == Life::Running);
            if load.epoch > was.epoch && load.origin == Origin::Reassigned {
                let which = if load.from.is_some() {
                    0
                } else if load.via.is_some() {
                    1
                } else {
                    2
                };
                self.tally.recovered[which] += 1;
            }
        }
    }
}

/// What many histories were.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many.
    pub seeds: u64,
    /// What happened in them.
    pub tally: Tally,
    /// The first seed that failed, and how.
    pub failed: Option<(u64, Violation)>,
    /// How long it took.
    pub took: Duration,
}

/// Runs `count` histories from `first` on, as many at once as asked for; it ends with the first that fails. Where one invariant is named only
/// that is judged.
pub fn run(first: u64, count: u64, bug: Option<Bug>, only: Option<Invariant>, jobs: usize) -> Outcome {
    let begun = Instant::now();
    let mut all = Outcome::default();
    let jobs = jobs.max(1) as u64;
    let failed = std::sync::atomic::AtomicBool::new(false);
    let failed = &failed;
    let work = move |job: u64| {
        let mut outcome = Outcome::default();
        for seed in (job..count).step_by(jobs as usize).map(|offset| first.wrapping_add(offset)) {
            if failed.load(std::sync::atomic::Ordering::Relaxed) {
                break;
            }
            let mut world = World::new(seed, bug, false);
            world.only = only;
            let verdict = world.live();
            outcome.seeds += 1;
            outcome.tally.add(&world.tally);
            if let Err(violation) = verdict {
                failed.store(true, std::sync::atomic::Ordering::Relaxed);
                outcome.failed = Some((seed, violation));
            }
        }
        outcome
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => {
                    all.seeds += outcome.seeds;
                    all.tally.add(&outcome.tally);
                    all.failed = all.failed.take().or(outcome.failed);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all.took = begun.elapsed();
    all
}
