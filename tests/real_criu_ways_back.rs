//! The ways back for people, in a lab whose nodes are a cluster: a voter that is lost for good, and a majority.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Lab, eventually};
use migrate_proto::api::{Event, NodeState, NodeView};
use serde_json::Value;

fn cluster(nodes: u8) -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", &nodes.to_string()], &[]);
    assert!(eventually(|| voters(&lab, "node1").len() == usize::from(nodes)), "{:?}", nodes_of(&lab, "node1"));
    lab
}

fn nodes_of(lab: &Lab, asked: &str) -> Vec<NodeView> {
    serde_json::from_value(lab.done(["--json", "--node", asked, "nodes"]).json()).unwrap()
}

fn voters(lab: &Lab, asked: &str) -> Vec<String> {
    nodes_of(lab, asked).into_iter().filter(|view| view.voter).map(|view| view.name.to_string()).collect()
}

fn state(lab: &Lab, asked: &str, about: &str) -> Option<NodeState> {
    nodes_of(lab, asked).into_iter().find(|view| view.name.as_str() == about).map(|view| view.state)
}

/// Whether a node has said this, as an event of its own.
fn has_said(lab: &Lab, by: &str, what: &str) -> bool {
    let lines = lab.migrate(["--json", "--node", by, "events"]).stdout;
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
    events.into_iter().any(|event| event.node.as_str() == by && event.message.contains(what))
}

/// The cluster's record, as a node gives it.
fn backup(lab: &Lab, asked: &str) -> Value {
    let file = lab.place().join("backup.json");
    lab.done(["--node".as_ref(), asked.as_ref(), "cluster".as_ref(), "backup".as_ref(), file.as_os_str()]);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn a_node_that_is_lost_for_good_is_forgotten_and_does_not_vote() {
    let lab = cluster(3);
    let forget = |asked: &str, node: &str| lab.migrate(["--node", asked, "nodes", "forget", node]);
    for (node, code, why) in [
        ("node3", 1, "node3 answers: only a node that is lost is forgotten"),
        ("node1", 2, "node1 is the node that was asked"),
        ("nobody", 2, "there is no node nobody in the cluster"),
    ] {
        let refused = forget("node1", node);
        assert_eq!((refused.code(), refused.stderr.contains(why)), (code, true), "{refused:?}");
    }
    lab.done(["lab", "kill", "node3"]);
    assert!(eventually(|| state(&lab, "node1", "node3") == Some(NodeState::Dead)));
    let forgotten = forget("node1", "node3");
    assert_eq!(forgotten.code(), 0, "{forgotten:?}");
    assert!(!voters(&lab, "node1").contains(&"node3".to_owned()), "{:?}", nodes_of(&lab, "node1"));
    let record = backup(&lab, "node2");
    assert_eq!(record["record"]["nodes"]["node3"]["standing"], "forgotten");
    assert_eq!(record["record"]["cluster"]["forgotten"].as_array().unwrap().len(), 1);
    assert_eq!(forget("node2", "node3").code(), 0, "once more is the same");
    // Nobody shows it any more, also not an agent that begins anew and has it in its configuration.
    lab.done(["lab", "crash", "node2"]);
    for asked in ["node1", "node2"] {
        let gone = || {
            let asked = lab.migrate(["--json", "--node", asked, "nodes"]);
            let views: Result<Vec<NodeView>, _> = serde_json::from_str(&asked.stdout);
            views.is_ok_and(|views| views.len() == 2 && views.iter().all(|view| view.name.as_str() != "node3"))
        };
        assert!(eventually(gone), "{asked}: {:?}", nodes_of(&lab, asked));
    }

    // What comes back with its old state is told what to do.
    lab.done(["lab", "start", "node3"]);
    assert!(eventually(|| has_said(&lab, "node3", "was forgotten: it must join with an empty state directory")));
    assert!(!voters(&lab, "node1").contains(&"node3".to_owned()));
    lab.assert_clean();
}

#[test]
fn a_new_cluster_is_begun_where_a_majority_is_lost_for_good() {
    let lab = cluster(3);
    let file = lab.place().join("backup.json");
    let (file, old) = (file.to_str().unwrap().to_owned(), backup(&lab, "node1"));
    let rebuild = |words: &[&str]| lab.migrate([&["--node", "node1", "cluster", "rebuild"], words].concat());

    let refused = rebuild(&["--from", &file, "--i-am-sure"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("there is nothing to rebuild"), "{refused:?}");

    lab.done(["lab", "kill", "node2"]);
    lab.done(["lab", "kill", "node3"]);
    assert!(eventually(|| state(&lab, "node1", "node2") == Some(NodeState::Dead)));
    let silent = lab.migrate(["--node", "node1", "cluster", "backup", "/dev/null/nothing"]);
    assert_eq!(silent.code(), 1, "{silent:?}");
    assert!(silent.stderr.contains("no majority of the voters answers"), "{silent:?}");

    let nonsense = lab.place().join("nonsense");
    std::fs::write(&nonsense, "{}").unwrap();
    let refused = rebuild(&["--from", nonsense.to_str().unwrap(), "--i-am-sure"]);
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("no backup of a cluster's record"), "{refused:?}");

    for source in [&["--from", &file][..], &["--from-here"]] {
        let asked = rebuild(source);
        assert_eq!(asked.code(), 1, "{asked:?}");
        assert!(asked.stdout.contains("nothing was done"), "{asked:?}");
        assert!(asked.stdout.contains("TWO COPIES") && asked.stdout.contains("node2, node3"), "{asked:?}");
    }
    let done = rebuild(&["--from-here", "--i-am-sure"]);
    assert_eq!(done.code(), 0, "{done:?}");
    assert!(done.stdout.contains("node1 is the only node of the new cluster"), "{done:?}");
    let leads = || {
        let asked = lab.migrate(["--json", "--node", "node1", "nodes"]);
        let nodes = serde_json::from_str::<Vec<NodeView>>(&asked.stdout).unwrap_or_default();
        nodes.iter().any(|view| view.name.as_str() == "node1" && view.leader && view.voter)
    };
    assert!(eventually(leads), "{:?}", nodes_of(&lab, "node1"));
    let new = backup(&lab, "node1");
    assert_ne!(new["cluster"], old["cluster"]);
    assert!(new["record"]["revision"].as_u64() > old["record"]["revision"].as_u64(), "numbers go on");
    assert_eq!(new["record"]["nodes"]["node2"]["fenced"], true);

    // One of the old cluster does not get in.
    lab.done(["lab", "start", "node2"]);
    assert!(eventually(|| has_said(&lab, "node2", "has to be begun anew, with an empty state directory")));
    assert_eq!(voters(&lab, "node1"), ["node1"]);
    lab.assert_clean();
}
