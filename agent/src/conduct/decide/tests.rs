#![allow(clippy::unwrap_used)]

use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::cluster::record::{CheckpointEntry, CheckpointKind, LoadPolicy, Restarts};
use migrate_proto::spec::WorkloadSpec;

use super::*;

const TICKET: Ticket = Ticket(5);
const EPOCH: Epoch = Epoch(7);
const SESSION: u64 = 3;

fn spec() -> WorkloadSpec {
    serde_json::from_value(serde_json::json!({ "name": "web", "argv": ["sleep"] })).unwrap()
}

fn entry(owner: &str, life: Life) -> LoadEntry {
    LoadEntry {
        ticket: TICKET,
        spec: spec(),
        policy: LoadPolicy::default(),
        priority: 0,
        submitted: 1,
        epoch: EPOCH,
        owner: Some(owner.parse().unwrap()),
        life,
        ran: true,
        wish: Wanted::Run,
        wished: 1,
        origin: Origin::Declared,
        via: None,
        from: None,
        lost_ms: None,
        refused: Vec::new(),
        tried: [].into(),
        checkpoints: Vec::new(),
        numbered: 0,
        restarts: Restarts::default(),
    }
}

/// A copy in that epoch, which runs and was armed with the present session.
fn copy(epoch: u64, doing: Doing) -> Here {
    let record = Record {
        spec: spec(),
        epoch: Epoch(epoch),
        owned: true,
        doing: doing.clone(),
        started: None,
        sandbox: None,
        pid: None,
        care: Chart::new(migrate_proto::care::Wish::default()),
        ticket: Some(TICKET),
        numbered: 0,
        trust: Trust::default(),
    };
    Here {
        record,
        declaring: None,
        armed: Some(SESSION),
        has_sandbox: doing == Doing::Running,
        is_unleashed: false,
        is_held: false,
        is_anothers: false,
    }
}

fn held() -> Lease {
    Lease::Held { claim: Claim { node: "me".parse().unwrap(), session: SESSION }, finite: true }
}

fn look(entry: Option<LoadEntry>, here: Option<Here>) -> Look {
    Look { me: "me".parse().unwrap(), lease: held(), known: true, entry, here, broke: None }
}

fn todo(entry: LoadEntry, here: Option<Here>) -> Todo {
    look(Some(entry), here).todo()
}

fn mine(life: Life) -> LoadEntry {
    entry("me", life)
}

fn with_checkpoint(mut entry: LoadEntry) -> (LoadEntry, CheckpointId) {
    let id = CheckpointId([9; 32]);
    entry.checkpoints.push(CheckpointEntry {
        id,
        number: 1,
        since: 1,
        taken_ms: 1,
        kind: CheckpointKind::Asked,
        healthy: true,
        bytes: 1,
        holders: ["me".parse().unwrap()].into(),
        depots: [].into(),
        damaged: false,
        sound_ms: None,
        restored: None,
    });
    (entry, id)
}

fn is_broke(todo: &Todo, begun: bool) -> bool {
    matches!(todo, Todo::Say(Word::Broke { began, .. }) if *began == begun)
}

#[test]
fn what_runs_here_by_right_is_armed_and_the_record_hears_that_it_runs() {
    let runs = || Some(copy(7, Doing::Running));
    let with = |armed| Some(Here { armed, ..copy(7, Doing::Running) });
    assert_eq!(todo(mine(Life::Running), runs()), Todo::Nothing);
    for armed in [None, Some(SESSION - 1), Some(0)] {
        assert_eq!(todo(mine(Life::Running), with(armed)), Todo::Arm(SESSION), "{armed:?}");
        assert_eq!(todo(mine(Life::Starting), with(armed)), Todo::Arm(SESSION), "armed before anything is said");
    }
    for life in [Life::Starting, Life::Lost("gone".into())] {
        assert_eq!(todo(mine(life.clone()), runs()), Todo::Say(Word::Began), "{life}");
    }
    let held = Here { is_held: true, ..runs().unwrap() };
    assert_eq!(todo(mine(Life::Running), Some(held)), Todo::Arm(SESSION), "somebody has to see that it goes on");
    let unleashed = Here { is_unleashed: true, ..with(None).unwrap() };
    assert_eq!(todo(mine(Life::Running), Some(unleashed)), Todo::Nothing);
}

#[test]
fn without_a_lease_or_a_record_nothing_is_armed_begun_or_said() {
    let runs = copy(7, Doing::Running);
    let all = [None, Some(runs.clone()), Some(copy(7, Doing::Lost("power".into())))];
    for here in all {
        for life in [Life::Running, Life::Starting] {
            let over = Look { lease: Lease::Over, ..look(Some(mine(life.clone())), here.clone()) };
            let unknown = Look { known: false, ..look(None, here.clone()) };
            let expected = if here.as_ref().is_some_and(Here::runs) { Todo::SayHeld } else { Todo::Nothing };
            assert_eq!(over.todo(), expected, "{here:?}");
            assert_eq!(unknown.todo(), Todo::Nothing);
        }
    }
    let said = Here { is_held: true, ..runs };
    let over = Look { lease: Lease::Over, ..look(Some(mine(Life::Running)), Some(said.clone())) };
    assert_eq!(over.todo(), Todo::Nothing, "it is said once");
    let unleashed = Here { is_unleashed: true, is_held: false, ..said.clone() };
    let over = Look { lease: Lease::Over, ..look(Some(mine(Life::Running)), Some(unleashed)) };
    assert_eq!(over.todo(), Todo::Nothing, "it cannot be held");
    let taken = Look {
        lease: Lease::Over,
        ..look(Some(entry("other", Life::Running)), Some(Here { record: copy(6, Doing::Running).record, ..said }))
    };
    assert_eq!(taken.todo(), Todo::Drop, "what is another's is dropped all the same");
}

#[test]
fn what_another_has_now_never_runs_here_again_and_its_files_stay_until_that_runs() {
    for doing in [Doing::Running, Doing::Stopped(None), Doing::Lost("power".into())] {
        assert_eq!(todo(entry("other", Life::Starting), Some(copy(6, doing.clone()))), Todo::Drop, "{doing:?}");
    }
    let mut remains = copy(6, Doing::Lost("dropped".into()));
    remains.record.owned = false;
    assert_eq!(todo(entry("other", Life::Starting), Some(remains.clone())), Todo::Nothing);
    assert_eq!(todo(entry("other", Life::Running), Some(remains.clone())), Todo::Forget);
    assert_eq!(todo(mine(Life::Starting), Some(remains)), Todo::Forget, "it begins from nothing");
    // The record that is shown is behind what a move has just done.
    assert_eq!(todo(entry("other", Life::Running), Some(copy(8, Doing::Running))), Todo::Nothing);
}

#[test]
fn what_a_move_or_a_person_has_is_left_alone() {
    let theirs = Here { is_anothers: true, ..copy(6, Doing::Running) };
    let mut arrives = copy(7, Doing::Arriving);
    arrives.record.owned = false;
    arrives.record.ticket = None;
    for entry in [entry("other", Life::Running), mine(Life::Running)] {
        assert_eq!(todo(entry.clone(), Some(theirs.clone())), Todo::Nothing);
        assert_eq!(todo(entry, Some(arrives.clone())), Todo::Nothing);
    }
    assert_eq!(look(None, Some(arrives)).todo(), Todo::Nothing);
}

#[test]
fn what_should_be_here_and_is_not_is_begun_brought_back_or_given_up() {
    assert_eq!(todo(mine(Life::Starting), None), Todo::Begin);
    let (lost, id) = with_checkpoint(mine(Life::Running));
    let from = lost.checkpoints[0].id;
    assert_eq!(todo(mine(Life::Recovering { from }), None), Todo::Recover);
    let dead = || Some(copy(7, Doing::Lost("power".into())));
    for here in [None, dead()] {
        assert_eq!(todo(lost.clone(), here.clone()), Todo::Say(Word::Revive(Some(id))));
        assert!(is_broke(&todo(mine(Life::Running), here.clone()), true), "{here:?}");
        let mut afresh = mine(Life::Running);
        afresh.policy.afresh = true;
        assert_eq!(todo(afresh, here), Todo::Say(Word::Revive(None)));
    }
    let mut rooted = mine(Life::Starting);
    rooted.spec.own_root = true;
    assert!(is_broke(&todo(rooted.clone(), None), false));
    assert_eq!(todo(rooted, dead()), Todo::Begin, "its files are here");
    assert!(is_broke(&todo(mine(Life::Starting), Some(copy(7, Doing::Failed("no program".into())))), false));
}

#[test]
fn what_was_given_up_is_never_begun_again_in_that_epoch() {
    let from = with_checkpoint(mine(Life::Running)).1;
    for life in [Life::Starting, Life::Running, Life::Recovering { from }] {
        let began = life == Life::Running;
        let look = Look { broke: Some(EPOCH), ..look(Some(mine(life)), None) };
        assert!(is_broke(&look.todo(), began));
        let before = Look { broke: Some(Epoch(6)), ..look };
        assert!(!is_broke(&before.todo(), false));
    }
}

#[test]
fn what_begins_again_on_its_own_node_keeps_its_files() {
    let mut revived = mine(Life::Starting);
    revived.origin = Origin::Revived;
    for doing in [Doing::Stopped(None), Doing::Failed("crashed".into()), Doing::Lost("power".into())] {
        assert_eq!(todo(revived.clone(), Some(copy(6, doing.clone()))), Todo::Begin, "{doing:?}");
        assert_eq!(
            todo(mine(Life::Starting), Some(copy(6, doing.clone()))),
            Todo::Drop,
            "given back, to begin from nothing"
        );
        assert_eq!(todo(revived.clone(), Some(copy(5, doing))), Todo::Drop, "these files are older");
    }
    assert_eq!(todo(mine(Life::Running), Some(copy(6, Doing::Running))), Todo::Question(Question::OldEpoch));
    assert_eq!(todo(mine(Life::Starting), Some(copy(6, Doing::Running))), Todo::Drop);
}

#[test]
fn ends_are_said_once_and_not_where_it_begins_again() {
    let ended = |exit| Some(copy(7, Doing::Stopped(exit)));
    let exit = Some(Exit::Code(3));
    assert_eq!(todo(mine(Life::Running), ended(exit)), Todo::Say(Word::Ended(exit)));
    assert_eq!(todo(mine(Life::Starting), ended(exit)), Todo::Say(Word::Ended(exit)), "it was quick");
    assert_eq!(todo(mine(Life::Stopped(exit)), ended(exit)), Todo::Nothing);
    let crashed = Some(copy(7, Doing::Failed("again and again".into())));
    assert_eq!(todo(mine(Life::Running), crashed), Todo::Say(Word::Ended(None)));
    let mut waits = copy(7, Doing::Stopped(exit));
    waits.record.care = Chart::new(migrate_proto::care::Wish {
        restart: migrate_proto::care::restart::Policy::Always,
        ..Default::default()
    });
    let policy = waits.record.care.wish.restart;
    waits.record.care.past.ended(
        migrate_proto::handover::Millis(1),
        policy,
        &migrate_proto::care::restart::End::Exit(Exit::Code(3)),
    );
    assert_eq!(todo(mine(Life::Running), Some(waits)), Todo::Nothing);
}

#[test]
fn wishes_are_carried_out() {
    let wanted = |wish, life| LoadEntry { wish, ..mine(life) };
    let runs = || Some(copy(7, Doing::Running));
    assert_eq!(todo(wanted(Wanted::Stop, Life::Running), runs()), Todo::End);
    assert_eq!(
        todo(wanted(Wanted::Stop, Life::Running), Some(copy(7, Doing::Stopped(None)))),
        Todo::Say(Word::Ended(None))
    );
    assert_eq!(todo(wanted(Wanted::Stop, Life::Running), None), Todo::Say(Word::Ended(None)));
    assert_eq!(todo(wanted(Wanted::Remove, Life::Running), runs()), Todo::Remove);
    assert_eq!(todo(wanted(Wanted::Remove, Life::Running), None), Todo::Say(Word::Gone));
    assert_eq!(todo(mine(Life::Stopped(None)), runs()), Todo::End, "it has ended, and is not begun again");
}

#[test]
fn what_the_record_does_not_know_is_made_known_to_it_once() {
    let mut old = copy(1, Doing::Running);
    old.record.ticket = None;
    assert_eq!(look(None, Some(old.clone())).todo(), Todo::Declare);
    let asked = Here { declaring: Some(TICKET), ..old.clone() };
    assert_eq!(todo(mine(Life::Running), Some(asked)), Todo::Recognise(TICKET, EPOCH));
    let asked = Here { declaring: Some(Ticket(6)), ..old.clone() };
    assert_eq!(todo(mine(Life::Running), Some(asked)), Todo::Question(Question::Namesake));
    assert_eq!(todo(entry("other", Life::Running), Some(old.clone())), Todo::Question(Question::Namesake));
    let mut came = old;
    came.record.epoch = EPOCH;
    assert_eq!(todo(mine(Life::Running), Some(came)), Todo::Recognise(TICKET, EPOCH));
    assert_eq!(look(None, Some(copy(7, Doing::Running))).todo(), Todo::Question(Question::Unknown));
}
