//! The cluster that agrees and heals itself: no history violates an invariant, and every deliberate bug is caught by those that are
//! meant for it, each judged alone.

use std::time::{SystemTime, UNIX_EPOCH};

use migrate_simulation::cluster::{self, Bug, Invariant, World};

/// How many histories of each kind; `scripts/simulate --cluster` runs many more.
const HISTORIES: u64 = 150;
/// Among so many there must be one that a bug does not survive, where it survives the one in which it was caught last.
const SEARCHED: u64 = 4_000;

fn all_hold(first: u64) {
    let outcome = cluster::run(first, HISTORIES, None, None, 2);
    if let Some((seed, violation)) = &outcome.failed {
        panic!("{violation}\nreproduce: scripts/simulate --cluster --seed {seed} --trace");
    }
    // A world in which nothing interesting happens proves nothing.
    let tally = &outcome.tally;
    assert_eq!(outcome.seeds, HISTORIES);
    let enough = |count: u64, for_each: u64| count * for_each > HISTORIES;
    assert!(enough(tally.fences, 1) && enough(tally.elections, 1) && enough(tally.electorates, 4), "{tally}");
    assert!(enough(tally.recovered[0], 3) && enough(tally.recovered[2], 10), "{tally}");
    assert!(enough(tally.moved, 5) && enough(tally.salvaged, 30) && enough(tally.checkpoints, 1), "{tally}");
    let [run, ended, said] = tally.ends;
    assert!(said * 4 < run + ended, "most of what could be saved was: {tally}");
}

#[test]
fn every_invariant_holds_in_the_same_histories_as_ever() {
    all_hold(0);
}

#[test]
fn every_invariant_holds_in_new_histories() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    println!("seeds from {seed}");
    all_hold(seed);
}

fn catches(bug: Bug, invariant: Invariant, seed: u64) -> bool {
    World::new(seed, Some(bug), false).judge_only(invariant).live().is_err()
}

#[test]
fn every_bug_is_caught_by_the_invariants_that_are_meant_for_it() {
    let pairs =
        Bug::ALL.iter().flat_map(|bug| bug.caught_by().iter().map(|(invariant, seed)| (*bug, *invariant, *seed)));
    let survives = |(bug, invariant, seed): &(Bug, Invariant, u64)| {
        let seeds = [*seed].into_iter().chain(0..SEARCHED);
        !seeds.into_iter().any(|seed| catches(*bug, *invariant, seed))
    };
    let missed: Vec<String> =
        pairs.filter(survives).map(|(bug, invariant, _)| format!("{bug} by {invariant}")).collect();
    assert!(missed.is_empty(), "not caught in {SEARCHED} histories: {missed:?}");
}

#[test]
fn every_invariant_is_proven_by_a_bug() {
    for invariant in Invariant::ALL {
        let proves = |bug: &&Bug| bug.caught_by().iter().any(|(caught_by, _)| *caught_by == invariant);
        assert!(Bug::ALL.iter().any(|bug| proves(&bug)), "nothing proves {invariant}");
    }
}

#[test]
fn a_seed_is_always_the_same_history() {
    let traced = |seed| {
        let mut world = World::new(seed, None, true);
        let verdict = world.live();
        (world.trace().cloned().collect::<Vec<_>>(), verdict)
    };
    for seed in 0..5 {
        assert_eq!(traced(seed), traced(seed));
    }
}
