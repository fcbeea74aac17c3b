//! The loop around a machine, for both sides, as `agent/src/handover/drive.rs` has it: commands go out one after the other, what
//! happens comes in. Each command is a thing of its own, so that the agent can die between any two.

use migrate_proto::api::Outcome;
use migrate_proto::handover::{answer_without_machine, source, target};
use migrate_proto::message::Message;

use crate::bug::Bug;
use crate::faults::Fault;
use crate::node::{Input, Side, Word};
use crate::world::{Happening, Whom, World};

/// What becomes of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It is done, or goes on beside the loop.
    Next,
    /// It failed: what follows in this batch must not happen without it.
    Broken,
    /// It is tried again soon; nothing else happens before.
    Again,
}

/// How long a command that must be done waits until it is tried again.
const PULSE: u64 = 500;

impl World {
    /// A side does one thing: the next command of its last step, or else the next step.
    pub(crate) fn wake(&mut self, whom: Whom) {
        if whom.source {
            self.wake_departure(whom)
        } else {
            self.wake_arrival(whom)
        }
        self.arm(whom);
    }

    fn wake_departure(&mut self, whom: Whom) {
        let now = self.nodes[whom.node].clock.at(self.now);
        let Some(departure) = self.departure(whom) else { return };
        departure.side.awake = false;
        if let Some(outcome) = departure.side.end {
            return self.conclude_departure(whom, outcome);
        }
        if let Some(command) = departure.side.todo.pop_front() {
            let again = command.clone();
            self.note(|| format!("node{} source {}: {}", whom.node + 1, whom.handover, short(&again)));
            match self.obey_departure(whom, command) {
                Flow::Next => self.go_on(whom),
                Flow::Broken => {
                    let failed = source::Event::DumpFailed(self.problem("it could not be done"));
                    if let Some(departure) = self.departure(whom) {
                        departure.side.todo.clear();
                        departure.side.inbox.push_back(Input::Event(failed));
                        self.rouse(whom, 1);
                    }
                }
                Flow::Again => self.try_again(whom, |world| {
                    if let Some(departure) = world.departure(whom) {
                        departure.side.todo.push_front(again);
                        departure.side.awake = true;
                    }
                }),
            }
            return;
        }
        let Some(input) = departure.side.inbox.pop_front() else { return };
        let event = match input {
            Input::Event(event) => Some(event),
            Input::Word(Word::Heard(message)) => departure.side.machine.heard(message),
            Input::Word(Word::Connected(session)) => {
                self.connect(whom, session);
                Some(source::Event::LinkBack)
            }
            Input::Word(Word::Silence(session)) => self.hang_up(whom, session).then_some(source::Event::LinkLost),
        };
        if let (Some(event), Some(departure)) = (event, self.departure(whom)) {
            let commands = departure.side.machine.step(now, event);
            self.take_up_departure(whom, commands);
        }
        self.go_on(whom);
    }

    fn wake_arrival(&mut self, whom: Whom) {
        let now = self.nodes[whom.node].clock.at(self.now);
        let Some(arrival) = self.arrival(whom) else { return };
        arrival.side.awake = false;
        if let Some(command) = arrival.side.todo.pop_front() {
            let again = command.clone();
            self.note(|| format!("node{} target {}: {}", whom.node + 1, whom.handover, short(&again)));
            match self.obey_arrival(whom, command) {
                Flow::Next => self.go_on(whom),
                Flow::Broken => {
                    let failed = self.arrival_failed(&again);
                    if let Some(arrival) = self.arrival(whom) {
                        arrival.side.todo.clear();
                        arrival.side.inbox.push_back(Input::Event(failed));
                        self.rouse(whom, 1);
                    }
                }
                Flow::Again => self.try_again(whom, |world| {
                    if let Some(arrival) = world.arrival(whom) {
                        arrival.side.todo.push_front(again);
                        arrival.side.awake = true;
                    }
                }),
            }
            return;
        }
        let Some(input) = arrival.side.inbox.pop_front() else { return };
        let event = match input {
            Input::Event(event) => Some(event),
            Input::Word(Word::Heard(Message::LayerAheadDone { .. })) => self.layer_came(whom),
            Input::Word(Word::Heard(message)) => arrival.side.machine.heard(message),
            Input::Word(Word::Connected(session)) => {
                self.connect(whom, session);
                Some(target::Event::LinkBack)
            }
            Input::Word(Word::Silence(session)) => self.hang_up(whom, session).then_some(target::Event::LinkLost),
        };
        if let (Some(event), Some(arrival)) = (event, self.arrival(whom)) {
            let commands = arrival.side.machine.step(now, event);
            self.take_up_arrival(whom, commands);
        }
        self.go_on(whom);
    }

    pub(crate) fn go_on(&mut self, whom: Whom) {
        let has_work = if whom.source {
            self.departure(whom).is_some_and(|departure| departure.side.has_work())
        } else {
            self.arrival(whom).is_some_and(|arrival| arrival.side.has_work())
        };
        if has_work {
            self.rouse(whom, 2);
        }
    }

    fn try_again(&mut self, whom: Whom, put_back: impl FnOnce(&mut World)) {
        put_back(self);
        self.at(self.now + PULSE, Happening::Wake(whom));
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    /// Sees to it that a tick comes when the machine wants one.
    pub(crate) fn arm(&mut self, whom: Whom) {
        let deadline = if whom.source {
            self.departure(whom).and_then(|departure| departure.side.machine.deadline())
        } else {
            self.arrival(whom).and_then(|arrival| arrival.side.machine.deadline())
        };
        let Some(deadline) = deadline.filter(|_| !self.has(Bug::NothingRepeated)) else { return };
        let at = self.nodes[whom.node].clock.when(deadline).max(self.now + 1);
        if let Some(tick) = self.tick_of(whom)
            && *tick != Some(at)
        {
            *tick = Some(at);
            self.at(at, Happening::Tick { whom, at });
        }
    }

    fn tick_of(&mut self, whom: Whom) -> Option<&mut Option<u64>> {
        if whom.source {
            self.departure(whom).map(|departure| &mut departure.side.tick)
        } else {
            self.arrival(whom).map(|arrival| &mut arrival.side.tick)
        }
    }

    pub(crate) fn forget_tick(&mut self, whom: Whom) {
        if let Some(tick) = self.tick_of(whom) {
            *tick = None;
        }
    }

    pub(crate) fn tick(&mut self, whom: Whom, at: u64) {
        match self.tick_of(whom) {
            Some(tick) if *tick == Some(at) => *tick = None,
            _ => return,
        }
        let now = self.nodes[whom.node].clock.at(self.now);
        // While commands are being carried out, or inputs wait, time is not looked at.
        if whom.source {
            if let Some(departure) = self.departure(whom).filter(|departure| !departure.side.has_work()) {
                let commands = departure.side.machine.step(now, source::Event::Tick);
                self.take_up_departure(whom, commands);
            }
        } else if let Some(arrival) = self.arrival(whom).filter(|arrival| !arrival.side.has_work()) {
            let commands = arrival.side.machine.step(now, target::Event::Tick);
            self.take_up_arrival(whom, commands);
        }
        self.go_on(whom);
        self.arm(whom);
    }

    // ---- the connection ------------------------------------------------------------------------------------------

    fn with_line<T>(&mut self, whom: Whom, change: impl FnOnce(&mut Option<u32>, &mut bool) -> T) -> Option<T> {
        fn parts<M, C, E>(side: &mut Side<M, C, E>) -> (&mut Option<u32>, &mut bool) {
            (&mut side.line, &mut side.dialing)
        }
        let (line, dialing) =
            if whom.source { parts(&mut self.departure(whom)?.side) } else { parts(&mut self.arrival(whom)?.side) };
        Some(change(line, dialing))
    }

    /// Uses this connection from now on.
    fn connect(&mut self, whom: Whom, session: u32) {
        let before = self.with_line(whom, |line, dialing| {
            *dialing = false;
            line.replace(session)
        });
        if let Some(Some(before)) = before
            && before != session
        {
            self.close_session(before);
        }
    }

    /// The connection is over, if it is the present one.
    fn hang_up(&mut self, whom: Whom, session: u32) -> bool {
        let mine = self.with_line(whom, |line, _| {
            let mine = *line == Some(session);
            if mine {
                *line = None;
            }
            mine
        });
        if mine == Some(true) {
            self.begin_to_dial(whom);
        }
        mine == Some(true)
    }

    /// Tries to reach the peer until it answers.
    pub(crate) fn begin_to_dial(&mut self, whom: Whom) {
        if self.with_line(whom, |_, dialing| std::mem::replace(dialing, true)) == Some(false) {
            self.later(1, 20, Happening::Dial { whom, patience: 100 });
        }
    }

    pub(crate) fn redial(&mut self, whom: Whom, patience: u64) {
        if self.with_line(whom, |_, dialing| *dialing) != Some(true) {
            return;
        }
        let known = &self.ledger.handovers[whom.handover];
        let peer = if whom.source { known.to } else { known.from };
        match self.dial(whom.node, peer, whom.handover) {
            Some(session) => self.hear(whom.node, whom.handover, Word::Connected(session)),
            None => {
                let next = (patience * 2).min(5_000);
                self.at(self.now + patience, Happening::Dial { whom, patience: next });
            }
        }
    }

    /// Says something to the peer; without a connection it is lost.
    pub(crate) fn say_on_line(&mut self, whom: Whom, message: Message) {
        if let Some(Some(session)) = self.with_line(whom, |line, _| *line) {
            self.say(whom.node, session, message);
        }
    }

    /// A message about a handover that is not under way here.
    pub(crate) fn hear_without_a_side(&mut self, node: usize, session: u32, handover: usize, message: Message) {
        let message = match message {
            Message::Offer(offer) => return self.take_offer(node, session, handover, offer),
            message => message,
        };
        let Some(agent) = &self.nodes[node].agent else { return };
        if agent.silent || agent.withheld.contains(&handover) {
            return;
        }
        let received = self.nodes[node].received.get(&handover).filter(|_| !self.has(Bug::CommitUnanswered));
        let answer = answer_without_machine(&message, received.map(|entry| &**entry));
        if let Message::Done { .. } = message {
            self.nodes[node].received.remove(&handover);
        }
        if let Some(answer) = answer {
            self.note(|| format!("node{} answers {} without an entry: {}", node + 1, message.kind(), answer.kind()));
            self.say(node, session, answer);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    /// Writes down how a side's machine ended, for the judges.
    pub(crate) fn record_end(&mut self, whom: Whom, outcome: Outcome) {
        let known = &mut self.ledger.handovers[whom.handover];
        let side = if whom.source { &mut known.source } else { &mut known.target };
        // A message that came twice may have begun an arrival that was over.
        if *side != Some(Outcome::Moved) {
            *side = Some(outcome);
        }
        known.unknown |= outcome == Outcome::Unknown;
    }

    /// Counts that a side was taken up by a new agent.
    pub(crate) fn mark_restart(&mut self, whom: Whom) {
        self.mark_one(whom.node, whom.handover, Fault::Restart);
    }
}

fn short(command: &impl std::fmt::Debug) -> String {
    let mut text = format!("{command:?}");
    text.truncate(text.char_indices().nth(90).map_or(text.len(), |(at, _)| at));
    text
}
