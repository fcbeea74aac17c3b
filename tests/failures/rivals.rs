//! Commands in each other's way, and a person who changes his mind.

use std::process::Child;

use migrate_proto::api::{Outcome, State};
use migrate_proto::error::Code;
use migrate_proto::phase::Phase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{Lab, Output, eventually};
use crate::stage::{BULKY, Watched};

/// A move that takes seconds, in its pause.
fn under_way() -> (Lab, Watched) {
    let lab = bulky();
    let mut watched = Watched::begin(&lab, "node1", "bulk", "node2");
    watched.until_sent(1 << 20);
    (lab, watched)
}

fn bulky() -> Lab {
    let lab = Lab::up(3);
    lab.specimen("bulk", "node1", BULKY);
    lab.wait_for_more_ok("bulk", 2);
    lab.narrow("node2");
    lab
}

/// The second is told that it is busy, and does not harm the first.
#[test]
fn two_moves_at_once() {
    let (lab, first) = under_way();
    for to in ["node2", "node3"] {
        let second = lab.migrate(["--json", "--force", "bulk", "--to", to]);
        assert_eq!(second.code(), 1, "{second:?}");
        assert_eq!(second.json()["error"]["code"], "busy", "{second:?}");
        assert!(second.stderr.contains("error: bulk is being moved"), "{second:?}");
        assert!(second.stderr.contains("hint: wait until that is done"), "{second:?}");
    }
    let report = first.report().unwrap();
    assert_eq!(report.outcome, Outcome::Moved, "{report:?}");
    lab.assert_goes_on("bulk", "node2");
    lab.assert_clean();
}

#[test]
fn stop_start_and_rm_while_it_moves() {
    let (lab, first) = under_way();
    for words in [&["stop", "bulk"][..], &["start", "bulk"], &["rm", "bulk"], &["rm", "-f", "bulk"]] {
        let output = lab.migrate(words);
        assert_eq!(output.code(), 1, "{words:?}: {output:?}");
        assert!(output.stderr.contains("error: bulk is being moved"), "{words:?}: {output:?}");
    }
    assert_eq!(lab.view("bulk").state, State::Migrating);
    assert_eq!(first.report().unwrap().outcome, Outcome::Moved);
    lab.assert_goes_on("bulk", "node2");
    lab.assert_clean();
}

/// Killed while its files are copied ahead, when nothing holds it yet: what it leaves is an ended workload, on its node.
#[test]
fn a_workload_that_ends_while_it_moves() {
    let lab = bulky();
    lab.give_files("bulk");
    let mut watched = Watched::begin(&lab, "node1", "bulk", "node2");
    watched.until(Phase::Prepare);
    lab.done(["exec", "bulk", "--", "sh", "-c", "kill -9 100"]);
    let report = watched.report().unwrap();
    let error = report.error.clone().unwrap();
    assert_eq!((report.outcome, error.code), (Outcome::Stayed, Code::WorkloadEnded), "{report:?}");
    assert!(error.message.contains("bulk ended") && error.message.contains("node1"), "{error:?}");
    assert!(eventually(|| lab.view("bulk").state == State::Stopped), "{:?}", lab.view("bulk"));
    assert_eq!(lab.view("bulk").node.as_str(), "node1");
    assert!(!lab.logs("bulk").is_empty(), "its output is gone");
    // It can be started again, and then be moved.
    lab.done(["lab", "heal"]);
    lab.done(["start", "bulk"]);
    assert!(eventually(|| lab.migrate(["--force", "bulk", "--to", "node2"]).status.success()));
    lab.assert_runs_only_on("bulk", "node2");
    lab.assert_clean();
}

/// `migrate --force` as a person types it.
fn forcing(lab: &Lab) -> Child {
    let child = lab.command(["--force", "bulk", "--to", "node2"]).spawn().unwrap();
    let moves = || lab.view("bulk").state == State::Migrating;
    assert!(eventually(moves), "the move does not begin");
    child
}

fn interrupt(child: &Child) {
    // It has not been waited for, so the PID is still its own.
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
}

#[test]
fn control_c_in_the_middle() {
    let lab = bulky();
    let before = lab.view("bulk");
    let child = forcing(&lab);
    interrupt(&child);
    let output = Output::from(child.wait_with_output().unwrap());
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("error: cancelled by ^C"), "{output:?}");
    assert!(output.stderr.contains("bulk: stayed on node1 (epoch 1)"), "{output:?}");
    assert_eq!(output.stdout, "");
    assert_eq!(lab.view("bulk").pid, before.pid);
    lab.assert_goes_on("bulk", "node1");
    lab.done(["lab", "heal"]);
    assert!(eventually(|| lab.migrate(["--force", "bulk", "--to", "node2"]).status.success()));
    lab.assert_goes_on("bulk", "node2");
    lab.assert_clean();
}

/// A client that goes away without a word cancels as well.
#[test]
fn a_client_that_is_killed() {
    let lab = bulky();
    let mut child = forcing(&lab);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(eventually(|| lab.view("bulk").state == State::Running), "{:?}", lab.view("bulk"));
    lab.assert_goes_on("bulk", "node1");
    lab.assert_clean();
}

#[test]
fn longer_than_its_time_limit() {
    let lab = bulky();
    let output = lab.migrate(["--timeout", "1s", "--force", "bulk", "--to", "node2"]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("--timeout") && output.stderr.contains("bulk: stayed on node1"), "{output:?}");
    lab.assert_goes_on("bulk", "node1");
    lab.assert_clean();
}
