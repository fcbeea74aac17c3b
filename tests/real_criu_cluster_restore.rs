//! What a person brings back from a checkpoint in a cluster, with real CRIU: the record says first who does it, so of two commands at once one
//! is refused; what cannot be brought back is in the record as it was.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::vaults::flip_a_byte;
use harness::{Lab, PROGRAMS, eventually};
use migrate_proto::api::{NodeState, NodeView, State};
use serde_json::Value;

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn cluster() -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", "3"], &[]);
    let settled = || {
        let views: Vec<NodeView> = serde_json::from_value(lab.done(["--json", "nodes"]).json()).unwrap();
        views.iter().filter(|node| node.voter && node.state == NodeState::Alive).count() == 3
    };
    assert!(eventually(settled), "{:?}", lab.migrate(["nodes"]));
    lab
}

impl Lab {
    /// What the record has of a workload.
    fn entry(&self, name: &str) -> Value {
        let file = self.place().join("backup.json");
        let _ = std::fs::remove_file(&file);
        self.done(["cluster", "backup", file.to_str().unwrap()]);
        let record: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        record["record"]["loads"][name].clone()
    }

    fn runs_by_record(&self, name: &str, owner: &str) -> bool {
        let entry = self.entry(name);
        entry["owner"] == owner && entry["life"] == "running"
    }

    /// Where processes of it are.
    fn is_on(&self, name: &str) -> Vec<&'static str> {
        NODES.into_iter().filter(|node| !self.processes(node, name).is_empty()).collect()
    }

    fn runs_with_a_checkpoint_everywhere(&self, name: &str) {
        self.run(name, "node1", &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "4", "--kind", "random"]);
        self.wait_for_more_ok(name, 3);
        self.checkpoint(name);
        let everywhere = || self.checkpoints(name).last().is_some_and(|view| view.nodes.len() == 3);
        assert!(eventually(everywhere), "{:?}", self.checkpoints(name));
    }
}

#[test]
fn of_two_commands_at_once_one_is_refused() {
    let lab = cluster();
    lab.runs_with_a_checkpoint_everywhere("web");
    // A second one, by two nodes.
    let restores = ["node2", "node3"].map(|node| {
        let words = ["--node", node, "restore", "web", "--as", "second", "--on", node];
        (node, lab.command(words).spawn().unwrap())
    });
    let ended = restores.map(|(node, restore)| (node, harness::Output::from(restore.wait_with_output().unwrap())));
    let won: Vec<&str> = ended.iter().filter(|(_, output)| output.status.success()).map(|(node, _)| *node).collect();
    let [winner] = won[..] else { panic!("one of them is the second one's: {ended:?}") };
    let refused = ended.iter().find(|(node, _)| *node != winner).unwrap();
    assert!(refused.1.stderr.contains("second"), "{refused:?}");
    assert!(eventually(|| lab.runs_by_record("second", winner)), "{}", lab.entry("second"));
    assert_eq!(lab.is_on("second"), [winner]);
    assert_eq!(lab.view("second").state, State::Running);
    lab.wait_for_more_ok("second", 3);
    lab.wait_for_more_ok("web", 3);
    // It is one like any other: it moves, and its name is taken.
    let other = if winner == "node2" { "node3" } else { "node2" };
    lab.force("second", other);
    lab.assert_runs_only_on("second", other);
    let taken = lab.migrate(["restore", "web", "--as", "second"]);
    assert_eq!(taken.code(), 2, "{taken:?}");
    assert!(taken.stderr.contains("there is a workload second"), "{taken:?}");

    // In its own place, twice.
    lab.done(["stop", "web"]);
    let restores = ["node1", "node1"].map(|node| lab.command(["restore", "web", "--on", node]).spawn().unwrap());
    let won = restores.map(|restore| restore.wait_with_output().unwrap().status.success());
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    assert!(eventually(|| lab.runs_by_record("web", "node1")), "{}", lab.entry("web"));
    lab.wait_for_more_ok("web", 3);
    lab.assert_runs_only_on("web", "node1");
    // It is node1's, whether it runs or not.
    lab.done(["stop", "web"]);
    let elsewhere = lab.migrate(["--node", "node2", "restore", "web", "--on", "node2", "--force"]);
    assert_eq!(elsewhere.code(), 2, "{elsewhere:?}");
    assert!(elsewhere.stderr.contains("is node1's, according to the cluster's record"), "{elsewhere:?}");
    lab.done(["rm", "web"]);
    lab.done(["rm", "-f", "second"]);
    lab.assert_clean();
}

#[test]
fn what_cannot_be_brought_back_is_as_it_was() {
    let lab = cluster();
    lab.runs_with_a_checkpoint_everywhere("web");
    lab.done(["stop", "web"]);
    for node in NODES {
        lab.segments(node).iter().for_each(|segment| flip_a_byte(segment));
    }
    for words in [&["restore", "web"][..], &["restore", "web", "--as", "second"]] {
        let refused = lab.migrate(words);
        assert_eq!(refused.code(), 1, "{refused:?}");
    }
    let forgotten = || lab.entry("second").is_null() && lab.ps().iter().all(|view| view.name.as_str() != "second");
    assert!(eventually(forgotten), "{}", lab.entry("second"));
    let entry = lab.entry("web");
    assert_eq!((&entry["owner"], &entry["wish"]), (&Value::from("node1"), &Value::from("stop")), "{entry}");
    assert!(entry["life"]["stopped"].is_object() || entry["life"].get("stopped").is_some(), "{entry}");
    assert!(lab.is_on("web").is_empty() && lab.is_on("second").is_empty());
    // It begins again from its files, which are there.
    lab.done(["start", "web"]);
    lab.assert_runs_only_on("web", "node1");
    assert!(eventually(|| lab.runs_by_record("web", "node1")), "{}", lab.entry("web"));
    lab.done(["rm", "-f", "web"]);
    lab.assert_clean();
}

/// The agent, or its whole node, dies while it brings something back: it comes back, or is as it was; there is one.
#[test]
fn who_dies_while_it_restores_leaves_one_or_none() {
    let lab = cluster();
    lab.runs_with_a_checkpoint_everywhere("web");
    lab.done(["stop", "web"]);
    let mut restoring = lab.command(["--node", "node1", "restore", "web"]).spawn().unwrap();
    let journal = lab.directory().join("node1/state/workloads/web/restoring.json");
    assert!(eventually(|| journal.exists() || restoring.try_wait().unwrap().is_some()));
    lab.done(["lab", "crash", "node1"]);
    let _ = restoring.wait();
    // The record has it as being brought back: that is done, or was.
    let runs = || lab.entry("web")["life"] == "running" && lab.is_on("web") == ["node1"];
    assert!(eventually(runs), "{}: {:?}", lab.entry("web"), lab.migrate(["events"]));
    lab.wait_for_more_ok("web", 3);
    lab.done(["rm", "-f", "web"]);
    lab.assert_clean();
}
