//! The loop around a machine: commands go out, what happens comes in, until it is finished.
//!
//! Both sides of a handover are driven by [`drive`]; what they differ in is [`Side`].

use std::future::pending;
use std::time::Duration;

use migrate_proto::api::Outcome;
use migrate_proto::error::Problem;
use migrate_proto::handover::{Millis, source, target};
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use migrate_proto::phase::Phase;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::halts::{Halts, Point};
use super::line::Line;
use super::meter::Meter;
use super::{Ground, Input};
use crate::clock;
use crate::talk::Talk;

/// How often it is looked whether bytes moved.
pub(super) const PULSE: Duration = Duration::from_millis(500);

/// A machine of `migrate_proto::handover`, as the loop sees it.
pub(super) trait Machine {
    type Event: Send + 'static;
    type Command;

    const TICK: Self::Event;
    const PROGRESS: Self::Event;
    const LINK_LOST: Self::Event;
    const LINK_BACK: Self::Event;

    fn step(&mut self, now: Millis, event: Self::Event) -> Vec<Self::Command>;
    fn heard(&self, message: Message) -> Option<Self::Event>;
    fn deadline(&self) -> Option<Millis>;
    /// How it ended, where the command says so.
    fn end(command: &Self::Command) -> Option<(Outcome, Option<Problem>)>;
    /// The phase that the command enters, where it does.
    fn phase(command: &Self::Command) -> Option<Phase>;
}

macro_rules! machine {
    ($module:ident, $machine:ident) => {
        impl Machine for $module::$machine {
            type Event = $module::Event;
            type Command = $module::Command;

            const TICK: $module::Event = $module::Event::Tick;
            const PROGRESS: $module::Event = $module::Event::Progress;
            const LINK_LOST: $module::Event = $module::Event::LinkLost;
            const LINK_BACK: $module::Event = $module::Event::LinkBack;

            fn step(&mut self, now: Millis, event: $module::Event) -> Vec<$module::Command> {
                self.step(now, event)
            }

            fn heard(&self, message: Message) -> Option<$module::Event> {
                self.heard(message)
            }

            fn deadline(&self) -> Option<Millis> {
                self.deadline()
            }

            fn end(command: &$module::Command) -> Option<(Outcome, Option<Problem>)> {
                match command {
                    $module::Command::Finish(outcome, problem) => Some((*outcome, problem.clone())),
                    _ => None,
                }
            }

            fn phase(command: &$module::Command) -> Option<Phase> {
                match command {
                    $module::Command::Journal(phase) => Some(*phase),
                    _ => None,
                }
            }
        }
    };
}

machine!(source, Source);
machine!(target, Target);

/// What holds a machine, its connection and what happens together.
pub(super) struct Reins<M: Machine> {
    pub(super) machine: M,
    pub(super) line: Line<M::Event>,
    pub(super) tell: mpsc::UnboundedSender<Input<M::Event>>,
    inputs: mpsc::UnboundedReceiver<Input<M::Event>>,
    halts: Halts,
}

impl<M: Machine> Reins<M> {
    /// A machine that talks to `peer`; there is no connection yet. `side` names its halts.
    pub(super) fn new(ground: &Ground, machine: M, peer: NodeName, side: &'static str) -> Reins<M> {
        let (tell, inputs) = mpsc::unbounded_channel();
        let line = Line::new(ground.clone(), peer, tell.clone());
        let halts = Halts::new(ground.host.config.halts.as_deref(), side);
        Reins { machine, line, tell, inputs, halts }
    }

    /// Runs something beside the loop; what it returns is the next event.
    pub(super) fn beside(&self, work: impl Future<Output = M::Event> + Send + 'static) -> JoinHandle<()> {
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let _ = tell.send(Input::Event(work.await));
        })
    }
}

/// One side of a handover: what it does, beyond what the loop does for both.
pub(super) trait Side {
    type Machine: Machine;

    fn reins(&mut self) -> &mut Reins<Self::Machine>;
    fn meter(&self) -> &Meter;
    /// Does what is commanded. What takes its time goes on beside the loop.
    async fn execute(&mut self, command: CommandOf<Self>) -> Result<(), Problem>;
    /// The event that a command is that could not be done; `phase` is the one that it should have entered.
    fn failed(phase: Option<Phase>, problem: Problem) -> EventOf<Self>;
    /// There is a new conversation with the peer.
    fn connect(&mut self, talk: Talk);
    /// Whether the peer's word about this is enough. Where it is not, this sees to it that the machine hears what is so.
    fn believes(&mut self, _event: &EventOf<Self>) -> bool {
        true
    }
    /// The peer has said something that the machine will be told.
    fn note_heard(&mut self, _event: &EventOf<Self>) {}
}

type EventOf<S> = <<S as Side>::Machine as Machine>::Event;
type CommandOf<S> = <<S as Side>::Machine as Machine>::Command;

/// Drives a side until its machine has finished. `cancelled` is the event that `cancel` is, where there is one.
pub(super) async fn drive<S: Side>(
    side: &mut S,
    first: Vec<CommandOf<S>>,
    cancel: CancellationToken,
    mut cancelled: Option<EventOf<S>>,
) -> (Outcome, Option<Problem>) {
    let mut commands = first;
    let mut pulse = tokio::time::interval(PULSE);
    let mut moved = 0;
    loop {
        if let Some(end) = obey(side, std::mem::take(&mut commands)).await {
            return end;
        }
        let reins = side.reins();
        let deadline = reins.machine.deadline();
        let event = tokio::select! {
            biased;
            input = reins.inputs.recv() => input.and_then(|input| understand(side, input)),
            () = cancel.cancelled(), if cancelled.is_some() => cancelled.take(),
            () = until(deadline) => Some(S::Machine::TICK),
            _ = pulse.tick() => {
                let now = side.meter().moved();
                (std::mem::replace(&mut moved, now) != now).then_some(S::Machine::PROGRESS)
            }
        };
        if let Some(event) = event {
            commands = side.reins().machine.step(clock::now(), event);
        }
    }
}

/// Does what is commanded, in order; says how it ended, if it did.
async fn obey<S: Side>(side: &mut S, commands: Vec<CommandOf<S>>) -> Option<(Outcome, Option<Problem>)> {
    let mut entered = None;
    for command in commands {
        let entering = S::Machine::phase(&command);
        if let Some(phase) = entering {
            entered = Some(phase);
            side.reins().halts.at(phase, Point::Entered).await;
        }
        let end = S::Machine::end(&command);
        if let Err(problem) = side.execute(command).await {
            // What follows in this batch must not happen without it.
            let _ = side.reins().tell.send(Input::Event(S::failed(entering, problem)));
            break;
        }
        if end.is_some() {
            return end;
        }
    }
    if let Some(phase) = entered {
        side.reins().halts.at(phase, Point::Begun).await;
    }
    None
}

fn understand<S: Side>(side: &mut S, input: Input<EventOf<S>>) -> Option<EventOf<S>> {
    match input {
        Input::Event(event) => Some(event),
        Input::Talk(talk) => {
            side.connect(*talk);
            Some(S::Machine::LINK_BACK)
        }
        Input::Silence => {
            let line = &mut side.reins().line;
            line.hang_up();
            line.redial();
            Some(S::Machine::LINK_LOST)
        }
        Input::Heard(message) => {
            let event = side.reins().machine.heard(message)?;
            if !side.believes(&event) {
                return None;
            }
            side.note_heard(&event);
            Some(event)
        }
    }
}

async fn until(deadline: Option<Millis>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(clock::instant(at)).await,
        None => pending().await,
    }
}
