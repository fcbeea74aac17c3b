//! What waits for a node.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::record::{Life, Wanted};
use crate::cluster::steward::{Act, Health};

fn full(desk: &mut Desk) {
    for name in ["a", "b", "c", "d"] {
        desk.room(name, GIB);
    }
}

#[test]
fn what_is_queued_gets_a_node_and_that_is_told() {
    let mut desk = Desk::new();
    desk.declare("job", None, |_| {});
    let (owner, epoch, life) = desk.state("job");
    assert_eq!((owner, epoch, life), (Some("a"), 2, Life::Starting));
    let told = Act::Nudge { node: node("a"), load: load("job"), epoch: desk.entry("job").epoch };
    assert!(desk.acts.contains(&told));
}

#[test]
fn the_queue_goes_by_priority_and_then_by_age_and_a_new_leader_goes_on_with_it() {
    let mut desk = Desk::new();
    full(&mut desk);
    for (name, priority) in [("old", 0), ("young", 0), ("urgent", 1)] {
        desk.declare(name, None, |asked| asked.priority = priority);
    }
    desk.pass(10_000);
    assert_eq!(desk.proposed, []);
    desk.begin_to_lead();
    desk.room("a", 2 * GIB);
    desk.pass(1_000);
    assert_eq!((desk.state("urgent").0, desk.state("old").0), (Some("a"), None), "there is room for one");
    desk.room("b", 2 * GIB);
    desk.pass(1_000);
    assert_eq!((desk.state("old").0, desk.state("young").0), (Some("b"), None));
}

#[test]
fn what_is_too_large_for_now_does_not_hold_up_what_is_smaller() {
    let mut desk = Desk::new();
    desk.declare("large", None, |asked| (asked.priority, asked.memory) = (9, 64 * GIB));
    desk.declare("small", None, |_| {});
    assert_eq!((desk.state("large").0, desk.state("small").0), (None, Some("a")));
    assert!(desk.words().iter().any(|word| word.starts_with("there is no node for large: a has ")));
    desk.pass(60_000);
    assert!(desk.words().is_empty(), "said once");
}

#[test]
fn nothing_goes_to_who_does_not_answer_or_drains() {
    let mut desk = Desk::new();
    desk.member("a", Health::Suspect);
    desk.tell(Command::Drain { node: node("b"), since: desk.record.nodes[&node("b")].since, draining: true });
    desk.declare("job", None, |_| {});
    assert_eq!(desk.state("job").0, Some("c"));
}

#[test]
fn what_is_not_wanted_any_more_gets_no_node() {
    let mut desk = Desk::new();
    full(&mut desk);
    desk.declare("job", None, |_| {});
    desk.wish("job", Wanted::Stop);
    desk.room("a", 8 * GIB);
    desk.pass(10_000);
    assert_eq!(desk.state("job"), (None, 1, Life::Stopped(None)));
}
