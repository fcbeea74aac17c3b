//! The harness of the whole-system tests itself: what it would have to find, it finds; what it has to take down, it takes down.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Lab, eventually};

/// A running lab with a workload has everything that a lab must not leave behind.
#[test]
fn what_a_lab_could_leave_behind_is_seen() {
    let lab = Lab::up(1);
    lab.specimen("resident", "node1", &["counter"]);
    let traces = lab.traces();
    for kind in ["process ", "mount ", "loop device ", "control group ", "directory "] {
        assert!(traces.iter().any(|trace| trace.starts_with(kind)), "no {kind}among {traces:#?}");
    }
    lab.assert_clean();
}

#[test]
fn a_claim_about_the_wrong_node_fails() {
    let lab = Lab::up(2);
    lab.specimen("resident", "node1", &["counter"]);
    assert!(!lab.processes("node1", "resident").is_empty());
    assert!(lab.processes("node2", "resident").is_empty());
    let claim = std::panic::AssertUnwindSafe(|| lab.assert_runs_only_on("resident", "node2"));
    assert!(std::panic::catch_unwind(claim).is_err());
    lab.assert_clean();
}

#[test]
fn lost_state_is_seen() {
    let lab = Lab::up(1);
    lab.specimen("resident", "node1", &["counter", "--sabotage", "counter"]);
    let claim = std::panic::AssertUnwindSafe(|| lab.wait_for_more_ok("resident", 1000));
    let panic = std::panic::catch_unwind(claim).unwrap_err();
    let why = panic.downcast_ref::<String>().unwrap();
    assert!(why.contains("BAD "), "{why}");
    lab.assert_clean();
}

/// Part of the next test.
#[test]
#[ignore = "not a test: it waits to be killed"]
fn wait_to_be_killed() {
    if std::env::var_os("TEST_WAITS_TO_BE_KILLED").is_none() {
        return;
    }
    let lab = Lab::up(1);
    println!("\nlab {}", lab.directory().display());
    std::thread::park();
}

#[test]
fn a_lab_goes_with_a_test_that_is_killed() {
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "wait_to_be_killed", "--nocapture"]).env("TEST_WAITS_TO_BE_KILLED", "yes");
    let mut test = test.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(test.stdout.take().unwrap()).lines();
    let lab = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("lab ")?.to_owned()));
    test.kill().unwrap();
    test.wait().unwrap();
    let lab = lab.unwrap();
    let place = Path::new(&lab).parent().unwrap();
    assert!(eventually(|| !place.exists()), "{} is still there", place.display());
}
