//! The sample of the matrix that runs with all other tests: every phase and every fault at least once, each in a lab that it
//! shares with the cells of the same test. All of it: `scripts/faults`.

use std::time::Duration;

use migrate_faults::cell;
use migrate_faults::matrix::{Cell, Fault, Moment, Side};
use migrate_faults::report::HEAD;
use migrate_faults::stage::Stage;
use migrate_proto::phase::Phase;

/// Here nothing depends on being fast; what is promised, two seconds, is asked by `scripts/faults`.
const RESUMED_WITHIN: Duration = Duration::from_secs(10);

fn all_pass(cells: &[(Fault, Side, Phase, Moment)]) {
    all_pass_on(|| Stage::up(2), cells);
}

fn all_pass_on(up: impl Fn() -> Stage, cells: &[(Fault, Side, Phase, Moment)]) {
    let mut stage = up();
    println!("{HEAD}");
    for &(fault, side, phase, moment) in cells {
        let row = cell::run(&mut stage, Cell { fault, phase, side, moment }, RESUMED_WITHIN);
        println!("{}", row.line());
        assert!(row.passed(), "{}", row.line());
        assert_eq!(row.fired, Ok(true), "{}", row.line());
        if row.dirty {
            stage = up();
        }
    }
}

#[test]
fn real_criu_agents_die() {
    all_pass(&[
        (Fault::AgentKilled, Side::Source, Phase::Freeze, Moment::Begun),
        (Fault::AgentKilled, Side::Target, Phase::Restore, Moment::Begun),
        (Fault::AgentKilled, Side::Source, Phase::Commit, Moment::Begun),
        (Fault::AgentKilled, Side::Target, Phase::CleanUp, Moment::Entered),
        (Fault::AgentStopped, Side::Target, Phase::Verify, Moment::Begun),
    ]);
}

#[test]
fn real_criu_links_break() {
    all_pass(&[
        (Fault::LinkCut, Side::Source, Phase::Negotiate, Moment::Begun),
        (Fault::LinkCut, Side::Target, Phase::Resume, Moment::Entered),
        (Fault::LinkHealed, Side::Source, Phase::Verify, Moment::Begun),
        (Fault::CorruptBytes, Side::Source, Phase::Transfer, Moment::Begun),
    ]);
}

#[test]
fn real_criu_dies_or_hangs() {
    all_pass(&[
        (Fault::CriuKilled, Side::Source, Phase::Freeze, Moment::Begun),
        (Fault::CriuKilled, Side::Source, Phase::Transfer, Moment::Entered),
        (Fault::CriuKilled, Side::Target, Phase::Resume, Moment::Entered),
        (Fault::CriuKilled, Side::Target, Phase::Prepare, Moment::Begun),
        (Fault::CriuHangs, Side::Source, Phase::Prepare, Moment::Begun),
    ]);
}

#[test]
fn real_criu_nodes_have_no_power_or_no_room() {
    all_pass(&[
        (Fault::PowerLoss, Side::Target, Phase::Transfer, Moment::Begun),
        (Fault::PowerLoss, Side::Target, Phase::Resume, Moment::Begun),
        (Fault::PowerLoss, Side::Source, Phase::Preflight, Moment::Entered),
        (Fault::DiskFull, Side::Target, Phase::Prepare, Moment::Begun),
        (Fault::OutOfMemory, Side::Target, Phase::Transfer, Moment::Begun),
    ]);
}

/// The source leads, as a rule: its agent's death is the leader's.
#[test]
fn real_criu_agents_die_in_a_cluster() {
    all_pass_on(
        Stage::up_cluster,
        &[
            (Fault::AgentKilled, Side::Source, Phase::Transfer, Moment::Begun),
            (Fault::AgentKilled, Side::Source, Phase::Commit, Moment::Begun),
            (Fault::AgentKilled, Side::Target, Phase::Commit, Moment::Begun),
            (Fault::AgentKilled, Side::Source, Phase::Resume, Moment::Entered),
            (Fault::AgentKilled, Side::Target, Phase::Resume, Moment::Begun),
        ],
    );
}
