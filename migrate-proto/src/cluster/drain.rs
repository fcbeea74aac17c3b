//! A node that is to be empty by some time: what is moved, in which order, and what is checkpointed instead.
//!
//! - The most urgent first: by priority; then the most certain, then the quickest.
//! - Moves share one link, so they go one after another ([`Rules::moves_at_once`]). Those that are predicted not to fit before the
//!   deadline are checkpointed to a peer at once, beside the moves; if there is time after all, they are moved.
//! - A workload whose checkpoint was taken because it would not fit runs on. Shortly before the deadline it gets a last one, with
//!   which it ends here: what it has done until then is not lost, and the leader brings it back elsewhere.
//! - A move that fails is tried again behind the others, [`Rules::attempts`] times.
//! - Without a deadline nothing is checkpointed, and what cannot be moved stays.
//!
//! Pure, like everything here: it says what to do and hears what came of it.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::handover::Millis;
use crate::name::{NodeName, WorkloadName};

/// How much of what at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many moves.
    pub moves_at_once: usize,
    /// How many checkpoints.
    pub checkpoints_at_once: usize,
    /// How often a move is tried.
    pub attempts: u32,
    /// How much longer than predicted things may take, in percent.
    pub slack_percent: u64,
    /// How long before the deadline everything should be over, in milliseconds.
    pub reserve: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { moves_at_once: 1, checkpoints_at_once: 2, attempts: 3, slack_percent: 50, reserve: 500 }
    }
}

/// What is known of a workload before it is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prospect {
    /// The higher, the sooner.
    pub priority: i16,
    /// How long a move would take, in milliseconds.
    pub move_ms: u64,
    /// How long it would stand still.
    pub pause_ms: u64,
    /// How likely that is to succeed, in thousandths.
    pub chance: u16,
    /// How long a checkpoint would take.
    pub checkpoint_ms: u64,
    /// Where it would be taken; `None` where no node is known yet.
    pub to: Option<NodeName>,
}

/// What the node that drains hears of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There is this workload, or something else is known of it by now.
    Load(WorkloadName, Prospect),
    /// It is not here any more, or has ended by itself.
    Gone(WorkloadName),
    /// Its move is over: whether it is somewhere else now.
    Moved(WorkloadName, bool),
    /// Its checkpoint is over: whether a peer has it.
    Kept(WorkloadName, bool),
    /// Time has passed.
    Tick,
}

/// What the node that drains does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Move it.
    Move {
        /// The workload.
        load: WorkloadName,
        /// Where.
        to: NodeName,
    },
    /// Checkpoint it to a peer.
    Checkpoint {
        /// The workload.
        load: WorkloadName,
        /// It ends here with that, if the checkpoint is kept.
        last: bool,
    },
    /// Nothing is left to do.
    Done(Report),
}

/// What has become of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// They run elsewhere, or ended by themselves.
    pub moved: Vec<WorkloadName>,
    /// They have ended here and can be brought back from a checkpoint that lost nothing.
    pub handed_over: Vec<WorkloadName>,
    /// They are here, and a peer has a checkpoint of them that was taken meanwhile.
    pub checkpointed: Vec<WorkloadName>,
    /// They are here.
    pub left: Vec<WorkloadName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Nothing,
    Moving,
    Checkpointing {
        last: bool,
    },
    /// It is somewhere else.
    Moved,
    /// It has ended here, and can be brought back.
    HandedOver,
}

#[derive(Debug, Clone)]
struct Task {
    prospect: Prospect,
    doing: Doing,
    failed: u32,
    /// Whether a checkpoint was taken since the drain began, or could not be.
    checkpointed: Option<bool>,
    /// A last checkpoint did not succeed.
    last_failed: bool,
}

/// One drain of one node.
#[derive(Debug, Clone)]
pub struct Drain {
    rules: Rules,
    deadline: Option<Millis>,
    tasks: BTreeMap<WorkloadName, Task>,
    done: bool,
}

impl Drain {
    /// The node is to be empty by then.
    pub fn new(deadline: Option<Millis>, rules: Rules) -> Drain {
        Drain { rules, deadline, tasks: BTreeMap::new(), done: false }
    }

    /// Something has happened.
    pub fn step(&mut self, now: Millis, event: Event) -> Vec<Act> {
        self.note(event);
        if self.done {
            return Vec::new();
        }
        let mut acts = Vec::new();
        self.last_checkpoints(now, &mut acts);
        let fits = self.moves(now, &mut acts);
        self.checkpoints(&fits, &mut acts);
        if self.is_over(now) {
            self.done = true;
            acts.push(Act::Done(self.report()));
        }
        acts
    }

    /// When to step again with a tick, whatever happens until then.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let end = self.deadline.filter(|_| !self.done)?;
        let resting = self.tasks.values().filter(|task| task.doing == Doing::Nothing && !task.last_failed);
        let lasts = resting.map(|task| self.latest(task, end)).filter(|at| *at > now);
        Some(lasts.chain([end]).min().unwrap_or(end))
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Load(load, prospect) => match self.tasks.get_mut(&load) {
                Some(task) => task.prospect = prospect,
                None => {
                    let (doing, failed, checkpointed, last_failed) = (Doing::Nothing, 0, None, false);
                    self.tasks.insert(load, Task { prospect, doing, failed, checkpointed, last_failed });
                    self.done = false;
                }
            },
            Event::Gone(load) => self.with(&load, |task| task.doing = Doing::Moved),
            Event::Moved(load, elsewhere) => self.with(&load, |task| {
                task.doing = if elsewhere { Doing::Moved } else { Doing::Nothing };
                task.failed += u32::from(!elsewhere);
            }),
            Event::Kept(load, kept) => self.with(&load, |task| match task.doing {
                Doing::Checkpointing { last: true } if kept => task.doing = Doing::HandedOver,
                Doing::Checkpointing { last } => {
                    (task.doing, task.last_failed) = (Doing::Nothing, last);
                    task.checkpointed = Some(kept || task.checkpointed == Some(true));
                }
                _ => {}
            }),
            Event::Tick => {}
        }
    }

    fn with(&mut self, load: &WorkloadName, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.tasks.get_mut(load) {
            change(task);
        }
    }

    /// Nothing may be late any more: what still runs here is checkpointed for the last time, moves that have not begun are none.
    fn last_checkpoints(&mut self, now: Millis, acts: &mut Vec<Act>) {
        let Some(end) = self.deadline else { return };
        let due = self.tasks.iter().filter(|(_, task)| {
            task.doing == Doing::Nothing && !task.last_failed && self.latest(task, end) <= now && now < end
        });
        for load in due.map(|(load, _)| load.clone()).collect::<Vec<_>>() {
            self.with(&load, |task| task.doing = Doing::Checkpointing { last: true });
            acts.push(Act::Checkpoint { load, last: true });
        }
    }

    /// Begins what there is room for. Says which moves fit before the deadline, as far as that can be predicted.
    fn moves(&mut self, now: Millis, acts: &mut Vec<Act>) -> Vec<WorkloadName> {
        let mut order: Vec<(&WorkloadName, &Task)> =
            self.tasks.iter().filter(|(_, task)| self.can_move(task)).collect();
        order.sort_by_key(|(load, task)| {
            let Prospect { priority, chance, pause_ms, move_ms, .. } = task.prospect;
            (task.failed, Reverse(priority), Reverse(chance), pause_ms, move_ms, (*load).clone())
        });
        let moving = self.tasks.values().filter(|task| task.doing == Doing::Moving);
        let (busy, ahead) = moving.fold((0, 0), |(busy, ahead), task| (busy + 1, ahead + task.prospect.move_ms));
        let lanes = self.rules.moves_at_once.max(1) as u64;
        let (mut fits, mut begun, mut ahead) = (Vec::new(), Vec::new(), ahead);
        for (load, task) in order {
            let needed = ahead + task.prospect.move_ms;
            if self.deadline.is_some_and(|end| now.0 + self.slack(needed / lanes) + self.rules.reserve > end.0) {
                continue;
            }
            ahead = needed;
            fits.push(load.clone());
            if busy + begun.len() < self.rules.moves_at_once
                && let Some(to) = task.prospect.to.clone()
            {
                begun.push((load.clone(), to));
            }
        }
        for (load, to) in begun {
            self.with(&load, |task| task.doing = Doing::Moving);
            acts.push(Act::Move { load, to });
        }
        fits
    }

    /// What does not fit is made safe at once.
    fn checkpoints(&mut self, fits: &[WorkloadName], acts: &mut Vec<Act>) {
        if self.deadline.is_none() {
            return;
        }
        let busy = self.tasks.values().filter(|task| matches!(task.doing, Doing::Checkpointing { .. })).count();
        let mut unsafe_ones: Vec<(&WorkloadName, &Task)> = self
            .tasks
            .iter()
            .filter(|(load, task)| {
                task.doing == Doing::Nothing && task.checkpointed.is_none() && !task.last_failed && !fits.contains(load)
            })
            .collect();
        unsafe_ones.sort_by_key(|(load, task)| (Reverse(task.prospect.priority), (*load).clone()));
        let room = self.rules.checkpoints_at_once.saturating_sub(busy);
        for load in unsafe_ones.into_iter().take(room).map(|(load, _)| load.clone()).collect::<Vec<_>>() {
            self.with(&load, |task| task.doing = Doing::Checkpointing { last: false });
            acts.push(Act::Checkpoint { load, last: false });
        }
    }

    fn can_move(&self, task: &Task) -> bool {
        task.doing == Doing::Nothing && task.failed < self.rules.attempts && task.prospect.to.is_some()
    }

    /// When its last checkpoint must begin.
    fn latest(&self, task: &Task, end: Millis) -> Millis {
        Millis(end.0.saturating_sub(self.slack(task.prospect.checkpoint_ms) + self.rules.reserve))
    }

    fn slack(&self, predicted: u64) -> u64 {
        predicted + predicted * self.rules.slack_percent / 100
    }

    /// Whether nothing is under way, and nothing can be begun any more; or time is up.
    fn is_over(&self, now: Millis) -> bool {
        let over = |task: &Task| match task.doing {
            Doing::Moved | Doing::HandedOver => true,
            Doing::Moving | Doing::Checkpointing { .. } => false,
            Doing::Nothing => self.deadline.is_none() && task.failed >= self.rules.attempts,
        };
        self.tasks.values().all(over) || self.deadline.is_some_and(|end| now >= end)
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        for (load, task) in &self.tasks {
            let list = match task.doing {
                Doing::Moved => &mut report.moved,
                Doing::HandedOver => &mut report.handed_over,
                _ if task.checkpointed == Some(true) => &mut report.checkpointed,
                _ => &mut report.left,
            };
            list.push(load.clone());
        }
        report
    }
}
