//! An agent starts: it takes up what an earlier one has left, as `agent/src/daemon.rs` has it.

use std::rc::Rc;

use migrate_proto::handover::Decision;
use migrate_proto::handover::source::{self, Source};
use migrate_proto::handover::target::{self, Target};
use migrate_proto::id::HandoverId;
use migrate_proto::phase::Phase;

use crate::bug::Bug;
use crate::disk::{Damaged, Doing, Record};
use crate::node::{Agent, Body, Departure, Node, Side};
use crate::world::{Happening, Whom, World};

impl World {
    /// Starts the node's agent, where none lives and the node has not lost power again.
    pub(crate) fn start_agent(&mut self, node: usize, boot: u64) {
        if self.nodes[node].agent.is_some() || self.nodes[node].boot != boot {
            return;
        }
        let life = self.unique();
        let loads = self.ledger.fates.len();
        self.note(|| format!("node{}'s agent starts", node + 1));
        self.nodes[node].agent = Some(Agent::new(life, loads));
        for load in 0..loads {
            match self.nodes[node].places[load].record.read() {
                Ok(Some(_)) if self.has(Bug::AnsweredTooEarly) => {
                    self.later(1, 40, Happening::TakeOver { node, life, load });
                }
                Ok(Some(record)) => self.take_over(node, load, *record),
                // Without a record the rest is rubbish.
                Ok(None) => self.nodes[node].places[load].remove(),
                Err(Damaged) => self.keep_silent(node),
            }
        }
        self.nodes[node].sweep();
    }

    /// What should have been done before anybody was answered.
    pub(crate) fn take_over_late(&mut self, node: usize, life: u64, load: usize) {
        let record = self.nodes[node].places[load].record.whole().copied();
        if let Some(record) = record
            && self.nodes[node].agent.as_ref().is_some_and(|agent| agent.life == life && !agent.known[load])
        {
            self.take_over(node, load, record);
        }
    }

    fn take_over(&mut self, node: usize, load: usize, record: Record) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.known[load] = true;
        }
        let place = &self.nodes[node].places[load];
        match (place.departure.read(), place.arrival.read()) {
            (Ok(Some(entry)), _) => {
                // It was on its way on: what was left of its arrival is over.
                self.keep_received(node, load);
                self.recover_departure(node, load, entry);
            }
            (Ok(None), Ok(Some(entry))) => {
                if entry.phase == Phase::CleanUp {
                    self.adopt(node, load, record);
                }
                self.recover_arrival(node, load, record, entry);
            }
            (Ok(None), Ok(None)) if record.owned => self.adopt(node, load, record),
            (Ok(None), Ok(None)) => {
                self.nodes[node].drop_sandbox(load);
                self.remove_place(node, load);
            }
            (Err(Damaged), _) | (_, Err(Damaged)) => {
                self.keep_silent(node);
                if let Some(agent) = &mut self.nodes[node].agent {
                    agent.doubted[load] = true;
                }
            }
        }
    }

    fn keep_silent(&mut self, node: usize) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.silent = true;
        }
    }

    pub(crate) fn handover_of(&self, id: HandoverId) -> Option<usize> {
        self.ledger.handovers.iter().position(|known| known.terms.handover == id)
    }

    fn whom_of(&self, node: usize, id: HandoverId) -> Option<Whom> {
        self.whom(node, self.handover_of(id)?)
    }

    fn recover_departure(&mut self, node: usize, load: usize, entry: Rc<source::Entry>) {
        let Some(whom) = self.whom_of(node, entry.terms.handover) else { return };
        let now = self.nodes[node].clock.at(self.now);
        let decision = self.nodes[node].places[load].decision.whole().copied();
        // Whoever wrote it may have died before it was on the platter.
        let decision = match decision {
            Some(found) if !self.has(Bug::FoundDecisionNotSynced) => Some(self.decide(node, load, found)),
            found => found,
        };
        let guessed = self.has(Bug::DecisionGuessed).then_some(Decision::Abort);
        let decision = guessed.or(decision);
        let (machine, commands) = Source::recover((*entry).clone(), decision, self.budgets.clone(), now);
        let mut side = Side::new(whom.handover, machine, None);
        side.recovered = true;
        self.begin_departure(whom, Departure { side, load, dump: None, settling: false, deciding: 0 });
        self.mark_restart(whom);
        self.take_up_departure(whom, commands);
        self.begin_to_dial(whom);
        self.arm(whom);
    }

    fn recover_arrival(&mut self, node: usize, load: usize, record: Record, entry: Rc<target::Entry>) {
        let Some(whom) = self.whom_of(node, entry.offer.handover) else { return };
        let now = self.nodes[node].clock.at(self.now);
        let ignored = self.has(Bug::LateEntriesNotSynced);
        let mut entry = (*entry).clone();
        if record.owned && !ignored {
            // The record is written after the commit: it is as good a witness.
            entry.phase = entry.phase.max(Phase::Resume);
        }
        if self.nodes[node].places[load].record.whole().is_some_and(|record| record.doing == Doing::Lost) {
            entry.lost.get_or_insert_with(|| self.problem("it is lost"));
        }
        let in_doubt = entry.phase == Phase::Commit;
        let (machine, commands) = Target::recover(entry, self.budgets.clone(), now);
        let mut side = Side::new(whom.handover, machine, None);
        side.recovered = true;
        self.begin_arrival(whom, side);
        if let Some(arrival) = self.arrival(whom) {
            (arrival.taken, arrival.turn) = (true, true);
        }
        self.mark_restart(whom);
        self.take_up_arrival(whom, commands);
        self.begin_to_dial(whom);
        self.arm(whom);
        // Whoever follows the held processes hears at once that there are none.
        if in_doubt && self.nodes[node].bodies[load] == Body::Empty {
            self.tell_arrival(node, whom.handover, target::Event::RestoreFailed(self.problem("CRIU has ended")));
        }
    }

    /// What it does now, against what its record says.
    fn adopt(&mut self, node: usize, load: usize, record: Record) {
        if record.doing != Doing::Running {
            return;
        }
        match self.nodes[node].bodies[load] {
            Body::Running { .. } | Body::Frozen { .. } | Body::Ended => self.note_end(node, load),
            _ => self.nodes[node].places[load].update(|record| record.doing = Doing::Lost),
        }
    }

    // ---- the workload's own end ----------------------------------------------------------------------------------

    /// A workload has ended by itself: whoever follows it is told, or writes it down.
    pub(crate) fn notice_end(&mut self, node: usize, load: usize) {
        let Some(agent) = &self.nodes[node].agent else { return };
        match agent.departures.iter().find(|departure| departure.load == load).map(|departure| &departure.side) {
            Some(side) if !side.recovered => {
                let handover = side.handover;
                self.tell_departure(node, handover, source::Event::WorkloadEnded);
            }
            Some(_) => {}
            None => self.note_end(node, load),
        }
    }

    /// Writes down that it has ended, where it has.
    pub(crate) fn note_end(&mut self, node: usize, load: usize) {
        if self.nodes[node].bodies[load] == Body::Ended {
            self.nodes[node].places[load].update(|record| {
                if record.doing == Doing::Running {
                    record.doing = Doing::Stopped;
                }
            });
        }
    }

    /// After a move that did not happen: it may have ended meanwhile, or may have been lost before it was taken back.
    pub(crate) fn note_own_end(&mut self, node: usize, load: usize) {
        self.note_end(node, load);
        if self.nodes[node].bodies[load] == Body::Gone && !self.has(Bug::LossNotRecorded) {
            self.nodes[node].places[load].update(|record| {
                if record.doing == Doing::Running {
                    record.doing = Doing::Lost;
                }
            });
        }
    }
}

impl Node {
    /// Removes sandboxes that no record names, and images that no arrival waits for.
    fn sweep(&mut self) {
        for load in 0..self.places.len() {
            if !self.places[load].record.exists() {
                self.drop_sandbox(load);
            }
        }
        let places = &self.places;
        let awaited = |load: usize| places[load].arrival.whole().map(|entry| entry.offer.epoch.0 + 1);
        self.images.retain(|image| awaited(image.load) == Some(image.epoch));
    }
}
