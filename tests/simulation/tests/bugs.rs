//! Every deliberate bug is caught by the invariants that are meant for it, each judged alone.

use migrate_simulation::{Bug, Invariant, World};

/// Among so many histories there must be one that the bug does not survive.
const SEEDS: u64 = 20_000;

fn catches(bug: Bug, invariant: Invariant) -> bool {
    (0..SEEDS).any(|seed| World::new(seed, Some(bug), false).judge_only(invariant).live().is_err())
}

#[test]
fn every_bug_is_caught_by_the_invariants_that_are_meant_for_it() {
    let pairs = Bug::ALL.iter().flat_map(|bug| bug.caught_by().iter().map(|invariant| (*bug, *invariant)));
    let pairs: Vec<(Bug, Invariant)> = pairs.collect();
    let missed: Vec<String> = std::thread::scope(|scope| {
        let halves: Vec<_> = (0..2)
            .map(|half| {
                let mine: Vec<_> = pairs.iter().skip(half).step_by(2).copied().collect();
                let judge = move |(bug, invariant)| (!catches(bug, invariant)).then(|| format!("{bug} by {invariant}"));
                scope.spawn(move || mine.into_iter().filter_map(judge).collect::<Vec<_>>())
            })
            .collect();
        halves
            .into_iter()
            .flat_map(|half| half.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    assert!(missed.is_empty(), "not caught in {SEEDS} histories: {missed:?}");
}

#[test]
fn every_invariant_is_proven_by_a_bug() {
    let all = [
        Invariant::AtMostOneRunning,
        Invariant::NothingLost,
        Invariant::EpochsOnlyRise,
        Invariant::NoResumeAfterCommit,
        Invariant::EventuallySettled,
    ];
    for invariant in all {
        assert!(Bug::ALL.iter().any(|bug| bug.caught_by().contains(&invariant)), "nothing proves {invariant}");
    }
}
