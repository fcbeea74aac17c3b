//! Nodes that give everything away, in a lab: on a person's wish, in time or with a last checkpoint, and because their agent is told to end.

#![allow(clippy::unwrap_used)]

mod harness;

use std::ffi::OsStr;

use harness::{Lab, PROGRAMS, eventually};
use migrate_proto::api::{DrainReport, NodeState, NodeView, State, WorkloadView};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn cluster(environment: &[(&str, &OsStr)]) -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", "3"], environment);
    let settled = || lab.members().iter().filter(|node| node.voter && node.state == NodeState::Alive).count() == 3;
    assert!(eventually(settled), "{:?}", lab.members());
    lab
}

impl Lab {
    fn members(&self) -> Vec<NodeView> {
        serde_json::from_value(self.done(["--json", "--node", "node1", "nodes"]).json()).unwrap()
    }

    fn state(&self, node: &str) -> NodeState {
        self.members().into_iter().find(|view| view.name.as_str() == node).unwrap().state
    }

    fn start(&self, name: &str, node: &str) {
        self.run_with(name, node, &[], &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "4"]);
        self.wait_for_more_ok(name, 2);
    }

    fn drain(&self, node: &str, deadline: &str) -> DrainReport {
        serde_json::from_value(self.done(["--json", "drain", node, "--deadline", deadline]).json()).unwrap()
    }
}

fn names(list: &[migrate_proto::name::WorkloadName]) -> Vec<&str> {
    list.iter().map(|name| name.as_str()).collect()
}

#[test]
fn a_node_that_drains_gives_everything_away_and_gets_nothing_until_it_is_let() {
    let lab = cluster(&[]);
    for name in ["one", "two"] {
        lab.start(name, "node2");
    }
    let report = lab.drain("node2", "60s");
    assert_eq!((names(&report.moved), report.left.len()), (vec!["one", "two"], 0), "{report:?}");
    assert_eq!(lab.state("node2"), NodeState::Draining);
    for name in ["one", "two"] {
        let view = lab.view(name);
        assert!(view.node.as_str() != "node2" && view.state == State::Running && view.epoch.0 == 2, "{view:?}");
        lab.wait_for_more_ok(name, 2);
    }
    // It takes nothing, whoever asks.
    let (refused, report) = lab.try_force("one", "node2");
    assert!(refused.code() != 0 && report.is_none_or(|report| report.error.is_some()), "{refused:?}");
    lab.assert_intact("one");
    lab.done(["undrain", "node2"]);
    assert_eq!(lab.state("node2"), NodeState::Alive);
    lab.force("one", "node2");
    for name in ["one", "two"] {
        lab.done(["rm", "-f", name]);
    }
    lab.assert_clean();
}

#[test]
fn what_can_go_nowhere_ends_with_a_last_checkpoint_and_is_brought_back_when_there_is_room() {
    let lab = cluster(&[]);
    lab.start("web", "node1");
    for node in ["node2", "node3"] {
        assert!(lab.drain(node, "30s").moved.is_empty());
    }
    let report = lab.drain("node1", "8s");
    assert_eq!(names(&report.handed_over), ["web"], "{report:?}; {}", lab.done(["events"]).stdout);
    assert!(lab.processes("node1", "web").is_empty());
    lab.done(["undrain", "node3"]);
    let runs = || {
        let views: Vec<WorkloadView> = serde_json::from_value(lab.done(["--json", "ps"]).json()).unwrap();
        views.iter().any(|view| view.node.as_str() == "node3" && view.state == State::Running && view.pid.is_some())
    };
    assert!(eventually(runs), "{}", lab.done(["events"]).stdout);
    lab.wait_for_more_ok("web", 2);
    lab.assert_intact("web");
    lab.assert_runs_only_on("web", "node3");
}

#[test]
fn an_agent_that_is_told_to_end_gives_its_workloads_away_first() {
    let lab = cluster(&[("MIGRATE_ON_TERMINATE", OsStr::new("drain"))]);
    lab.start("web", "node2");
    let status = lab.status();
    let node = status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == "node2").unwrap().clone();
    kill(Pid::from_raw(node["agent_pid"].as_i64().unwrap() as i32), Signal::SIGTERM).unwrap();
    let moved = || {
        let views: Vec<WorkloadView> =
            serde_json::from_value(lab.done(["--json", "--node", "node1", "ps"]).json()).unwrap();
        views.iter().any(|view| view.node.as_str() != "node2" && view.state == State::Running && view.epoch.0 == 2)
    };
    assert!(eventually(moved), "{}", lab.done(["--node", "node1", "events"]).stdout);
    lab.wait_for_more_ok("web", 2);
    // Only then it says goodbye.
    assert!(eventually(|| lab.state("node2") == NodeState::Left), "{:?}", lab.members());
}
