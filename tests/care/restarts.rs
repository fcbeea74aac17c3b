//! Who is begun again, when, and when not.

use migrate_proto::api::State;

use crate::harness::Lab;

#[test]
fn a_crash_loop_ends_in_failed_with_its_reason() {
    let lab = Lab::up(1);
    lab.run_with("loop", "node1", &["--restart", "always"], &["sh", "-c", "echo began; exit 3"]);
    let failed = lab.wait_until("loop", |view| view.state == State::Failed);
    let reason = failed.reason.unwrap();
    assert!(reason.contains("crash loop") && reason.contains("ended with code 3"), "{reason}");
    assert_eq!(failed.restarts, 4);
    assert_eq!(lab.logs("loop"), "began\n".repeat(5), "its files are those it had");
    let story = lab.story("loop");
    for wait in ["begins again in 1 s", "begins again in 2 s", "begins again in 4 s", "begins again in 8 s"] {
        assert_eq!(story.matches(wait).count(), 1, "{wait}:\n{story}");
    }
    assert_eq!(story.matches("failed: is not begun again").count(), 1, "{story}");
    // A person's word is a new beginning.
    lab.done(["start", "loop"]);
    lab.wait_until("loop", |view| view.restarts == 5);
    lab.done(["rm", "-f", "loop"]);
    lab.assert_clean();
}

#[test]
fn only_failures_are_failures_and_their_number_counts() {
    let lab = Lab::up(1);
    lab.run_with("fine", "node1", &["--restart", "on-failure"], &["sh", "-c", "exit 0"]);
    lab.run_with("once", "node1", &["--restart", "on-failure:1"], &["sh", "-c", "echo began; exit 1"]);
    lab.run_with("never", "node1", &["--restart", "no"], &["sh", "-c", "exit 1"]);
    let failed = lab.wait_until("once", |view| view.state == State::Failed);
    assert_eq!(failed.restarts, 1);
    assert!(failed.reason.unwrap().contains("after 1 of 1 restarts"));
    for name in ["fine", "never"] {
        let view = lab.wait_until(name, |view| view.state == State::Stopped);
        assert_eq!((view.restarts, view.reason), (0, None), "{name}");
    }
    lab.assert_clean();
}

#[test]
fn what_a_person_stopped_stays_stopped_and_always_begins_with_the_agent() {
    let lab = Lab::up(1);
    lab.run_with("stays", "node1", &["--restart", "unless-stopped"], &["sleep", "100000"]);
    lab.run_with("again", "node1", &["--restart", "always"], &["sleep", "100000"]);
    // One that waits to be begun again can be stopped, too.
    lab.run_with("waits", "node1", &["--restart", "unless-stopped"], &["sh", "-c", "exit 1"]);
    lab.wait_until("waits", |view| view.restarts >= 2 && view.state == State::Stopped);
    for name in ["stays", "again", "waits"] {
        lab.done(["stop", name]);
    }
    lab.done(["lab", "crash", "node1"]);
    lab.wait_for_restart("again", 1);
    // Whoever else would begin again would have: its attendant saw it in the same moment.
    for name in ["stays", "waits"] {
        let view = lab.view(name);
        assert_eq!((view.state, view.reason), (State::Stopped, None), "{name}: {}", lab.story(name));
    }
    assert_eq!(lab.view("stays").restarts, 0);
    lab.done(["start", "stays"]);
    lab.exec("stays", &["kill", "-KILL", "100"]);
    lab.wait_for_restart("stays", 1);
    lab.assert_clean();
}

#[test]
fn an_agent_that_dies_while_a_workload_waits_goes_on_counting() {
    let lab = Lab::up(1);
    lab.run_with("waits", "node1", &["--restart", "always"], &["sh", "-c", "exit 7"]);
    // Now it waits for 4 s.
    lab.wait_until("waits", |view| view.restarts == 2 && view.state == State::Stopped && view.reason.is_some());
    lab.done(["lab", "crash", "node1"]);
    let failed = lab.wait_until("waits", |view| view.state == State::Failed);
    assert_eq!(failed.restarts, 4, "{}", lab.story("waits"));
    lab.assert_clean();
}

/// The agent is not there when it ends.
#[test]
fn an_end_that_nobody_saw_is_one() {
    let lab = Lab::up(1);
    lab.run_with(
        "alone",
        "node1",
        &["--restart", "on-failure"],
        &["sh", "-c", "sleep 1; [ -e again ] && exec sleep 100000; touch again; exit 5"],
    );
    lab.done(["lab", "crash", "node1"]);
    lab.wait_for_restart("alone", 1);
    assert_eq!(lab.view("alone").restarts, 1);
    lab.wait_for_event("alone", "started again (restart 1): it ended with code 5");
    lab.assert_clean();
}

/// Not only its processes are gone: its node was, too.
#[test]
fn a_node_that_comes_back_begins_its_workloads_again() {
    let lab = Lab::up(1);
    lab.run_with("again", "node1", &["--restart", "unless-stopped"], &["sleep", "100000"]);
    lab.run("stays", "node1", &["sleep", "100000"]);
    lab.done(["lab", "kill", "node1"]);
    lab.done(["lab", "start", "node1"]);
    lab.wait_for_restart("again", 1);
    assert_eq!(lab.view("stays").state, State::Lost);
    lab.assert_clean();
}
