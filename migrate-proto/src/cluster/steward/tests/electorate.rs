//! Who votes.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::lease::{LogId, Voters};
use crate::cluster::steward::{Act, Health};

/// The names of those who should vote, if others than now should.
fn asked(desk: &mut Desk) -> Option<String> {
    let last = desk.acts.iter().rev().find_map(|act| match act {
        Act::Voters(voters) => Some(voters.clone()),
        _ => None,
    });
    desk.acts.clear();
    let names = |number: u8| String::from(char::from(number));
    last.map(|voters| voters.iter().map(|voter| names(voter.0.to_be_bytes()[0])).collect())
}

fn vote(desk: &mut Desk, names: &str) {
    desk.at += 1;
    let sets = vec![names.split("").filter(|name| !name.is_empty()).map(voter).collect()];
    assert!(desk.record.set_voters(desk.at, Voters { config: LogId { term: 1, index: desk.at }, sets }));
    // Something, so that the leader hears of it.
    let since = desk.record.nodes[&node("a")].since;
    desk.tell(Command::Drain { node: node("a"), since, draining: true });
    let since = desk.record.nodes[&node("a")].since;
    desk.tell(Command::Drain { node: node("a"), since, draining: false });
    desk.acts.clear();
}

#[test]
fn there_are_as_many_as_the_cluster_is_large() {
    let mut desk = Desk::new();
    vote(&mut desk, "a");
    desk.pass(9_999);
    assert_eq!(asked(&mut desk), None, "not soon after a change");
    desk.pass(1);
    assert_eq!(asked(&mut desk).as_deref(), Some("abc"));
    vote(&mut desk, "abc");
    for name in ["e", "f"] {
        desk.join(name);
    }
    desk.pass(60_000);
    assert_eq!(asked(&mut desk), None, "three of six");
    desk.join("g");
    assert_eq!(asked(&mut desk).as_deref(), Some("abcde"));
}

#[test]
fn one_that_is_down_for_long_is_replaced_and_one_that_comes_back_is_not() {
    let mut desk = Desk::new();
    desk.pass(60_000);
    desk.member("b", Health::Down);
    desk.pass(9_000);
    desk.member("b", Health::Alive);
    desk.pass(60_000);
    assert_eq!(asked(&mut desk), None);
    desk.member("b", Health::Down);
    desk.pass(10_000);
    assert_eq!(asked(&mut desk).as_deref(), Some("acd"));
    desk.pass(1_000);
    assert_eq!(asked(&mut desk).as_deref(), Some("acd"), "again, for nothing came of it");
}

#[test]
fn without_another_the_one_that_is_down_stays() {
    let mut desk = Desk::new();
    desk.member("d", Health::Down);
    desk.member("b", Health::Down);
    desk.pass(60_000);
    assert_eq!(asked(&mut desk), None);
}

#[test]
fn who_drains_goes_first_and_who_has_left_does_not_count() {
    let mut desk = Desk::new();
    desk.pass(60_000);
    desk.tell(Command::Drain { node: node("c"), since: desk.record.nodes[&node("c")].since, draining: true });
    assert_eq!(asked(&mut desk).as_deref(), Some("abd"));
    for name in ["c", "d"] {
        desk.tell(Command::Leave(claim(name, 1)));
    }
    desk.pass(60_000);
    assert_eq!(asked(&mut desk).as_deref(), Some("a"), "one of two");
}

#[test]
fn an_even_number_is_never_chosen() {
    let mut desk = Desk::new();
    vote(&mut desk, "a");
    for name in ["c", "d"] {
        desk.member(name, Health::Down);
    }
    desk.pass(60_000);
    assert_eq!(asked(&mut desk), None, "of two one more must live than of one");
}

#[test]
fn while_they_change_nothing_is_changed() {
    let mut desk = Desk::new();
    desk.at += 1;
    let sets = vec![[voter("a")].into(), ["a", "b"].map(voter).into()];
    assert!(desk.record.set_voters(desk.at, Voters { config: LogId { term: 1, index: desk.at }, sets }));
    desk.begin_to_lead();
    desk.pass(60_000);
    assert_eq!(asked(&mut desk), None);
}
