//! Exact commands for the good path and for every failure in every phase; then rules over arbitrary sequences of events.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::handover::fixtures::{EPOCH, HANDOVER, Lcg, OTHER, manifest, offer, problem, terms};

/// The good path: each event with exactly what it leads to.
fn good_path() -> Vec<(Event, Vec<Command>)> {
    let handover = HANDOVER;
    vec![
        (Event::Begin, vec![Command::Journal(Phase::Negotiate), Command::InspectWorkload]),
        (Event::Inspected(offer()), vec![Command::Journal(Phase::Preflight), Command::Send(Message::Offer(offer()))]),
        (Event::Accepted, vec![Command::Journal(Phase::Prepare), Command::CopyLayer, Command::StartDump]),
        (Event::DumpReady, vec![]),
        (Event::LayerCopied { blocks: 9 }, vec![Command::Send(Message::LayerAheadDone { blocks: 9 })]),
        (Event::PeerPrepared, vec![Command::Journal(Phase::Freeze), Command::ReleaseDump]),
        (Event::Frozen, vec![Command::Journal(Phase::Transfer), Command::StreamChanges]),
        (
            Event::ImageComplete(manifest()),
            vec![Command::Journal(Phase::Verify), Command::Send(Message::Complete(manifest()))],
        ),
        (Event::Verified, vec![Command::Journal(Phase::Restore)]),
        (Event::Restored, vec![Command::Journal(Phase::Commit), Command::Decide(Decision::Commit)]),
        (
            Event::Decided(Decision::Commit),
            vec![
                Command::Journal(Phase::Resume),
                Command::Send(Message::Commit { handover, epoch: EPOCH.next() }),
                Command::EndSource,
            ],
        ),
        (Event::PeerResumed, vec![]),
        (
            Event::SourceEnded,
            vec![
                Command::Journal(Phase::CleanUp),
                Command::DropCopy,
                Command::Send(Message::Done { handover }),
                Command::Finish(Outcome::Moved, None),
            ],
        ),
    ]
}

/// A machine that has just entered `phase`.
fn at(phase: Phase) -> Source {
    let mut source = Source::new(terms(), Budgets::default());
    for (event, _) in good_path() {
        if source.timeline.phase() == Some(phase) {
            break;
        }
        source.step(Millis(1), event);
    }
    assert_eq!(source.timeline.phase(), Some(phase));
    source
}

fn send_abort(problem: Problem) -> Command {
    Command::Send(Message::Abort { handover: HANDOVER, problem })
}

fn send_commit() -> Command {
    Command::Send(Message::Commit { handover: HANDOVER, epoch: EPOCH.next() })
}

const UNTOUCHED: [Phase; 2] = [Phase::Negotiate, Phase::Preflight];
const WITH_DUMP: [Phase; 5] = [Phase::Prepare, Phase::Freeze, Phase::Transfer, Phase::Verify, Phase::Restore];

/// Every event that ends an undecided handover, with the code it is reported under.
fn failures() -> Vec<(Event, Code)> {
    vec![
        (Event::InspectFailed(problem()), Code::NoMemory),
        (Event::Refused(problem()), Code::NoMemory),
        (Event::DumpFailed(problem()), Code::NoMemory),
        (Event::PeerFailed(problem()), Code::NoMemory),
        (Event::LinkLost, Code::LinkLost),
        (Event::Cancelled, Code::Cancelled),
        (Event::WorkloadEnded, Code::WorkloadEnded),
        (Event::Tick, Code::TimedOut),
    ]
}

const LATE: Millis = Millis(u64::MAX / 2);

#[test]
fn the_good_path_is_exactly_this() {
    let mut source = Source::new(terms(), Budgets::default());
    for (n, (event, expected)) in good_path().into_iter().enumerate() {
        assert_eq!(source.step(Millis(n as u64), event.clone()), expected, "{event:?}");
    }
    let phases: Vec<Phase> = source.timeline().entered().iter().map(|&(phase, _)| phase).collect();
    assert_eq!(phases, Phase::ALL);
    assert!(source.finished() && source.deadline().is_none());
}

#[test]
fn before_a_dump_exists_every_failure_just_ends_it() {
    for phase in UNTOUCHED {
        for (event, code) in failures() {
            let mut source = at(phase);
            let commands = source.step(LATE, event.clone());
            let [tell, Command::Finish(Outcome::Stayed, Some(problem))] = &commands[..] else {
                panic!("{phase} {event:?}: {commands:?}")
            };
            assert_eq!((problem.code, tell), (code, &send_abort(problem.clone())), "{phase} {event:?}");
        }
    }
}

#[test]
fn with_a_dump_every_failure_asks_for_abort_then_resumes_then_tells() {
    for phase in WITH_DUMP {
        for (event, code) in failures() {
            let mut source = at(phase);
            assert_eq!(source.step(LATE, event.clone()), [Command::Decide(Decision::Abort)], "{phase} {event:?}");
            assert_eq!(source.step(LATE, Event::Decided(Decision::Abort)), [Command::ResumeSource]);
            let commands = source.step(LATE, Event::SourceResumed);
            let [tell, Command::Finish(Outcome::Stayed, Some(problem))] = &commands[..] else {
                panic!("{phase} {event:?}: {commands:?}")
            };
            assert_eq!((problem.code, tell), (code, &send_abort(problem.clone())), "{phase} {event:?}");
        }
    }
}

#[test]
fn the_guard_may_have_been_first() {
    let mut source = at(Phase::Commit);
    assert_eq!(source.step(Millis(1), Event::Decided(Decision::Abort)), [Command::ResumeSource]);
    let commands = source.step(Millis(1), Event::SourceResumed);
    assert!(matches!(&commands[..], [Command::Send(Message::Abort { .. }), Command::Finish(..)]), "{commands:?}");
}

#[test]
fn a_wish_to_stop_during_the_decision_only_asks_and_commit_may_stand() {
    for event in [Event::Cancelled, Event::LinkLost, Event::PeerFailed(problem()), Event::DumpFailed(problem())] {
        let mut source = at(Phase::Commit);
        assert_eq!(source.step(Millis(1), event), [Command::Decide(Decision::Abort)]);
        let commands = source.step(Millis(1), Event::Decided(Decision::Commit));
        assert_eq!(commands, [Command::Journal(Phase::Resume), send_commit(), Command::EndSource]);
        assert_eq!(source.step(Millis(1), Event::Decided(Decision::Commit)), []);
    }
}

#[test]
fn an_unanswered_decision_is_asked_for_again() {
    let mut source = at(Phase::Commit);
    for _ in 0..3 {
        let due = source.deadline().unwrap();
        assert_eq!(source.step(Millis(due.0 - 1), Event::Tick), []);
        assert_eq!(source.step(due, Event::Tick), [Command::Decide(Decision::Abort)]);
    }
}

#[test]
fn after_the_commit_nothing_goes_back() {
    for (event, _) in failures().into_iter().filter(|(event, _)| *event != Event::Tick) {
        assert_eq!(at(Phase::Resume).step(Millis(1), event.clone()), [], "{event:?}");
    }
}

#[test]
fn commit_is_repeated_until_it_is_acknowledged() {
    let mut source = at(Phase::Resume);
    assert_eq!(source.step(Millis(1), Event::SourceEnded), []);
    assert_eq!(source.step(Millis(1), Event::LinkLost), []);
    let due = source.deadline().unwrap();
    let commands = source.step(due, Event::Tick);
    assert!(matches!(&commands[..], [Command::SayWaiting(_)]), "nobody would hear a message: {commands:?}");
    assert_eq!(source.step(due, Event::LinkBack), [send_commit()]);
    let due = source.deadline().unwrap();
    let commands = source.step(due, Event::Tick);
    assert!(matches!(&commands[..], [Command::SayWaiting(_), again] if *again == send_commit()), "{commands:?}");
    assert!(source.step(due, Event::PeerResumed).contains(&Command::Finish(Outcome::Moved, None)));
}

#[test]
fn a_workload_that_is_lost_on_its_target_is_forgotten_here_and_not_said_to_run() {
    let mut source = at(Phase::Resume);
    let lost = source.heard(Message::Lost { handover: HANDOVER, problem: problem() }).unwrap();
    assert_eq!(source.step(Millis(1), lost), []);
    let commands = source.step(Millis(1), Event::SourceEnded);
    assert!(commands.contains(&Command::DropCopy), "{commands:?}");
    assert_eq!(commands.last(), Some(&Command::Finish(Outcome::Moved, Some(problem()))));
}

#[test]
fn a_copy_that_does_not_end_is_ended_again_before_anything_is_removed() {
    let mut source = at(Phase::Resume);
    assert_eq!(source.step(Millis(1), Event::PeerResumed), []);
    let due = source.deadline().unwrap();
    assert_eq!(source.step(due, Event::Tick), [Command::EndSource]);
    assert!(source.step(due, Event::SourceEnded).contains(&Command::DropCopy));
}

#[test]
fn a_workload_that_cannot_be_set_going_needs_a_person() {
    let mut source = at(Phase::Freeze);
    source.step(Millis(1), Event::Cancelled);
    source.step(Millis(1), Event::Decided(Decision::Abort));
    let finish = Command::Finish(Outcome::Unknown, Some(problem()));
    let commands = source.step(Millis(1), Event::SourceResumeFailed(problem()));
    assert_eq!(commands, [finish], "the target must not drop what may be the better copy");
}

#[test]
fn a_person_can_forget_what_was_given_away_and_only_that() {
    for phase in Phase::ALL.into_iter().filter(|phase| *phase < Phase::Resume) {
        assert_eq!(at(phase).step(Millis(1), Event::GivenUp), [], "{phase}");
    }
    let commands = at(Phase::Resume).step(Millis(1), Event::GivenUp);
    assert!(commands.contains(&Command::DropCopy), "{commands:?}");
    let Some(Command::Finish(Outcome::Moved, Some(problem))) = commands.last() else { panic!("{commands:?}") };
    assert_eq!(problem.code, Code::Unknown, "nobody has said that it runs there");
}

#[test]
fn a_target_that_calls_anew_before_the_decision_has_lost_what_it_was_told() {
    for phase in WITH_DUMP {
        assert_eq!(at(phase).step(Millis(1), Event::LinkBack), [Command::Decide(Decision::Abort)], "{phase}");
    }
}

#[test]
fn progress_puts_off_the_stall() {
    let mut source = at(Phase::Prepare);
    let stalls = source.deadline().unwrap();
    source.step(Millis(stalls.0 - 1), Event::Progress);
    assert_eq!(source.step(stalls, Event::Tick), []);
    assert_eq!(source.step(source.deadline().unwrap(), Event::Tick), [Command::Decide(Decision::Abort)]);
}

#[test]
fn the_question_is_answered_with_what_is_known() {
    let answer = |source: &mut Source| match &source.step(Millis(1), Event::Asked)[..] {
        [Command::Send(Message::Answer { handover: HANDOVER, decision })] => *decision,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(&mut at(Phase::Restore)), None);
    assert_eq!(answer(&mut at(Phase::Commit)), None);
    assert_eq!(answer(&mut at(Phase::Resume)), Some(Decision::Commit));
    let mut aborted = at(Phase::Commit);
    aborted.step(Millis(1), Event::Decided(Decision::Abort));
    assert_eq!(answer(&mut aborted), None, "it does not run here yet");
    aborted.step(Millis(1), Event::SourceResumed);
    assert_eq!(answer(&mut aborted), Some(Decision::Abort));
}

#[test]
fn messages_of_other_handovers_are_not_heard() {
    let source = at(Phase::Resume);
    assert_eq!(source.heard(Message::Resumed { handover: OTHER, pid: 1 }), None);
    assert_eq!(source.heard(Message::Lost { handover: OTHER, problem: problem() }), None);
    assert_eq!(source.heard(Message::Ask { handover: OTHER }), None);
    assert_eq!(source.heard(Message::Resumed { handover: HANDOVER, pid: 1 }), Some(Event::PeerResumed));
    assert_eq!(source.heard(Message::Commit { handover: HANDOVER, epoch: EPOCH }), None);
}

#[test]
fn time_that_goes_backwards_loses_no_journal() {
    let mut source = Source::new(terms(), Budgets::default());
    source.step(Millis(500), Event::Begin);
    assert_eq!(source.step(Millis(3), Event::Inspected(offer()))[0], Command::Journal(Phase::Preflight));
    assert_eq!(source.timeline().at(Phase::Preflight), Some(Millis(500)));
}

fn recovered(phase: Phase, decision: Option<Decision>) -> Vec<Command> {
    let entry = at(phase).entry(phase);
    let json = serde_json::to_string(&entry).unwrap();
    Source::recover(serde_json::from_str(&json).unwrap(), decision, Budgets::default(), Millis(9)).1
}

#[test]
fn a_restart_before_the_decision_goes_back() {
    let problem = restarted();
    for phase in UNTOUCHED {
        let stays = [send_abort(problem.clone()), Command::Finish(Outcome::Stayed, Some(problem.clone()))];
        assert_eq!(recovered(phase, None), stays);
    }
    for phase in WITH_DUMP.into_iter().chain([Phase::Commit]) {
        assert_eq!(recovered(phase, None), [Command::Decide(Decision::Abort)]);
        assert_eq!(recovered(phase, Some(Decision::Abort)), [Command::ResumeSource]);
    }
}

#[test]
fn a_restart_after_the_decision_goes_forward() {
    let forward = [send_commit(), Command::EndSource];
    let commit = Some(Decision::Commit);
    assert_eq!(recovered(Phase::Commit, commit), [&[Command::Journal(Phase::Resume)], &forward[..]].concat());
    assert_eq!(recovered(Phase::Resume, commit), forward);
    assert_eq!(recovered(Phase::Resume, None), forward);
    let done = Command::Send(Message::Done { handover: HANDOVER });
    for decision in [commit, None] {
        let clean = [Command::DropCopy, done.clone(), Command::Finish(Outcome::Moved, None)];
        assert_eq!(recovered(Phase::CleanUp, decision), clean);
    }
}

#[test]
fn a_journal_that_contradicts_the_decision_touches_nothing() {
    let commands = recovered(Phase::Resume, Some(Decision::Abort));
    assert!(matches!(&commands[..], [Command::Finish(Outcome::Unknown, Some(p))] if p.code == Code::Unknown));
}

// ---- rules over arbitrary sequences ------------------------------------------------------------------------------

/// What a machine did: what it was told, and what it commanded.
type Trace = Vec<(Event, Vec<Command>)>;

/// A way of being wrong: changes what the machine commands.
type Bug = fn(&Event, Vec<Command>) -> Vec<Command>;

/// Every event, apart from the decision.
fn any_event(choice: u8) -> Event {
    let all = [
        Event::Begin,
        Event::Inspected(offer()),
        Event::Accepted,
        Event::Refused(problem()),
        Event::InspectFailed(problem()),
        Event::LayerCopied { blocks: 1 },
        Event::DumpReady,
        Event::PeerPrepared,
        Event::Frozen,
        Event::ImageComplete(manifest()),
        Event::DumpFailed(problem()),
        Event::Verified,
        Event::Restored,
        Event::PeerResumed,
        Event::PeerLost(problem()),
        Event::PeerFailed(problem()),
        Event::Asked,
        Event::SourceEnded,
        Event::SourceResumed,
        Event::SourceResumeFailed(problem()),
        Event::WorkloadEnded,
        Event::LinkLost,
        Event::LinkBack,
        Event::Cancelled,
        Event::Progress,
        Event::Tick,
    ];
    all[usize::from(choice) % all.len()].clone()
}

/// The event that brings the machine on, if everything goes well.
fn next_good(source: &Source, truth: Decision) -> Event {
    match (source.state, source.timeline.phase()) {
        (State::Deciding(_), _) => Event::Decided(truth),
        (State::Resuming, _) => Event::SourceResumed,
        (State::Committed, _) if source.ended => Event::PeerResumed,
        (State::Committed, _) => Event::SourceEnded,
        (_, Some(Phase::Prepare)) if !source.ready.layer => Event::LayerCopied { blocks: 1 },
        (_, Some(Phase::Prepare)) if !source.ready.dump => Event::DumpReady,
        (_, phase) => {
            let reaches = phase.map_or(0, |phase| 1 + phase as usize);
            [
                Event::Begin,
                Event::Inspected(offer()),
                Event::Accepted,
                Event::PeerPrepared,
                Event::Frozen,
                Event::ImageComplete(manifest()),
                Event::Verified,
                Event::Restored,
                Event::Tick,
                Event::Tick,
                Event::Tick,
            ][reaches]
                .clone()
        }
    }
}

/// Runs a machine on `choices`, then on good events only, until it finishes. The decision file says `truth`.
fn run(choices: &[u8], truth: Decision, bug: Bug) -> Trace {
    let mut source = Source::new(terms(), Budgets::default());
    let mut trace = Trace::new();
    let mut now = Millis(0);
    for n in 0..choices.len() + 40 {
        let event = match choices.get(n) {
            Some(choice) if choice % 4 == 0 => any_event(choice / 4),
            _ => next_good(&source, truth),
        };
        now = now.plus(if event == Event::Tick { 20_000 } else { 10 });
        let commands = bug(&event, source.step(now, event.clone()));
        trace.push((event, commands));
    }
    trace
}

/// The phase that must be in the journal before a command may be carried out.
fn phase_of(command: &Command) -> Option<Phase> {
    Some(match command {
        Command::InspectWorkload => Phase::Negotiate,
        Command::Send(Message::Offer(_)) => Phase::Preflight,
        Command::CopyLayer | Command::StartDump | Command::Decide(Decision::Abort) => Phase::Prepare,
        Command::ReleaseDump => Phase::Freeze,
        Command::StreamChanges => Phase::Transfer,
        Command::Send(Message::Complete(_)) => Phase::Verify,
        Command::Decide(Decision::Commit) => Phase::Commit,
        Command::Send(Message::Commit { .. }) | Command::EndSource => Phase::Resume,
        Command::DropCopy => Phase::CleanUp,
        _ => return None,
    })
}

/// The first rule that a trace breaks.
fn broken_rule(trace: &Trace) -> Option<&'static str> {
    let mut journal = None;
    let (mut decided, mut peer_resumed, mut peer_lost, mut ended, mut finished) = (None, false, false, false, false);
    let mut asked = false;
    for (event, commands) in trace {
        match event {
            Event::Decided(decision) if asked => decided = Some(*decision),
            Event::PeerResumed if decided == Some(Decision::Commit) => peer_resumed = true,
            Event::PeerLost(_) if decided == Some(Decision::Commit) => peer_lost = true,
            Event::SourceEnded => ended = true,
            _ => {}
        }
        for command in commands {
            if finished && !matches!(command, Command::Send(Message::Answer { .. })) {
                return Some("nothing after the finish");
            }
            if phase_of(command).is_some_and(|phase| journal < Some(phase)) {
                return Some("the journal precedes the effect");
            }
            match command {
                Command::Journal(phase) if journal >= Some(*phase) => return Some("phases only rise"),
                Command::Journal(phase) => journal = Some(*phase),
                Command::Decide(_) => asked = true,
                Command::ResumeSource if decided != Some(Decision::Abort) => return Some("resume only after abort"),
                Command::EndSource | Command::Send(Message::Commit { .. }) if decided != Some(Decision::Commit) => {
                    return Some("the workload is given away only after commit");
                }
                Command::DropCopy if !((peer_resumed || peer_lost) && ended) => {
                    return Some("the copy is kept until the target has it");
                }
                Command::Finish(Outcome::Moved, None) if peer_lost || !peer_resumed => {
                    return Some("moved means that it runs there");
                }
                Command::Finish(Outcome::Moved, Some(_)) if !peer_lost => return Some("what runs there is not lost"),
                Command::Finish(..) => finished = true,
                _ => {}
            }
        }
    }
    (!finished).then_some("every run finishes")
}

proptest! {
    #[test]
    fn the_rules_hold_for_every_sequence(choices in prop::collection::vec(any::<u8>(), 0..120), commit: bool) {
        let truth = if commit { Decision::Commit } else { Decision::Abort };
        prop_assert_eq!(broken_rule(&run(&choices, truth, |_, commands| commands)), None);
    }
}

/// Whether some run of a machine with this bug breaks exactly that rule.
fn is_caught(rule: &str, bug: Bug) -> bool {
    (0..400).any(|seed| {
        let truth = if seed % 2 == 0 { Decision::Commit } else { Decision::Abort };
        broken_rule(&run(&Lcg(seed).bytes(60), truth, bug)) == Some(rule)
    })
}

fn replace(commands: Vec<Command>, old: &Command, new: &[Command]) -> Vec<Command> {
    commands.into_iter().flat_map(|c| if c == *old { new.to_vec() } else { vec![c] }).collect()
}

#[test]
fn each_rule_catches_a_machine_that_breaks_it() {
    let bugs: [(&str, Bug); 10] = [
        ("resume only after abort", |_, c| {
            replace(c, &Command::Decide(Decision::Abort), &[Command::Decide(Decision::Abort), Command::ResumeSource])
        }),
        ("the workload is given away only after commit", |_, c| {
            replace(c, &Command::ResumeSource, &[Command::Journal(Phase::Resume), Command::EndSource])
        }),
        ("moved means that it runs there", |event, c| match event {
            Event::SourceResumed if !c.is_empty() => vec![Command::Finish(Outcome::Moved, None)],
            _ => c,
        }),
        ("moved means that it runs there", |_, c| {
            replace(c, &Command::Finish(Outcome::Moved, Some(problem())), &[Command::Finish(Outcome::Moved, None)])
        }),
        ("what runs there is not lost", |_, c| {
            replace(c, &Command::Finish(Outcome::Moved, None), &[Command::Finish(Outcome::Moved, Some(problem()))])
        }),
        ("the journal precedes the effect", |_, c| replace(c, &Command::Journal(Phase::Freeze), &[])),
        ("nothing after the finish", |event, mut c| {
            if *event == Event::SourceResumed && c.is_empty() {
                c.push(Command::ResumeSource);
            }
            c
        }),
        ("the copy is kept until the target has it", |_, c| {
            replace(c, &Command::EndSource, &[Command::EndSource, Command::Journal(Phase::CleanUp), Command::DropCopy])
        }),
        ("phases only rise", |_, c| replace(c, &Command::Journal(Phase::Verify), &[Command::Journal(Phase::Transfer)])),
        ("every run finishes", |event, c| if *event == Event::SourceResumed { vec![] } else { c }),
    ];
    for (rule, bug) in bugs {
        assert!(is_caught(rule, bug), "no run broke: {rule}");
    }
}
