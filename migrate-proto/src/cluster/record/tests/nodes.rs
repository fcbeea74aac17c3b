//! Histories of nodes, step by step, with the exact words.

use super::fixtures::*;
use crate::cluster::command::{Begin, Command, EntryKey};
use crate::cluster::lease::{LogId, Nanos, Terms, Voters};
use crate::cluster::record::{Applied, ClusterPolicy, Record, Refusal, Standing, VoterHistory};
use crate::cluster::{ClusterId, VoterId};
use crate::version::Versions;

#[test]
fn another_machine_gets_a_name_only_when_nothing_is_left_of_the_first() {
    let mut book = Book::running();
    let other = mark("z");
    let since = book.since("a");
    let refused = |book: &mut Book| book.apply(&admit("a", other, since)).unwrap_err().to_string();
    assert_eq!(refused(&mut book), "the name 'a' belongs to the machine with the mark 6161616161616161");
    book.must(fence("a", 1));
    assert_eq!(refused(&mut book), "'a' owns 1 workloads");
    book.must(reassign(1, "a", None, Begin::Afresh)).must(admit("a", other, since));

    // No session is used by two machines, and the old machine has no say any more.
    let entry = &book.record.nodes[&node("a")];
    assert_eq!((entry.mark, entry.session, entry.fenced), (other, 1, true));
    assert!(matches!(book.apply(&open("a", 1)), Err(Refusal::OtherMachine { .. })));
    book.must(Command::OpenSession { node: node("a"), mark: other, after: 1, finite: true });
    assert_eq!(book.record.nodes[&node("a")].session, 2);
}

#[test]
fn a_forgotten_machine_is_refused_under_every_name() {
    let mut book = Book::company();
    assert_eq!(book.apply(&forget("c")).unwrap_err().to_string(), "session 1 of 'c' is not fenced");
    book.must(fence("c", 1)).must(forget("c"));
    assert_eq!(book.apply(&admit("new", mark("c"), 0)), Err(Refusal::ForgottenMachine { mark: mark("c") }));
    let since = book.since("c");
    book.must(admit("c", mark("z"), since));
    assert_eq!(book.apply(&forget("c")), Ok(Applied::AlreadySo), "the machine, not the name");
    assert_eq!(book.record.nodes[&node("c")].standing, Standing::Member);
}

#[test]
fn who_leaves_gives_everything_away_first_and_must_be_admitted_again() {
    let mut book = Book::running();
    assert_eq!(book.apply(&leave("a", 1)).unwrap_err().to_string(), "'a' owns 1 workloads");
    book.must(transfer(1, claim("a", 1), "b", 1)).must(leave("a", 1));
    assert_eq!(book.apply(&open("a", 1)).unwrap_err().to_string(), "'a' is gone");
    let since = book.since("a");
    book.must(admit("a", mark("a"), since));
    assert!(book.apply(&assign(1, "a")).is_err());
    assert_eq!(book.record.takes(&node("a")).unwrap_err().to_string(), "session 1 of 'a' is fenced");
    book.must(open("a", 1));
    assert_eq!(book.record.takes(&node("a")), Ok(()));
}

#[test]
fn a_draining_node_goes_on_with_what_it_has() {
    let mut book = Book::running();
    let since = book.since("a");
    book.must(Command::Drain { node: node("a"), since, draining: true }).must(ended(1, claim("a", 1)));
    let mut moved = admit("a", mark("a"), book.since("a"));
    if let Command::Admit { address, .. } = &mut moved {
        "a.example:7001".clone_into(address);
    }
    book.must(moved);
    assert_eq!(book.record.nodes[&node("a")].standing, Standing::Draining, "a new address changes nothing else");
}

#[test]
fn every_member_speaks_what_the_cluster_speaks() {
    let mut book = Book::company();
    let policy = ClusterPolicy { speaks: 2, ..ClusterPolicy::default() };
    book.must(Command::SetPolicy { since: 0, policy: policy.clone() });
    let refused = book.apply(&admit("d", mark("d"), 0)).unwrap_err().to_string();
    assert_eq!(refused, "'d' speaks 1 to 1, the cluster 2");
    let newer = ClusterPolicy { speaks: 3, ..policy };
    assert!(matches!(book.apply(&Command::SetPolicy { since: 0, policy: newer }), Err(Refusal::Changed { .. })));
    let (node, address, versions) = (node("d"), "d:1".to_owned(), Versions { min: 1, max: 2 });
    book.must(Command::Admit { node, mark: mark("d"), address, versions, since: 0 });
}

#[test]
fn an_endless_lease_is_never_fenced() {
    let mut book = Book::empty();
    book.must(admit("a", mark("a"), 0));
    assert_eq!(book.apply(&fence("a", 0)).unwrap_err().to_string(), "session 0 of 'a' does not end");
    book.must(Command::OpenSession { node: node("a"), mark: mark("a"), after: 0, finite: false });
    assert_eq!(book.apply(&fence("a", 1)).unwrap_err().to_string(), "session 1 of 'a' does not end");
}

#[test]
fn an_older_command_changes_nothing() {
    let mut book = Book::company();
    let at = book.record.revision;
    assert_eq!(book.record.apply(at, &fence("a", 1)), Err(Refusal::Behind { revision: at }));
}

#[test]
fn who_does_not_know_who_votes_cannot_fence() {
    let mut book = Book::company();
    book.at += 1;
    assert!(book.record.set_voters(book.at, voters(book.at, &[&[1], &[1, 2, 3]])));
    let now = LogId { term: 1, index: book.at };
    assert_eq!(book.apply(&fence("a", 1)), Err(Refusal::OtherVoters { now }));
    book.must(Command::Fence { lapsed: claim("a", 1), voters: now });
    assert_eq!(book.apply(&fence("a", 1)), Ok(Applied::AlreadySo), "what is fenced is fenced");
}

#[test]
fn the_voters_before_the_last_change_are_known() {
    let mut record = Record::new(ClusterId([7; 16]), ClusterPolicy::default());
    let [alone, both, three, said_again] = [
        voters(1, &[&[1]]),
        voters(5, &[&[1], &[1, 2, 3]]),
        voters(6, &[&[1, 2, 3]]),
        // A node that has no vote was admitted to the log.
        voters(9, &[&[1, 2, 3]]),
    ];
    assert!(record.set_voters(1, alone.clone()));
    assert!(!record.set_voters(2, alone.clone()), "said again");
    assert!(record.cluster.voters.are_only(VoterId(1)) && !record.cluster.voters.are_only(VoterId(2)));
    assert!(record.set_voters(5, both.clone()));
    assert_eq!(record.cluster.voters, VoterHistory { now: both.clone(), before: alone.clone() });
    assert!(record.set_voters(6, three.clone()) && record.set_voters(9, said_again.clone()));
    assert!(!record.set_voters(9, alone.clone()), "that is over");
    assert_eq!(record.cluster.voters, VoterHistory { now: said_again.clone(), before: both.clone() });
    assert!(!record.cluster.voters.are_only(VoterId(1)));

    let terms = Terms::new(1_000_000_000, 0).unwrap();
    let (now, later) = (Nanos(0), Nanos(terms.promise()));
    let electors = record.cluster.voters.electors(now, said_again, terms);
    let two_and_three = |voter: VoterId| voter.0 > 1;
    assert_eq!(electors.config().index, 9);
    assert!(!electors.agree(now, two_and_three), "of those before, 1 must agree");
    assert!(electors.agree(later, two_and_three));
    let first = VoterHistory { now: alone.clone(), before: Voters::default() };
    assert!(first.electors(now, alone, terms).agree(now, |voter| voter.0 == 1), "there was nobody before");

    // A leader that has become the only one and was it before a change still is not the only one there was.
    assert!(record.set_voters(10, voters(10, &[&[1, 2, 3], &[1]])) && record.set_voters(11, voters(11, &[&[1]])));
    assert!(!record.cluster.voters.are_only(VoterId(1)));
    assert_eq!(VoterId::from(mark("a")), VoterId(0x6161_6161_6161_6161));
}

#[test]
fn commands_name_their_entries() {
    let keys =
        |command: &Command| -> Vec<String> { Record::entries_of(command).iter().map(EntryKey::to_string).collect() };
    assert_eq!(keys(&fence("a", 1)), ["cluster", "node/a"]);
    assert_eq!(keys(&transfer(1, claim("a", 1), "b", 1)), ["node/a", "node/b", "load/web"]);
    assert_eq!(keys(&declare(1, 0, Some(claim("a", 1)))), ["cluster", "node/a", "load/web"]);
    let recovery = Command::Many(vec![fence("a", 1), reassign(1, "a", Some("c"), Begin::Afresh)]);
    assert_eq!(keys(&recovery), ["cluster", "node/a", "node/c", "load/web"]);
}
