//! `migrate check` and `migrate why` in a lab: what is said comes true, what is asked changes nothing. That check is right about
//! every program is part of the tests of those programs (tests/harness, tests/failures/refusal.rs).

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harness::Lab;
use migrate_proto::api::{MoveReport, Verdict, WhyView};

impl Lab {
    fn why(&self, name: &str) -> WhyView {
        serde_json::from_value(self.done(["--json", "why", name]).json()).unwrap()
    }
}

/// Every file below `dir` with its inode and, where it is small, its content.
fn files(dir: &Path) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, data) = (entry.path(), entry.metadata().unwrap());
        let content = if data.is_file() && data.len() < 1 << 20 { std::fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path.display().to_string(), (data.ino(), content));
        if data.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

#[test]
fn a_check_changes_nothing_on_either_node() {
    let lab = Lab::up(2);
    lab.specimen("traveller", "node1", &["demo", "--mib", "8"]);
    let reached = lab.wait_for_more_ok("traveller", 2);
    let look = || {
        let of = |node: &str| {
            let dir = lab.directory().join(node);
            let run = lab.done(["lab", "exec", node, "--", "find", "/run", "-not", "-type", "s"]);
            (files(&dir.join("state")), run.stdout, lab.events_of(node))
        };
        (["node1", "node2"].map(of), lab.view("traveller").pid)
    };
    let before = look();
    assert!(before.0[0].0.keys().any(|path| path.ends_with("workload.json")), "{:?}", before.0[0].0.keys());
    for _ in 0..2 {
        lab.assert_would_move("traveller", "node2");
        let anywhere = lab.done(["--json", "check", "traveller"]).json();
        assert_eq!((&anywhere["to"], &anywhere["verdict"]), (&"node2".into(), &"yes".into()), "{anywhere}");
    }
    let after = look();
    for (before, after) in before.0.iter().zip(&after.0) {
        assert_eq!(before.0, after.0);
        assert_eq!(before.1, after.1);
        assert_eq!(before.2, after.2);
    }
    assert_eq!(before.1, after.1);
    assert!(lab.wait_for_more_ok("traveller", 2) > reached);
    lab.assert_clean();
}

/// The JSON is the contract's, to the letter.
#[test]
fn the_answer_has_the_fields_of_the_contract() {
    let lab = Lab::up(2);
    lab.specimen("traveller", "node1", &["counter"]);
    let report = lab.done(["--json", "check", "traveller", "--to", "node2"]).json();
    let fields: Vec<&String> = report.as_object().unwrap().keys().collect();
    let expected = ["predicted_downtime_ms", "predicted_total_ms", "reasons", "to", "verdict", "workload"];
    let mut sorted: Vec<&str> = fields.iter().map(|field| field.as_str()).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    let own = lab.check("traveller", "node1").1.unwrap();
    assert_eq!(own.verdict, Verdict::No, "{own:?}");
    lab.assert_clean();
}

#[test]
fn a_port_that_is_taken_on_the_target() {
    let lab = Lab::up(2);
    let program = |port: u16| {
        format!(
            "import socket, itertools, time\ns = socket.create_server(('127.0.0.1', {port}))\n\
             for n in itertools.count(1): print('ok', n, flush=True); time.sleep(0.05)\n"
        )
    };
    // Free here is no promise, but the nodes have networks of their own anyway.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    lab.run("server", "node1", &["python3", "-c", &program(port)]);
    lab.wait_for_more_ok("server", 2);
    lab.assert_would_move("server", "node2");
    lab.run("other", "node2", &["python3", "-c", &program(port)]);
    lab.wait_for_more_ok("other", 2);
    let (asked, report) = lab.check("server", "node2");
    let report = report.unwrap();
    assert_eq!(report.verdict, Verdict::No, "{asked:?}");
    assert!(report.reasons[0].what.contains(&format!("port {port}")), "{asked:?}");
    let (output, moved) = lab.try_force("server", "node2");
    let error = moved.unwrap().error.unwrap();
    assert!(error.message.contains(&report.reasons[0].what), "{output:?}");
    lab.done(["rm", "-f", "other"]);
    lab.force("server", "node2");
    lab.assert_runs_only_on("server", "node2");
    lab.assert_clean();
}

/// After three moves the fourth is predicted from what they took, and the events say what was predicted and what it was. How long
/// the fourth then takes is the machine's affair: that it comes near where the machine stays the same is a property of the learner
/// (`agent/src/predict/tests.rs`).
#[test]
fn the_fourth_move_is_predicted() {
    const MOVES: usize = 4;
    let lab = Lab::up(2);
    lab.specimen("traveller", "node1", &["memory", "--mib", "64", "--kind", "mixed"]);
    lab.wait_for_more_ok("traveller", 2);
    let times = |report: &MoveReport| [report.downtime_ms.unwrap(), report.total_ms];
    let foretold = |report: &MoveReport| [report.predicted_downtime_ms.unwrap(), report.predicted_total_ms.unwrap()];
    let mut moves: Vec<MoveReport> = Vec::new();
    // There and back, so that one source has learned of its own moves to one target.
    let report = loop {
        let checked = lab.assert_would_move("traveller", "node2");
        let report = lab.force("traveller", "node2");
        if moves.len() + 1 == MOVES {
            // Its files may have grown a little between the question and the move.
            for (asked, moved) in
                [checked.predicted_downtime_ms, checked.predicted_total_ms].iter().zip(foretold(&report))
            {
                let asked = asked.unwrap();
                assert!((asked - moved).abs() <= asked / 10.0, "check said {asked}, the move {moved}");
            }
            break report;
        }
        moves.push(report);
        lab.wait_for_more_ok("traveller", 2);
        lab.force("traveller", "node1");
        lab.wait_for_more_ok("traveller", 2);
    };
    for (which, predicted) in foretold(&report).into_iter().enumerate() {
        let took: Vec<f64> = moves.iter().map(|earlier| times(earlier)[which]).collect();
        let (least, most) =
            (took.iter().copied().fold(f64::INFINITY, f64::min), took.iter().copied().fold(0.0, f64::max));
        // Its parts are learned one by one: where one was long while the other was short, their sum leaves the range a little.
        assert!((least / 1.5..=most * 1.5).contains(&predicted), "{predicted}, learned from {took:?}: {report:?}");
    }
    assert!(report.predicted_downtime_ms.unwrap() < report.predicted_total_ms.unwrap(), "{report:?}");

    let events = lab.events_of("node1");
    let moved = events.iter().rev().find(|event| event.kind == "moved").unwrap();
    let figures = moved.figures.unwrap();
    assert_eq!(figures.downtime_ms, report.downtime_ms);
    assert_eq!(figures.predicted_total_ms, report.predicted_total_ms);
    assert!(moved.message.contains("predicted"), "{moved:?}");
    // The error is of the node that it left.
    lab.force("traveller", "node1");
    let why = lab.why("traveller");
    assert_eq!(why.prediction.moves as usize, MOVES, "{why:?}");
    assert!(why.prediction.downtime_error.unwrap() >= 0.0, "{why:?}");
    lab.assert_clean();
}

#[test]
fn why_tells_the_way_it_came() {
    let lab = Lab::up(2);
    lab.specimen("traveller", "node1", &["counter"]);
    lab.wait_for_more_ok("traveller", 2);
    let why = lab.why("traveller");
    assert_eq!((why.node.as_str(), why.came_from.clone(), why.epoch.0), ("node1", None, 1), "{why:?}");
    assert!(why.since.is_some() && why.held.is_none() && why.unsettled.is_empty() && why.silent.is_empty(), "{why:?}");

    lab.force("traveller", "node2");
    let why = lab.why("traveller");
    let came_from = why.came_from.as_ref().map(|node| node.as_str());
    assert_eq!((why.node.as_str(), came_from, why.epoch.0), ("node2", Some("node1"), 2), "{why:?}");
    let seen: Vec<(&str, &str)> = why.history.iter().map(|event| (event.node.as_str(), event.kind.as_str())).collect();
    for expected in [("node1", "started"), ("node1", "moving"), ("node1", "moved"), ("node2", "arrived")] {
        assert!(seen.contains(&expected), "{expected:?} is not among {seen:?}");
    }
    let moved = why.history.iter().find(|event| event.kind == "moved").unwrap();
    assert!(moved.figures.unwrap().downtime_ms.unwrap() > 0.0, "{moved:?}");

    // A refusal and its reason, and a node that cannot be asked.
    lab.done(["lab", "kill", "node1"]);
    let (output, _) = lab.try_force("traveller", "node1");
    assert_eq!(output.code(), 1, "{output:?}");
    let why = lab.why("traveller");
    let stayed = why.history.iter().rev().find(|event| event.kind == "stayed").unwrap();
    assert!(stayed.message.contains("did not move to node1: "), "{stayed:?}");
    assert_eq!(why.silent.iter().map(|node| node.as_str()).collect::<Vec<_>>(), ["node1"], "{why:?}");
    let words = lab.done(["why", "traveller"]).stdout;
    assert!(words.starts_with("traveller: running on node2 (epoch 2), came from node1 at "), "{words}");
    assert!(words.contains("do not answer: node1"), "{words}");
    lab.assert_clean();
}
