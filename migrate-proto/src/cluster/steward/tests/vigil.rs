//! The leader's gathers, together.

use std::collections::BTreeSet;

use super::desk::*;
use crate::cluster::lease::{Ask, Electors, Lapse, LogId, Nanos, Terms, Voters};
use crate::cluster::record::VoterHistory;
use crate::cluster::steward::{Sessions, Vigil};
use crate::cluster::{Claim, VoterId};

fn terms() -> Terms {
    Terms::new(1_000_000_000, 0).unwrap()
}

fn of(index: u64, names: &[&str]) -> Voters {
    let sets = vec![names.iter().map(|name| voter(name)).collect()];
    Voters { config: LogId { term: 1, index }, sets }
}

fn vigil(claims: &[Claim], sessions: &Sessions, now: Nanos) -> Vigil {
    let electors = Electors::new(now, of(1, &["a", "b", "c"]), Vec::new(), terms());
    let mut vigil = Vigil::new(electors, terms());
    vigil.watch(now, &claims.iter().cloned().collect(), sessions);
    vigil
}

fn says(voter: VoterId, ask: &Ask) -> Lapse {
    Lapse { voter, claim: ask.claim.clone(), gather: ask.gather, terms: ask.terms }
}

#[test]
fn a_session_is_known_since_it_was_first_seen() {
    let mut desk = Desk::new();
    let mut sessions = Sessions::default();
    sessions.learn(Nanos(5), &desk.record);
    sessions.learn(Nanos(9), &desk.record);
    assert_eq!(sessions.since(&claim("a", 1)), Some(Nanos(5)));
    assert_eq!((sessions.since(&claim("a", 2)), sessions.since(&claim("z", 1))), (None, None));
    desk.dies("a");
    sessions.learn(Nanos(10), &desk.record);
    assert_eq!(sessions.since(&claim("a", 1)), Some(Nanos(5)), "a fence is no new session");
}

#[test]
fn what_enough_voters_say_is_over_is_over_and_says_by_whose_word() {
    let mut sessions = Sessions::default();
    sessions.learn(Nanos(0), &Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1), claim("b", 1)], &sessions, now);
    let (voters, asks) = vigil.asks(now);
    assert_eq!((voters, asks.len()), (["a", "b", "c"].map(voter).into(), 2));
    assert_eq!(vigil.heard(now, &says(voter("a"), &asks[0])), None);
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[1])), None, "about another");
    let over = Some((claim("a", 1), LogId { term: 1, index: 1 }));
    assert_eq!(vigil.heard(now, &says(voter("c"), &asks[0])), over);
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[0])), over, "it says so again");
    vigil.watch(now, &BTreeSet::new(), &sessions);
    assert!(vigil.is_idle());
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[0])), None);
}

#[test]
fn a_session_that_nobody_has_known_for_long_is_not_over() {
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1)], &Sessions::default(), now);
    let (_, asks) = vigil.asks(now);
    for name in ["a", "b", "c"] {
        assert_eq!(vigil.heard(now, &says(voter(name), &asks[0])), None);
    }
}

#[test]
fn when_the_voters_change_those_of_before_must_agree_too() {
    let mut sessions = Sessions::default();
    sessions.learn(Nanos(0), &Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1)], &sessions, now);
    let history = VoterHistory { now: of(1, &["a", "b", "c"]), before: Voters::default() };
    vigil.voters_changed(now, &history, of(2, &["d"]));
    vigil.voters_changed(now, &history, of(2, &["d"]));
    let (voters, asks) = vigil.asks(now);
    assert_eq!(voters.len(), 4);
    assert_eq!(vigil.heard(now, &says(voter("d"), &asks[0])), None);
    assert_eq!(vigil.heard(now, &says(voter("a"), &asks[0])), None);
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[0])), Some((claim("a", 1), LogId { term: 1, index: 2 })));
}

#[test]
fn of_several_changes_at_once_none_is_missed() {
    let mut sessions = Sessions::default();
    sessions.learn(Nanos(0), &Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1)], &sessions, now);
    // From a, b, c to d alone, and back: d is all that has kept the lease.
    let both = Voters { sets: vec![[voter("d")].into(), ["a", "b", "c"].map(voter).into()], ..of(4, &[]) };
    let history = VoterHistory { now: of(5, &["a", "b", "c"]), before: both };
    vigil.voters_changed(now, &history, of(5, &["a", "b", "c"]));
    let (_, asks) = vigil.asks(now);
    for name in ["a", "b", "c"] {
        assert_eq!(vigil.heard(now, &says(voter(name), &asks[0])), None);
    }
    assert!(vigil.heard(now, &says(voter("d"), &asks[0])).is_some());
}
