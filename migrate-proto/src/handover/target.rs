//! The target of a handover: the node that receives the workload.
//!
//! ```text
//!            Offered
//!              │
//!          negotiate, preflight ─── Checked(Err), anything that fails ──► finished (stayed)
//!              │ Checked(Ok)                                                  ▲
//!           prepare ──────────┐                                               │
//!              │ SandboxReady, │                                               │
//!              │ RestoreReady, │ anything that fails:                          │
//!              │ LayerArrived  │ DropEverything, Failed                        │
//!          transfer ──────────┼───────────────────────────────────────────────┤
//!              │ Completed     │                                               │
//!           verify ───────────┤                                               │
//!              │ DigestsMatch  │                                               │
//!           restore ──────────┘                                               │
//!              │ RestoredHeld                                                  │
//!           commit ── in doubt ── Aborted, Answered(Abort): DropEverything ───┘
//!              │ Committed, Answered(Commit)
//!           resume ◄──┐ ResumeFailed, RestoreFailed: RestoreAgain
//!              │ └─────┘
//!              │ Running
//!          clean-up ── Done ──► finished (moved)
//! ```
//!
//! - **negotiate → preflight**: the offer makes sense and is for this node. The agent compares it with what is here.
//! - **preflight → prepare**: it would run here. The sandbox is built, CRIU started in it, the layer received.
//! - **prepare → transfer**: all three are there; CRIU waits for its first image. The target says `Prepared`, and stores
//!   what arrives.
//! - **transfer → verify**: the source says what there must be. The agent compares, and makes it durable.
//! - **verify → restore**: it matches. CRIU gets its images and rebuilds the processes, held before their first instruction.
//! - **restore → commit**: the target says `Restored`. From the moment this phase is in the journal it is *in doubt*: the
//!   source may have decided either way. It keeps the processes held, whatever happens to the connection, and asks.
//!   Nothing but the source's word ends the doubt.
//! - **commit → resume**: the owner changes, durably, to exactly the next epoch; then the processes are let go. If that
//!   fails, or if they died while they were held, the image is restored again, as often as it takes.
//! - **resume → clean-up**: the workload runs; or the image went with the node's power, and it is lost. `Resumed`, or `Lost`, is
//!   repeated until the source has said `Done`.
//!
//! An event that a phase does not expect changes nothing.

use serde::{Deserialize, Serialize};

use super::{Budgets, Decision, Millis, Timeline, Watch};
use crate::api::Outcome;
use crate::error::{Code, Problem};
use crate::id::Epoch;
use crate::manifest::Manifest;
use crate::message::{Message, Offer};
use crate::name::NodeName;
use crate::phase::Phase;

/// What the target writes down before the effect of each phase, and what it starts from after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was offered.
    pub offer: Box<Offer>,
    /// The phase that was entered.
    pub phase: Phase,
    /// The main process, in the sandbox, once there is one.
    #[serde(default)]
    pub pid: Option<i32>,
    /// Why it does not run although it came, where that is so.
    #[serde(default)]
    pub lost: Option<Problem>,
}

impl Entry {
    /// What the source is told once the workload has come.
    pub fn arrived(&self) -> Message {
        let handover = self.offer.handover;
        match self.lost.clone() {
            Some(problem) => Message::Lost { handover, problem },
            None => Message::Resumed { handover, pid: self.pid.unwrap_or_default() },
        }
    }
}

/// Room on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Memory that is free.
    pub memory: u64,
    /// Disk that is free where layers live.
    pub disk: u64,
}

/// What happened, as far as the target is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The source has offered what this machine was made for.
    Offered,
    /// The agent has compared the offer with what is here.
    Checked(Result<Room, Problem>),
    /// Every block of the layer that was sent ahead is stored.
    LayerArrived,
    /// The sandbox is built.
    SandboxReady,
    /// CRIU waits for its first image.
    RestoreReady,
    /// Building, receiving or storing failed.
    ReceiveFailed(Problem),
    /// The phase could not be written down, and nothing was done of what follows it.
    NotJournalled {
        /// Which.
        phase: Phase,
        /// Why.
        problem: Problem,
    },
    /// The source has sent everything; this is what there must be.
    Completed(Manifest),
    /// Every stream is as the manifest says, and durable.
    DigestsMatch,
    /// Something differs.
    DigestsDiffer(Problem),
    /// The processes are rebuilt and held before their first instruction.
    RestoredHeld {
        /// The main process, in the sandbox.
        pid: i32,
    },
    /// CRIU failed, or what it restored died while it was held. Nothing of it runs.
    RestoreFailed(Problem),
    /// The source says that the decision is `commit`, and which epoch follows.
    Committed(Epoch),
    /// The source says that the decision is `abort`.
    Aborted(Problem),
    /// The source's answer to what was asked.
    Answered(Option<Decision>),
    /// The workload runs here.
    Running {
        /// The main process, in the sandbox.
        pid: i32,
    },
    /// The processes could not be let go. None of them has run an instruction, and none is left.
    ResumeFailed(Problem),
    /// The image is gone, and with it what could be restored: this node lost its power.
    ImageLost(Problem),
    /// The source has forgotten the handover.
    Done,
    /// The connection to the source is gone.
    LinkLost,
    /// There is a connection to the source again.
    LinkBack,
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
    /// Say this to the source. Without a connection it is lost: what must arrive is repeated.
    Send(Message),
    /// Compare the offer with what is here: name, epoch, room, versions, files.
    Check,
    /// Build the sandbox and make room for the layer.
    BuildSandbox,
    /// Start CRIU in the sandbox; it waits for its first image.
    StartRestore,
    /// Compare every stream with the manifest, and make them durable.
    Verify(Manifest),
    /// Give CRIU its images; hold what it restores.
    Restore,
    /// Write down, durably, that this node owns the workload in this epoch.
    AdoptOwner(Epoch),
    /// Let the processes go. Where they already run, or have run, report `Running`.
    Resume,
    /// Destroy what is left of sandbox and CRIU, build them anew, and restore from the kept image up to the hold.
    RestoreAgain,
    /// Remove everything that the handover brought: processes, sandbox, layer, image.
    DropEverything,
    /// Keep the processes held and image and layer as they are; this is why.
    KeepFrozen(Problem),
    /// The workload is this node's, with its files; its memory is lost. Write that down.
    NoteLost(Problem),
    /// Ask the source what was decided.
    AskSource,
    /// The workload runs: the image is not needed any more.
    ForgetImage,
    /// It is over.
    Finish(Outcome, Option<Problem>),
}

/// What must all have happened before the target is prepared.
#[derive(Debug, Clone, Copy, Default)]
struct Ready {
    layer: bool,
    restore: bool,
}

/// What is being done about the processes, once they have been restored for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    /// They are held.
    Held,
    /// They are gone; the image is there.
    Gone,
    /// They are being restored again.
    Restoring,
    /// They are being let go.
    Resuming,
}

/// The target's machine.
#[derive(Debug, Clone)]
pub struct Target {
    offer: Box<Offer>,
    me: NodeName,
    budgets: Budgets,
    timeline: Timeline,
    watch: Watch,
    ready: Ready,
    tree: Tree,
    /// How often letting the processes go has failed.
    failures: u32,
    pid: Option<i32>,
    lost: Option<Problem>,
    linked: bool,
    finished: bool,
    /// The latest `now`: time does not go backwards in here.
    clock: Millis,
}

impl Target {
    /// The machine for an offer that has just arrived at the node `me`; its first event is [`Event::Offered`].
    pub fn new(offer: Box<Offer>, me: NodeName, budgets: Budgets) -> Target {
        Target {
            offer,
            me,
            budgets,
            timeline: Timeline::default(),
            watch: Watch::default(),
            ready: Ready::default(),
            tree: Tree::Held,
            failures: 0,
            pid: None,
            lost: None,
            linked: true,
            finished: false,
            clock: Millis::default(),
        }
    }

    /// The handover that a restarted agent finds in its journal; and what to do first. There is no connection yet.
    ///
    /// Before the commit phase it gives up. In it, it is in doubt, and asks. After it, it goes on.
    pub fn recover(entry: Entry, budgets: Budgets, now: Millis) -> (Target, Vec<Command>) {
        let me = entry.offer.to.clone();
        let mut target = Target::new(entry.offer, me, budgets);
        target.linked = false;
        target.clock = now;
        (target.pid, target.lost) = (entry.pid, entry.lost);
        let mut commands = Vec::new();
        let out = &mut commands;
        // The entry is in the journal already: the phase is taken up, not written again.
        target.take_up(entry.phase, now);
        match entry.phase {
            Phase::Commit => out.push(Command::KeepFrozen(target.in_doubt("this agent was restarted"))),
            Phase::Resume => target.adopt_and_resume(now, out),
            Phase::CleanUp => {
                // What was said may have been lost with the agent.
                target.tell_arrived(out);
                out.push(Command::ForgetImage);
            }
            _ => target.fail(Problem::new(Code::Internal, "the target's agent was restarted"), out),
        }
        (target, commands)
    }

    /// Takes in what happened, and says what to do, in order.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Command> {
        let now = self.clock.max(now);
        self.clock = now;
        let mut out = Vec::new();
        if self.finished {
            return out;
        }
        match event {
            Event::LinkLost => self.linked = false,
            Event::LinkBack => self.linked = true,
            Event::Progress => self.watch.progress(now),
            _ => {}
        }
        match self.timeline.phase() {
            None if event == Event::Offered => self.offered(now, &mut out),
            None => {}
            Some(Phase::Commit) => self.doubting(event, now, &mut out),
            Some(Phase::Resume) => self.resuming(event, now, &mut out),
            Some(Phase::CleanUp) => self.cleaning_up(event, now, &mut out),
            Some(phase) => self.receiving(phase, event, now, &mut out),
        }
        out
    }

    /// The event that a message of the source is; `None` where it is about another handover, or not for the machine.
    pub fn heard(&self, message: Message) -> Option<Event> {
        let mine = |handover| handover == self.offer.handover;
        match message {
            Message::Complete(manifest) => Some(Event::Completed(manifest)),
            Message::Commit { handover, epoch } if mine(handover) => Some(Event::Committed(epoch)),
            Message::Abort { handover, problem } if mine(handover) => Some(Event::Aborted(problem)),
            Message::Answer { handover, decision } if mine(handover) => Some(Event::Answered(decision)),
            Message::Done { handover } if mine(handover) => Some(Event::Done),
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

    /// What was offered.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// What to write down for [`Command::Journal`].
    pub fn entry(&self, phase: Phase) -> Entry {
        Entry { offer: self.offer.clone(), phase, pid: self.pid, lost: self.lost.clone() }
    }

    /// Whether the source alone knows if the workload may run here.
    pub fn is_in_doubt(&self) -> bool {
        !self.finished && self.timeline.phase() == Some(Phase::Commit)
    }

    /// Whether `Finish` has been commanded.
    pub fn finished(&self) -> bool {
        self.finished
    }

    // ---- before `Restored` ---------------------------------------------------------------------------------------

    fn offered(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.enter(Phase::Negotiate, now, out);
        match self.offer.check(&self.me) {
            Ok(()) => {
                self.enter(Phase::Preflight, now, out);
                out.push(Command::Check);
            }
            Err(problem) => self.refuse(problem, out),
        }
    }

    fn receiving(&mut self, phase: Phase, event: Event, now: Millis, out: &mut Vec<Command>) {
        match (phase, event) {
            (_, Event::Aborted(problem)) => self.drop_everything(problem, out),
            (_, Event::LinkLost) => {
                let what = format!("the connection to {} was lost during {phase}", self.offer.from);
                self.fail(Problem::new(Code::LinkLost, what), out);
            }
            (_, Event::Tick) if self.watch.expired(now) => {
                let what = format!("{} took longer than allowed on {}", phase, self.me);
                self.fail(Problem::new(Code::TimedOut, what), out);
            }
            (
                _,
                Event::ReceiveFailed(problem)
                | Event::NotJournalled { problem, .. }
                | Event::RestoreFailed(problem)
                | Event::DigestsDiffer(problem),
            ) => self.fail(problem, out),
            (Phase::Preflight, Event::Checked(Err(problem))) => self.refuse(problem, out),
            (Phase::Preflight, Event::Checked(Ok(Room { memory, disk }))) => {
                self.enter(Phase::Prepare, now, out);
                out.push(Command::Send(Message::Accepted { free_memory: memory, free_disk: disk }));
                out.push(Command::BuildSandbox);
            }
            (Phase::Prepare, Event::SandboxReady) => out.push(Command::StartRestore),
            (Phase::Prepare, Event::RestoreReady) => {
                self.ready.restore = true;
                self.prepared_when_ready(now, out);
            }
            (Phase::Prepare, Event::LayerArrived) => {
                self.ready.layer = true;
                self.prepared_when_ready(now, out);
            }
            (Phase::Transfer, Event::Completed(manifest)) => match self.check_manifest(&manifest) {
                Ok(()) => {
                    self.enter(Phase::Verify, now, out);
                    out.push(Command::Verify(manifest));
                }
                Err(problem) => self.fail(problem, out),
            },
            (Phase::Verify, Event::DigestsMatch) => {
                self.enter(Phase::Restore, now, out);
                out.extend([Command::Send(Message::Verified), Command::Restore]);
            }
            (Phase::Restore, Event::RestoredHeld { pid }) => {
                self.pid = Some(pid);
                self.enter(Phase::Commit, now, out);
                out.push(Command::Send(Message::Restored { pid }));
            }
            _ => {}
        }
    }

    fn prepared_when_ready(&mut self, now: Millis, out: &mut Vec<Command>) {
        if self.ready.layer && self.ready.restore {
            self.enter(Phase::Transfer, now, out);
            out.push(Command::Send(Message::Prepared));
        }
    }

    fn check_manifest(&self, manifest: &Manifest) -> Result<(), Problem> {
        let hint = "try again; where it comes back, see whether both nodes have the agent that you installed";
        let corrupt = |why: String| Problem::new(Code::Corrupt, why).hint(hint);
        manifest.validate().map_err(|error| corrupt(error.to_string()))?;
        if manifest.made_by != self.offer.from || manifest.epoch != self.offer.epoch {
            return Err(corrupt(format!(
                "the image was made by {} in epoch {}; offered was one of {} in epoch {}",
                manifest.made_by, manifest.epoch, self.offer.from, self.offer.epoch
            )));
        }
        Ok(())
    }

    fn refuse(&mut self, problem: Problem, out: &mut Vec<Command>) {
        out.push(Command::Send(Message::Refused(problem.clone())));
        self.finish(Outcome::Stayed, Some(problem), out);
    }

    fn fail(&mut self, problem: Problem, out: &mut Vec<Command>) {
        out.extend([Command::DropEverything, Command::Send(Message::Failed(problem.clone()))]);
        self.finish(Outcome::Stayed, Some(problem), out);
    }

    fn drop_everything(&mut self, problem: Problem, out: &mut Vec<Command>) {
        out.push(Command::DropEverything);
        self.finish(Outcome::Stayed, Some(problem), out);
    }

    // ---- in doubt ------------------------------------------------------------------------------------------------

    fn doubting(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::Committed(epoch) if epoch != self.offer.epoch.next() => {
                let what = format!("the source committed epoch {epoch}, and {} must follow", self.offer.epoch.next());
                out.push(Command::KeepFrozen(self.in_doubt(&what)));
            }
            Event::Committed(_) | Event::Answered(Some(Decision::Commit)) => {
                self.enter(Phase::Resume, now, out);
                self.adopt_and_resume(now, out);
            }
            // `Restored` was not said: the source cannot have committed.
            Event::NotJournalled { phase: Phase::Commit, problem } => self.fail(problem, out),
            Event::Aborted(problem) => self.drop_everything(problem, out),
            Event::Answered(Some(Decision::Abort)) => {
                let what = format!("{} decided to keep {}", self.offer.from, self.offer.spec.name);
                self.drop_everything(Problem::new(Code::Cancelled, what), out);
            }
            Event::RestoreFailed(problem) => {
                // The source may still abort; it may as well have committed. The image stays.
                self.tree = Tree::Gone;
                out.push(Command::KeepFrozen(problem.clone()));
                out.push(Command::Send(Message::Failed(problem)));
            }
            Event::LinkLost => {
                let what = format!("the connection to {} was lost before its decision was heard", self.offer.from);
                out.push(Command::KeepFrozen(self.in_doubt(&what)));
            }
            Event::LinkBack => self.ask(now, out),
            Event::Tick if self.watch.expired(now) => self.ask(now, out),
            _ => {}
        }
    }

    fn ask(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.watch.start(now, self.budgets.decision);
        if self.linked {
            out.push(Command::AskSource);
        }
    }

    fn in_doubt(&self, why: &str) -> Problem {
        let Offer { spec, from, .. } = &*self.offer;
        let message = format!("{} is held on {}: {why}; {from} knows whether it may run here", spec.name, self.me);
        Problem::new(Code::Unknown, message).hint(format!("make {from} reachable; its answer settles it"))
    }

    // ---- after the commit ----------------------------------------------------------------------------------------

    fn adopt_and_resume(&mut self, now: Millis, out: &mut Vec<Command>) {
        out.push(Command::AdoptOwner(self.offer.epoch.next()));
        match self.tree {
            Tree::Gone => self.restore_again(now, out),
            _ => self.let_go(now, out),
        }
    }

    fn let_go(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.tree = Tree::Resuming;
        self.watch.start(now, self.budgets.again);
        out.push(Command::Resume);
    }

    fn restore_again(&mut self, now: Millis, out: &mut Vec<Command>) {
        self.tree = Tree::Restoring;
        self.watch.start(now, self.budgets.restore);
        out.push(Command::RestoreAgain);
    }

    fn resuming(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::Running { pid } => {
                self.pid = Some(pid);
                self.enter(Phase::CleanUp, now, out);
                self.tell_arrived(out);
                out.push(Command::ForgetImage);
            }
            Event::RestoredHeld { pid } => {
                self.pid = Some(pid);
                self.let_go(now, out);
            }
            Event::ResumeFailed(problem) if self.tree == Tree::Resuming => self.failed_again(problem, now, out),
            Event::RestoreFailed(problem) if self.tree == Tree::Restoring => self.failed_again(problem, now, out),
            // The source has ended its copy: only the files are left, and they are here.
            Event::ImageLost(problem) if self.tree == Tree::Restoring => {
                let problem = Problem { code: Code::Lost, ..problem };
                self.lost = Some(problem.clone());
                self.enter(Phase::CleanUp, now, out);
                out.push(Command::NoteLost(problem));
                self.tell_arrived(out);
                out.push(Command::ForgetImage);
            }
            // A late word about an earlier attempt must not end a copy that may run by now.
            Event::ResumeFailed(_) | Event::RestoreFailed(_) => {}
            Event::Tick if self.watch.expired(now) => match self.tree {
                Tree::Resuming | Tree::Held => self.let_go(now, out),
                Tree::Restoring | Tree::Gone => self.restore_again(now, out),
            },
            _ => {}
        }
    }

    /// The first failure is met at once, later ones after a while.
    fn failed_again(&mut self, problem: Problem, now: Millis, out: &mut Vec<Command>) {
        self.failures += 1;
        if self.failures == 1 {
            return self.restore_again(now, out);
        }
        self.tree = Tree::Gone;
        self.watch.start(now, self.budgets.again);
        out.push(Command::KeepFrozen(problem));
    }

    fn cleaning_up(&mut self, event: Event, now: Millis, out: &mut Vec<Command>) {
        match event {
            Event::Done => self.finish(Outcome::Moved, None, out),
            Event::Committed(_) | Event::LinkBack => self.tell_arrived(out),
            Event::Tick if self.watch.expired(now) => {
                self.watch.start(now, self.budgets.again);
                if self.linked {
                    self.tell_arrived(out);
                }
            }
            _ => {}
        }
    }

    fn tell_arrived(&self, out: &mut Vec<Command>) {
        out.push(Command::Send(self.entry(Phase::CleanUp).arrived()));
    }

    // ---- always --------------------------------------------------------------------------------------------------

    fn take_up(&mut self, phase: Phase, now: Millis) -> bool {
        let budget = if phase == Phase::Transfer { self.budgets.until_complete() } else { self.budgets.of(phase) };
        self.watch.start(now, budget);
        self.timeline.enter(phase, now).is_ok()
    }

    fn enter(&mut self, phase: Phase, now: Millis, out: &mut Vec<Command>) {
        if self.take_up(phase, now) {
            out.push(Command::Journal(phase));
        }
    }

    fn finish(&mut self, outcome: Outcome, problem: Option<Problem>, out: &mut Vec<Command>) {
        self.finished = true;
        self.watch.stop();
        out.push(Command::Finish(outcome, problem));
    }
}

#[cfg(test)]
mod tests;
