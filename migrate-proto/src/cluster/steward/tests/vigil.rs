//! The leader's gathers, together.

use std::collections::BTreeSet;

use super::desk::*;
use crate::cluster::lease::{Ask, Lapse, LogId, Nanos, Terms, Voters};
use crate::cluster::record::{Record, VoterHistory};
use crate::cluster::steward::{Past, Vigil};
use crate::cluster::{Claim, VoterId};

fn terms() -> Terms {
    Terms::new(1_000_000_000, 0).unwrap()
}

fn of(index: u64, names: &[&str]) -> Voters {
    let sets = vec![names.iter().map(|name| voter(name)).collect()];
    Voters { config: LogId { term: 1, index }, sets }
}

/// Of a node that has had this record, and has known that a, b and c vote, since its clock began.
fn long_past(record: &Record) -> Past {
    let mut record = record.clone();
    record.cluster.voters = VoterHistory { now: of(1, &["a", "b", "c"]), before: Voters::default() };
    Past::new(Nanos(0), &record, &record.cluster.voters.now, terms())
}

fn vigil(claims: &[Claim], past: &Past, now: Nanos) -> Vigil {
    let mut vigil = Vigil::new(terms());
    vigil.watch(now, &claims.iter().cloned().collect(), past);
    vigil
}

fn says(voter: VoterId, ask: &Ask) -> Lapse {
    Lapse { voter, claim: ask.claim.clone(), gather: ask.gather, terms: ask.terms }
}

#[test]
fn a_session_is_known_since_it_was_first_seen() {
    let mut desk = Desk::new();
    let voters = Voters::default();
    let mut past = Past::new(Nanos(5), &desk.record, &voters, terms());
    past.learn(Nanos(9), &desk.record, &voters);
    assert_eq!(past.since(&claim("a", 1)), Some(Nanos(5)));
    assert_eq!((past.since(&claim("a", 2)), past.since(&claim("z", 1))), (None, None));
    desk.dies("a");
    past.learn(Nanos(10), &desk.record, &voters);
    assert_eq!(past.since(&claim("a", 1)), Some(Nanos(5)), "a fence is no new session");
}

#[test]
fn what_enough_voters_say_is_over_is_over_and_says_by_whose_word() {
    let past = long_past(&Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1), claim("b", 1)], &past, now);
    let (voters, asks) = vigil.asks(now, &past);
    assert_eq!((voters, asks.len()), (["a", "b", "c"].map(voter).into(), 2));
    assert_eq!(vigil.heard(now, &says(voter("a"), &asks[0]), &past), None);
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[1]), &past), None, "about another");
    let over = Some((claim("a", 1), LogId { term: 1, index: 1 }));
    assert_eq!(vigil.heard(now, &says(voter("c"), &asks[0]), &past), over);
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[0]), &past), over, "it says so again");
    vigil.watch(now, &BTreeSet::new(), &past);
    assert!(vigil.is_idle());
    assert_eq!(vigil.heard(now, &says(voter("b"), &asks[0]), &past), None);
}

#[test]
fn a_session_that_nobody_has_known_for_long_is_not_asked_about() {
    let now = Nanos(10_000_000_000);
    let past = Past::new(now, &Desk::new().record, &of(1, &["a", "b", "c"]), terms());
    let mut vigil = vigil(&[claim("a", 1)], &past, now);
    assert_eq!(vigil.asks(now, &past).1, []);
    let later = now.plus(terms().promise());
    let (_, asks) = vigil.asks(later, &past);
    assert_eq!(vigil.heard(later, &says(voter("a"), &asks[0]), &past), None);
    assert!(vigil.heard(later, &says(voter("b"), &asks[0]), &past).is_some());
}

#[test]
fn when_the_voters_change_those_of_before_must_agree_too() {
    let mut past = long_past(&Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1)], &past, now);
    let history = VoterHistory { now: of(1, &["a", "b", "c"]), before: Voters::default() };
    past.electors.learn(now, &history, &of(2, &["d"]));
    past.electors.learn(now, &history, &of(2, &["d"]));
    let (voters, asks) = vigil.asks(now, &past);
    assert_eq!(voters.len(), 4);
    assert_eq!(vigil.heard(now, &says(voter("d"), &asks[0]), &past), None);
    assert_eq!(vigil.heard(now, &says(voter("a"), &asks[0]), &past), None);
    assert_eq!(
        vigil.heard(now, &says(voter("b"), &asks[0]), &past),
        Some((claim("a", 1), LogId { term: 1, index: 2 }))
    );
}

#[test]
fn of_several_changes_at_once_none_is_missed() {
    let mut past = long_past(&Desk::new().record);
    let now = Nanos(10_000_000_000);
    let mut vigil = vigil(&[claim("a", 1)], &past, now);
    // From a, b, c to d alone, and back: d is all that has kept the lease.
    let both = Voters { sets: vec![[voter("d")].into(), ["a", "b", "c"].map(voter).into()], ..of(4, &[]) };
    let history = VoterHistory { now: of(5, &["a", "b", "c"]), before: both };
    past.electors.learn(now, &history, &history.now);
    let (_, asks) = vigil.asks(now, &past);
    for name in ["a", "b", "c"] {
        assert_eq!(vigil.heard(now, &says(voter(name), &asks[0]), &past), None);
    }
    assert!(vigil.heard(now, &says(voter("d"), &asks[0]), &past).is_some());
}
