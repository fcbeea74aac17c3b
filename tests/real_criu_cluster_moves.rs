//! A cluster's record in force, in a lab: names, moves, and what people ask of workloads, also of those whose node is gone.

#![allow(clippy::unwrap_used)]

mod harness;

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use harness::{Lab, Output, PROGRAMS, eventually};
use migrate_proto::api::{NodeState, NodeView, State, WorkloadView};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const ALL: [&str; 3] = ["node1", "node2", "node3"];

/// Three nodes that all vote; who leads.
fn cluster() -> (Lab, String) {
    cluster_in(Lab::find_place(), &[])
}

fn cluster_in(place: tempfile::TempDir, environment: &[(&str, &OsStr)]) -> (Lab, String) {
    let lab = Lab::up_in(place, &["--cluster", "--nodes", "3"], environment);
    let agreed = || ALL.iter().all(|node| lab.voters(node) == 3) && lab.leader().is_some();
    assert!(eventually(agreed), "{:?}", lab.nodes("node1"));
    let leader = lab.leader().unwrap();
    (lab, leader)
}

/// The nodes that are not this one.
fn others(node: &str) -> [&'static str; 2] {
    let others: Vec<&str> = ALL.into_iter().filter(|other| *other != node).collect();
    others.try_into().unwrap()
}

impl Lab {
    fn nodes(&self, asked: &str) -> Vec<NodeView> {
        let answer = self.migrate(["--json", "--node", asked, "nodes"]);
        serde_json::from_str(&answer.stdout).unwrap_or_default()
    }

    fn voters(&self, asked: &str) -> usize {
        self.nodes(asked).iter().filter(|view| view.voter && view.state == NodeState::Alive).count()
    }

    fn leader(&self) -> Option<String> {
        let said = |node: &str| self.nodes(node).into_iter().find(|view| view.leader).map(|view| view.name.to_string());
        let all: Vec<_> = ALL.iter().map(|node| said(node)).collect();
        all.iter().all(|one| *one == all[0]).then(|| all[0].clone()).flatten()
    }

    /// What there is, as this node says.
    fn ps_of(&self, asked: &str) -> Vec<WorkloadView> {
        serde_json::from_value(self.done(["--json", "--node", asked, "ps"]).json()).unwrap()
    }

    /// The one workload of that name, as this node says; `None` where it does not say that there is exactly one.
    fn one(&self, asked: &str, name: &str) -> Option<WorkloadView> {
        let mut views: Vec<_> = self.ps_of(asked).into_iter().filter(|view| view.name.as_str() == name).collect();
        (views.len() == 1).then(|| views.remove(0))
    }
}

#[test]
fn a_name_is_taken_for_all_nodes_and_epochs_rise_for_ever() {
    let (lab, _) = cluster();
    lab.specimen("web", "node1", &["counter"]);
    assert_eq!(lab.view("web").epoch.0, 1);
    for node in ["node1", "node2"] {
        let taken = lab.try_run("web", node, &[], &["sleep", "1000"]);
        assert_eq!(taken.code(), 2, "{taken:?}");
        assert!(taken.stderr.contains("there is a workload web on node1 already"), "{taken:?}");
    }
    lab.done(["rm", "-f", "web"]);
    assert!(lab.ps().is_empty());
    lab.specimen("web", "node2", &["counter"]);
    assert!(lab.view("web").epoch.0 > 1, "{:?}", lab.view("web"));
    lab.assert_runs_only_on("web", "node2");
    lab.assert_clean();
}

#[test]
fn of_two_who_want_one_name_at_once_one_gets_it() {
    let (lab, _) = cluster();
    for round in 0..4 {
        let name = format!("wanted{round}");
        let run = |node: &str| {
            let programs = format!("{}:{PROGRAMS}:ro", harness::binaries().display());
            let words = ["--node", node, "run", "--name", &name, "--volume", &programs, "--"];
            lab.command(words).args([&format!("{PROGRAMS}/specimen"), "counter"]).spawn().unwrap()
        };
        let both = [run("node1"), run("node2")];
        let ended = both.map(|child| Output::from(child.wait_with_output().unwrap()));
        let won: Vec<bool> = ended.iter().map(|output| output.status.success()).collect();
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{ended:?}");
        let winner = if won[0] { "node1" } else { "node2" };
        lab.assert_runs_only_on(&name, winner);
        lab.wait_for_more_ok(&name, 2);
    }
    lab.assert_clean();
}

#[test]
fn a_run_that_fails_leaves_nothing() {
    let (lab, _) = cluster();
    let failed = lab.try_run("web", "node1", &[], &["/no/such/program"]);
    assert_eq!(failed.code(), 1, "{failed:?}");
    for node in ALL {
        assert!(lab.ps_of(node).is_empty(), "{:?}", lab.ps_of(node));
    }
    // The name is free, on every node.
    lab.specimen("web", "node2", &["counter"]);
    lab.wait_for_more_ok("web", 2);
    lab.assert_clean();
}

#[test]
fn what_people_ask_stands_in_the_record() {
    let (lab, _) = cluster();
    lab.specimen("web", "node1", &["counter"]);
    lab.wait_for_more_ok("web", 2);
    // Asked of a node that does not have it.
    lab.done(["--node", "node3", "stop", "web"]);
    assert_eq!(lab.view("web").state, State::Stopped);
    assert!(lab.view("web").pid.is_none());
    let before = lab.view("web").epoch;
    lab.done(["--node", "node3", "start", "web"]);
    let view = lab.view("web");
    assert_eq!((view.epoch, view.state), (before.next(), State::Running), "it begins again in an epoch of its own");
    let refused = lab.migrate(["--node", "node2", "rm", "web"]);
    assert!(refused.code() == 1 && refused.stderr.contains("web runs on node1"), "{refused:?}");
    lab.force("web", "node2");
    lab.done(["--node", "node3", "rm", "-f", "web"]);
    assert!(ALL.iter().all(|node| lab.ps_of(node).is_empty()));
    lab.assert_clean();
}

#[test]
fn workloads_move_from_the_leader_to_it_and_past_it() {
    let (lab, leader) = cluster();
    let [one, other] = others(&leader);
    lab.specimen("traveller", &leader, &["demo", "--mib", "8"]);
    lab.wait_for_more_ok("traveller", 3);
    for (to, epoch) in [(one, 2), (other, 3), (leader.as_str(), 4)] {
        let report = lab.force("traveller", to);
        eprintln!("to {to} while {leader} leads: {:?} ms of downtime", report.downtime_ms);
        lab.assert_runs_only_on("traveller", to);
        lab.wait_for_more_ok("traveller", 3);
        for asked in ALL {
            let view = lab.one(asked, "traveller").unwrap();
            assert_eq!((view.node.as_str(), view.epoch.0), (to, epoch), "as {asked} says");
        }
    }
    lab.assert_intact("traveller");
    lab.assert_clean();
}

/// The decision file says `record`, and nobody leads who could answer: nothing runs until somebody does, and then one copy.
#[test]
fn a_move_whose_leader_dies_before_the_verdict_is_decided_by_the_next_one() {
    let place = Lab::find_place();
    let halts = place.path().join("halts");
    std::fs::create_dir(&halts).unwrap();
    let (lab, leader) = cluster_in(place, &[("MIGRATE_HALTS", halts.as_os_str())]);
    let [from, to] = others(&leader);
    lab.specimen("traveller", from, &["demo", "--mib", "8"]);
    let reached = lab.wait_for_more_ok("traveller", 3);
    let halt = halts.join("source-commit");
    mkfifo(&halt, Mode::S_IRWXU).unwrap();
    let moving = lab.command(["--node", from, "--json", "--force", "traveller", "--to", to]).spawn().unwrap();
    // That there is a reader says that the move waits there.
    let open = || OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&halt).ok();
    let mut waiting = None;
    assert!(eventually(|| {
        waiting = open();
        waiting.is_some()
    }));
    std::fs::remove_file(&halt).unwrap();
    lab.done(["lab", "kill", &leader]);
    drop(waiting);
    let moved = Output::from(moving.wait_with_output().unwrap());
    eprintln!("without its leader the cluster said: {}", moved.stdout);
    let runs = || lab.one(from, "traveller").is_some_and(|view| view.state == State::Running);
    assert!(eventually(runs), "{:?}", lab.ps_of(from));
    let home = lab.one(from, "traveller").unwrap().node.to_string();
    assert!([from, to].contains(&&*home), "{home}");
    lab.assert_runs_only_on("traveller", &home);
    assert!(lab.wait_for_more_ok("traveller", 3) >= reached + 3, "it goes on from where it was");
    lab.done(["lab", "start", &leader]);
    lab.assert_clean();
}

#[test]
fn what_a_dead_node_had_is_shown_as_the_record_has_it() {
    let (lab, _) = cluster();
    lab.specimen("gone", "node3", &["counter"]);
    lab.specimen("here", "node1", &["counter"]);
    lab.wait_for_more_ok("gone", 2);
    lab.done(["lab", "kill", "node3"]);
    // With or without an answer of node3 that is awaited.
    for asked in ["node1", "node2"] {
        let shown = || lab.one(asked, "gone").is_some_and(|view| view.reason.is_some() && view.pid.is_none());
        assert!(eventually(shown), "{asked} says {:?}", lab.ps_of(asked));
        assert_eq!(lab.one(asked, "here").unwrap().node.as_str(), "node1");
    }
    let dead = || lab.nodes("node1").iter().any(|view| view.name.as_str() == "node3" && view.state == NodeState::Dead);
    assert!(eventually(dead));
    // What is asked of it meanwhile is remembered, and done in the end.
    lab.done(["--node", "node1", "rm", "-f", "gone"]);
    lab.done(["lab", "start", "node3"]);
    assert!(eventually(|| lab.voters("node3") == 3));
    // A copy that comes back although the record knows it no more is a person's to remove.
    let forgotten = || {
        let _ = lab.migrate(["--node", "node3", "rm", "-f", "gone"]);
        ALL.iter().all(|asked| lab.ps_of(asked).iter().all(|view| view.name.as_str() != "gone"))
    };
    assert!(eventually(forgotten), "{:?}", lab.ps());
    // The name is free again.
    lab.specimen("gone", "node2", &["counter"]);
    lab.assert_runs_only_on("gone", "node2");
    lab.assert_clean();
}

#[test]
fn without_a_majority_nothing_begins_and_nothing_is_left() {
    let (lab, _) = cluster();
    lab.specimen("here", "node1", &["counter"]);
    lab.wait_for_more_ok("here", 2);
    lab.done(["lab", "kill", "node2"]);
    lab.done(["lab", "kill", "node3"]);
    let refused = lab.try_run("more", "node1", &[], &["sleep", "1000"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("no majority of the"), "{refused:?}");
    assert!(lab.ps_of("node1").iter().all(|view| view.name.as_str() != "more"));
    for node in ["node2", "node3"] {
        lab.done(["lab", "start", node]);
    }
    // The name was never taken.
    let runs = || lab.try_run("more", "node2", &[], &["sleep", "1000"]).status.success();
    assert!(eventually(runs), "{:?}", lab.ps_of("node2"));
    lab.wait_for_more_ok("here", 2);
    lab.assert_clean();
}
