//! Many histories at once, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{Bug, Coverage, Violation, history};

/// Seeds are handed out in portions.
const PORTION: u64 = 64;

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How many histories were run to their end, or to their failure.
    pub seeds: u64,
    /// How many things happened in them.
    pub things: u64,
    /// How many handovers there were.
    pub handovers: u64,
    /// Of these, how many were committed.
    pub moved: u64,
    /// Workloads that went with a node's power.
    pub lost: u64,
    /// How often a target restored from its image a second time.
    pub restored_again: u64,
    /// How long it took.
    pub took: Duration,
    /// What was hit by what.
    pub coverage: Coverage,
    /// The smallest seed that failed, and how.
    pub failed: Option<(u64, Violation)>,
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.seeds += other.seeds;
        self.things += other.things;
        self.handovers += other.handovers;
        self.moved += other.moved;
        self.lost += other.lost;
        self.restored_again += other.restored_again;
        self.coverage.add(&other.coverage);
        self.failed = [self.failed.take(), other.failed].into_iter().flatten().min_by_key(|(seed, _)| *seed);
    }

    /// Histories a second.
    pub fn rate(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Runs the histories of `count` seeds from `first` on; after a failure no new ones are begun.
pub fn run(first: u64, count: u64, bug: Option<Bug>) -> Outcome {
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut outcome = Outcome::default();
        while !failed.load(Ordering::Relaxed) {
            let from = next.fetch_add(PORTION, Ordering::Relaxed);
            if from >= count {
                break;
            }
            for seed in from..(from + PORTION).min(count) {
                let seed = first.wrapping_add(seed);
                let (world, verdict) = history(seed, bug);
                outcome.seeds += 1;
                world.count(&mut outcome);
                if let Err(violation) = verdict {
                    failed.store(true, Ordering::Relaxed);
                    outcome.failed.get_or_insert((seed, violation));
                }
            }
        }
        outcome
    };
    let mut all = Outcome::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => all.add(outcome),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all.took = begun.elapsed();
    all
}
