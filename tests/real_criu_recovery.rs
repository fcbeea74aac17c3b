//! Nodes that lose their power, in a lab: their workloads go on elsewhere from their last checkpoint, or from nothing, or are lost, as was
//! asked for; each exactly once. A node that comes back drops what it had.

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::path::PathBuf;

use harness::vaults::flip_a_byte;
use harness::{Lab, PROGRAMS, eventually};
use migrate_proto::api::{Event, NodeState, NodeView, State, WorkloadView};

/// Nodes that agree about a record. Three of them vote.
fn cluster(nodes: usize) -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", &nodes.to_string()], &[]);
    let settled = || {
        let views = lab.members("node1");
        let voters = views.iter().filter(|node| node.voter && node.state == NodeState::Alive).count();
        voters == 3 && views.len() == nodes && views.iter().any(|node| node.leader)
    };
    assert!(eventually(settled), "{:?}", lab.members("node1"));
    lab
}

impl Lab {
    fn members(&self, asked: &str) -> Vec<NodeView> {
        serde_json::from_value(self.done(["--json", "--node", asked, "nodes"]).json()).unwrap()
    }

    fn leader(&self) -> String {
        self.members("node1").iter().find(|node| node.leader).unwrap().name.to_string()
    }

    fn follower(&self) -> String {
        self.members("node1").iter().find(|node| !node.leader).unwrap().name.to_string()
    }

    /// What one node has written down.
    fn happened(&self, by: &str, kind: &str, name: &str) -> Vec<Event> {
        let events = self.events_of(by).into_iter();
        let about = |event: &Event| event.workload.as_ref().is_some_and(|of| of.as_str() == name);
        events.filter(|event| event.node.as_str() == by && event.kind == kind && about(event)).collect()
    }

    /// Keeps a checkpoint of it, and waits until the record lists it: this one.
    fn keep(&self, name: &str) -> String {
        let owner = self.view(name).node.to_string();
        self.done(["checkpoint", name]);
        let newest = self.checkpoints(name).last().unwrap().id.to_string();
        let listed = || {
            let told = self.happened(&owner, "checkpointed", name);
            told.iter().any(|event| event.message.contains(&newest[..12]) && event.message.contains("brought back"))
        };
        assert!(eventually(listed), "{name}: {:?}", self.migrate(["events"]));
        newest
    }

    /// As a node that lives sees it.
    fn seen_by(&self, asked: &str, name: &str) -> Option<WorkloadView> {
        let views: Vec<WorkloadView> =
            serde_json::from_value(self.done(["--json", "--node", asked, "ps"]).json()).unwrap();
        views.into_iter().find(|view| view.name.as_str() == name)
    }

    /// Waits until it runs on another node than `dead`. That node.
    fn wait_elsewhere(&self, asked: &str, name: &str, dead: &[&str]) -> String {
        let mut last = None;
        let runs = || {
            last = self.seen_by(asked, name);
            last.as_ref().is_some_and(|view| {
                view.state == State::Running && view.pid.is_some() && !dead.contains(&view.node.as_str())
            })
        };
        assert!(eventually(runs), "{name}: {last:?}; {}", self.done(["--node", asked, "events"]).stdout);
        last.unwrap().node.to_string()
    }

    fn start(&self, name: &str, node: &str, options: &[&str]) {
        self.run_with(name, node, options, &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "4"]);
        self.wait_for_more_ok(name, 2);
    }
}

fn other(than: &[&str]) -> String {
    ["node1", "node2", "node3", "node4", "node5"].into_iter().find(|node| !than.contains(node)).unwrap().to_owned()
}

#[test]
fn a_dead_node_s_workload_goes_on_elsewhere_and_its_old_copy_is_dropped() {
    let lab = cluster(3);
    let owner = lab.follower();
    lab.start("web", &owner, &[]);
    lab.keep("web");
    let kept = lab.assert_intact("web");
    lab.done(["lab", "kill", &owner]);
    let asked = other(&[&owner]);
    let target = lab.wait_elsewhere(&asked, "web", &[&owner]);
    let view = lab.seen_by(&asked, "web").unwrap();
    assert_eq!((view.epoch.0, view.restarts), (2, 0), "{view:?}");
    assert!(view.reason.is_some_and(|why| why.contains("of work lost")));
    let said = lab.happened(&target, "recovered", "web");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].message.contains(&format!("from {owner}")) && said[0].message.contains("of work lost"), "{said:?}");
    lab.done(["lab", "start", &owner]);
    let dropped = || !lab.happened(&owner, "removed", "web").is_empty();
    assert!(eventually(dropped), "{:?}", lab.migrate(["events"]));
    // It goes on where the checkpoint was taken, not from its beginning: `ok` lines without a gap, and more than there were.
    assert!(lab.wait_for_more_ok("web", 3) >= kept);
    lab.assert_runs_only_on("web", &target);
    lab.done(["rm", "-f", "web"]);
    lab.assert_clean();
}

#[test]
fn a_checkpoint_that_is_damaged_everywhere_is_passed_over_loudly() {
    let lab = cluster(3);
    let owner = lab.follower();
    lab.start("web", &owner, &[]);
    let first = lab.keep("web");
    let others: Vec<String> = (1..=3).map(|number| format!("node{number}")).filter(|node| *node != owner).collect();
    let before: Vec<BTreeSet<PathBuf>> = others.iter().map(|node| lab.segments(node)).collect();
    lab.wait_for_more_ok("web", 2);
    let second = lab.keep("web");
    let everywhere = || others.iter().zip(&before).all(|(node, before)| lab.segments(node).len() > before.len());
    assert!(eventually(everywhere));
    for (node, before) in others.iter().zip(&before) {
        lab.segments(node).difference(before).for_each(|new| flip_a_byte(new));
    }
    lab.done(["lab", "kill", &owner]);
    let target = lab.wait_elsewhere(&others[0], "web", &[&owner]);
    let said = lab.happened(&target, "recovered", "web");
    assert!(said.iter().any(|event| event.message.contains(&first[..12])), "{said:?}");
    let warned = others.iter().flat_map(|node| lab.happened(node, "warning", "web"));
    let warned: Vec<String> = warned.map(|event| event.message).collect();
    assert!(warned.iter().any(|what| what.contains(&second[..12]) && what.contains("damaged")), "{warned:?}");
    lab.wait_for_more_ok("web", 3);
    lab.assert_intact("web");
}

#[test]
fn a_leader_dies_with_all_that_it_has_and_each_goes_on_as_was_asked_for() {
    let lab = cluster(3);
    let owner = lab.leader();
    let kept: Vec<String> = (0..8).map(|number| format!("kept{number}")).collect();
    for name in &kept {
        lab.start(name, &owner, &[]);
        lab.keep(name);
    }
    lab.start("again", &owner, &["--restart", "always"]);
    lab.start("gone", &owner, &[]);
    lab.done(["lab", "kill", &owner]);
    let asked = other(&[&owner]);
    for name in &kept {
        lab.wait_elsewhere(&asked, name, &[&owner]);
        assert_eq!(lab.seen_by(&asked, name).unwrap().epoch.0, 2);
    }
    lab.wait_elsewhere(&asked, "again", &[&owner]);
    let gone = lab.seen_by(&asked, "gone").unwrap();
    assert_eq!(gone.state, State::Lost, "{gone:?}");
    assert!(gone.reason.as_ref().is_some_and(|why| why.contains("there is no checkpoint of it")), "{gone:?}");
    for name in kept.iter().map(String::as_str).chain(["again"]) {
        let runs_on: Vec<&str> =
            ["node1", "node2", "node3"].into_iter().filter(|node| !lab.processes(node, name).is_empty()).collect();
        assert_eq!(runs_on.len(), 1, "{name} runs on {runs_on:?}");
    }
}

/// Gives signs of life until `/tmp/hang` is there; then stands still for ever.
const TOUCHES: &str = "echo began; rm -f /tmp/hang; while [ ! -e /tmp/hang ]; do touch \"$MIGRATE_PULSE\"; sleep 0.2; done; \
                       exec sleep 100000";

#[test]
fn what_begins_afresh_elsewhere_is_looked_after_there_as_it_was_asked_for() {
    let lab = cluster(3);
    let owner = lab.follower();
    let pulse = ["--restart", "on-failure:5", "--pulse", "2s", "--health-grace", "0s"];
    lab.run_with("hangs", &owner, &pulse, &["sh", "-c", TOUCHES]);
    let command = ["--restart", "always", "--health-cmd", "test ! -e ill", "--health-interval", "500ms"];
    let command = [&command[..], &["--health-retries", "2", "--health-grace", "0s"]].concat();
    lab.run_with("ill", &owner, &command, &["sh", "-c", "echo began; rm -f ill; exec sleep 100000"]);
    let with = ["--queue", "--restart", "always", "--pulse", "2s", "--health-grace", "0s"].map(str::to_owned);
    let words = ["run".to_owned(), "--name".to_owned(), "queued".to_owned()];
    lab.done(words.iter().chain(&with).chain(&["--", "sh", "-c", TOUCHES].map(str::to_owned)));
    lab.done(["lab", "kill", &owner]);
    let asked = other(&[&owner]);
    for (name, harm) in [("hangs", "/tmp/hang"), ("ill", "/work/ill"), ("queued", "/tmp/hang")] {
        let target = lab.wait_elsewhere(&asked, name, &[&owner]);
        let healthy = || lab.seen_by(&asked, name).is_some_and(|view| view.health == "healthy");
        assert!(eventually(healthy), "{name}: {:?}", lab.seen_by(&asked, name));
        lab.done(["--node", &target, "exec", name, "--", "touch", harm]);
        let again = || lab.seen_by(&asked, name).is_some_and(|view| view.restarts == 1 && view.health == "healthy");
        assert!(
            eventually(again),
            "{name}: {:?} {:?}",
            lab.seen_by(&asked, name),
            lab.happened(&target, "unhealthy", name)
        );
        assert_eq!(lab.happened(&target, "unhealthy", name).len(), 1);
    }
}

/// It goes on in the epoch that the record has begun for that, so that its next checkpoints are listed, and who has it after that has a higher one.
#[test]
fn what_hangs_goes_on_from_its_checkpoint_in_the_record_s_epoch() {
    let lab = cluster(3);
    let owner = lab.follower();
    let pulse = ["--restart", "on-failure:5", "--pulse", "2s", "--health-grace", "0s"];
    lab.run_with("hangs", &owner, &pulse, &["sh", "-c", TOUCHES]);
    lab.keep("hangs");
    lab.wait_until_well_after(&owner, "hangs", 1);
    lab.done(["--node", &owner, "exec", "hangs", "--", "touch", "/tmp/hang"]);
    let restored = || lab.happened(&owner, "restored", "hangs").len() == 1 && lab.view("hangs").health == "healthy";
    assert!(eventually(restored), "{:?}", lab.happened(&owner, "unhealthy", "hangs"));
    let asked = other(&[&owner]);
    let epochs = [lab.view("hangs").epoch.0, lab.seen_by(&asked, "hangs").unwrap().epoch.0];
    assert_eq!(epochs, [2, 2]);
    let second = lab.keep("hangs");
    lab.done(["lab", "kill", &owner]);
    let target = lab.wait_elsewhere(&asked, "hangs", &[&owner]);
    assert_eq!(lab.seen_by(&asked, "hangs").unwrap().epoch.0, 3);
    let said = lab.happened(&target, "recovered", "hangs");
    assert!(said.len() == 1 && said[0].message.contains(&second[..12]), "{said:?}");
}

#[test]
fn each_workload_s_checkpoints_are_on_as_many_nodes_as_it_was_run_with() {
    let lab = cluster(3);
    lab.start("few", "node1", &["--replicas", "1"]);
    lab.start("many", "node1", &[]);
    lab.keep("few");
    lab.keep("many");
    let nodes = |name: &str| lab.checkpoints(name).last().unwrap().nodes.len();
    assert!(eventually(|| nodes("many") == 3), "{:?}", lab.checkpoints("many"));
    assert_eq!(nodes("few"), 2, "{:?}", lab.checkpoints("few"));
    // It goes where the workload goes.
    lab.force("few", "node2");
    lab.keep("few");
    lab.done(["checkpoint", "many"]);
    assert!(eventually(|| nodes("many") == 3), "{:?}", lab.checkpoints("many"));
    assert_eq!(nodes("few"), 2, "{:?}", lab.checkpoints("few"));
    lab.assert_clean();
}

#[test]
fn three_nodes_of_five_die_one_after_the_other_and_the_workload_follows() {
    let lab = cluster(5);
    lab.start("web", "node1", &[]);
    let mut dead: Vec<String> = Vec::new();
    for round in 1..=3 {
        let owner = if dead.is_empty() {
            "node1".to_owned()
        } else {
            lab.seen_by(&other(&refs(&dead)), "web").unwrap().node.to_string()
        };
        lab.keep_as_seen_by(&other(&refs(&dead)), "web", &owner);
        lab.done(["lab", "kill", &owner]);
        dead.push(owner);
        let asked = other(&refs(&dead));
        lab.wait_elsewhere(&asked, "web", &refs(&dead));
        assert_eq!(lab.seen_by(&asked, "web").unwrap().epoch.0, round + 1);
        if round == 3 {
            break;
        }
        // Another one votes before the next one goes.
        let replaced = || {
            let voters = lab.members(&asked).into_iter().filter(|node| node.voter).collect::<Vec<_>>();
            let alive = voters.iter().filter(|node| node.state == NodeState::Alive).count();
            alive == 3 && voters.len() == 3
        };
        assert!(eventually(replaced), "{:?}", lab.members(&asked));
    }
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

impl Lab {
    /// The same where some nodes are dead.
    fn keep_as_seen_by(&self, asked: &str, name: &str, owner: &str) {
        let taken = || self.migrate(["--node", asked, "checkpoint", name]).code() == 0;
        assert!(eventually(taken), "{name}: no checkpoint");
        let listed = || {
            let told = self.happened(owner, "checkpointed", name);
            told.last().is_some_and(|event| event.message.contains("brought back"))
        };
        assert!(eventually(listed), "{name}: {:?}", self.migrate(["--node", asked, "events"]));
    }
}

#[test]
fn what_waits_outlives_the_leader_and_begins_when_there_is_room() {
    let lab = cluster(3);
    for node in ["node1", "node2", "node3"] {
        lab.done(["drain", node]);
    }
    let run = [&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "4"].map(str::to_owned);
    let programs = format!("{}:{PROGRAMS}:ro", harness::binaries().display());
    let options = ["run", "--queue", "--name", "job", "--volume", &programs, "--"].map(str::to_owned);
    lab.done(options.iter().chain(&run));
    let waiting = lab.view("job");
    assert_eq!((waiting.state, waiting.pid), (State::Queued, None), "{waiting:?}");
    assert!(waiting.reason.is_some_and(|why| why.contains("waits for room")));
    let leader = lab.leader();
    lab.done(["lab", "kill", &leader]);
    let asked = other(&[&leader]);
    let waits = || lab.seen_by(&asked, "job").is_some_and(|view| view.state == State::Queued);
    assert!(eventually(waits));
    let target = other(&[&leader, &asked]);
    assert!(eventually(|| lab.migrate(["--node", &asked, "undrain", &target]).code() == 0));
    assert_eq!(lab.wait_elsewhere(&asked, "job", &[&leader]), target);
    // One that has ended is not run again.
    lab.done(["--node", &target, "stop", "job"]);
    lab.done(["lab", "kill", &target]);
    lab.done(["lab", "start", &leader]);
    let over = || {
        lab.happened(&asked, "fenced", "").len()
            + lab.members(&asked).iter().filter(|view| view.state == NodeState::Dead).count()
            > 0
    };
    assert!(eventually(over));
    let view = lab.seen_by(&asked, "job").unwrap();
    assert_eq!((view.state, view.epoch.0), (State::Stopped, 2), "{view:?}");
}
