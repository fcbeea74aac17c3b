//! Workloads that stopped, and what can be done beside one that runs.

use std::io::Write;
use std::process::Stdio;

use migrate_proto::api::{Exit, State};

use crate::harness::{Lab, Output, eventually};

#[test]
fn stopped_started_and_removed() {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    let reached = lab.wait_for_more_ok("count", 3);
    for words in [&["start", "count"][..], &["rm", "count"]] {
        let output = lab.migrate(words);
        assert_eq!(output.code(), 1, "{output:?}");
        assert!(output.stderr.contains("count runs"), "{output:?}");
    }
    lab.done(["stop", "count"]);
    assert_eq!(lab.view("count").state, State::Stopped);
    assert!(eventually(|| lab.processes("node1", "count").len() <= 1), "{:?}", lab.processes("node1", "count"));
    // Its output is still there, and so is its last line.
    assert!(lab.assert_intact("count") >= reached);
    let tail = lab.done(["logs", "--tail", "1", "count"]).stdout;
    assert!(tail.starts_with("ok ") && tail.lines().count() == 1, "{tail}");
    // Stopping what is stopped is no mistake.
    lab.done(["stop", "count"]);
    lab.done(["start", "count"]);
    assert!(eventually(|| lab.logs("count").matches("ok 2 ").count() == 2), "{}", lab.logs("count"));
    lab.assert_runs_only_on("count", "node1");
    lab.force("count", "node2");
    lab.assert_runs_only_on("count", "node2");
    lab.done(["rm", "-f", "count"]);
    assert_eq!(lab.ps(), []);
    for node in ["node1", "node2"] {
        assert!(eventually(|| lab.processes(node, "count").is_empty()));
    }
    // The name is free again.
    lab.specimen("count", "node1", &["counter"]);
    assert_eq!(lab.view("count").epoch.0, 1);
    lab.assert_clean();
}

#[test]
fn ended_by_itself() {
    let lab = Lab::up(2);
    lab.run("short", "node1", &["sh", "-c", "echo first; echo last >&2; exit 7"]);
    assert!(eventually(|| lab.view("short").state == State::Stopped));
    let view = lab.view("short");
    assert_eq!((view.exit, view.pid), (Some(Exit::Code(7)), None));
    let logs = lab.done(["logs", "short"]);
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("first\n", "last\n"));
    // A log that will not grow any more ends when it is followed.
    assert_eq!(lab.done(["logs", "-f", "short"]).stdout, "first\n");
    lab.done(["rm", "short"]);
    assert_eq!(lab.ps(), []);
    lab.assert_clean();
}

/// One that does not listen to SIGTERM is killed when its grace is over.
#[test]
fn deaf_to_sigterm() {
    let lab = Lab::up(1);
    lab.run("deaf", "node1", &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done"]);
    assert!(eventually(|| lab.logs("deaf") == "ready\n"));
    lab.done(["stop", "--grace", "200ms", "deaf"]);
    let view = lab.view("deaf");
    assert_eq!((view.state, view.exit), (State::Stopped, Some(Exit::Signal(9))));
    lab.assert_clean();
}

#[test]
fn exec_exit_codes() {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    for node in ["node1", "node2"] {
        // Through the agent of its node, and through another one.
        let exec = |script: &str| lab.migrate(["--node", node, "exec", "count", "--", "sh", "-c", script]);
        assert_eq!(exec("exit 0").code(), 0);
        assert_eq!(exec("exit 7").code(), 7);
        assert_eq!(exec("kill -9 $$").code(), 137);
        let both = exec("echo out; echo err >&2");
        assert_eq!((both.code(), both.stdout.as_str(), both.stderr.as_str()), (0, "out\n", "err\n"));
        let missing = lab.migrate(["--node", node, "exec", "count", "--", "/no/such"]);
        assert_eq!(missing.code(), 127, "{missing:?}");
        assert!(missing.stderr.contains("cannot execute /no/such"), "{missing:?}");
    }
    lab.assert_goes_on("count", "node1");
    lab.assert_clean();
}

#[test]
fn exec_stdin() {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    // More than fits into any pipe, with every byte there is.
    let sent: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for node in ["node1", "node2"] {
        let mut command = lab.command(["--node", node, "exec", "count", "--", "cat"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (mut stdin, bytes) = (child.stdin.take().unwrap(), sent.clone());
        let writing = std::thread::spawn(move || stdin.write_all(&bytes));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap().unwrap();
        assert!(output.stdout == sent, "{} bytes came back of {}", output.stdout.len(), sent.len());
        assert_eq!(Output::from(output).code(), 0);
    }
    lab.assert_clean();
}

/// What runs beside it when it leaves is no part of it.
#[test]
fn exec_during_a_move() {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 2);
    let mut beside = lab.command(["exec", "count", "--", "sh", "-c", "echo begun; sleep 1000"]).spawn().unwrap();
    let mut begun = [0; 6];
    std::io::Read::read_exact(&mut beside.stdout.take().unwrap(), &mut begun).unwrap();
    lab.force("count", "node2");
    // It ended with the sandbox that it was in.
    assert_ne!(beside.wait().unwrap().code(), Some(0));
    lab.assert_goes_on("count", "node2");
    lab.assert_clean();
}
