//! Checkpoints on other nodes, with real CRIU: they are brought to as many as they shall be, only what is new crosses; a workload whose node is gone comes
//! back on one that had nothing of it; what is damaged on one node is fetched from another; what is not kept any more goes everywhere.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::vaults::flip_a_byte;
use harness::{Lab, eventually};
use migrate_proto::api::State;

impl Lab {
    fn happened(&self, node: &str, kind: &str, words: &str) -> bool {
        self.events_of(node).iter().any(|event| event.kind == kind && event.message.contains(words))
    }

    /// Waits until so many nodes have the newest checkpoint, and says which.
    fn wait_for_holders(&self, name: &str, count: usize) -> Vec<String> {
        let mut holders = Vec::new();
        assert!(
            eventually(|| {
                let newest = self.checkpoints(name).pop();
                holders = newest.iter().flat_map(|view| &view.nodes).map(ToString::to_string).collect();
                holders.len() == count
            }),
            "{:?}",
            self.checkpoints(name)
        );
        holders.sort();
        holders
    }
}

/// One that is not among these.
fn other_than(holders: &[String], nodes: u8) -> String {
    (1..=nodes).map(|number| format!("node{number}")).find(|node| !holders.contains(node)).unwrap()
}

#[test]
fn a_dead_nodes_workload_comes_back_where_nothing_of_it_was() {
    let lab = Lab::up(4);
    lab.specimen("keeper", "node4", &["memory", "--mib", "32", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("keeper", 3);
    lab.checkpoint("keeper");
    let holders = lab.wait_for_holders("keeper", 3);
    assert!(holders.contains(&"node4".to_owned()), "{holders:?}");
    let (stranger, first) = (other_than(&holders, 4), lab.segments(&holders[0]));
    assert!(lab.segments(&stranger).is_empty(), "{stranger} is none of {holders:?}");

    // The second one brings little.
    let second = lab.checkpoint("keeper");
    assert_eq!(lab.wait_for_holders("keeper", 3), holders, "the same ones");
    let new = lab.segments(&holders[0]).difference(&first).count();
    assert!(new < first.len() / 4, "{new} of {}", first.len());
    assert!(eventually(|| lab.view("keeper").last_checkpoint.is_some_and(|last| last.replicas == 3)));
    let reached = lab.wait_for_more_ok("keeper", 1);

    lab.done(["lab", "kill", "node4"]);
    let refused = lab.migrate(["restore", "keeper", "--on", &stranger]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("may run on a node that does not answer: node4"), "{refused:?}");
    lab.done(["restore", "keeper", "--on", &stranger, "--force"]);
    let view = lab.view("keeper");
    assert_eq!((view.state, view.epoch.0, view.node.as_str()), (State::Running, 2, stranger.as_str()), "{view:?}");
    assert!(lab.happened(&stranger, "restored", &second.id.to_string()[..12]));
    lab.wait_for_more_ok("keeper", 3);
    assert!(lab.assert_intact("keeper") <= reached + 1000);
    lab.assert_runs_only_on("keeper", &stranger);
    lab.assert_clean();
}

#[test]
fn what_is_damaged_on_one_node_comes_from_another() {
    let lab = Lab::up(3);
    lab.specimen("keeper", "node1", &["memory", "--mib", "8", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 3);
    let taken = lab.checkpoint("keeper");
    lab.wait_for_holders("keeper", 3);
    lab.done(["stop", "keeper"]);
    // The owner's own copy, and that of one of the others.
    for node in ["node1", "node2"] {
        lab.segments(node).iter().for_each(|segment| flip_a_byte(segment));
    }
    // The first attempt finds out, and says so.
    let first = lab.migrate(["restore", "keeper"]);
    assert!(lab.happened("node1", "warning", "is damaged"), "{first:?}");
    if !first.status.success() {
        lab.done(["restore", "keeper"]);
    }
    assert!(lab.happened("node1", "restored", &taken.id.to_string()[..12]));
    assert_eq!(lab.view("keeper").epoch.0, 2);
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_intact("keeper");
    lab.assert_clean();
}

#[test]
fn what_is_not_kept_any_more_goes_everywhere() {
    let lab = Lab::up(3);
    lab.specimen("keeper", "node1", &["counter"]);
    lab.wait_for_more_ok("keeper", 3);
    let first = lab.checkpoint("keeper");
    lab.wait_for_holders("keeper", 3);
    for _ in 0..3 {
        lab.wait_for_more_ok("keeper", 1);
        lab.checkpoint("keeper");
    }
    // Three are kept, and the first of the four is on no node.
    assert!(eventually(|| {
        let views = lab.checkpoints("keeper");
        views.len() == 3 && views.iter().all(|view| view.id != first.id && view.nodes.len() == 3)
    }));

    // They stay with the nodes when the workload moves, and its new owner goes on with them.
    lab.force("keeper", "node2");
    lab.wait_for_more_ok("keeper", 2);
    let fifth = lab.checkpoint("keeper");
    assert!(eventually(|| {
        let views = lab.checkpoints("keeper");
        views.len() == 3 && views.last().is_some_and(|view| view.id == fifth.id && view.nodes.len() == 3)
    }));

    lab.done(["rm", "-f", "keeper"]);
    assert!(eventually(|| lab.checkpoints("keeper").is_empty()));
    assert!(eventually(|| ["node1", "node2", "node3"].iter().all(|node| lab.segments(node).is_empty())));
    lab.assert_clean();
}

/// A holder that is gone for good is replaced; what it has when it comes back is right or goes.
#[test]
fn a_holder_that_is_gone_is_replaced() {
    let lab = Lab::up(4);
    lab.specimen("keeper", "node1", &["counter"]);
    lab.wait_for_more_ok("keeper", 3);
    lab.checkpoint("keeper");
    let holders = lab.wait_for_holders("keeper", 3);
    let (lost, spare) = (holders[1].clone(), other_than(&holders, 4));
    lab.done(["lab", "kill", &lost]);
    let replaced = || {
        let newest = lab.checkpoints("keeper").pop().unwrap();
        newest.nodes.iter().any(|node| node.as_str() == spare)
    };
    assert!(harness::deadline::within(harness::PATIENCE * 2, replaced), "{:?}", lab.checkpoints("keeper"));
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_clean();
}

/// In a cluster its record says who has what: also when the owner is gone.
#[test]
fn the_record_knows_what_is_kept() {
    let lab = Lab::up_as(&["--cluster", "--nodes", "3"], &[]);
    let leads = || lab.done(["--json", "nodes"]).json().as_array().unwrap().iter().any(|node| node["leader"] == true);
    assert!(eventually(leads));
    lab.specimen("keeper", "node3", &["counter"]);
    lab.wait_for_more_ok("keeper", 3);
    let mut taken = Vec::new();
    for number in 1..=2 {
        let view = lab.checkpoint("keeper");
        assert_eq!(view.number, number);
        lab.wait_for_holders("keeper", 3);
        taken.push(view.id);
    }
    // It moves, and is numbered on by its new owner.
    lab.force("keeper", "node2");
    lab.wait_for_more_ok("keeper", 2);
    let third = lab.checkpoint("keeper");
    assert!(third.number > 2, "{third:?}");
    lab.wait_for_holders("keeper", 3);
    // What a node that has never had it says of it, without asking anybody who has.
    let known = || {
        let said = lab.done(["--json", "--node", "node1", "checkpoints", "keeper"]).json();
        said.as_array().unwrap().len() == 3
    };
    assert!(eventually(known), "{:?}", lab.checkpoints("keeper"));
    lab.done(["lab", "kill", "node2"]);
    let by_record = || {
        let view = lab.ps().into_iter().find(|view| view.name.as_str() == "keeper");
        view.and_then(|view| view.last_checkpoint).is_some_and(|last| last.id == third.id)
    };
    assert!(eventually(by_record), "{:?}", lab.ps());
    lab.assert_clean();
}
