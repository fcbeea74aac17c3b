//! Checkpoints in a depot, with real CRIU: a workload whose node is gone comes back from a directory that outlives all nodes; what is damaged there is
//! refused; what is not kept any more goes from there; a depot that is away holds up nothing.

#![allow(clippy::unwrap_used)]

mod harness;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use harness::deadline::within;
use harness::vaults::flip_a_byte;
use harness::{Lab, PATIENCE, PROGRAMS, eventually};
use migrate_proto::api::{CheckpointView, NodeState, NodeView, State, WorkloadView};

/// A lab whose nodes share a depot, and want this many copies on other nodes.
fn lab_with_depot(options: &[&str], copies: &str, is_there: bool) -> (Lab, PathBuf) {
    let place = Lab::find_place();
    let depot = place.path().join("depot");
    if is_there {
        std::fs::create_dir(&depot).unwrap();
    }
    let address = format!("dir:{}", depot.display());
    let environment =
        [("MIGRATE_CHECKPOINT_STORE", OsStr::new(&address)), ("MIGRATE_CHECKPOINT_REPLICAS", OsStr::new(copies))];
    (Lab::up_in(place, options, &environment), depot)
}

/// The files of a workload in a depot: of its generations (`gen`), or its segments (`seg`).
fn stored(depot: &Path, workload: &str, kind: &str) -> Vec<PathBuf> {
    let inside = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let shelves: Vec<PathBuf> = inside(&depot.join(workload).join(kind)).collect();
    shelves.iter().flat_map(|shelf| inside(shelf)).collect()
}

impl Lab {
    fn members(&self, asked: &str) -> Vec<NodeView> {
        serde_json::from_value(self.done(["--json", "--node", asked, "nodes"]).json()).unwrap()
    }

    fn happened(&self, node: &str, kind: &str, words: &str) -> bool {
        self.events_of(node).iter().any(|event| event.kind == kind && event.message.contains(words))
    }

    fn seen_by(&self, asked: &str, name: &str) -> Option<WorkloadView> {
        let views: Vec<WorkloadView> =
            serde_json::from_value(self.done(["--json", "--node", asked, "ps"]).json()).unwrap();
        views.into_iter().find(|view| view.name.as_str() == name)
    }

    /// What the cluster has agreed about, as text.
    fn record(&self) -> String {
        let file = self.directory().parent().unwrap().join("backup.json");
        let _ = std::fs::remove_file(&file);
        self.done(["--node", "node1", "cluster", "backup", file.to_str().unwrap()]);
        std::fs::read_to_string(file).unwrap()
    }

    /// Waits until it runs on another node than node3, from this checkpoint and nowhere else. That node.
    fn wait_for_recovery(&self, name: &str, from: &CheckpointView) -> String {
        let mut last = None;
        let runs = || {
            last = self.seen_by("node1", name);
            last.as_ref().is_some_and(|view| view.state == State::Running && view.node.as_str() != "node3")
        };
        assert!(eventually(runs), "{last:?}; {:?}", self.migrate(["--node", "node1", "events"]));
        let view = last.unwrap();
        assert_eq!(view.epoch.0, 2, "{view:?}");
        let target = view.node.to_string();
        assert!(self.happened(&target, "recovered", &from.id.to_string()[..12]));
        self.assert_runs_only_on(name, &target);
        target
    }

    fn wait_until_in_depot(&self, name: &str, taken: &CheckpointView) {
        let mut known = Vec::new();
        let is_there = || {
            known = self.checkpoints(name);
            known.iter().any(|view| view.id == taken.id && view.depots.len() == 1)
        };
        assert!(eventually(is_there), "{known:?}");
    }
}

/// Nodes that agree about a record. All of them vote.
fn cluster_with_depot(copies: &str, is_there: bool) -> (Lab, PathBuf) {
    let (lab, depot) = lab_with_depot(&["--cluster", "--nodes", "3"], copies, is_there);
    let settled = || {
        let views = lab.members("node1");
        views.iter().filter(|node| node.voter && node.state == NodeState::Alive).count() == 3
    };
    assert!(eventually(settled), "{:?}", lab.members("node1"));
    (lab, depot)
}

#[test]
fn a_dead_node_s_workload_comes_back_from_a_depot_when_no_node_has_it() {
    let (lab, depot) = cluster_with_depot("0", true);
    lab.run_with("web", "node3", &[], &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "8"]);
    let reached = lab.wait_for_more_ok("web", 2);
    let taken = lab.checkpoint("web");
    lab.wait_until_in_depot("web", &taken);
    let listed = || lab.happened("node3", "checkpointed", "should node3 be lost, it is brought back from it");
    assert!(eventually(listed), "{:?}", lab.migrate(["events"]));
    assert_eq!(taken.nodes.len(), 1, "no other node has it: {taken:?}");
    lab.done(["lab", "kill", "node3"]);
    let target = lab.wait_for_recovery("web", &taken);
    // It goes on where the checkpoint was taken: `ok` lines without a gap, and more than there were then.
    assert!(lab.wait_for_more_ok("web", 3) > reached);
    lab.assert_intact("web");

    // Its new owner has what is kept on a shelf of its own, and the one before it has none any more.
    let shelf = format!("0000000002-{target}");
    let is_its = || {
        let all = [stored(&depot, "web", "gen"), stored(&depot, "web", "seg")].concat();
        !all.is_empty() && all.iter().all(|file| file.parent().unwrap().ends_with(&shelf))
    };
    assert!(eventually(is_its), "{:?}", stored(&depot, "web", "gen"));
    lab.done(["rm", "-f", "web"]);
    assert!(eventually(|| std::fs::read_dir(&depot).unwrap().count() == 0), "{:?}", stored(&depot, "web", "seg"));
}

/// Nobody else has it: it is tried on all nodes, waited for, and then the one before it is taken. The leader says what is lost.
#[test]
fn what_a_depot_does_not_give_in_time_is_passed_over_loudly() {
    let (lab, depot) = cluster_with_depot("0", true);
    lab.run_with("web", "node3", &[], &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "8"]);
    lab.wait_for_more_ok("web", 2);
    let first = lab.checkpoint("web");
    lab.wait_until_in_depot("web", &first);
    lab.wait_for_more_ok("web", 2);
    let second = lab.checkpoint("web");
    lab.wait_until_in_depot("web", &second);
    let both = || [&first, &second].iter().all(|taken| lab.record().contains(&taken.id.to_string()));
    assert!(eventually(both), "{}", lab.record());
    let is_second = |file: &&PathBuf| file.to_string_lossy().contains(&second.id.to_string());
    let generations = stored(&depot, "web", "gen");
    std::fs::remove_file(generations.iter().find(is_second).unwrap()).unwrap();
    lab.done(["lab", "kill", "node3"]);
    let mut last = None;
    let runs = || {
        last = lab.seen_by("node1", "web");
        last.as_ref().is_some_and(|view| view.state == State::Running && view.node.as_str() != "node3")
    };
    // It is waited for half a minute.
    assert!(within(3 * PATIENCE, runs), "{last:?}; {:?}", lab.migrate(["--node", "node1", "events"]));
    let target = last.unwrap().node.to_string();
    assert!(lab.happened(&target, "recovered", &first.id.to_string()[..12]));
    lab.assert_runs_only_on("web", &target);
    let told =
        |node: &&str| lab.happened(node, "recovering", "what it did since is lost: nobody can get the newer ones");
    assert!(["node1", "node2"].iter().any(told), "{:?}", lab.migrate(["--node", "node1", "events"]));
    for node in ["node1", "node2"] {
        assert!(lab.happened(node, "warning", "it could not be brought back"), "each has tried the newest one");
    }
    lab.wait_for_more_ok("web", 3);
    lab.done(["rm", "-f", "web"]);
}

#[test]
fn what_is_damaged_on_the_only_node_that_is_left_comes_from_a_depot() {
    let (lab, depot) = cluster_with_depot("1", false);
    lab.run_with("web", "node3", &[], &[&*format!("{PROGRAMS}/specimen"), "memory", "--mib", "8"]);
    let reached = lab.wait_for_more_ok("web", 2);
    let taken = lab.checkpoint("web");
    let listed = || lab.happened("node3", "checkpointed", "should node3 be lost, it is brought back from it");
    assert!(eventually(listed), "{:?}", lab.migrate(["events"]));
    // The depot comes later, and the record hears of it.
    assert!(!lab.record().contains("dir:"));
    std::fs::create_dir(&depot).unwrap();
    lab.wait_until_in_depot("web", &taken);
    assert!(eventually(|| lab.record().contains("dir:")), "{}", lab.record());
    let segments: Vec<PathBuf> = ["node1", "node2"].iter().flat_map(|node| lab.segments(node)).collect();
    assert!(!segments.is_empty(), "one of them has it");
    segments.iter().for_each(|segment| flip_a_byte(segment));
    lab.done(["lab", "kill", "node3"]);
    let target = lab.wait_for_recovery("web", &taken);
    let told = |node: &&str| lab.happened(node, "warning", "damaged");
    assert!(["node1", "node2"].iter().any(told), "{:?}", lab.migrate(["--node", &target, "events"]));
    assert!(lab.wait_for_more_ok("web", 3) > reached);
    lab.assert_intact("web");
    lab.done(["rm", "-f", "web"]);
}

#[test]
fn what_is_damaged_in_a_depot_is_refused_and_what_is_not_kept_goes_from_there() {
    let (lab, depot) = lab_with_depot(&["--nodes", "2"], "0", true);
    lab.specimen("keeper", "node1", &["memory", "--mib", "16", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("keeper", 3);
    let first = lab.checkpoint("keeper");
    lab.wait_until_in_depot("keeper", &first);
    let of_first = stored(&depot, "keeper", "seg");
    // The second one brings little.
    let second = lab.checkpoint("keeper");
    lab.wait_until_in_depot("keeper", &second);
    let new = stored(&depot, "keeper", "seg").into_iter().filter(|file| !of_first.contains(file)).count();
    assert!(new < of_first.len() / 2, "{new} of {}", of_first.len());
    let mut newest = second;
    for _ in 0..2 {
        newest = lab.checkpoint("keeper");
        lab.wait_until_in_depot("keeper", &newest);
    }
    // Three are kept. What the first of the four shares with the others stays.
    let is_first = |file: &PathBuf| file.to_string_lossy().contains(&first.id.to_string());
    let three = || {
        let generations = stored(&depot, "keeper", "gen");
        generations.len() == 3 && !generations.iter().any(is_first)
    };
    assert!(eventually(three), "{:?}", stored(&depot, "keeper", "gen"));
    assert!(stored(&depot, "keeper", "seg").iter().any(|file| of_first.contains(file)));
    let reached = lab.wait_for_more_ok("keeper", 1);
    lab.done(["lab", "kill", "node1"]);

    let segments = stored(&depot, "keeper", "seg");
    segments.iter().for_each(|segment| flip_a_byte(segment));
    let refused = lab.migrate(["--node", "node2", "restore", "keeper", "--on", "node2", "--force"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(lab.happened("node2", "warning", "could not be had from a depot"), "{refused:?}");
    assert!(lab.happened("node2", "warning", "is damaged"), "{:?}", lab.events_of("node2"));
    assert!(lab.processes("node2", "keeper").is_empty());

    segments.iter().for_each(|segment| flip_a_byte(segment));
    lab.done(["--node", "node2", "restore", "keeper", "--on", "node2", "--force"]);
    assert!(lab.happened("node2", "restored", &newest.id.to_string()[..12]));
    lab.wait_for_more_ok("keeper", 3);
    assert!(lab.assert_intact("keeper") <= reached + 1000);
    lab.assert_runs_only_on("keeper", "node2");
}

#[test]
fn a_depot_that_is_away_is_told_and_holds_up_nothing() {
    let (lab, depot) = lab_with_depot(&["--nodes", "2"], "1", false);
    lab.specimen("keeper", "node1", &["counter"]);
    lab.wait_for_more_ok("keeper", 3);
    let taken = lab.checkpoint("keeper");
    let with_a_node = || lab.checkpoints("keeper").iter().any(|view| view.id == taken.id && view.nodes.len() == 2);
    assert!(eventually(with_a_node));
    assert!(eventually(|| lab.happened("node1", "warning", "checkpoints are not brought to a depot")));
    assert!(!depot.exists(), "a directory that is not there is not made: it may be below a mount");
    // It comes back from the node that has it.
    lab.done(["stop", "keeper"]);
    lab.done(["restore", "keeper"]);
    lab.wait_for_more_ok("keeper", 3);

    std::fs::create_dir(&depot).unwrap();
    assert!(eventually(|| lab.happened("node1", "checkpointed", "again")));
    lab.wait_until_in_depot("keeper", &taken);
    lab.done(["rm", "-f", "keeper"]);
    lab.assert_clean();
}
