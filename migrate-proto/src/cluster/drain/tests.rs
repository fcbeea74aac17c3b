//! A drain, step by step.
#![allow(clippy::unwrap_used)]

use super::*;

fn load(name: &str) -> WorkloadName {
    name.parse().unwrap()
}

fn prospect(move_ms: u64) -> Prospect {
    let to = Some("b".parse().unwrap());
    Prospect { priority: 0, move_ms, pause_ms: 10, chance: 900, checkpoint_ms: 1_000, to }
}

/// A drain and a clock.
struct Node {
    drain: Drain,
    now: u64,
}

impl Node {
    fn new(deadline: Option<u64>) -> Node {
        Node { drain: Drain::new(deadline.map(Millis), Rules::default()), now: 0 }
    }

    fn hears(&mut self, events: Vec<Event>) -> Vec<String> {
        let now = Millis(self.now);
        let acts = events.into_iter().flat_map(|event| self.drain.step(now, event)).collect::<Vec<_>>();
        let names = |loads: &[WorkloadName]| loads.iter().map(|load| format!(" {load}")).collect::<String>();
        let words = acts.into_iter().map(|act| match act {
            Act::Move { load, .. } => format!("move {load}"),
            Act::Checkpoint { load, last } => format!("{} {load}", if last { "last" } else { "checkpoint" }),
            Act::Done(Report { moved, handed_over, checkpointed, left }) => {
                let (moved, over) = (names(&moved), names(&handed_over));
                format!("moved{moved}; over{over}; safe{}; left{}", names(&checkpointed), names(&left))
            }
        });
        words.collect()
    }

    fn loads(&mut self, loads: &[(&str, Prospect)]) -> Vec<String> {
        self.hears(loads.iter().map(|(name, prospect)| Event::Load(load(name), prospect.clone())).collect())
    }

    fn moved(&mut self, name: &str, elsewhere: bool) -> Vec<String> {
        self.hears(vec![Event::Moved(load(name), elsewhere)])
    }

    fn kept(&mut self, name: &str, kept: bool) -> Vec<String> {
        self.hears(vec![Event::Kept(load(name), kept)])
    }

    fn at(&mut self, now: u64) -> Vec<String> {
        self.now = now;
        self.hears(vec![Event::Tick])
    }
}

#[test]
fn one_move_after_another_the_most_urgent_and_the_most_certain_first() {
    let mut node = Node::new(None);
    let first = node.loads(&[("any", prospect(100))]);
    assert_eq!(first, ["move any"]);
    let urgent = Prospect { priority: 5, ..prospect(900) };
    let unsure = Prospect { chance: 500, ..prospect(10) };
    assert!(node.loads(&[("quick", prospect(50)), ("unsure", unsure), ("urgent", urgent)]).is_empty());
    assert_eq!(node.moved("any", true), ["move urgent"]);
    assert_eq!(node.moved("urgent", true), ["move quick"]);
    assert_eq!(node.moved("quick", true), ["move unsure"]);
    assert_eq!(node.moved("unsure", true), ["moved any quick unsure urgent; over; safe; left"]);
}

#[test]
fn what_fails_is_tried_behind_the_others_and_not_for_ever() {
    let mut node = Node::new(None);
    node.loads(&[("x", prospect(10)), ("y", prospect(20))]);
    assert_eq!(node.moved("x", false), ["move y"]);
    assert_eq!(node.moved("y", true), ["move x"]);
    assert_eq!(node.moved("x", false), ["move x"]);
    assert_eq!(node.moved("x", false), ["moved y; over; safe; left x"]);
}

#[test]
fn what_does_not_fit_is_made_safe_at_once_and_ends_here_at_the_last_moment() {
    let mut node = Node::new(Some(20_000));
    let mut acts = node.loads(&[("small", prospect(2_000)), ("large", prospect(60_000)), ("wide", prospect(70_000))]);
    acts.sort();
    assert_eq!(acts, ["checkpoint large", "checkpoint wide", "move small"]);
    assert!(node.kept("large", true).is_empty() && node.kept("wide", false).is_empty());
    assert!(node.moved("small", true).is_empty());
    // A checkpoint of a second may take one and a half, and half a second stays.
    let last = node.drain.deadline(Millis(node.now)).unwrap();
    assert_eq!(last, Millis(18_000));
    assert!(node.at(17_999).is_empty());
    assert_eq!(node.at(18_000), ["last large", "last wide"]);
    assert!(node.kept("large", true).is_empty());
    assert_eq!(node.kept("wide", false), Vec::<String>::new(), "it runs on");
    assert_eq!(node.drain.deadline(Millis(node.now)), Some(Millis(20_000)));
    assert_eq!(node.at(20_000), ["moved small; over large; safe; left wide"]);
    assert!(node.at(30_000).is_empty() && node.drain.deadline(Millis(30_000)).is_none());
}

#[test]
fn if_there_is_time_after_all_what_was_made_safe_is_moved() {
    let mut node = Node::new(Some(10_000));
    let acts = node.loads(&[("first", prospect(4_000)), ("second", prospect(4_000))]);
    assert_eq!(acts, ["move first", "checkpoint second"], "both would take 12 s at worst");
    assert!(node.kept("second", true).is_empty());
    node.now = 1_000;
    assert_eq!(node.moved("first", true), ["move second"]);
    assert_eq!(node.moved("second", true), ["moved first second; over; safe; left"]);
}

#[test]
fn where_no_node_is_known_yet_it_is_waited_for_and_made_safe_meanwhile() {
    let nowhere = Prospect { to: None, ..prospect(1_000) };
    let mut node = Node::new(Some(60_000));
    assert_eq!(node.loads(&[("x", nowhere.clone())]), ["checkpoint x"]);
    assert!(node.loads(&[("x", prospect(1_000))]).is_empty(), "not while it is checkpointed");
    assert_eq!(node.kept("x", true), ["move x"]);
    let mut node = Node::new(None);
    assert!(node.loads(&[("x", nowhere)]).is_empty());
    assert_eq!(node.loads(&[("x", prospect(1_000))]), ["move x"]);
}

#[test]
fn checkpoints_are_taken_a_few_at_once_and_what_ends_by_itself_is_gone() {
    let mut node = Node::new(Some(5_000));
    let long = || prospect(60_000);
    assert_eq!(node.loads(&[("u", long()), ("v", long()), ("w", long())]), ["checkpoint u", "checkpoint v"]);
    assert_eq!(node.hears(vec![Event::Gone(load("u"))]), ["checkpoint w"]);
    assert!(node.kept("v", true).is_empty() && node.kept("w", true).is_empty());
    let events = ["v", "w"].map(|name| Event::Gone(load(name)));
    assert_eq!(node.hears(events.into()), ["moved u v w; over; safe; left"]);
}

#[test]
fn an_empty_node_is_done_at_once() {
    assert_eq!(Node::new(None).at(0), ["moved; over; safe; left"]);
}
