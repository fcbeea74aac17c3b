//! Both machines against each other, in a world that loses messages, cuts links, fails at everything that can fail, and
//! kills agents and nodes between any two commands. One seed is one history.
//!
//! After every command four things must hold: at most one copy runs, the source never runs after `commit`, the target
//! never without it, and somebody can run the workload. When the faults stop, both sides must finish, agree, and exactly
//! one copy must run.
#![allow(clippy::unwrap_used)]

mod world;

use world::{Bugs, World};

/// Runs one history; says what went wrong in it.
fn history(seed: u64, bugs: Bugs) -> Result<World, String> {
    let mut world = World::new(seed, bugs);
    for _ in 0..250 {
        world.turn(true)?;
    }
    world.heal();
    for _ in 0..2000 {
        if world.is_quiet() {
            break;
        }
        world.turn(false)?;
    }
    world.check_end()?;
    Ok(world)
}

#[test]
fn one_copy_runs_and_somebody_can_run_in_every_history() {
    let (mut moved, mut stayed, mut doubts, mut again) = (0, 0, 0, 0);
    for seed in 0..20_000 {
        let world = history(seed, Bugs::default()).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        *(if world.runs_on_target() { &mut moved } else { &mut stayed }) += 1;
        doubts += usize::from(world.was_in_doubt);
        again += usize::from(world.was_restored_again);
    }
    // A world in which nothing interesting happens proves nothing.
    for (what, count) in [("moved", moved), ("stayed", stayed), ("in doubt", doubts), ("restored again", again)] {
        assert!(count > 100, "only {count} histories {what}");
    }
}

/// Whether some history goes wrong in this way.
fn is_caught(bugs: Bugs, how: &str) -> bool {
    (0..6000).any(|seed| history(seed, bugs).is_err_and(|wrong| wrong.contains(how)))
}

#[test]
fn a_target_that_drops_when_the_link_is_lost_loses_the_workload() {
    assert!(is_caught(Bugs { target_drops_in_doubt: true, ..Bugs::default() }, "nobody can run"));
}

#[test]
fn a_target_that_goes_on_by_itself_runs_twice() {
    assert!(is_caught(Bugs { target_resumes_in_doubt: true, ..Bugs::default() }, "two copies run"));
}

#[test]
fn a_target_that_does_not_write_down_that_it_is_in_doubt_loses_the_workload() {
    assert!(is_caught(Bugs { target_forgets_commit_phase: true, ..Bugs::default() }, "nobody can run"));
}

#[test]
fn a_source_that_resumes_without_a_decision_runs_what_it_gave_away() {
    assert!(is_caught(Bugs { source_resumes_undecided: true, ..Bugs::default() }, "the source runs after commit"));
}

#[test]
fn a_source_that_ends_its_copy_before_the_decision_loses_the_workload() {
    assert!(is_caught(Bugs { source_ends_undecided: true, ..Bugs::default() }, "nobody can run"));
}

#[test]
fn a_source_that_forgets_too_early_misleads_the_target() {
    assert!(is_caught(Bugs { source_forgets_at_commit: true, ..Bugs::default() }, "nobody can run"));
}
