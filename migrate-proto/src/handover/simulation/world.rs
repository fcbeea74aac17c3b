//! The world of the simulation: two nodes, a link, and what the executors of an agent would do.

use std::collections::VecDeque;

use super::super::fixtures::{EPOCH, Lcg, manifest, offer, problem, terms};
use super::super::source::{self, Source};
use super::super::target::{self, Room, Target};
use super::super::{Budgets, Decision, Millis, answer_without_entry};
use crate::api::Outcome;
use crate::id::Epoch;
use crate::message::Message;
use crate::phase::Phase;

/// Ways in which a machine may be wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bugs {
    pub(super) target_drops_in_doubt: bool,
    pub(super) target_resumes_in_doubt: bool,
    pub(super) target_forgets_commit_phase: bool,
    pub(super) source_resumes_undecided: bool,
    pub(super) source_ends_undecided: bool,
    pub(super) source_forgets_at_commit: bool,
}

/// The workload's processes on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    Absent,
    Held,
    Running,
}

/// What an agent finds in its inbox: in order, and gone with the link or the agent.
enum Inbound {
    Says(Message),
    LinkLost,
    LinkBack,
}

/// A node: what survives the death of its agent, and what does not.
struct Node<Machine, Event, Entry> {
    // Volatile.
    machine: Option<Machine>,
    alive: bool,
    inbox: VecDeque<Inbound>,
    /// Reports of executors, in no particular order.
    reports: Vec<Event>,
    // Durable.
    journal: Option<Entry>,
    copy: Copy,
    outcome: Option<Outcome>,
}

impl<Machine, Event, Entry> Node<Machine, Event, Entry> {
    fn new(copy: Copy) -> Self {
        let (inbox, reports) = (VecDeque::new(), Vec::new());
        Node { machine: None, alive: true, inbox, reports, journal: None, copy, outcome: None }
    }

    fn hear(&mut self, inbound: Inbound) {
        if self.alive {
            self.inbox.push_back(inbound);
        }
    }
}

pub(super) struct World {
    rng: Lcg,
    bugs: Bugs,
    now: Millis,
    faults: bool,
    /// How rare faults are; differs between histories, so that some get far.
    calm: usize,
    linked: bool,
    source: Node<Source, source::Event, source::Entry>,
    target: Node<Target, target::Event, target::Entry>,
    /// On the source's disk, written once.
    decision: Option<Decision>,
    /// Whether the decision was ever `commit`, also when the file is gone.
    committed: bool,
    /// A guard holds CRIU on the source; it decides `abort` if the agent dies.
    guard: bool,
    /// On the target's disk.
    image: bool,
    owner: Epoch,
    pub(super) was_in_doubt: bool,
    pub(super) was_restored_again: bool,
}

type Verdict = Result<(), String>;

impl World {
    pub(super) fn new(seed: u64, bugs: Bugs) -> World {
        let mut world = World {
            rng: Lcg(seed),
            bugs,
            now: Millis(0),
            faults: true,
            calm: 1 << (seed % 5),
            linked: true,
            source: Node::new(Copy::Running),
            target: Node::new(Copy::Absent),
            decision: None,
            committed: false,
            guard: false,
            image: false,
            owner: EPOCH,
            was_in_doubt: false,
            was_restored_again: false,
        };
        world.source.machine = Some(Source::new(terms(), Budgets::default()));
        world.source.reports.push(source::Event::Begin);
        world
    }

    pub(super) fn runs_on_target(&self) -> bool {
        self.target.copy == Copy::Running
    }

    /// One thing happens.
    pub(super) fn turn(&mut self, faults: bool) -> Verdict {
        self.faults = faults;
        match self.rng.below(if faults { 20 } else { 10 }) {
            0..=2 => self.source_hears(),
            3..=5 => self.target_hears(),
            6..=7 => self.source_reports(),
            8 => self.target_reports(),
            9 => self.time_passes(),
            10 if self.rng.one_in(4 * self.calm) => {
                self.cut();
                Ok(())
            }
            11 if self.rng.one_in(4 * self.calm) => self.kill_source(),
            12 if self.rng.one_in(4 * self.calm) => {
                self.kill_target();
                Ok(())
            }
            13 if self.rng.one_in(8 * self.calm) => self.step_source(source::Event::Cancelled),
            14 => self.start_agents(),
            15 if self.source.alive && self.target.alive => {
                self.mend();
                Ok(())
            }
            16 => self.source_reports(),
            _ => self.target_reports(),
        }
    }

    /// The faults end: both agents are started, the link is back.
    pub(super) fn heal(&mut self) {
        self.faults = false;
        let _ = self.start_agents();
        self.mend();
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_quiet(&self) -> bool {
        let idle = self.source.inbox.is_empty() && self.target.inbox.is_empty();
        idle && self.source.machine.is_none() && self.target.machine.is_none() && self.source.alive && self.target.alive
    }

    /// What must be true when the faults have ended and everything has settled.
    pub(super) fn check_end(&self) -> Verdict {
        if !self.is_quiet() {
            return Err("a machine never finishes".to_owned());
        }
        let places = (self.source.copy, self.target.copy, self.source.outcome);
        let agreed = match places {
            (Copy::Absent, Copy::Running, Some(Outcome::Moved)) => self.owner == EPOCH.next(),
            // No outcome: the agent died before it had written down that anything began.
            (Copy::Running, Copy::Absent, Some(Outcome::Stayed) | None) => self.owner == EPOCH && !self.image,
            _ => false,
        };
        let stayed_or = |outcome: Option<Outcome>| outcome.unwrap_or(Outcome::Stayed);
        let sides = stayed_or(self.target.outcome) == stayed_or(self.source.outcome);
        if agreed && sides { Ok(()) } else { Err(format!("the sides disagree: {places:?} {:?}", self.target.outcome)) }
    }

    fn check(&self) -> Verdict {
        if self.source.copy == Copy::Running && self.target.copy == Copy::Running {
            return Err("two copies run".to_owned());
        }
        if self.source.copy == Copy::Running && self.committed {
            return Err("the source runs after commit".to_owned());
        }
        if self.target.copy == Copy::Running && !self.committed {
            return Err("the target runs without commit".to_owned());
        }
        if self.source.copy == Copy::Absent && self.target.copy == Copy::Absent && !self.image {
            return Err("nobody can run".to_owned());
        }
        Ok(())
    }

    // ---- faults --------------------------------------------------------------------------------------------------

    fn cut(&mut self) {
        if !std::mem::replace(&mut self.linked, false) {
            return;
        }
        self.source.inbox.retain(|inbound| !matches!(inbound, Inbound::Says(_)));
        self.target.inbox.retain(|inbound| !matches!(inbound, Inbound::Says(_)));
        self.source.hear(Inbound::LinkLost);
        self.target.hear(Inbound::LinkLost);
    }

    fn mend(&mut self) {
        if !std::mem::replace(&mut self.linked, true) {
            self.source.hear(Inbound::LinkBack);
            self.target.hear(Inbound::LinkBack);
        }
    }

    /// The source's agent dies. Without a decision, its guard decides.
    fn kill_source(&mut self) -> Verdict {
        if !self.source.alive {
            return Ok(());
        }
        self.cut();
        self.source.alive = false;
        self.source.machine = None;
        self.source.inbox.clear();
        self.source.reports.clear();
        if self.guard && *self.decision.get_or_insert(Decision::Abort) == Decision::Abort {
            self.thaw();
        }
        self.check()
    }

    /// The target's agent dies; sometimes the whole node, and with it the processes that it held.
    fn kill_target(&mut self) {
        if !self.target.alive {
            return;
        }
        self.cut();
        self.target.alive = false;
        self.target.machine = None;
        self.target.inbox.clear();
        self.target.reports.clear();
        if self.target.copy == Copy::Held && self.rng.one_in(2) {
            self.target.copy = Copy::Absent;
        }
    }

    fn start_agents(&mut self) -> Verdict {
        if !std::mem::replace(&mut self.source.alive, true)
            && let Some(entry) = self.source.journal.clone()
        {
            let (machine, commands) = Source::recover(entry, self.decision, Budgets::default(), self.now);
            self.source.machine = Some(machine);
            self.do_source(commands)?;
        }
        if !std::mem::replace(&mut self.target.alive, true)
            && let Some(entry) = self.target.journal.clone()
        {
            let (machine, commands) = Target::recover(entry, Budgets::default(), self.now);
            self.target.machine = Some(machine);
            self.do_target(commands)?;
        }
        Ok(())
    }

    /// Whether something fails now.
    fn fails(&mut self) -> bool {
        self.faults && self.rng.one_in(12)
    }

    fn thaw(&mut self) {
        self.guard = false;
        if self.source.copy == Copy::Held {
            self.source.copy = Copy::Running;
        }
    }

    // ---- what reaches the machines -------------------------------------------------------------------------------

    fn source_hears(&mut self) -> Verdict {
        let Some(inbound) = self.source.inbox.pop_front() else { return Ok(()) };
        let event = match (inbound, &self.source.machine) {
            (Inbound::LinkLost, _) => Some(source::Event::LinkLost),
            (Inbound::LinkBack, _) => Some(source::Event::LinkBack),
            (Inbound::Says(message), Some(machine)) => machine.heard(message),
            (Inbound::Says(message), None) => {
                if let Some(answer) = answer_without_entry(&message) {
                    self.tell_target(answer);
                }
                None
            }
        };
        event.map_or(Ok(()), |event| self.step_source(event))
    }

    fn target_hears(&mut self) -> Verdict {
        let Some(inbound) = self.target.inbox.pop_front() else { return Ok(()) };
        let event = match (inbound, &self.target.machine) {
            (Inbound::LinkLost, _) => Some(target::Event::LinkLost),
            (Inbound::LinkBack, _) => Some(target::Event::LinkBack),
            (Inbound::Says(Message::Offer(offer)), None) => {
                let me = offer.to.clone();
                self.target.machine = Some(Target::new(offer, me, Budgets::default()));
                Some(target::Event::Offered)
            }
            (Inbound::Says(Message::LayerAheadDone { .. }), _) => Some(target::Event::LayerArrived),
            (Inbound::Says(message), Some(machine)) => machine.heard(message),
            (Inbound::Says(_), None) => None,
        };
        event.map_or(Ok(()), |event| self.step_target(event))
    }

    fn source_reports(&mut self) -> Verdict {
        if self.source.reports.is_empty() {
            return Ok(());
        }
        let event = self.rng.below(self.source.reports.len());
        let event = self.source.reports.swap_remove(event);
        self.step_source(event)
    }

    fn target_reports(&mut self) -> Verdict {
        if self.target.reports.is_empty() {
            return Ok(());
        }
        let event = self.rng.below(self.target.reports.len());
        let event = self.target.reports.swap_remove(event);
        self.step_target(event)
    }

    fn time_passes(&mut self) -> Verdict {
        let most = if self.rng.one_in(20) { 100_000 } else { 4_000 };
        self.now = self.now.plus(self.rng.below(most) as u64);
        self.step_source(source::Event::Tick)?;
        self.step_target(target::Event::Tick)
    }

    fn step_source(&mut self, event: source::Event) -> Verdict {
        let now = self.now;
        let Some(machine) = &mut self.source.machine else { return Ok(()) };
        let mut commands = machine.step(now, event);
        let asked_abort = source::Command::Decide(Decision::Abort);
        let asked_commit = source::Command::Decide(Decision::Commit);
        if self.bugs.source_resumes_undecided && commands.contains(&asked_abort) {
            commands.push(source::Command::ResumeSource);
        }
        if self.bugs.source_ends_undecided && commands.contains(&asked_commit) {
            commands.insert(0, source::Command::EndSource);
        }
        if self.bugs.source_forgets_at_commit && commands.contains(&source::Command::EndSource) {
            commands.push(source::Command::Finish(Outcome::Moved, None));
        }
        self.do_source(commands)
    }

    fn step_target(&mut self, event: target::Event) -> Verdict {
        let now = self.now;
        let Some(machine) = &mut self.target.machine else { return Ok(()) };
        let mut commands = machine.step(now, event);
        if let [target::Command::KeepFrozen(_)] = commands[..]
            && machine.is_in_doubt()
        {
            if self.bugs.target_drops_in_doubt {
                commands = vec![target::Command::DropEverything];
            } else if self.bugs.target_resumes_in_doubt {
                commands = vec![target::Command::Resume];
            }
        }
        if self.bugs.target_forgets_commit_phase {
            commands.retain(|command| *command != target::Command::Journal(Phase::Commit));
        }
        self.do_target(commands)
    }

    fn tell_target(&mut self, message: Message) {
        if self.linked {
            self.target.hear(Inbound::Says(message));
        }
    }

    fn tell_source(&mut self, message: Message) {
        if self.linked {
            self.source.hear(Inbound::Says(message));
        }
    }

    // ---- the executors -------------------------------------------------------------------------------------------

    /// Carries out commands in order; the agent may die between any two.
    fn do_source(&mut self, commands: Vec<source::Command>) -> Verdict {
        for command in commands {
            if self.faults && self.rng.one_in(30 * self.calm) {
                return self.kill_source();
            }
            if let Some(report) = self.carry_out_source(command) {
                self.source.reports.push(report);
            }
            self.check()?;
        }
        Ok(())
    }

    fn carry_out_source(&mut self, command: source::Command) -> Option<source::Event> {
        use source::{Command, Event};
        match command {
            source::Command::SayWaiting(_) => {}
            Command::Journal(phase) => self.source.journal = self.source.machine.as_ref().map(|m| m.entry(phase)),
            Command::Send(message) => self.tell_target(message),
            Command::InspectWorkload => return Some(Event::Inspected(offer())),
            Command::CopyLayer if self.fails() => return Some(Event::DumpFailed(problem())),
            Command::CopyLayer => return Some(Event::LayerCopied { blocks: 1 }),
            Command::StartDump => {
                self.guard = true;
                return Some(Event::DumpReady);
            }
            Command::ReleaseDump if self.fails() => return Some(Event::DumpFailed(problem())),
            Command::ReleaseDump => {
                self.source.copy = Copy::Held;
                return Some(Event::Frozen);
            }
            Command::StreamChanges => return Some(Event::ImageComplete(manifest())),
            Command::Decide(wanted) => {
                let decision = *self.decision.get_or_insert(wanted);
                match decision {
                    Decision::Abort => self.thaw(),
                    Decision::Commit => self.committed = true,
                }
                return Some(Event::Decided(decision));
            }
            Command::EndSource => {
                self.guard = false;
                self.source.copy = Copy::Absent;
                return Some(Event::SourceEnded);
            }
            Command::ResumeSource if self.source.copy == Copy::Absent => {
                return Some(Event::SourceResumeFailed(problem()));
            }
            Command::ResumeSource => {
                self.guard = false;
                self.source.copy = Copy::Running;
                return Some(Event::SourceResumed);
            }
            Command::DropCopy => self.decision = None,
            Command::Finish(outcome, _) => {
                self.source.outcome = Some(outcome);
                self.source.machine = None;
                self.source.journal = None;
                self.source.reports.clear();
            }
        }
        None
    }

    fn do_target(&mut self, commands: Vec<target::Command>) -> Verdict {
        for command in commands {
            if self.faults && self.rng.one_in(30 * self.calm) {
                self.kill_target();
                return Ok(());
            }
            if matches!(command, target::Command::Resume | target::Command::RestoreAgain) {
                // A repeated command replaces the earlier one, and its report.
                self.target.reports.clear();
            }
            if command == target::Command::RestoreAgain && self.target.copy == Copy::Running {
                return Err("a running copy is rolled back".to_owned());
            }
            if let Some(report) = self.carry_out_target(command) {
                self.target.reports.push(report);
            }
            self.check()?;
        }
        Ok(())
    }

    fn carry_out_target(&mut self, command: target::Command) -> Option<target::Event> {
        use target::{Command, Event};
        match command {
            target::Command::NoteLost(_) => {}
            Command::Journal(phase) => self.target.journal = self.target.machine.as_ref().map(|m| m.entry(phase)),
            Command::Send(message) => self.tell_source(message),
            Command::Check if self.fails() => return Some(Event::Checked(Err(problem()))),
            Command::Check => return Some(Event::Checked(Ok(Room { memory: 1, disk: 1 }))),
            Command::BuildSandbox if self.fails() => return Some(Event::ReceiveFailed(problem())),
            Command::BuildSandbox => return Some(Event::SandboxReady),
            Command::StartRestore => return Some(Event::RestoreReady),
            Command::Verify(_) if self.fails() => return Some(Event::DigestsDiffer(problem())),
            Command::Verify(_) => {
                self.image = true;
                return Some(Event::DigestsMatch);
            }
            Command::Restore if self.fails() => return Some(Event::RestoreFailed(problem())),
            Command::Restore => {
                self.target.copy = Copy::Held;
                return Some(Event::RestoredHeld { pid: 100 });
            }
            Command::AdoptOwner(epoch) => self.owner = epoch,
            Command::Resume if self.target.copy == Copy::Absent => return Some(Event::ResumeFailed(problem())),
            Command::Resume if self.target.copy == Copy::Held && self.fails() => {
                self.target.copy = Copy::Absent;
                return Some(Event::ResumeFailed(problem()));
            }
            Command::Resume => {
                self.target.copy = Copy::Running;
                return Some(Event::Running { pid: 100 });
            }
            Command::RestoreAgain => {
                self.was_restored_again = true;
                self.target.copy = if self.fails() { Copy::Absent } else { Copy::Held };
                return Some(match self.target.copy {
                    Copy::Absent => Event::RestoreFailed(problem()),
                    _ => Event::RestoredHeld { pid: 100 },
                });
            }
            Command::DropEverything => {
                self.target.copy = Copy::Absent;
                self.image = false;
            }
            Command::KeepFrozen(_) => self.was_in_doubt = true,
            Command::AskSource => self.tell_source(Message::Ask { handover: offer().handover }),
            Command::ForgetImage => self.image = false,
            Command::Finish(outcome, _) => {
                self.target.outcome = Some(outcome);
                self.target.machine = None;
                self.target.journal = None;
                self.target.reports.clear();
            }
        }
        None
    }
}
