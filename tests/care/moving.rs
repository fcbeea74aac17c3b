//! What was asked for, and what was done until now, moves along.

use migrate_proto::api::{Outcome, State};

use crate::harness::Lab;
use crate::pulse::{TOUCHES, notifies};

#[test]
fn policy_count_and_health_move_with_the_workload() {
    let lab = Lab::up(2);
    let options = ["--restart", "on-failure", "--pulse", "2s"];
    lab.run_with("moves", "node1", &options, &["sh", "-c", TOUCHES]);
    lab.wait_until("moves", |view| view.health == "healthy");
    lab.exec("moves", &["kill", "-KILL", "100"]);
    lab.wait_for_restart("moves", 1);
    lab.wait_until("moves", |view| view.health == "healthy");
    assert_eq!(lab.force("moves", "node2").outcome, Outcome::Moved);
    let view = lab.wait_until("moves", |view| view.health == "healthy" && view.node.as_str() == "node2");
    assert_eq!((view.restarts, view.state), (1, State::Running));
    // A hang is seen there, and the count goes on.
    lab.exec("moves", &["touch", "/tmp/hang"]);
    let view = lab.wait_for_restart("moves", 2);
    assert_eq!((view.node.as_str(), view.epoch.0, view.restarts), ("node2", 2, 2));
    // And back, after a start on the other node.
    lab.wait_until("moves", |view| view.health == "healthy");
    lab.force("moves", "node1");
    lab.exec("moves", &["kill", "-KILL", "100"]);
    let view = lab.wait_for_restart("moves", 3);
    assert_eq!((view.node.as_str(), view.restarts), ("node1", 3));
    lab.done(["stop", "moves"]);
    lab.done(["lab", "crash", "node1"]);
    lab.wait_for_event("moves", "stopped: stopped");
    assert_eq!(lab.wait_until("moves", |_| true).state, State::Stopped);
    lab.assert_clean();
}

/// Programs that send their signs of life to the socket move like any other, with and without a connection to it.
#[test]
fn who_notifies_moves() {
    let lab = Lab::up(2);
    let options = ["--restart", "always", "--pulse", "2s", "--health-grace", "2s"];
    for (name, connected) in [("sends", false), ("keeps", true)] {
        lab.run_with(name, "node1", &options, &["python3", "-c", &notifies(connected)]);
        lab.wait_until(name, |view| view.health == "healthy");
        lab.assert_would_move(name, "node2");
        lab.force(name, "node2");
        lab.wait_for_more_ok(name, 20);
        let view = lab.wait_until(name, |view| view.health == "healthy");
        assert_eq!((view.node.as_str(), view.restarts), ("node2", 0), "{}", lab.story(name));
        // It is heard there, and not only left alone.
        lab.exec(name, &["touch", "/tmp/hang"]);
        lab.wait_for_restart(name, 1);
    }
    lab.assert_clean();
}
