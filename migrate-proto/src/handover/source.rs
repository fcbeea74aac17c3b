//! The source of a handover: the node that owns the workload and gives it away.
//!
//! ```text
//!            Begin
//!              │
//!          negotiate ──────────────────────────────────────────┐
//!              │ Inspected                                      │ anything that fails:
//!          preflight ───────────────────────────────────────────┤ nothing was touched
//!              │ Accepted                                       └──────────► finished (stayed)
//!           prepare ───────────────────┐                                        ▲
//!              │ LayerCopied, DumpReady │ anything that fails:                  │ SourceResumed
//!              │ and PeerPrepared       │ Decide(Abort)                         │
//!           freeze ────────────────────┤                                     resuming
//!              │ Frozen                 │                                       ▲
//!          transfer ───────────────────┼───► deciding ──── Decided(Abort) ─────┘
//!              │ ImageComplete          │        │
//!           verify ────────────────────┤        │
//!              │ Verified               │        │ Decided(Commit)
//!           restore ───────────────────┘        │
//!              │ Restored                        │
//!           commit ── Decide(Commit) ────────────┤
//!                                                ▼
//!                                             resume ── PeerResumed (or PeerLost) and SourceEnded ──► clean-up, finished (moved)
//! ```
//!
//! - **negotiate → preflight**: the agent has looked at the workload; the machine sends what it found as the offer.
//! - **preflight → prepare**: the target accepted. The layer is copied and CRIU started, both while the workload runs.
//!   From here on a dump exists, and with it a guard and a decision to be made.
//! - **prepare → freeze**: the layer is across, CRIU is held at `pre-dump`, the target is ready. CRIU is let go.
//! - **freeze → transfer**: every task stands still. The layer's last changes follow the image.
//! - **transfer → verify**: every byte is out; the manifest follows.
//! - **verify → restore**: the target has compared, and rebuilds.
//! - **restore → commit**: the target holds the restored processes. The decision is asked for, and *whatever the decision
//!   file then says* is done: the guard may have been first.
//! - **deciding → resuming** (`abort`): the workload goes on here; only when it does, the target is told, for until then the
//!   target's copy is the better one.
//! - **→ resume** (`commit`): from here everything goes forward. `Commit` is repeated until the target has acknowledged
//!   it; the source's copy is ended, its layer kept.
//! - **resume → clean-up**: the target runs it, or says that it is lost there with nothing but its files left; and nothing of it runs
//!   here: sandbox and layer go.
//!
//! An event that a state does not expect changes nothing.

mod problems;

use serde::{Deserialize, Serialize};

use super::{Budgets, Decision, Millis, Terms, Timeline, Watch, abort_message};
use crate::api::Outcome;
use crate::error::{Code, Problem};
use crate::manifest::Manifest;
use crate::message::{Message, Offer};
use crate::phase::Phase;
use problems::{contradictory, ended, lost_to_guard, restarted, unanswered};

/// What the source writes down before the effect of each phase, and what it starts from after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What the handover is about.
    pub terms: Terms,
    /// The phase that was entered.
    pub phase: Phase,
}

/// What happened, as far as the source is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Start.
    Begin,
    /// The agent has looked at the workload: this is what to offer.
    Inspected(Box<Offer>),
    /// The agent has looked at the workload: it cannot be moved.
    InspectFailed(Problem),
    /// The target would take it.
    Accepted,
    /// The target will not take it.
    Refused(Problem),
    /// The layer has been copied while the workload runs.
    LayerCopied {
        /// How many blocks were sent.
        blocks: u64,
    },
    /// CRIU is held at `pre-dump`.
    DumpReady,
    /// The target has built everything.
    PeerPrepared,
    /// Every task stands still.
    Frozen,
    /// CRIU is held at `post-dump`, and every byte of image and layer has been sent and acknowledged.
    ImageComplete(Manifest),
    /// Copying or dumping failed.
    DumpFailed(Problem),
    /// The target has compared every digest.
    Verified,
    /// The target holds the restored processes.
    Restored,
    /// What the decision file says now.
    Decided(Decision),
    /// It runs on the target.
    PeerResumed,
    /// It is the target's, which has its files; its memory is lost.
    PeerLost(Problem),
    /// The target gave up.
    PeerFailed(Problem),
    /// The target wants to know the decision.
    Asked,
    /// Nothing of the workload is left running here, nor can be.
    SourceEnded,
    /// Nothing holds the workload back any more: it runs here as before.
    SourceResumed,
    /// The workload could not be set going again: it is frozen, or gone.
    SourceResumeFailed(Problem),
    /// The workload ended by itself while it was being moved; also the answer to `ResumeSource` where nothing is left.
    WorkloadEnded,
    /// The connection to the target is gone.
    LinkLost,
    /// There is a connection to the target again.
    LinkBack,
    /// Somebody asked for it to stop.
    Cancelled,
    /// A person says that the target will never answer: what was given to it is to be forgotten here.
    GivenUp,
    /// Bytes moved: the phase does not stand still.
    Progress,
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Write down, durably, that this phase is entered.
    Journal(Phase),
    /// Say this to the target. Without a connection it is lost: what must arrive is repeated.
    Send(Message),
    /// Look at the workload and make an offer of it.
    InspectWorkload,
    /// Copy the layer while the workload runs.
    CopyLayer,
    /// Start CRIU, and hold it before it freezes anything.
    StartDump,
    /// Let CRIU freeze and dump.
    ReleaseDump,
    /// Send the blocks of the layer that have changed since they were copied.
    StreamChanges,
    /// Create the decision file with this content if there is none; report what it says.
    Decide(Decision),
    /// End what is left of the workload here. Its layer stays.
    EndSource,
    /// Set the workload going again; end CRIU and everything that was under way.
    ResumeSource,
    /// The target owns it and does not answer: say so where people look.
    SayWaiting(Problem),
    /// Remove sandbox and layer of the workload that left, and the decision file.
    DropCopy,
    /// It is over.
    Finish(Outcome, Option<Problem>),
}

/// What the machine is doing, beyond the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not begun.
    Idle,
    /// In the phase, before any decision was asked for.
    Going,
    /// `Decide` was commanded; only the file's answer counts.
    Deciding(Decision),
    /// `abort` stands; the workload is being set going.
    Resuming,
    /// `commit` stands.
    Committed,
    /// Over.
    Finished,
}

/// What must all have happened before the freeze.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    layer: bool,
    dump: bool,
    peer: bool,
}

/// The source's machine.
#[derive(Debug, Clone)]
pub struct Source {
    terms: Terms,
    budgets: Budgets,
    state: State,
    timeline: Timeline,
    watch: Watch,
    ready: Ready,
    linked: bool,
    /// The target has it: it will never be started again from here.
    peer_has_it: bool,
    ended: bool,
    /// What the decision file is known to say.
    decided: Option<Decision>,
    /// The latest `now`: time does not go backwards in here.
    clock: Millis,
    /// The first thing that went wrong.
    problem: Option<Problem>,
}

impl Source {
    /// A handover that has not begun; its first event is [`Event::Begin`].
    pub fn new(terms: Terms, budgets: Budgets) -> Source {
        Source {
            terms,
            budgets,
            state: State::Idle,
            timeline: Timeline::default(),
            watch: Watch::default(),
            ready: Ready::default(),
            linked: true,
            peer_has_it: false,
            ended: false,
            decided: None,
            clock: Millis::default(),
            problem: None,
        }
    }

    /// The handover that a restarted agent finds in its journal, with what its decision file says; and what to do first.
    ///
    /// Before the commit it goes back: the agent's death is a failure like any other. There is no connection yet.
    pub fn recover(entry: Entry, decision: Option<Decision>, budgets: Budgets, now: Millis) -> (Source, Vec<Command>) {
        let mut source = Source::new(entry.terms, budgets);
        source.linked = false;
        source.clock = now;
        let mut commands = Vec::new();
        let out = &mut commands;
        // The entry is in the journal already: the phase is taken up, not written again.
        source.take_up(entry.phase, now);
        source.state = State::Going;
        match (entry.phase, decision) {
            (Phase::CleanUp, None | Some(Decision::Commit)) => source.clean_up(out),
            // The journal is written after the decision: it is as good a witness.
            (Phase::Resume, None | Some(Decision::Commit)) => source.hand_over(out),
            (Phase::Resume | Phase::CleanUp, Some(Decision::Abort)) => source.contradiction(out),
            (_, Some(Decision::Commit)) => source.committed(now, out),
            (_, Some(Decision::Abort)) => {
                source.problem = Some(restarted());
                source.aborted(now, out);
            }
            (_, None) => source.fail(restarted(), now, out),
        }
        (source, commands)
    }

    /// Takes in what happened, and says what to do, in order.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Command> {
        let now = self.clock.max(now);
        self.clock = now;
        let mut out = Vec::new();
        match event {
            Event::LinkLost => self.linked = false,
            Event::LinkBack => self.linked = true,
            Event::Progress => self.watch.progress(now),
            Event::SourceEnded => self.ended = true,
            Event::Asked => {
                self.answer(&mut out);
                return out;
            }
            _ => {}
        }
        match self.state {
            State::Idle if event == Event::Begin => {
                self.state = State::Going;
                self.enter(Phase::Negotiate, now, &mut out);
                out.push(Command::InspectWorkload);
            }
            State::Idle | State::Finished => {}
            State::Going => self.going(event, now, &mut out),
            State::Deciding(asked) => self.deciding(asked, event, now, &mut out),
            State::Resuming => self.resuming(event, now, &mut out),
            State::Committed => self.after_commit(event, now, &mut out),
        }
        out
    }

    /// The event that a message of the target is; `None` where it is about another handover, or not for the source.
    pub fn heard(&self, message: Message) -> Option<Event> {
        let mine = |handover| handover == self.terms.handover;
        match message {
            Message::Accepted { .. } => Some(Event::Accepted),
            Message::Refused(problem) => Some(Event::Refused(problem)),
            Message::Prepared => Some(Event::PeerPrepared),
            Message::Verified => Some(Event::Verified),
            Message::Restored { .. } => Some(Event::Restored),
            Message::Failed(problem) => Some(Event::PeerFailed(problem)),
            Message::Resumed { handover, .. } if mine(handover) => Some(Event::PeerResumed),
            Message::Lost { handover, problem } if mine(handover) => Some(Event::PeerLost(problem)),
            Message::Ask { handover } if mine(handover) => Some(Event::Asked),
            _ => None,
        }
    }

    /// When a [`Event::Tick`] is due at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        self.watch.deadline()
    }

    /// The phases so far.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What the handover is about.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What to write down for [`Command::Journal`].
    pub fn entry(&self, phase: Phase) -> Entry {
        Entry { terms: self.terms.clone(), phase }
    }

    /// Whether `Finish` has been commanded.
    pub fn finished(&self) -> bool {
        self.state == State::Finished
    }

    // ---- before the decision -------------------------------------------------------------------------------------

    fn going(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        let Some(phase) = self.timeline.phase() else { return };
        if let Some(problem) = self.failure(&event, phase, now) {
            return self.fail(problem, now, out);
        }
        match (phase, event) {
            (Phase::Negotiate, Event::Inspected(offer)) => {
                self.enter(Phase::Preflight, now, out);
                out.push(Command::Send(Message::Offer(offer)));
            }
            (Phase::Preflight, Event::Accepted) => {
                self.enter(Phase::Prepare, now, out);
                out.extend([Command::CopyLayer, Command::StartDump]);
            }
            (Phase::Prepare, Event::LayerCopied { blocks }) => {
                self.ready.layer = true;
                out.push(Command::Send(Message::LayerAheadDone { blocks }));
                self.freeze_when_ready(now, out);
            }
            (Phase::Prepare, Event::DumpReady) => {
                self.ready.dump = true;
                self.freeze_when_ready(now, out);
            }
            (Phase::Prepare, Event::PeerPrepared) => {
                self.ready.peer = true;
                self.freeze_when_ready(now, out);
            }
            (Phase::Freeze, Event::Frozen) => {
                self.enter(Phase::Transfer, now, out);
                out.push(Command::StreamChanges);
            }
            (Phase::Transfer, Event::ImageComplete(manifest)) => {
                self.enter(Phase::Verify, now, out);
                out.push(Command::Send(Message::Complete(manifest)));
            }
            (Phase::Verify, Event::Verified) => self.enter(Phase::Restore, now, out),
            (Phase::Restore, Event::Restored) => {
                self.enter(Phase::Commit, now, out);
                self.decide(Decision::Commit, now, out);
            }
            _ => {}
        }
    }

    /// The problem that `event` is, where it ends an undecided handover.
    fn failure(&self, event: &Event, phase: Phase, now: Millis) -> Option<Problem> {
        let of = |code, what: &str| {
            let stays = format!("{} stays on {}", self.terms.workload, self.terms.from);
            Some(Problem::new(code, format!("{what} during {phase}; {stays}")))
        };
        let lost = format!("the connection to {} was lost", self.terms.to);
        let look = "`migrate nodes` shows who answers; then move it again";
        match event {
            // Whatever was being sent notices it first, and knows more.
            Event::DumpFailed(problem) if problem.code == Code::LinkLost => {
                Some(of(Code::LinkLost, &format!("{lost} ({problem})"))?.hint(look))
            }
            Event::InspectFailed(problem)
            | Event::Refused(problem)
            | Event::DumpFailed(problem)
            | Event::PeerFailed(problem) => Some(problem.clone()),
            // A new conversation means that the target lost the old one, and with it what it was told.
            Event::LinkLost | Event::LinkBack => Some(of(Code::LinkLost, &lost)?.hint(look)),
            Event::Cancelled => of(Code::Cancelled, "the move was cancelled"),
            Event::WorkloadEnded => Some(ended(&self.terms, phase)),
            Event::Tick if self.watch.expired(now) => of(Code::TimedOut, "the move took longer than allowed"),
            _ => None,
        }
    }

    fn freeze_when_ready(&mut self, now: Millis, out: &mut Vec<Command>) {
        if self.ready.layer && self.ready.dump && self.ready.peer {
            self.enter(Phase::Freeze, now, out);
            out.push(Command::ReleaseDump);
        }
    }

    /// Gives up: asks for the decision where a dump exists, else just ends.
    fn fail(&mut self, problem: Problem, now: Millis, out: &mut Vec<Command>) {
        let dump_exists = self.timeline.phase().is_some_and(|phase| phase >= Phase::Prepare);
        self.problem = Some(problem);
        if dump_exists {
            self.decide(Decision::Abort, now, out);
        } else {
            self.decided = Some(Decision::Abort);
            self.tell_abort(out);
            self.finish(Outcome::Stayed, out);
        }
    }

    // ---- the decision --------------------------------------------------------------------------------------------

    fn decide(&mut self, decision: Decision, now: Millis, out: &mut Vec<Command>) {
        self.state = State::Deciding(decision);
        self.watch.start(now, self.budgets.decision);
        out.push(Command::Decide(decision));
    }

    fn deciding(&mut self, asked: Decision, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::Decided(Decision::Commit) => self.committed(now, out),
            Event::Decided(Decision::Abort) => {
                if self.problem.is_none() {
                    self.problem = Some(lost_to_guard(&self.terms));
                }
                self.aborted(now, out);
            }
            Event::Tick if !self.watch.expired(now) => {}
            // What makes the commit undesirable only asks again; who was first has decided.
            Event::Tick | Event::Cancelled | Event::PeerFailed(_) | Event::DumpFailed(_) | Event::LinkLost => {
                if let Some(problem) = self.failure(&event, Phase::Commit, now) {
                    self.problem.get_or_insert(problem);
                }
                if asked == Decision::Commit || event == Event::Tick {
                    self.decide(Decision::Abort, now, out);
                }
            }
            _ => {}
        }
    }

    // ---- abort ---------------------------------------------------------------------------------------------------

    fn aborted(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.state = State::Resuming;
        self.watch.start(now, self.budgets.again);
        out.push(Command::ResumeSource);
    }

    /// The workload goes on here, or has ended by itself: only now may the target drop what it has.
    fn stayed(&mut self, out: &mut Vec<Command>) {
        self.decided = Some(Decision::Abort);
        self.tell_abort(out);
        self.finish(Outcome::Stayed, out);
    }

    fn resuming(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::SourceResumed => self.stayed(out),
            Event::WorkloadEnded => {
                self.problem = Some(ended(&self.terms, Phase::Commit));
                self.stayed(out);
            }
            Event::SourceResumeFailed(problem) => {
                self.problem = Some(problem);
                self.finish(Outcome::Unknown, out);
            }
            Event::Tick if self.watch.expired(now) => {
                self.watch.start(now, self.budgets.again);
                out.push(Command::ResumeSource);
            }
            _ => {}
        }
    }

    fn tell_abort(&self, out: &mut Vec<Command>) {
        if let Some(problem) = &self.problem {
            out.push(Command::Send(abort_message(self.terms.handover, problem)));
        }
    }

    // ---- commit --------------------------------------------------------------------------------------------------

    fn committed(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.problem = None;
        self.enter(Phase::Resume, now, out);
        self.hand_over(out);
    }

    fn hand_over(&mut self, out: &mut Vec<Command>) {
        self.decided = Some(Decision::Commit);
        self.state = State::Committed;
        self.tell_commit(out);
        out.push(Command::EndSource);
    }

    fn tell_commit(&self, out: &mut Vec<Command>) {
        let (handover, epoch) = (self.terms.handover, self.terms.epoch.next());
        out.push(Command::Send(Message::Commit { handover, epoch }));
    }

    fn after_commit(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::PeerResumed => self.peer_has_it = true,
            Event::PeerLost(problem) => {
                self.peer_has_it = true;
                self.problem = Some(problem);
            }
            // Nothing runs here in any case; the layer goes.
            Event::GivenUp => {
                self.peer_has_it = true;
                self.ended = true;
                self.problem =
                    Some(unanswered(&self.terms).hint(format!("`migrate ps` shows it once {} answers", self.terms.to)));
            }
            Event::LinkBack if !self.peer_has_it => self.tell_commit(out),
            Event::Tick if self.watch.expired(now) => {
                self.watch.start(now, self.budgets.again);
                if !self.peer_has_it {
                    out.push(Command::SayWaiting(unanswered(&self.terms)));
                }
                if !self.peer_has_it && self.linked {
                    self.tell_commit(out);
                }
                if !self.ended {
                    out.push(Command::EndSource);
                }
            }
            _ => {}
        }
        if self.peer_has_it && self.ended {
            self.enter(Phase::CleanUp, now, out);
            self.clean_up(out);
        }
    }

    fn clean_up(&mut self, out: &mut Vec<Command>) {
        let handover = self.terms.handover;
        out.extend([Command::DropCopy, Command::Send(Message::Done { handover })]);
        self.finish(Outcome::Moved, out);
    }

    // ---- always --------------------------------------------------------------------------------------------------

    fn answer(&self, out: &mut Vec<Command>) {
        out.push(Command::Send(Message::Answer { handover: self.terms.handover, decision: self.decided }));
    }

    fn take_up(&mut self, phase: Phase, now: Millis) -> bool {
        self.watch.start(now, self.budgets.of(phase));
        self.timeline.enter(phase, now).is_ok()
    }

    fn enter(&mut self, phase: Phase, now: Millis, out: &mut Vec<Command>) {
        if self.take_up(phase, now) {
            out.push(Command::Journal(phase));
        }
    }

    fn finish(&mut self, outcome: Outcome, out: &mut Vec<Command>) {
        self.state = State::Finished;
        self.watch.stop();
        out.push(Command::Finish(outcome, self.problem.clone()));
    }

    /// Journal and decision file exclude each other: nobody may guess.
    fn contradiction(&mut self, out: &mut Vec<Command>) {
        self.problem = Some(contradictory(&self.terms));
        self.finish(Outcome::Unknown, out);
    }
}

#[cfg(test)]
mod tests;
