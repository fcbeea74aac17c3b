//! Drains, and the list of checkpoints.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::record::{LoadPolicy, Proof};
use crate::cluster::steward::{Act, Event, Health};

fn numbers(desk: &Desk) -> Vec<u64> {
    desk.entry("web").checkpoints.iter().map(|checkpoint| checkpoint.number).collect()
}

fn prove(desk: &mut Desk, number: u8, proof: Proof) {
    let checkpoint = checkpoint_id("web", number);
    let since = desk.entry("web").checkpoint(checkpoint).unwrap().since;
    desk.tell(Command::Proved { load: load("web"), checkpoint, since, proof });
}

#[test]
fn a_node_that_drains_is_told_where_each_of_its_workloads_would_be_taken() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 0, &[]);
    desk.runs("db", "a", 0, &[]);
    desk.runs("other", "b", 0, &[]);
    desk.tell(Command::Drain { node: node("a"), since: desk.record.nodes[&node("a")].since, draining: true });
    let moves = |desk: &mut Desk| {
        let moves: Vec<String> = desk
            .acts
            .iter()
            .filter_map(|act| match act {
                Act::Move { from, load, to, .. } => Some(format!("{load} from {from} to {to}")),
                _ => None,
            })
            .collect();
        desk.acts.clear();
        moves
    };
    let first = moves(&mut desk);
    assert_eq!(first, ["web from a to c", "db from a to d"]);
    desk.pass(10_000);
    assert!(moves(&mut desk).is_empty(), "told once");
    desk.member("c", Health::Down);
    assert_eq!(moves(&mut desk).len(), 1, "c would not take it any more");
    desk.member("a", Health::Down);
    assert!(moves(&mut desk).is_empty(), "nobody is there to move anything");
}

#[test]
fn the_newest_are_kept_and_the_newest_healthy_and_the_newest_that_was_verified() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 0, &[]);
    for number in 1..=2 {
        desk.keep("web", "a", number, &["b"]);
    }
    prove(&mut desk, 1, Proof::Sound { at_ms: 1 });
    for number in 3..=6 {
        desk.keep("web", "a", number, &["b"]);
        assert!(numbers(&desk).len() <= 4);
    }
    assert_eq!(numbers(&desk), [1, 4, 5, 6], "1 is the only one that was read again");
    prove(&mut desk, 5, Proof::Sound { at_ms: 2 });
    assert_eq!(numbers(&desk), [4, 5, 6]);
    prove(&mut desk, 6, Proof::Damaged);
    assert_eq!(numbers(&desk), [4, 5], "what is damaged is no use");
}

#[test]
fn as_many_are_kept_as_the_workload_wants() {
    let mut desk = Desk::new();
    desk.declare("web", Some("a"), |asked| asked.policy = LoadPolicy { keep: Some(0), ..LoadPolicy::default() });
    for number in 1..=3 {
        desk.keep("web", "a", number, &["b"]);
    }
    assert_eq!(numbers(&desk), [3], "one at least");
}

#[test]
fn what_the_workload_is_brought_back_from_is_kept() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.dies("a");
    for number in 2..=5 {
        desk.keep("web", "b", number, &["c"]);
    }
    assert_eq!(numbers(&desk), [1, 3, 4, 5]);
}

#[test]
fn who_has_a_checkpoint_is_what_they_say() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    let mut says = |name: &str, whole: bool| {
        let checkpoint = checkpoint_id("web", 1);
        desk.hear(Event::Copy { load: load("web"), checkpoint, node: node(name), whole });
        desk.pass(2_000);
        let listed = &desk.entry("web").checkpoints[0];
        (listed.holders.iter().map(|holder| holder.to_string()).collect::<String>(), listed.damaged)
    };
    assert_eq!(says("c", true), ("abc".to_owned(), false));
    assert_eq!(says("a", false), ("bc".to_owned(), false));
    assert_eq!(says("b", false), ("c".to_owned(), false));
    assert_eq!(says("c", false), ("c".to_owned(), true), "nobody has it");
}

#[test]
fn who_was_forgotten_has_nothing() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b", "c"]);
    desk.dies("b");
    desk.tell(Command::Forget { node: node("b"), mark: mark("b") });
    let holders = &desk.entry("web").checkpoints[0].holders;
    assert_eq!(*holders, [node("a"), node("c")].into());
}
