//! A node that comes back with an old state: what it had has long been elsewhere, in a later epoch.

use std::process::Command;

use migrate_proto::api::WorkloadView;

use crate::harness::{Lab, eventually};

#[test]
fn a_node_with_an_old_state_starts_nothing_and_gives_nothing_away() {
    let lab = Lab::up(3);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 2);
    let (state, old) = (lab.directory().join("node1/state"), lab.place().join("old"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let copied = Command::new("cp").args(["-a", "--sparse=always", "-T"]).args([from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&state, &old);
    lab.force("count", "node2");
    lab.done(["lab", "kill", "node1"]);
    std::fs::remove_dir_all(&state).unwrap();
    copy(&old, &state);
    lab.done(["lab", "start", "node1"]);

    // Both are shown: the one that runs, and the one of which node1 thinks that it was its own.
    let mut views: Vec<WorkloadView> = Vec::new();
    let both = eventually(|| {
        // The others may need a moment to hear it again.
        views = serde_json::from_str(&lab.migrate(["--json", "ps"]).stdout).unwrap_or_default();
        views.len() == 2
    });
    assert!(both, "{views:?}");
    let stale = views.iter().find(|view| view.node.as_str() == "node1").unwrap();
    assert_eq!((stale.epoch.0, stale.pid), (1, None), "{stale:?}");

    let started = lab.migrate(["--node", "node1", "start", "count"]);
    assert_ne!(started.code(), 0, "{started:?}");
    assert!(started.stderr.contains("count is on node2 in epoch 2"), "{started:?}");
    assert!(started.stderr.contains("hint: ") && started.stderr.contains("--node node1 rm count"), "{started:?}");
    for to in ["node2", "node3"] {
        let moved = lab.migrate(["--node", "node1", "--force", "count", "--to", to]);
        assert_ne!(moved.code(), 0, "{moved:?}");
    }
    assert!(lab.processes("node1", "count").is_empty());

    lab.done(["--node", "node1", "rm", "count"]);
    lab.assert_runs_only_on("count", "node2");
    lab.wait_for_more_ok("count", 2);
    // Nothing of it stands in the way of honest moves.
    lab.force("count", "node1");
    lab.assert_runs_only_on("count", "node1");
    lab.wait_for_more_ok("count", 2);
    lab.assert_clean();
}
