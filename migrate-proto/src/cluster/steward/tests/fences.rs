//! Whose lease is asked about, and who is fenced.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::lease::{LogId, Voters};
use crate::cluster::record::Life;
use crate::cluster::steward::{Act, Event, Health};

fn watched(desk: &mut Desk) -> Vec<String> {
    let last = desk.acts.iter().rev().find_map(|act| match act {
        Act::Watch(claims) => Some(claims.iter().map(|claim| claim.node.to_string()).collect()),
        _ => None,
    });
    desk.acts.retain(|act| !matches!(act, Act::Watch(_)));
    last.unwrap_or_default()
}

#[test]
fn only_those_are_asked_about_who_may_be_gone() {
    let mut desk = Desk::new();
    assert!(watched(&mut desk).is_empty());
    desk.member("b", Health::Suspect);
    assert_eq!(watched(&mut desk), ["b"]);
    desk.hear(Event::Quiet(claim("d", 1)));
    assert_eq!(watched(&mut desk), ["b", "d"], "it answers, and does not renew");
    desk.member("b", Health::Alive);
    assert_eq!(watched(&mut desk), ["d"]);
    desk.pass(900);
    desk.hear(Event::Quiet(claim("d", 1)));
    desk.pass(999);
    assert!(!desk.acts.iter().any(|act| matches!(act, Act::Watch(_))), "still the same");
    desk.pass(1);
    assert!(desk.acts.iter().any(|act| matches!(act, Act::Watch(claims) if claims.is_empty())), "it renews again");
    desk.member("d", Health::Suspect);
    assert_eq!(watched(&mut desk), ["d"]);
    desk.dies("d");
    assert!(watched(&mut desk).is_empty(), "what is fenced is over");
}

#[test]
fn suspicion_fences_nobody() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    for health in [Health::Suspect, Health::Down, Health::Left] {
        desk.member("a", health);
        desk.pass(60_000);
    }
    assert_eq!(desk.proposed, []);
    assert_eq!(desk.state("web"), (Some("a"), 1, Life::Running));
}

#[test]
fn who_answers_is_fenced_only_when_its_lease_has_been_over_for_long() {
    let mut desk = Desk::new();
    desk.lapsed("a", 1);
    desk.pass(1_999);
    assert!(desk.proposed.is_empty());
    desk.pass(1);
    assert!(desk.record.nodes[&node("a")].fenced);

    desk.lapsed("b", 1);
    desk.pass(500);
    desk.member("b", Health::Suspect);
    assert!(desk.record.nodes[&node("b")].fenced, "with a suspicion it is long enough");
}

#[test]
fn who_has_opened_another_session_is_not_fenced_for_the_last() {
    let mut desk = Desk::new();
    desk.lapsed("a", 1);
    desk.tell(Command::OpenSession { node: node("a"), mark: mark("a"), after: 1, finite: true });
    desk.member("a", Health::Down);
    desk.pass(60_000);
    assert_eq!(desk.proposed, []);
}

#[test]
fn lapses_by_voters_of_before_are_worth_nothing() {
    let mut desk = Desk::new();
    desk.lapsed("a", 1);
    desk.at += 1;
    let sets = vec![["b", "c", "d"].map(voter).into()];
    let config = LogId { term: 1, index: desk.at };
    assert!(desk.record.set_voters(desk.at, Voters { config, sets }));
    desk.tell(Command::Drain { node: node("d"), since: desk.record.nodes[&node("d")].since, draining: true });
    desk.member("a", Health::Down);
    assert!(desk.proposed.is_empty(), "{:?}", desk.proposed);
    assert_eq!(watched(&mut desk), ["a"], "those of now are asked");
    desk.lapsed("a", 1);
    assert_eq!(desk.proposed, [Command::Fence { lapsed: claim("a", 1), voters: config }]);
}

#[test]
fn the_fence_and_what_follows_are_one_command_and_later_the_fence_goes_alone() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.carried_out = false;
    desk.dies("a");
    let [Command::Many(all)] = &desk.proposed[..] else { panic!("{:?}", desk.proposed) };
    assert!(matches!(all[..], [Command::Fence { .. }, Command::Reassign(_)]), "{all:?}");
    desk.proposed.clear();
    desk.pass(999);
    assert_eq!(desk.proposed, [], "it may be under way");
    desk.pass(1);
    assert!(matches!(desk.proposed[..], [Command::Fence { .. }]), "{:?}", desk.proposed);
}

#[test]
fn many_workloads_follow_in_portions() {
    let mut desk = Desk::new();
    for number in 0..100 {
        desk.declare(&format!("load{number:03}"), Some("a"), |asked| asked.memory = 1 << 20);
    }
    desk.dies("a");
    let Command::Many(first) = &desk.proposed[0] else { panic!() };
    assert_eq!(first.len(), 65);
    assert_eq!(desk.record.nodes[&node("a")].owns, 0);
}

#[test]
fn it_says_so_once() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.pass(0);
    desk.dies("a");
    desk.pass(9_000);
    let brought =
        format!("web of a is brought back on b from the checkpoint {}, which is {AGE} ms old", checkpoint_id("web", 1));
    let fenced = "the lease of a in session 1 is over: 1 workloads are brought back elsewhere".to_owned();
    assert_eq!(desk.words(), [fenced, brought]);
}
