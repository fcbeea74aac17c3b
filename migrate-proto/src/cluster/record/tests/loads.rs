//! Histories of a workload, step by step, with the exact words.

use super::fixtures::*;
use crate::cluster::Claim;
use crate::cluster::command::{Begin, Command, Reassignment};
use crate::cluster::record::{Applied, Life, MAX_CHECKPOINTS, Origin, Proof, Refusal, Restarts, Wanted};
use crate::id::Epoch;

fn refused(book: &mut Book, command: Command) -> String {
    book.apply(&command).unwrap_err().to_string()
}

#[test]
fn a_run_begins_in_the_first_epoch_and_the_name_is_taken() {
    let mut book = Book::company();
    book.must(declare(1, 0, Some(claim("a", 1))));
    let entry = book.web();
    assert_eq!((entry.epoch, entry.owner.clone(), entry.life.clone()), (Epoch::FIRST, Some(node("a")), Life::Starting));
    assert_eq!(refused(&mut book, declare(2, 0, Some(claim("a", 1)))), "there is a workload 'web' already");
    book.must(began(1, claim("a", 1)));
    assert_eq!(book.apply(&declare(1, 0, Some(claim("a", 1)))), Ok(Applied::AlreadySo), "the same request, late");
}

#[test]
fn of_a_move_and_its_refusal_the_first_wins() {
    let mut book = Book::running();
    book.must(transfer(1, claim("a", 1), "b", 9));
    let entry = book.web();
    assert_eq!((entry.epoch, entry.owner.clone(), entry.via), (Epoch(2), Some(node("b")), Some(handover(9))));
    assert_eq!((&entry.life, entry.origin), (&Life::Running, Origin::Transferred));
    let truth = Refusal::OtherEpoch { load: web(), epoch: Epoch(2), owner: Some(node("b")), via: Some(handover(9)) };
    assert_eq!(book.apply(&refuse(1, 9)), Err(truth));

    let mut book = Book::running();
    book.must(refuse(1, 9));
    let truth = Refusal::HandoverRefused { load: web(), handover: handover(9) };
    assert_eq!(book.apply(&transfer(1, claim("a", 1), "b", 9)), Err(truth));
    assert_eq!(book.web().epoch, Epoch(1));
}

/// An answer that was lost is asked for again, and the first proposal may still be under way.
#[test]
fn a_refused_move_stays_refused_when_the_next_one_is_refused_too() {
    let mut book = Book::running();
    book.must(refuse(1, 1)).must(refuse(1, 2));
    for number in [1, 2] {
        assert!(book.apply(&transfer(1, claim("a", 1), "b", number)).is_err(), "the move {number}");
    }
    book.must(transfer(1, claim("a", 1), "b", 3));
    assert_eq!(book.web().refused, []);
}

#[test]
fn a_move_out_of_a_fenced_session_is_refused_until_a_new_one_is_open() {
    let mut book = Book::running();
    book.must(fence("a", 1));
    assert_eq!(refused(&mut book, transfer(1, claim("a", 1), "b", 9)), "session 1 of 'a' is fenced");
    book.must(open("a", 1));
    assert_eq!(refused(&mut book, transfer(1, claim("a", 1), "b", 9)), "'a' is in session 2");
    book.must(transfer(1, claim("a", 2), "b", 9));
}

#[test]
fn a_dead_owners_workload_is_recovered_from_a_checkpoint() {
    let mut book = Book::running();
    let to_b = reassign(1, "a", Some("b"), Begin::Checkpoint(checkpoint_id(2)));
    assert_eq!(refused(&mut book, to_b.clone()), "session 1 of 'a' is not fenced");
    book.must(Command::Many(vec![fence("a", 1), to_b]));
    let entry = book.web();
    assert_eq!(entry.life, Life::Recovering { from: checkpoint_id(2) });
    assert_eq!((entry.epoch, entry.restarts), (Epoch(2), Restarts { revived: 0, recovered: 1 }));
    assert_eq!((book.record.nodes[&node("a")].owns, book.record.nodes[&node("b")].owns), (0, 1));

    // The old owner is back, and finds that it has nothing any more.
    book.must(open("a", 1));
    assert_eq!(refused(&mut book, began(1, claim("a", 2))), "'web' is in epoch 2, owned by 'b'");
    book.must(began(2, claim("b", 1)));
}

#[test]
fn who_opens_a_session_before_the_fence_keeps_its_workloads() {
    let mut book = Book::running();
    book.must(open("a", 1));
    assert_eq!(refused(&mut book, fence("a", 1)), "'a' is in session 2");
    let taken = reassign(1, "a", Some("b"), Begin::Afresh);
    assert_eq!(refused(&mut book, taken), "session 2 of 'a' is not fenced");
    book.must(ended(1, claim("a", 2)));
}

#[test]
fn a_lost_workload_goes_on_where_it_is_when_its_node_comes_back() {
    let mut book = Book::running();
    book.must(fence("a", 1)).must(lose(1, claim("a", 1)));
    assert_eq!(book.web().life, Life::Lost("nothing was kept".to_owned()));
    assert_eq!(refused(&mut book, began(1, claim("a", 1))), "session 1 of 'a' is fenced");
    book.must(open("a", 1)).must(began(1, claim("a", 2)));
    assert_eq!((book.web().epoch, &book.web().life), (Epoch(1), &Life::Running));
}

#[test]
fn the_image_of_a_move_can_be_begun_from_unless_the_move_was_refused() {
    let image = |number| reassign(1, "a", Some("b"), Begin::Image(handover(number)));
    let mut book = Book::running();
    book.must(refuse(1, 1)).must(fence("a", 1));
    let truth = Refusal::HandoverRefused { load: web(), handover: handover(1) };
    assert_eq!(book.apply(&image(1)), Err(truth), "the source went on after it");
    let nobody = reassign(1, "a", None, Begin::Image(handover(2)));
    assert_eq!(refused(&mut book, nobody), "'web' cannot begin from an image that nobody holds");
    book.must(image(2));
    assert_eq!((book.web().via, &book.web().life), (Some(handover(2)), &Life::Running));
    assert_eq!(book.apply(&transfer(1, claim("a", 1), "b", 2)), Ok(Applied::AlreadySo), "what the source wanted");
}

#[test]
fn only_what_is_listed_and_sound_is_recovered_from() {
    let from = |number| reassign(1, "a", Some("b"), Begin::Checkpoint(checkpoint_id(number)));
    let mut book = Book::running();
    let since = book.web().checkpoint(checkpoint_id(2)).unwrap().since;
    let damaged = Command::Proved { load: web(), checkpoint: checkpoint_id(2), since, proof: Proof::Damaged };
    book.must(damaged).must(fence("a", 1));
    assert!(matches!(book.apply(&from(9)), Err(Refusal::UnknownCheckpoint { .. })));
    assert!(matches!(book.apply(&from(2)), Err(Refusal::Damaged { .. })));
    assert_eq!(
        book.clone().apply(&book.dropped(1)).unwrap_err(),
        Refusal::Needed { load: web(), checkpoint: checkpoint_id(1) }
    );
    book.must_drop(2).must(from(1));
}

#[test]
fn what_could_not_be_begun_is_tried_elsewhere() {
    let mut book = Book::company();
    book.must(declare(1, 0, Some(claim("a", 1)))).must(broke(1, claim("a", 1)));
    assert_eq!((&book.web().life, book.web().tried.len()), (&Life::Failed("it fell".to_owned()), 1));
    book.must(reassign(1, "a", Some("b"), Begin::Afresh)).must(broke(2, claim("b", 1)));
    assert_eq!(book.web().tried, [node("a"), node("b")].into());
    book.must(reassign(2, "b", Some("c"), Begin::Afresh)).must(began(3, claim("c", 1)));
    assert_eq!(book.web().tried, [].into());
}

#[test]
fn the_owner_begins_again_only_what_is_wanted() {
    let mut book = Book::running();
    book.must(ended(1, claim("a", 1))).must(revive(1, claim("a", 1), None));
    let entry = book.web();
    assert_eq!((entry.epoch, &entry.life, entry.restarts.revived), (Epoch(2), &Life::Starting, 1));
    let since = entry.wished;
    book.must(wish(2, since, Wanted::Stop));
    assert_eq!(refused(&mut book, revive(2, claim("a", 1), None)), "'web' is wanted to stop");
}

#[test]
fn what_waits_for_room_is_given_to_a_node() {
    let mut book = Book::company();
    book.must(declare(1, 0, None));
    assert_eq!((book.web().epoch, &book.web().life), (Epoch(1), &Life::Queued));
    book.must(assign(1, "b"));
    assert_eq!((book.web().epoch, &book.web().life), (Epoch(2), &Life::Starting));

    let mut book = Book::running();
    book.must(fence("a", 1)).must(reassign(1, "a", None, Begin::Checkpoint(checkpoint_id(1))));
    assert_eq!((book.web().owner.clone(), book.web().epoch), (None, Epoch(2)));
    let needed = book.dropped(1);
    assert_eq!(refused(&mut book, needed), Refusal::Needed { load: web(), checkpoint: checkpoint_id(1) }.to_string());
    book.must(assign(2, "c"));
    assert_eq!(book.web().life, Life::Recovering { from: checkpoint_id(1) });
}

#[test]
fn what_has_ended_or_is_not_wanted_does_not_run_elsewhere() {
    let elsewhere = |to| reassign(1, "a", to, Begin::Checkpoint(checkpoint_id(1)));
    let mut book = Book::running();
    book.must(ended(1, claim("a", 1))).must(fence("a", 1));
    assert_eq!(refused(&mut book, elsewhere(Some("b"))), "'web' is stopped");
    book.must(elsewhere(None));
    assert!(matches!(book.web().life, Life::Stopped(Some(_))));

    let mut book = Book::running();
    let since = book.web().wished;
    book.must(wish(1, since, Wanted::Stop)).must(fence("a", 1));
    assert_eq!(refused(&mut book, elsewhere(Some("b"))), "'web' is running");
    book.must(elsewhere(None));
    assert_eq!(book.web().life, Life::Stopped(None));
}

#[test]
fn a_leader_that_does_not_know_of_a_checkpoint_brings_nothing_back() {
    let mut book = Book::running();
    book.must(kept(1, claim("a", 1), 3)).must(fence("a", 1));
    let Command::Reassign(late) = reassign(1, "a", Some("b"), Begin::Checkpoint(checkpoint_id(2))) else { panic!() };
    let known = |numbered| Command::Reassign(Reassignment { numbered, ..late.clone() });
    assert_eq!(refused(&mut book, known(2)), "the checkpoints of 'web' are numbered up to 3");
    book.must(known(3));
}

#[test]
fn under_one_name_epochs_rise_for_ever() {
    let mut book = Book::running();
    book.must(transfer(1, claim("a", 1), "b", 1)).must(transfer(2, claim("b", 1), "c", 2));
    let since = book.web().wished;
    book.must(wish(3, since, Wanted::Remove));
    assert_eq!(refused(&mut book, wish(3, since, Wanted::Run)), "'web' is wanted to be removed");
    assert_eq!(refused(&mut book, gone(3, "c", None)), "session 1 of 'c' is not fenced");
    book.must(gone(3, "c", Some(1)));
    assert_eq!(book.record.loads.len(), 0);
    assert_eq!(book.record.nodes[&node("c")].owns, 0);

    let removed = book.record.cluster.removed;
    let late = refused(&mut book, declare(1, 0, None));
    assert_eq!(late, format!("cluster has changed meanwhile, with command {removed}"));
    book.must(declare(2, removed, None));
    assert_eq!(book.web().epoch, Epoch(4));
}

#[test]
fn a_dead_nodes_workload_can_be_removed() {
    let mut book = Book::running();
    let since = book.web().wished;
    book.must(wish(1, since, Wanted::Remove)).must(fence("a", 1)).must(gone(1, "a", None));
    assert_eq!(book.record.nodes[&node("a")].owns, 0);
}

#[test]
fn a_wish_that_is_late_does_not_undo_a_later_one() {
    let mut book = Book::running();
    let first = book.web().wished;
    book.must(wish(1, first, Wanted::Stop));
    let second = book.web().wished;
    book.must(wish(1, second, Wanted::Run));
    let third = book.web().wished;
    assert_eq!(
        refused(&mut book, wish(1, first, Wanted::Stop)),
        format!("load/web has changed meanwhile, with command {third}")
    );
}

#[test]
fn a_checkpoint_must_outlive_its_node() {
    let lonely = |by: Claim| {
        let checkpoint = checkpoint(3, &["a"]);
        Command::Kept { load: web(), epoch: Epoch(1), by, checkpoint }
    };
    let mut book = Book::running();
    assert_eq!(book.apply(&lonely(claim("a", 1))), Err(Refusal::OneHolder { checkpoint: checkpoint_id(3) }));
    let mut in_depot = checkpoint(3, &["a"]);
    in_depot.depots.insert("s3".to_owned());
    let kept = Command::Kept { load: web(), epoch: Epoch(1), by: claim("a", 1), checkpoint: in_depot };
    book.clone().must(kept);
    let endless = Command::OpenSession { node: node("a"), mark: mark("a"), after: 1, finite: false };
    book.must(endless).must(lonely(claim("a", 2)));
}

#[test]
fn a_dropped_checkpoint_does_not_come_back() {
    let mut book = Book::running();
    book.must_drop(1);
    assert_eq!(book.apply(&kept(1, claim("a", 1), 1)), Err(Refusal::OldNumber { load: web(), number: 2 }));
    for number in 3..=u8::try_from(MAX_CHECKPOINTS + 1).unwrap() {
        book.must(kept(1, claim("a", 1), number));
    }
    assert_eq!(book.apply(&kept(1, claim("a", 1), 30)), Err(Refusal::TooMany { load: web() }));
}

#[test]
fn who_holds_a_checkpoint_is_compared() {
    let mut book = Book::running();
    let since = book.web().checkpoints[0].since;
    let held = |since, names: &[&str]| Command::Held {
        load: web(),
        checkpoint: checkpoint_id(1),
        since,
        holders: names.iter().map(|name| node(name)).collect(),
    };
    book.must(held(since, &["b", "c"]));
    assert!(matches!(book.apply(&held(since, &["a"])), Err(Refusal::Changed { .. })));
    let sound = Proof::Sound { at_ms: 5 };
    let proved = |since, proof| Command::Proved { load: web(), checkpoint: checkpoint_id(1), since, proof };
    let since = book.web().checkpoints[0].since;
    book.must(proved(since, sound));
    assert_eq!(book.web().checkpoints[0].sound_ms, Some(5));
}

#[test]
fn which_depots_have_a_checkpoint_is_compared() {
    let mut book = Book::running();
    let since = book.web().checkpoints[0].since;
    let stored = |since, names: &[&str]| Command::Stored {
        load: web(),
        checkpoint: checkpoint_id(1),
        since,
        depots: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    book.must(stored(since, &["dir:/a", "s3://b"]));
    assert_eq!(book.apply(&stored(since, &["s3://b", "dir:/a"])), Ok(Applied::AlreadySo));
    assert!(matches!(book.apply(&stored(since, &[])), Err(Refusal::Changed { .. })));
    let since = book.web().checkpoints[0].since;
    book.must(stored(since, &["s3://b"]));
    assert_eq!(book.web().checkpoints[0].depots, ["s3://b".to_owned()].into());
    let mut unknown = stored(since, &["s3://b"]);
    if let Command::Stored { checkpoint, .. } = &mut unknown {
        *checkpoint = checkpoint_id(9);
    }
    assert!(matches!(book.apply(&unknown), Err(Refusal::UnknownCheckpoint { .. })));
}

/// It would run a second time.
#[test]
fn a_wish_that_came_true_does_not_begin_anew_what_has_ended_since() {
    let mut book = Book::running();
    let run = wish(1, book.web().wished, Wanted::Run);
    assert_eq!(book.apply(&run), Ok(Applied::AlreadySo));
    book.must(ended(1, claim("a", 1))).must(fence("a", 1)).must(reassign(1, "a", None, Begin::Afresh));
    assert!(matches!(book.apply(&run), Err(Refusal::OtherEpoch { .. })));
    let since = book.web().wished;
    book.must(wish(2, since, Wanted::Run));
    assert_eq!(book.web().life, Life::Queued);
}
