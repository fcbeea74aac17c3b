//! What becomes of workloads whose owner cannot have them any more.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::record::{Life, LoadPolicy, Proof, Wanted};
use crate::cluster::steward::{Act, Event, Health, Held};
use crate::id::{Epoch, HandoverId};

fn recovering(name: &str, number: u8) -> Life {
    Life::Recovering { from: checkpoint_id(name, number) }
}

fn held(by: &str, numbered: u64) -> Event {
    let held = Held { node: node(by), handover: HandoverId([1; 16]), epoch: Epoch(1), numbered };
    Event::Holds { load: load("web"), held }
}

#[test]
fn the_newest_checkpoint_is_taken_to_a_node_that_has_it() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 2, &["c"]);
    desk.dies("a");
    assert_eq!(desk.state("web"), (Some("c"), 2, recovering("web", 2)));
    let nudges = desk.acts.iter().filter(|act| matches!(act, Act::Nudge { .. })).count();
    desk.pass(10_000);
    assert_eq!(nudges, 1, "it is told at once, and once");
}

#[test]
fn a_new_leader_brings_back_what_the_last_one_has_only_fenced() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    let voters = desk.record.cluster.voters.now.config;
    desk.carried_out = false;
    desk.tell(Command::Fence { lapsed: claim("a", 1), voters });
    desk.proposed.clear();
    desk.carried_out = true;
    desk.begin_to_lead();
    assert_eq!(desk.state("web"), (Some("b"), 2, recovering("web", 1)));
}

#[test]
fn the_image_of_a_move_is_better_than_an_older_checkpoint_and_worse_than_a_newer_one() {
    for (numbered, life) in [(2, Life::Running), (1, recovering("web", 2))] {
        let mut desk = Desk::new();
        desk.runs("web", "a", 2, &["c"]);
        desk.hear(held("d", numbered));
        desk.dies("a");
        let to = if numbered == 2 { "d" } else { "c" };
        assert_eq!(desk.state("web"), (Some(to), 2, life));
    }
}

#[test]
fn an_image_of_a_move_that_was_refused_or_of_an_older_epoch_is_none() {
    for refused in [true, false] {
        let mut desk = Desk::new();
        desk.runs("web", "a", 1, &["c"]);
        if refused {
            desk.tell(Command::Refuse { load: load("web"), epoch: Epoch(1), handover: HandoverId([1; 16]) });
        } else {
            desk.tell(Command::Revive {
                load: load("web"),
                epoch: Epoch(1),
                by: claim("a", 1),
                from: None,
                lost_ms: None,
            });
        }
        desk.hear(held("d", 1));
        desk.dies("a");
        assert_eq!(desk.state("web").0, Some("c"));
    }
}

#[test]
fn a_holder_that_may_answer_in_a_moment_is_waited_for() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b", "c"]);
    desk.keep("web", "a", 2, &["c"]);
    desk.member("c", Health::Suspect);
    desk.dies("a");
    desk.pass(5_000);
    assert_eq!(desk.state("web"), (Some("a"), 1, Life::Running), "c may have it yet");
    desk.member("c", Health::Down);
    assert_eq!(desk.state("web"), (Some("b"), 2, recovering("web", 1)));
}

#[test]
fn without_room_it_stays_with_who_may_come_back() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    for name in ["b", "c", "d"] {
        desk.room(name, GIB);
    }
    desk.dies("a");
    desk.pass(5_000);
    assert!(desk.record.nodes[&node("a")].fenced);
    assert_eq!(desk.state("web"), (Some("a"), 1, Life::Running));
    assert!(desk.words().iter().any(|word| word.starts_with("there is no node for web: a ")));
    desk.room("d", 8 * GIB);
    desk.pass(1_000);
    assert_eq!(desk.state("web"), (Some("d"), 2, recovering("web", 1)));
}

#[test]
fn what_never_said_that_it_runs_begins_on_another_node() {
    let mut desk = Desk::new();
    desk.declare("web", Some("a"), |_| {});
    desk.dies("a");
    let (owner, epoch, life) = desk.state("web");
    assert!(owner.is_some_and(|owner| owner != "a") && epoch == 2 && life == Life::Starting);
}

#[test]
fn without_a_checkpoint_it_begins_afresh_where_that_is_allowed_and_else_it_is_lost() {
    for afresh in [true, false] {
        let mut desk = Desk::new();
        desk.declare("web", Some("a"), |asked| asked.policy = LoadPolicy { afresh, ..LoadPolicy::default() });
        desk.tell(Command::Began { load: load("web"), epoch: Epoch(1), by: claim("a", 1) });
        desk.dies("a");
        desk.pass(10_000);
        let lost = Life::Lost("there is no checkpoint of it".to_owned());
        let (owner, epoch, life) = desk.state("web");
        if afresh {
            assert!(owner != Some("a") && (epoch, life) == (2, Life::Starting));
        } else {
            assert_eq!((owner, epoch, life), (Some("a"), 1, lost));
        }
    }
}

#[test]
fn what_is_lost_comes_back_with_who_has_a_checkpoint_of_it() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.member("b", Health::Down);
    desk.dies("a");
    assert_eq!(desk.state("web").2, Life::Lost("its checkpoints are on a, b".to_owned()));
    desk.pass(20_000);
    desk.member("b", Health::Alive);
    assert_eq!(desk.state("web"), (Some("b"), 2, recovering("web", 1)));
}

#[test]
fn the_most_urgent_come_first_and_no_node_recovers_more_than_its_share() {
    let mut desk = Desk::new();
    for (name, priority) in [("low", 0), ("high", 9), ("mid", 5)] {
        desk.declare(name, Some("a"), |asked| asked.priority = priority);
        desk.tell(Command::Began { load: load(name), epoch: Epoch(1), by: claim("a", 1) });
        desk.keep(name, "a", 1, &["b"]);
    }
    for number in 0..12 {
        desk.runs(&format!("x{number}"), "a", 1, &["b"]);
    }
    desk.proposed.clear();
    desk.dies("a");
    let Command::Many(all) = &desk.proposed[0] else { panic!() };
    let order: Vec<_> = all.iter().filter_map(|command| command.load()).take(3).map(|load| load.to_string()).collect();
    assert_eq!(order, ["high", "mid", "low"]);
    let on = |name: &str| desk.record.loads.values().filter(|load| load.owner == Some(node(name))).count();
    assert_eq!((on("a"), on("b"), on("c"), on("d")), (3, 4, 4, 4), "the rest stays until there is time for it");
}

#[test]
fn what_has_ended_or_should_not_run_stays_where_it_is() {
    let mut desk = Desk::new();
    desk.runs("ended", "a", 1, &["b"]);
    desk.tell(Command::Ended { load: load("ended"), epoch: Epoch(1), by: claim("a", 1), exit: None });
    desk.runs("unwanted", "a", 1, &["b"]);
    desk.wish("unwanted", Wanted::Stop);
    desk.runs("removed", "a", 1, &["b"]);
    desk.wish("removed", Wanted::Remove);
    desk.dies("a");
    desk.pass(10_000);
    assert_eq!(desk.state("ended"), (Some("a"), 1, Life::Stopped(None)));
    assert_eq!(desk.state("unwanted"), (Some("a"), 1, Life::Running), "it is stopped when a is back");
    assert!(!desk.record.loads.contains_key(&load("removed")));

    desk.tell(Command::Forget { node: node("a"), mark: mark("a") });
    desk.pass(10_000);
    assert_eq!(desk.state("ended"), (None, 2, Life::Stopped(None)));
    assert_eq!(desk.state("unwanted"), (None, 2, Life::Stopped(None)));
    assert_eq!(desk.record.nodes[&node("a")].owns, 0, "so that another machine can have the name");
}

#[test]
fn what_broke_is_tried_on_three_nodes_and_then_given_up_or_begun_afresh() {
    for afresh in [true, false] {
        let mut desk = Desk::new();
        desk.declare("web", Some("a"), |asked| asked.policy = LoadPolicy { afresh, ..LoadPolicy::default() });
        desk.tell(Command::Began { load: load("web"), epoch: Epoch(1), by: claim("a", 1) });
        desk.keep("web", "a", 1, &["b"]);
        let mut where_it_was = Vec::new();
        for _ in 0..3 {
            where_it_was.push(desk.state("web").0.unwrap().to_owned());
            desk.breaks("web");
        }
        where_it_was.sort();
        where_it_was.dedup();
        assert_eq!(where_it_was.len(), 3);
        let (_, epoch, life) = desk.state("web");
        if afresh {
            assert_eq!((epoch, life), (4, Life::Starting));
            desk.breaks("web");
            desk.pass(60_000);
            assert!(matches!(desk.state("web"), (_, 4, Life::Failed(_))), "that was the last try");
        } else {
            desk.pass(60_000);
            assert!(matches!(desk.state("web"), (_, 3, Life::Failed(_))));
            assert!(desk.words().contains(&"web has failed on 3 nodes and is not tried again".to_owned()));
        }
    }
}

#[test]
fn a_damaged_checkpoint_is_not_tried_again() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 2, &["b"]);
    desk.dies("a");
    assert_eq!(desk.state("web"), (Some("b"), 2, recovering("web", 2)));
    let checkpoint = checkpoint_id("web", 2);
    let since = desk.entry("web").checkpoint(checkpoint).unwrap().since;
    desk.tell(Command::Proved { load: load("web"), checkpoint, since, proof: Proof::Damaged });
    desk.breaks("web");
    let (owner, epoch, life) = desk.state("web");
    assert!(owner != Some("b") && epoch == 3 && life == recovering("web", 1), "{owner:?} {life:?}");
}

/// The newest checkpoint of `web` on a, which dies, is in a depot that nobody can reach; the one before it is on b.
fn out_of_reach(nodes: &[&str]) -> Desk {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.keep_in("web", "a", 2, &[], &["dir:/depot"]);
    for name in ["b", "c", "d"].iter().filter(|name| !nodes.contains(name)) {
        desk.room(name, GIB);
    }
    desk.dies("a");
    for _ in nodes {
        assert_eq!(desk.state("web").2, recovering("web", 2));
        desk.breaks("web");
    }
    desk
}

#[test]
fn what_a_depot_that_stays_away_has_is_waited_for_and_then_an_older_one_taken_loudly() {
    for nodes in [&["b", "c", "d"][..], &["b", "d"]] {
        let mut desk = out_of_reach(nodes);
        let tries = desk.state("web").1;
        desk.pass(29_000);
        assert!(matches!(desk.state("web"), (_, epoch, Life::Failed(_)) if epoch == tries), "{:?}", desk.state("web"));
        desk.words();
        desk.pass(1_500);
        let (owner, epoch, life) = desk.state("web");
        assert!(owner.is_some_and(|owner| nodes.contains(&owner)));
        assert_eq!((epoch, life), (tries + 1, recovering("web", 1)));
        let words = desk.words();
        assert!(
            words.iter().any(|word| word.contains("nobody can get the newer ones, which are on a, dir:/depot")),
            "{words:?}"
        );
    }
}

#[test]
fn an_older_one_that_fails_too_is_not_tried_for_ever() {
    let mut desk = out_of_reach(&["b", "c", "d"]);
    let mut tries = 0;
    desk.pass(30_500);
    while matches!(desk.state("web").2, Life::Recovering { .. }) {
        tries += 1;
        assert!(tries < 10, "{:?}", desk.words());
        desk.breaks("web");
        desk.pass(31_000);
    }
    assert!(tries > 0 && matches!(desk.state("web").2, Life::Failed(_)), "{:?}", desk.state("web"));
}

#[test]
fn while_somebody_has_not_tried_a_depot_it_does_not_begin_from_nothing() {
    let mut desk = Desk::new();
    desk.declare("web", Some("a"), |asked| asked.policy = LoadPolicy { afresh: true, ..LoadPolicy::default() });
    desk.tell(Command::Began { load: load("web"), epoch: Epoch(1), by: claim("a", 1) });
    desk.keep_in("web", "a", 1, &[], &["dir:/depot"]);
    ["c", "d"].iter().for_each(|name| desk.room(name, GIB));
    desk.dies("a");
    desk.breaks("web");
    desk.pass(60_000);
    assert!(matches!(desk.state("web"), (Some("b"), 2, Life::Failed(_))), "{:?}", desk.state("web"));
    desk.room("c", 8 * GIB);
    desk.pass(1_000);
    assert_eq!(desk.state("web"), (Some("c"), 3, recovering("web", 1)));
}

#[test]
fn a_depot_that_is_back_in_time_is_what_it_goes_on_from() {
    let mut desk = out_of_reach(&["b", "c"]);
    assert_eq!(desk.state("web"), (Some("c"), 3, Life::Failed("it fell".to_owned())), "d has no room");
    desk.pass(10_000);
    desk.room("d", 8 * GIB);
    desk.pass(1_000);
    assert_eq!(desk.state("web"), (Some("d"), 4, recovering("web", 2)));
    let by = claim("d", 1);
    desk.tell(Command::Began { load: load("web"), epoch: Epoch(4), by });
    desk.pass(60_000);
    assert_eq!(desk.state("web"), (Some("d"), 4, Life::Running));
}

#[test]
fn what_a_depot_has_is_waited_for_before_it_begins_from_nothing() {
    let mut desk = Desk::new();
    desk.declare("web", Some("a"), |asked| asked.policy = LoadPolicy { afresh: true, ..LoadPolicy::default() });
    desk.tell(Command::Began { load: load("web"), epoch: Epoch(1), by: claim("a", 1) });
    desk.keep_in("web", "a", 1, &[], &["dir:/depot"]);
    desk.dies("a");
    for _ in 0..3 {
        assert_eq!(desk.state("web").2, recovering("web", 1));
        desk.breaks("web");
    }
    desk.pass(29_000);
    assert!(matches!(desk.state("web").2, Life::Failed(_)));
    desk.pass(1_500);
    assert_eq!(desk.state("web").2, Life::Starting);
}

#[test]
fn what_a_living_node_has_and_nobody_can_restore_is_no_reason_to_go_further_back() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b"]);
    desk.keep_in("web", "a", 2, &["b"], &["dir:/depot"]);
    desk.dies("a");
    for _ in 0..3 {
        assert_eq!(desk.state("web").2, recovering("web", 2));
        desk.breaks("web");
    }
    desk.pass(120_000);
    assert!(matches!(desk.state("web"), (_, 4, Life::Failed(_))), "{:?}", desk.state("web"));
}

#[test]
fn a_suspicion_has_everything_made_ready_once_and_there_it_goes() {
    let mut desk = Desk::new();
    desk.runs("web", "a", 1, &["b", "c"]);
    desk.member("a", Health::Suspect);
    desk.member("a", Health::Alive);
    desk.member("a", Health::Suspect);
    let prepared: Vec<&Act> = desk.acts.iter().filter(|act| matches!(act, Act::Prepare { .. })).collect();
    let [Act::Prepare { node: first, .. }] = prepared[..] else { panic!("{prepared:?}") };
    assert_eq!(*first, node("b"));
    desk.hear(Event::Ready { load: load("web"), node: node("d") });
    desk.dies("a");
    assert_eq!(desk.state("web").0, Some("d"), "where it is ready, though others hold the checkpoint, too");
}
