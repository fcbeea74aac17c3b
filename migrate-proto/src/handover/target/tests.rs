//! Exact commands for the good path and for every failure in every phase; then rules over arbitrary sequences of events.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::handover::fixtures::{EPOCH, HANDOVER, Lcg, OTHER, manifest, offer, problem};

const ROOM: Room = Room { memory: 5, disk: 6 };
const LATE: Millis = Millis(u64::MAX / 2);

/// The phases in which nothing but dropping everything can follow a failure.
const RECEIVING: [Phase; 5] = [Phase::Preflight, Phase::Prepare, Phase::Transfer, Phase::Verify, Phase::Restore];

fn fresh() -> Target {
    Target::new(offer(), "node2".parse().unwrap(), Budgets::default())
}

fn send_resumed() -> Command {
    Command::Send(Message::Resumed { handover: HANDOVER, pid: 100 })
}

fn stayed(problem: &Problem) -> Command {
    Command::Finish(Outcome::Stayed, Some(problem.clone()))
}

/// The good path: each event with exactly what it leads to.
fn good_path() -> Vec<(Event, Vec<Command>)> {
    vec![
        (Event::Offered, vec![Command::Journal(Phase::Negotiate), Command::Journal(Phase::Preflight), Command::Check]),
        (
            Event::Checked(Ok(ROOM)),
            vec![
                Command::Journal(Phase::Prepare),
                Command::Send(Message::Accepted { free_memory: 5, free_disk: 6 }),
                Command::BuildSandbox,
            ],
        ),
        (Event::SandboxReady, vec![Command::StartRestore]),
        (Event::LayerArrived, vec![]),
        (Event::RestoreReady, vec![Command::Journal(Phase::Transfer), Command::Send(Message::Prepared)]),
        (Event::Completed(manifest()), vec![Command::Journal(Phase::Verify), Command::Verify(manifest())]),
        (
            Event::DigestsMatch,
            vec![Command::Journal(Phase::Restore), Command::Send(Message::Verified), Command::Restore],
        ),
        (
            Event::RestoredHeld { pid: 100 },
            vec![Command::Journal(Phase::Commit), Command::Send(Message::Restored { pid: 100 })],
        ),
        (
            Event::Committed(EPOCH.next()),
            vec![Command::Journal(Phase::Resume), Command::AdoptOwner(EPOCH.next()), Command::Resume],
        ),
        (Event::Running { pid: 100 }, vec![Command::Journal(Phase::CleanUp), send_resumed(), Command::ForgetImage]),
        (Event::Done, vec![Command::Finish(Outcome::Moved, None)]),
    ]
}

/// A machine that has just entered `phase`.
fn at(phase: Phase) -> Target {
    let mut target = fresh();
    for (event, _) in good_path() {
        if target.timeline.phase() == Some(phase) {
            break;
        }
        target.step(Millis(1), event);
    }
    assert_eq!(target.timeline.phase(), Some(phase));
    target
}

#[test]
fn the_good_path_is_exactly_this() {
    let mut target = fresh();
    for (n, (event, expected)) in good_path().into_iter().enumerate() {
        assert_eq!(target.step(Millis(n as u64), event.clone()), expected, "{event:?}");
    }
    assert!(target.finished() && target.deadline().is_none());
}

#[test]
fn an_offer_that_makes_no_sense_is_refused_before_anything_is_looked_at() {
    type Spoil = fn(&mut Offer);
    let bad: [(Spoil, Code); 8] = [
        (|offer| offer.to = "node3".parse().unwrap(), Code::Corrupt),
        (|offer| offer.from = "node2".parse().unwrap(), Code::SameNode),
        (|offer| offer.epoch = Epoch(u64::MAX), Code::Corrupt),
        (|offer| offer.spec.argv.clear(), Code::Corrupt),
        (|offer| offer.layer_block_bytes = 0, Code::Corrupt),
        (|offer| offer.layer_bytes = (1 << 40) + 1, Code::Corrupt),
        (|offer| offer.layer_used_bytes = u64::MAX, Code::Corrupt),
        (|offer| offer.memory_bytes = u64::MAX, Code::Corrupt),
    ];
    for (spoil, code) in bad {
        let mut offer = offer();
        spoil(&mut offer);
        let commands = Target::new(offer, "node2".parse().unwrap(), Budgets::default()).step(Millis(1), Event::Offered);
        let [Command::Journal(Phase::Negotiate), Command::Send(Message::Refused(problem)), finish] = &commands[..]
        else {
            panic!("{commands:?}")
        };
        assert_eq!((problem.code, finish), (code, &stayed(problem)));
    }
}

#[test]
fn a_failed_check_refuses() {
    let commands = at(Phase::Preflight).step(Millis(1), Event::Checked(Err(problem())));
    assert_eq!(commands, [Command::Send(Message::Refused(problem())), stayed(&problem())]);
}

#[test]
fn before_restored_every_failure_drops_everything_and_says_so() {
    let failures = [
        (Event::ReceiveFailed(problem()), Code::NoMemory),
        (Event::DigestsDiffer(problem()), Code::NoMemory),
        (Event::RestoreFailed(problem()), Code::NoMemory),
        (Event::LinkLost, Code::LinkLost),
        (Event::Tick, Code::TimedOut),
    ];
    for phase in RECEIVING {
        for (event, code) in &failures {
            let commands = at(phase).step(LATE, event.clone());
            let [Command::DropEverything, Command::Send(Message::Failed(problem)), finish] = &commands[..] else {
                panic!("{phase} {event:?}: {commands:?}")
            };
            assert_eq!((problem.code, finish), (*code, &stayed(problem)), "{phase} {event:?}");
        }
        let commands = at(phase).step(Millis(1), Event::Aborted(problem()));
        assert_eq!(commands, [Command::DropEverything, stayed(&problem())], "{phase}");
    }
}

#[test]
fn an_image_of_another_node_or_epoch_is_not_looked_at() {
    let others = [
        Manifest { made_by: "node9".parse().unwrap(), ..manifest() },
        Manifest { epoch: EPOCH.next(), ..manifest() },
        Manifest { streams: vec![], ..manifest() },
    ];
    for manifest in others {
        let commands = at(Phase::Transfer).step(Millis(1), Event::Completed(manifest));
        assert!(
            matches!(&commands[..], [Command::DropEverything, Command::Send(Message::Failed(p)), _] if p.code == Code::Corrupt)
        );
    }
}

#[test]
fn in_doubt_nothing_but_the_sources_word_counts() {
    let mut target = at(Phase::Commit);
    assert!(target.is_in_doubt());
    let lost = target.step(Millis(1), Event::LinkLost);
    assert!(matches!(&lost[..], [Command::KeepFrozen(p)] if p.code == Code::Unknown), "{lost:?}");
    let due = target.deadline().unwrap();
    assert_eq!(target.step(due, Event::Tick), [], "nobody would hear it");
    assert_eq!(target.step(due, Event::LinkBack), [Command::AskSource]);
    assert_eq!(target.step(due, Event::Answered(None)), []);
    let due = target.deadline().unwrap();
    assert_eq!(target.step(due, Event::Tick), [Command::AskSource]);
    for ignored in [Event::ReceiveFailed(problem()), Event::Running { pid: 1 }, Event::Done, Event::Progress] {
        assert_eq!(target.step(due, ignored), []);
    }
    assert!(target.is_in_doubt());
    let resume = [Command::Journal(Phase::Resume), Command::AdoptOwner(EPOCH.next()), Command::Resume];
    assert_eq!(target.step(due, Event::Answered(Some(Decision::Commit))), resume);
}

#[test]
fn abort_ends_the_doubt_by_dropping() {
    let commands = at(Phase::Commit).step(Millis(1), Event::Aborted(problem()));
    assert_eq!(commands, [Command::DropEverything, stayed(&problem())]);
    let commands = at(Phase::Commit).step(Millis(1), Event::Answered(Some(Decision::Abort)));
    assert!(matches!(&commands[..], [Command::DropEverything, Command::Finish(Outcome::Stayed, Some(_))]));
}

#[test]
fn only_exactly_the_next_epoch_is_adopted() {
    for epoch in [EPOCH, Epoch(EPOCH.0 + 2), Epoch(0), Epoch(u64::MAX)] {
        let mut target = at(Phase::Commit);
        let commands = target.step(Millis(1), Event::Committed(epoch));
        assert!(matches!(&commands[..], [Command::KeepFrozen(_)]), "{epoch}: {commands:?}");
        assert!(target.is_in_doubt());
    }
}

#[test]
fn processes_that_die_while_held_are_restored_again_once_commit_is_heard() {
    let mut target = at(Phase::Commit);
    let told = [Command::KeepFrozen(problem()), Command::Send(Message::Failed(problem()))];
    assert_eq!(target.step(Millis(1), Event::RestoreFailed(problem())), told);
    let again = [Command::Journal(Phase::Resume), Command::AdoptOwner(EPOCH.next()), Command::RestoreAgain];
    assert_eq!(target.step(Millis(1), Event::Committed(EPOCH.next())), again);
    assert_eq!(target.step(Millis(1), Event::RestoredHeld { pid: 100 }), [Command::Resume]);
}

#[test]
fn after_the_commit_it_restores_again_as_often_as_it_takes() {
    let mut target = at(Phase::Resume);
    assert_eq!(target.step(Millis(1), Event::ResumeFailed(problem())), [Command::RestoreAgain]);
    for _ in 0..5 {
        let kept = target.step(Millis(1), Event::RestoreFailed(problem()));
        assert_eq!(kept, [Command::KeepFrozen(problem())]);
        let due = target.deadline().unwrap();
        assert_eq!(target.step(due, Event::Tick), [Command::RestoreAgain]);
    }
    let now = target.clock;
    assert_eq!(target.step(now, Event::RestoredHeld { pid: 100 }), [Command::Resume]);
    let running = [Command::Journal(Phase::CleanUp), send_resumed(), Command::ForgetImage];
    assert_eq!(target.step(now, Event::Running { pid: 100 }), running);
}

#[test]
fn a_late_word_about_an_earlier_attempt_does_not_end_what_may_run() {
    let mut target = at(Phase::Resume);
    assert_eq!(target.step(Millis(1), Event::RestoreFailed(problem())), []);
    target.step(Millis(1), Event::ResumeFailed(problem()));
    assert_eq!(target.step(Millis(1), Event::ResumeFailed(problem())), []);
    assert_eq!(target.step(Millis(1), Event::RestoredHeld { pid: 100 }), [Command::Resume]);
    assert_eq!(target.step(Millis(1), Event::RestoreFailed(problem())), []);
}

#[test]
fn after_the_commit_nothing_goes_back() {
    for phase in [Phase::Resume, Phase::CleanUp] {
        for event in [Event::Aborted(problem()), Event::Answered(Some(Decision::Abort)), Event::LinkLost] {
            assert_eq!(at(phase).step(Millis(1), event.clone()), [], "{phase} {event:?}");
        }
    }
}

#[test]
fn after_a_loss_of_power_the_files_are_kept_and_the_source_is_let_go() {
    let mut target = at(Phase::Resume);
    assert_eq!(target.step(Millis(1), Event::ImageLost(problem())), [], "only what was tried can say that");
    target.step(Millis(1), Event::ResumeFailed(problem()));
    let lost = Problem { code: Code::Lost, ..problem() };
    let told = Command::Send(Message::Lost { handover: HANDOVER, problem: lost.clone() });
    let commands = target.step(Millis(1), Event::ImageLost(problem()));
    let noted = [Command::Journal(Phase::CleanUp), Command::NoteLost(lost), told.clone(), Command::ForgetImage];
    assert_eq!(commands, noted);
    assert_eq!(
        target.step(Millis(1), Event::Committed(EPOCH.next())),
        std::slice::from_ref(&told),
        "nobody says that it runs"
    );
    let restarted = Target::recover(target.entry(Phase::CleanUp), Budgets::default(), Millis(1)).1;
    assert_eq!(restarted, [told, Command::ForgetImage], "a new agent knows it as well");
    assert_eq!(target.step(Millis(1), Event::Done), [Command::Finish(Outcome::Moved, None)]);
}

#[test]
fn a_doubt_that_cannot_be_written_down_is_given_up() {
    let mut target = at(Phase::Commit);
    let other = Event::NotJournalled { phase: Phase::CleanUp, problem: problem() };
    assert_eq!(target.step(Millis(1), other), [], "only the doubt itself was not promised to anybody yet");
    let commands = target.step(Millis(1), Event::NotJournalled { phase: Phase::Commit, problem: problem() });
    let expected = [
        Command::DropEverything,
        Command::Send(Message::Failed(problem())),
        Command::Finish(Outcome::Stayed, Some(problem())),
    ];
    assert_eq!(commands, expected);
}

#[test]
fn resumed_is_repeated_until_done() {
    let mut target = at(Phase::CleanUp);
    assert_eq!(target.step(Millis(1), Event::Committed(EPOCH.next())), [send_resumed()]);
    target.step(Millis(1), Event::LinkLost);
    let due = target.deadline().unwrap();
    assert_eq!(target.step(due, Event::Tick), []);
    assert_eq!(target.step(due, Event::LinkBack), [send_resumed()]);
    let due = target.deadline().unwrap();
    assert_eq!(target.step(due, Event::Tick), [send_resumed()]);
    assert_eq!(target.step(due, Event::Done), [Command::Finish(Outcome::Moved, None)]);
}

#[test]
fn messages_of_other_handovers_are_not_heard() {
    let target = at(Phase::Commit);
    let abort = |handover| Message::Abort { handover, problem: problem() };
    let commit = |handover| Message::Commit { handover, epoch: EPOCH };
    let answer = |handover| Message::Answer { handover, decision: Some(Decision::Abort) };
    for stale in [abort(OTHER), commit(OTHER), answer(OTHER), Message::Done { handover: OTHER }] {
        assert_eq!(target.heard(stale), None);
    }
    assert_eq!(target.heard(abort(HANDOVER)), Some(Event::Aborted(problem())));
    assert_eq!(target.heard(commit(HANDOVER)), Some(Event::Committed(EPOCH)));
    assert_eq!(target.heard(answer(HANDOVER)), Some(Event::Answered(Some(Decision::Abort))));
}

fn recovered(phase: Phase) -> Vec<Command> {
    let json = serde_json::to_string(&at(phase).entry(phase)).unwrap();
    Target::recover(serde_json::from_str(&json).unwrap(), Budgets::default(), Millis(9)).1
}

#[test]
fn a_restart_gives_up_asks_or_goes_on() {
    for phase in RECEIVING {
        assert!(matches!(
            &recovered(phase)[..],
            [Command::DropEverything, Command::Send(Message::Failed(_)), Command::Finish(Outcome::Stayed, Some(_))]
        ));
    }
    assert!(matches!(&recovered(Phase::Commit)[..], [Command::KeepFrozen(_)]));
    assert_eq!(recovered(Phase::Resume), [Command::AdoptOwner(EPOCH.next()), Command::Resume]);
    assert_eq!(recovered(Phase::CleanUp), [send_resumed(), Command::ForgetImage]);
}

#[test]
fn after_a_restart_in_doubt_the_first_thing_said_is_the_question() {
    let (mut target, _) = Target::recover(at(Phase::Commit).entry(Phase::Commit), Budgets::default(), Millis(9));
    assert!(target.is_in_doubt());
    assert_eq!(target.step(Millis(10), Event::LinkBack), [Command::AskSource]);
}

// ---- rules over arbitrary sequences ------------------------------------------------------------------------------

type Trace = Vec<(Event, Vec<Command>)>;
type Bug = fn(&Event, Vec<Command>) -> Vec<Command>;

fn any_event(choice: u8) -> Event {
    let all = [
        Event::Offered,
        Event::Checked(Ok(ROOM)),
        Event::Checked(Err(problem())),
        Event::LayerArrived,
        Event::SandboxReady,
        Event::RestoreReady,
        Event::ReceiveFailed(problem()),
        Event::Completed(manifest()),
        Event::DigestsMatch,
        Event::DigestsDiffer(problem()),
        Event::RestoredHeld { pid: 9 },
        Event::RestoreFailed(problem()),
        Event::Committed(EPOCH.next()),
        Event::Committed(EPOCH),
        Event::Aborted(problem()),
        Event::Answered(None),
        Event::Answered(Some(Decision::Commit)),
        Event::Answered(Some(Decision::Abort)),
        Event::Running { pid: 9 },
        Event::ResumeFailed(problem()),
        Event::ImageLost(problem()),
        Event::Done,
        Event::LinkLost,
        Event::LinkBack,
        Event::Progress,
        Event::Tick,
    ];
    all[usize::from(choice) % all.len()].clone()
}

/// The event that brings the machine on, if everything goes well.
fn next_good(target: &Target) -> Event {
    match (target.timeline.phase(), target.tree) {
        (None, _) => Event::Offered,
        (Some(Phase::Negotiate | Phase::Preflight), _) => Event::Checked(Ok(ROOM)),
        (Some(Phase::Prepare), _) if target.ready.layer => Event::RestoreReady,
        (Some(Phase::Prepare), _) => Event::LayerArrived,
        (Some(Phase::Freeze | Phase::Transfer), _) => Event::Completed(manifest()),
        (Some(Phase::Verify), _) => Event::DigestsMatch,
        (Some(Phase::Restore), _) => Event::RestoredHeld { pid: 100 },
        (Some(Phase::Commit), _) => Event::Committed(EPOCH.next()),
        (Some(Phase::Resume), Tree::Resuming | Tree::Held) => Event::Running { pid: 100 },
        (Some(Phase::Resume), Tree::Restoring) => Event::RestoredHeld { pid: 100 },
        (Some(Phase::Resume), Tree::Gone) => Event::Tick,
        (Some(Phase::CleanUp), _) => Event::Done,
    }
}

/// Runs a machine on `choices`, then on good events only, until it finishes.
fn run(choices: &[u8], bug: Bug) -> Trace {
    let mut target = fresh();
    let mut trace = Trace::new();
    let mut now = Millis(0);
    for n in 0..choices.len() + 40 {
        let event = match choices.get(n) {
            Some(choice) if choice % 4 == 0 => any_event(choice / 4),
            _ => next_good(&target),
        };
        now = now.plus(if event == Event::Tick { 20_000 } else { 10 });
        let commands = bug(&event, target.step(now, event.clone()));
        trace.push((event, commands));
    }
    trace
}

/// The phase that must be in the journal before a command may be carried out.
fn phase_of(command: &Command) -> Option<Phase> {
    Some(match command {
        Command::Check => Phase::Preflight,
        Command::BuildSandbox | Command::StartRestore | Command::Send(Message::Accepted { .. }) => Phase::Prepare,
        Command::Send(Message::Prepared) => Phase::Transfer,
        Command::Verify(_) => Phase::Verify,
        Command::Restore | Command::Send(Message::Verified) => Phase::Restore,
        Command::Send(Message::Restored { .. }) | Command::AskSource => Phase::Commit,
        Command::AdoptOwner(_) | Command::Resume | Command::RestoreAgain => Phase::Resume,
        Command::ForgetImage | Command::NoteLost(_) => Phase::CleanUp,
        Command::Send(Message::Resumed { .. } | Message::Lost { .. }) => Phase::CleanUp,
        _ => return None,
    })
}

/// The first rule that a trace breaks.
fn broken_rule(trace: &Trace) -> Option<&'static str> {
    let mut journal = None;
    let (mut restored, mut adopted, mut finished) = (false, false, false);
    for (event, commands) in trace {
        let says_abort = matches!(event, Event::Aborted(_) | Event::Answered(Some(Decision::Abort)));
        let says_commit = match event {
            Event::Committed(epoch) => *epoch == EPOCH.next(),
            event => *event == Event::Answered(Some(Decision::Commit)),
        };
        for command in commands {
            if finished {
                return Some("nothing after the finish");
            }
            if phase_of(command).is_some_and(|phase| journal < Some(phase)) {
                return Some("the journal precedes the effect");
            }
            match command {
                Command::Journal(phase) if journal >= Some(*phase) => return Some("phases only rise"),
                Command::Journal(phase) => journal = Some(*phase),
                Command::Send(Message::Restored { .. }) => restored = true,
                Command::DropEverything if adopted => return Some("nothing is dropped after commit"),
                Command::DropEverything if restored && !says_abort => return Some("in doubt only abort drops"),
                Command::AdoptOwner(epoch) if !says_commit || *epoch != EPOCH.next() => {
                    return Some("the owner changes only by commit, to the next epoch");
                }
                Command::AdoptOwner(_) => adopted = true,
                Command::Resume if !adopted => return Some("it runs only once it is owned"),
                Command::Finish(Outcome::Moved, _) if !adopted => return Some("it runs only once it is owned"),
                Command::Finish(Outcome::Stayed, _) if adopted => return Some("nothing is dropped after commit"),
                Command::Finish(..) => finished = true,
                _ => {}
            }
        }
    }
    (!finished).then_some("every run finishes")
}

proptest! {
    #[test]
    fn the_rules_hold_for_every_sequence(choices in prop::collection::vec(any::<u8>(), 0..120)) {
        prop_assert_eq!(broken_rule(&run(&choices, |_, commands| commands)), None);
    }
}

/// Whether some run of a machine with this bug breaks exactly that rule.
fn is_caught(rule: &str, bug: Bug) -> bool {
    (0..400).any(|seed| broken_rule(&run(&Lcg(seed).bytes(60), bug)) == Some(rule))
}

fn replace(commands: Vec<Command>, old: &Command, new: &[Command]) -> Vec<Command> {
    commands.into_iter().flat_map(|c| if c == *old { new.to_vec() } else { vec![c] }).collect()
}

#[test]
fn each_rule_catches_a_machine_that_breaks_it() {
    let bugs: [(&str, Bug); 8] = [
        ("in doubt only abort drops", |event, c| match (event, &c[..]) {
            (Event::LinkLost, [Command::KeepFrozen(_)]) => vec![Command::DropEverything],
            _ => c,
        }),
        ("nothing is dropped after commit", |event, c| match (event, &c[..]) {
            (Event::ResumeFailed(_), [Command::RestoreAgain]) => vec![Command::DropEverything],
            _ => c,
        }),
        ("it runs only once it is owned", |_, c| {
            replace(c, &Command::AdoptOwner(EPOCH.next()), &[Command::Resume, Command::AdoptOwner(EPOCH.next())])
        }),
        ("the owner changes only by commit, to the next epoch", |_, c| {
            replace(c, &Command::AdoptOwner(EPOCH.next()), &[Command::AdoptOwner(EPOCH)])
        }),
        ("the journal precedes the effect", |_, c| replace(c, &Command::Journal(Phase::Commit), &[])),
        ("phases only rise", |_, c| replace(c, &Command::Journal(Phase::Verify), &[Command::Journal(Phase::Transfer)])),
        ("nothing after the finish", |event, mut c| {
            if *event == Event::LinkBack && c.is_empty() {
                c.push(Command::AskSource);
            }
            c
        }),
        ("every run finishes", |event, c| if *event == Event::Done { vec![] } else { c }),
    ];
    for (rule, bug) in bugs {
        assert!(is_caught(rule, bug), "no run broke: {rule}");
    }
}
