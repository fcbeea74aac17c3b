//! The target's executor, as `agent/src/handover/{arrival,hands}.rs` have it.
//!
//! | what | how durably |
//! |---|---|
//! | the entries of `prepare`, `commit`, `clean-up` | synced; no other phase is written |
//! | the layer | synced, before `Verified` is said |
//! | the image | never: it lies in memory, and survives the agent |
//! | that the target is the owner, and in which epoch | synced, before anything is let go |
//! | that everything was dropped | the record synced, the rest some time |

use migrate_proto::api::Outcome;
use migrate_proto::handover::target::{Command, Event, Room, Target};
use migrate_proto::id::Epoch;
use migrate_proto::message::{Message, Offer};
use migrate_proto::phase::Phase;

use crate::bug::Bug;
use crate::departure::node_name;
use crate::disk::{Doing, Place, Record};
use crate::node::{Arrival, Body, Image, Input, Side};
use crate::sides::Flow;
use crate::world::{Job, Whom, World};

/// The main process, in the sandbox.
const PID: i32 = 1;

impl World {
    /// A peer offers a workload.
    pub(crate) fn take_offer(&mut self, node: usize, session: u32, handover: usize, offer: Box<Offer>) {
        let Some(whom) = self.whom(node, handover) else { return };
        let machine = Target::new(offer, node_name(node), self.budgets.clone());
        let mut side = Side::new(handover, machine, Some(session));
        side.inbox.push_back(Input::Event(Event::Offered));
        self.begin_arrival(whom, side);
    }

    pub(crate) fn begin_arrival(&mut self, whom: Whom, side: Side<Target, Command, Event>) {
        let load = self.ledger.handovers[whom.handover].load;
        let (taken, turn, building, reviving, reception, layer_waits) = (false, false, false, false, false, false);
        let arrival = Arrival { side, load, taken, turn, building, reviving, reception, layer_waits };
        if let Some(agent) = &mut self.nodes[whom.node].agent {
            agent.arrivals.push(arrival);
            self.rouse(whom, 2);
        }
    }

    /// The machine's commands, as a wrong wrapper may change them.
    pub(crate) fn take_up_arrival(&mut self, whom: Whom, mut commands: Vec<Command>) {
        let (drops, runs) = (self.has(Bug::TargetDropsInDoubt), self.has(Bug::TargetRunsInDoubt));
        if self.has(Bug::LossUntold) {
            for command in &mut commands {
                if let Command::Send(Message::Lost { handover, .. }) = *command {
                    *command = Command::Send(Message::Resumed { handover, pid: PID });
                }
            }
        }
        let Some(arrival) = self.arrival(whom) else { return };
        if let [Command::KeepFrozen(problem)] = &commands[..]
            && arrival.side.machine.is_in_doubt()
        {
            if drops {
                commands = vec![Command::DropEverything, Command::Finish(Outcome::Stayed, Some(problem.clone()))];
            } else if runs {
                commands = vec![Command::AdoptOwner(arrival.side.machine.offer().epoch.next()), Command::Resume];
            }
        }
        arrival.side.todo.extend(commands);
    }

    /// The event that a command is that could not be done.
    pub(crate) fn arrival_failed(&self, command: &Command) -> Event {
        let problem = self.problem("it could not be done");
        match command {
            Command::Journal(phase) => Event::NotJournalled { phase: *phase, problem },
            _ => Event::ReceiveFailed(problem),
        }
    }

    pub(crate) fn obey_arrival(&mut self, whom: Whom, command: Command) -> Flow {
        let Some(arrival) = self.arrival(whom) else { return Flow::Next };
        let (load, building, reception) = (arrival.load, arrival.building, arrival.reception);
        match command {
            Command::Journal(phase) => return self.journal_arrival(whom, load, phase),
            Command::Send(message) => self.say_on_line(whom, message),
            Command::Check => self.build_soon(whom, Job::Check),
            Command::BuildSandbox => self.build_soon(whom, Job::Build),
            Command::StartRestore => self.do_soon(whom, Job::StartRestore),
            Command::Verify(_) if !reception => return Flow::Broken,
            Command::Verify(_) => self.do_soon(whom, Job::Verify),
            Command::Restore => self.do_soon(whom, Job::Restore),
            Command::AdoptOwner(epoch) => return self.adopt_owner(whom, load, epoch),
            Command::Resume => self.revive(whom, Job::Resume),
            Command::RestoreAgain => self.revive(whom, Job::RestoreAgain),
            Command::NoteLost(_) => {
                if self.disk_is_full(whom) {
                    return Flow::Again;
                }
                self.nodes[whom.node].places[load].update(|record| record.doing = Doing::Lost);
            }
            // Nothing may appear after it was dropped.
            Command::DropEverything | Command::Finish(..) if building => return Flow::Again,
            Command::DropEverything => self.drop_everything(whom, load),
            Command::KeepFrozen(_) => self.doubt(whom.node, load, true),
            Command::AskSource => {
                let handover = self.ledger.handovers[whom.handover].terms.handover;
                self.say_on_line(whom, Message::Ask { handover });
            }
            Command::ForgetImage => {
                arrival.turn = false;
                self.nodes[whom.node].images.retain(|image| image.handover != whom.handover);
            }
            Command::Finish(outcome, _) => self.conclude_arrival(whom, load, outcome),
        }
        Flow::Next
    }

    fn build_soon(&mut self, whom: Whom, job: Job) {
        if let Some(arrival) = self.arrival(whom) {
            arrival.building = true;
            self.do_soon(whom, job);
        }
    }

    /// A repeated command joins the one that is under way.
    fn revive(&mut self, whom: Whom, job: Job) {
        if let Some(arrival) = self.arrival(whom)
            && !std::mem::replace(&mut arrival.reviving, true)
        {
            self.do_soon(whom, job);
        }
    }

    fn journal_arrival(&mut self, whom: Whom, load: usize, phase: Phase) -> Flow {
        let (soon, skip) = match phase {
            Phase::Prepare => (false, false),
            Phase::Commit => (self.has(Bug::DoubtNotSynced), self.has(Bug::DoubtNotJournalled)),
            Phase::Resume => (true, !self.has(Bug::LateEntriesNotSynced)),
            Phase::CleanUp => (self.has(Bug::LateEntriesNotSynced), false),
            _ => return Flow::Next,
        };
        if skip {
            return Flow::Next;
        }
        if self.disk_is_full(whom) || self.fails(whom.node, whom.handover) {
            return if phase >= Phase::Resume { Flow::Again } else { Flow::Broken };
        }
        let Some(arrival) = self.arrival(whom) else { return Flow::Next };
        let entry = arrival.side.machine.entry(phase);
        let file = &mut self.nodes[whom.node].places[load].arrival;
        if soon {
            file.write_soon(entry)
        } else {
            file.write(entry)
        }
        Flow::Next
    }

    fn adopt_owner(&mut self, whom: Whom, load: usize, epoch: Epoch) -> Flow {
        if self.disk_is_full(whom) || self.fails(whom.node, whom.handover) {
            return Flow::Again;
        }
        if self.has(Bug::OwnerNotWritten) {
            return Flow::Next;
        }
        let epoch = if self.has(Bug::EpochNotRaised) { epoch.0 - 1 } else { epoch.0 };
        self.nodes[whom.node].places[load].update(|record| {
            *record = Record { owned: true, epoch, doing: Doing::Running };
        });
        Flow::Next
    }

    fn drop_everything(&mut self, whom: Whom, load: usize) {
        let Some(arrival) = self.arrival(whom) else { return };
        // The name may be another arrival's by the next time.
        let taken = std::mem::replace(&mut arrival.taken, false);
        self.nodes[whom.node].images.retain(|image| image.handover != whom.handover);
        if taken {
            self.nodes[whom.node].drop_sandbox(load);
            self.remove_place(whom.node, load);
        }
    }

    /// The workload moves on, or is removed, and its source may not have heard yet that it came.
    pub(crate) fn keep_received(&mut self, node: usize, load: usize) {
        let entry = self.nodes[node].places[load].arrival.read().ok().flatten();
        let came = entry.filter(|entry| entry.phase == Phase::CleanUp);
        let came = came.and_then(|entry| Some((self.handover_of(entry.offer.handover)?, entry)));
        if let Some((handover, entry)) = came {
            self.nodes[node].received.insert(handover, entry);
            self.nodes[node].places[load].arrival.remove();
        }
    }

    pub(crate) fn remove_place(&mut self, node: usize, load: usize) {
        self.keep_received(node, load);
        self.nodes[node].places[load].remove();
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.known[load] = false;
            agent.doubted[load] = false;
        }
    }

    fn doubt(&mut self, node: usize, load: usize, doubted: bool) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.doubted[load] = doubted;
        }
    }

    fn conclude_arrival(&mut self, whom: Whom, load: usize, outcome: Outcome) {
        match outcome {
            Outcome::Moved => {
                self.nodes[whom.node].received.remove(&whom.handover);
                // It may have left and come again: then the entry is another arrival's.
                let mine = self.ledger.handovers[whom.handover].terms.handover;
                let entry = &mut self.nodes[whom.node].places[load].arrival;
                if entry.whole().is_some_and(|entry| entry.offer.handover == mine) {
                    entry.remove();
                }
            }
            Outcome::Stayed => self.drop_everything(whom, load),
            Outcome::Unknown => {}
        }
        if let Some(Some(line)) = self.line_of(whom.node, whom.handover) {
            self.close_after_words(line);
        }
        if let Some(agent) = &mut self.nodes[whom.node].agent {
            agent.arrivals.retain(|arrival| arrival.side.handover != whom.handover);
        }
        self.record_end(whom, outcome);
        self.note(|| format!("node{} target {}: over, {outcome:?}", whom.node + 1, whom.handover));
    }

    /// All of the layer that was sent ahead has come; it waits until there is a place for it.
    pub(crate) fn layer_came(&mut self, whom: Whom) -> Option<Event> {
        let arrival = self.arrival(whom)?;
        arrival.layer_waits = !arrival.reception;
        arrival.reception.then_some(Event::LayerArrived)
    }

    // ---- beside the loop -----------------------------------------------------------------------------------------

    pub(crate) fn do_arrival(&mut self, whom: Whom, job: Job) {
        if !self.lives(whom) {
            return;
        }
        let Whom { node, handover, .. } = whom;
        let load = self.ledger.handovers[handover].load;
        let may_hang = matches!(job, Job::StartRestore | Job::Verify | Job::Restore);
        if may_hang && self.hangs(node, handover) {
            return;
        }
        let problem = self.problem("it failed");
        let Some(arrival) = self.arrival(whom) else { return };
        match job {
            Job::Check | Job::Build => arrival.building = false,
            Job::Resume | Job::RestoreAgain => arrival.reviving = false,
            _ => {}
        }
        let event = match job {
            Job::Check if self.fails(node, handover) => Event::Checked(Err(problem)),
            Job::Check if self.take_name(whom, load) => Event::Checked(Ok(Room { memory: 1, disk: 1 })),
            Job::Check => Event::Checked(Err(problem)),
            Job::Build => self.build(whom, load),
            Job::StartRestore if self.fails(node, handover) => Event::ReceiveFailed(problem),
            Job::StartRestore if self.nodes[node].bodies[load] == Body::Empty => Event::RestoreReady,
            Job::StartRestore => Event::ReceiveFailed(problem),
            Job::Verify => self.verify(whom, load),
            Job::Restore => self.restore(whom, load),
            Job::Resume => self.resume(whom, load),
            Job::RestoreAgain => self.restore_again(whom, load),
            _ => return,
        };
        self.tell_arrival(node, handover, event);
    }

    /// Makes the name this arrival's.
    fn take_name(&mut self, whom: Whom, load: usize) -> bool {
        let full = self.disk_is_full(whom);
        let epoch = self.ledger.handovers[whom.handover].terms.epoch.0;
        let here = &mut self.nodes[whom.node];
        let Some(agent) = &mut here.agent else { return false };
        if agent.known[load] || here.places[load].record.exists() || full {
            return false;
        }
        agent.known[load] = true;
        agent.doubted[load] = false;
        here.places[load] = Place::default();
        here.places[load].record.write(Record { owned: false, epoch, doing: Doing::Arriving });
        if let Some(arrival) = self.arrival(whom) {
            (arrival.taken, arrival.turn) = (true, true);
        }
        true
    }

    fn build(&mut self, whom: Whom, load: usize) -> Event {
        if self.disk_is_full(whom) || self.fails(whom.node, whom.handover) {
            return Event::ReceiveFailed(self.problem("no sandbox"));
        }
        let handover = whom.handover;
        let epoch = self.ledger.handovers[handover].terms.epoch.0 + 1;
        let here = &mut self.nodes[whom.node];
        here.bodies[load] = Body::Empty;
        here.images.push(Image { handover, load, epoch, work: 0, complete: false });
        let Some(arrival) = self.arrival(whom) else { return Event::Progress };
        arrival.reception = true;
        if std::mem::take(&mut arrival.layer_waits) {
            arrival.side.inbox.push_back(Input::Event(Event::LayerArrived));
        }
        Event::SandboxReady
    }

    fn verify(&mut self, whom: Whom, load: usize) -> Event {
        let differs = Event::DigestsDiffer(self.problem("a digest differs"));
        if self.disk_is_full(whom) || self.fails(whom.node, whom.handover) {
            return differs;
        }
        let Some(captured) = self.ledger.handovers[whom.handover].captured else { return differs };
        let here = &mut self.nodes[whom.node];
        let Some(image) = here.images.iter_mut().find(|image| image.handover == whom.handover) else { return differs };
        (image.complete, image.work) = (true, captured);
        here.places[load].layer.write(());
        Event::DigestsMatch
    }

    /// From the image to processes that are held.
    fn restore(&mut self, whom: Whom, load: usize) -> Event {
        let failed = Event::RestoreFailed(self.problem("CRIU failed"));
        if self.fails(whom.node, whom.handover) || self.nodes[whom.node].bodies[load] != Body::Empty {
            return failed;
        }
        let Some(&Image { epoch, work, .. }) = self.nodes[whom.node].image(whom.handover) else { return failed };
        self.nodes[whom.node].bodies[load] = Body::Held { epoch, work };
        Event::RestoredHeld { pid: PID }
    }

    /// Lets the processes go; where that has been done, says so.
    fn resume(&mut self, whom: Whom, load: usize) -> Event {
        let fails = self.fails(whom.node, whom.handover);
        let recovered = self.arrival(whom).is_some_and(|arrival| arrival.side.recovered);
        let forgetful = recovered && self.has(Bug::RolledBack);
        let failed = Event::ResumeFailed(self.problem("the held processes are gone"));
        let owned = self.nodes[whom.node].places[load].record.whole().is_some_and(|record| record.owned);
        let here = &mut self.nodes[whom.node];
        match here.bodies[load] {
            _ if !owned && self.bug.is_none() => return failed,
            Body::Held { .. } if fails => {
                here.bodies[load] = Body::Empty;
                return failed;
            }
            Body::Held { epoch, work } => {
                here.bodies[load] = Body::Running { epoch, work };
                here.released[load] = true;
                self.ledger.handovers[whom.handover].ran = true;
            }
            Body::Running { .. } if !forgetful => {}
            // It has run, and has ended by itself.
            Body::Ended if here.released[load] && !forgetful => {}
            _ => return failed,
        }
        self.doubt(whom.node, load, false);
        self.note_end(whom.node, load);
        Event::Running { pid: PID }
    }

    /// Builds everything anew, and restores from the image that was kept.
    fn restore_again(&mut self, whom: Whom, load: usize) -> Event {
        self.nodes[whom.node].drop_sandbox(load);
        if self.nodes[whom.node].image(whom.handover).is_none() {
            let problem = self.problem("the image is gone");
            let stubborn = self.has(Bug::LostImageRetried);
            return if stubborn { Event::RestoreFailed(problem) } else { Event::ImageLost(problem) };
        }
        self.nodes[whom.node].bodies[load] = Body::Empty;
        self.restored_again += 1;
        self.restore(whom, load)
    }
}
