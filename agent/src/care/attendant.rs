//! One workload's attendant: sees what it does, asks it whether it is well, and has `restart` do what follows.
//!
//! Nothing here is remembered that matters: an attendant that begins looks at the record. It changes the workload only while it holds its
//! turn, and leaves it alone while it moves, is frozen or is changed by somebody else.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_proto::api::Exit;
use migrate_proto::care::health::{Act, Event, Health, Word};
use migrate_proto::care::restart::{End, Policy, Stage};
use migrate_proto::care::trust::Place;
use migrate_proto::care::{Chart, Watch, shorten};
use migrate_sandbox::Sandbox;
use tokio::sync::watch;

use super::pulse::Pulse;
use super::{probe, restart, wall_clock};
use crate::handover::Ground;
use crate::registry::Doing;
use crate::workload::Workload;
use crate::{clock, ledger};

/// Nothing is due, and what happens is mostly heard of.
const IDLE: Duration = Duration::from_millis(500);
/// Somebody else has the workload at the moment, or its end is just being written down.
const SOON: Duration = Duration::from_millis(50);

/// Two rounds are never so far apart, unless this agent was stopped or got no processor.
const LATE: Duration = Duration::from_secs(2);

type Answer = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// What there is to do about the workload now.
enum Seen {
    /// It is another's, or gone: there is nothing to do any more.
    Gone,
    /// Somebody else has it, or it stands still.
    Elsewhere,
    /// It runs.
    Runs(Sandbox),
    /// It has ended, and nothing follows from that yet.
    Ended(End),
    /// It is begun again after so many milliseconds.
    Waits(u64),
    /// A person has stopped it, and its policy is that this ends with the agent.
    Wakes,
    /// It has ended, and stays so.
    Rests,
}

/// See the module.
pub(super) struct Attendant {
    ground: Ground,
    workload: Arc<Workload>,
    ended: watch::Receiver<Option<Exit>>,
    /// An agent has just begun: what was stopped before may be begun again.
    agent_began: bool,
    /// Of the workload in this sandbox.
    monitor: Option<Monitor>,
    /// Why it was ended here, until its end is seen.
    ill: Option<String>,
}

struct Monitor {
    sandbox: Sandbox,
    watch: Watch,
    limit: Duration,
    health: Health,
    /// Why it is ill, where it is.
    why: Option<String>,
    pulse: Pulse,
    /// What it is being asked.
    answer: Option<Answer>,
    /// The newest checkpoint when it was asked, and when its signs of life were looked at last.
    asked: Option<Place>,
    looked: Option<Place>,
    /// It was well after this checkpoint had been taken.
    vouched: Option<Place>,
}

impl Attendant {
    pub(super) fn new(ground: Ground, workload: Arc<Workload>, agent_began: bool) -> Attendant {
        let ended = workload.ended();
        Attendant { ground, workload, ended, agent_began, monitor: None, ill: None }
    }

    /// Follows the workload until it is not this node's any more.
    pub(super) async fn run(mut self) {
        let mut last = Instant::now();
        loop {
            // This agent stood still, and the workload perhaps with it: nobody is judged by that time.
            if last.elapsed() > LATE {
                self.pause();
            }
            last = Instant::now();
            let pause = match self.look() {
                Seen::Gone => return,
                Seen::Elsewhere => {
                    self.pause();
                    SOON
                }
                Seen::Runs(sandbox) => self.care(sandbox).await,
                Seen::Ended(end) => {
                    self.monitor = None;
                    if restart::account(&self.ground, &self.workload, &end).await {
                        self.ill = None;
                    }
                    SOON
                }
                Seen::Waits(0) => {
                    restart::bring_back(&self.ground, &self.workload).await;
                    SOON
                }
                Seen::Wakes => {
                    restart::wake(&self.workload).await;
                    SOON
                }
                Seen::Waits(left_ms) => IDLE.min(Duration::from_millis(left_ms)),
                Seen::Rests => {
                    self.monitor = None;
                    IDLE
                }
            };
            self.agent_began = false;
            self.wait(pause).await;
        }
    }

    fn look(&self) -> Seen {
        let known = self.ground.registry.get(self.workload.name());
        if known.is_none_or(|known| !Arc::ptr_eq(&known, &self.workload)) {
            return Seen::Gone;
        }
        let record = self.workload.record();
        if !record.owned || self.workload.is_moving() || self.workload.doubt().is_some() {
            return Seen::Elsewhere;
        }
        match record.doing {
            Doing::Starting | Doing::Arriving => Seen::Elsewhere,
            // Its end is just being written down.
            Doing::Running if self.ended.borrow().is_some() => Seen::Elsewhere,
            Doing::Running => self.workload.sandbox().map_or(Seen::Elsewhere, Seen::Runs),
            Doing::Stopped(exit) => self.look_at_end(&record.care, exit.map(|exit| self.end(exit))),
            Doing::Lost(why) => self.look_at_end(&record.care, Some(End::Lost(why))),
            // Whoever could not start it was told.
            Doing::Failed(_) => self.look_at_end(&record.care, None),
        }
    }

    fn end(&self, exit: Exit) -> End {
        self.ill.clone().map_or(End::Exit(exit), End::Ill)
    }

    fn look_at_end(&self, chart: &Chart, end: Option<End>) -> Seen {
        if chart.held {
            let wakes = self.agent_began && chart.wish.restart == Policy::Always;
            return if wakes { Seen::Wakes } else { Seen::Rests };
        }
        match (chart.past.stage(), end) {
            (Stage::Up, Some(end)) => Seen::Ended(end),
            (Stage::Up, None) | (Stage::AtRest, _) => Seen::Rests,
            (Stage::Waiting { .. }, _) => chart.past.waits_ms(wall_clock()).map_or(Seen::Rests, Seen::Waits),
        }
    }

    /// What was asked is not answered by who stands still.
    fn pause(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            monitor.answer = None;
            monitor.step(Event::Paused);
        }
    }

    /// Looks after a workload that runs; says how long there is nothing more to do.
    async fn care(&mut self, sandbox: Sandbox) -> Duration {
        let chart = self.workload.chart();
        let Some(watch) = chart.wish.watch.clone() else {
            // Nothing is known to the contrary.
            return self.note(Word::None, None, true).await;
        };
        let is_same = self.monitor.as_ref().is_some_and(|monitor| monitor.sandbox.dir() == sandbox.dir());
        if !is_same {
            self.ground.host.checkpoints().trusts(self.workload.name(), self.workload.record().trust);
            self.monitor = Some(Monitor::new(sandbox, watch, &chart));
            self.ill = None;
        }
        let Some(monitor) = &mut self.monitor else { return IDLE };
        monitor.look(&self.ground, &self.workload).await;
        if let Some(up_to) = monitor.vouched {
            restart::vouch(&self.ground, &self.workload, up_to).await;
        }
        let (word, why, pause) = (monitor.health.word(), monitor.why.clone(), monitor.pause());
        if word.is_ill() && restart::stands_still(&self.ground, &self.workload).await {
            self.pause();
            return SOON;
        }
        match word.is_ill() && chart.is_ended_when_ill() {
            true => self.end_ill(word, why.unwrap_or_default()).await,
            false => self.note(word, why, word == Word::Healthy).await.min(pause),
        }
    }

    /// Writes down how it is, where that is news.
    async fn note(&mut self, word: Word, ill: Option<String>, well: bool) -> Duration {
        if restart::note(&self.ground, &self.workload, word, ill, well).await { IDLE } else { SOON }
    }

    /// It does not come to an end by itself: everything that it is made of is ended, and what follows is its policy's affair.
    async fn end_ill(&mut self, word: Word, why: String) -> Duration {
        if self.ill.is_some() {
            // Who does not even end when killed may have been born meanwhile.
            restart::kill(&self.ground, &self.workload).await;
            return IDLE;
        }
        if restart::end_ill(&self.ground, &self.workload, word, &why).await {
            self.ill = Some(why);
        }
        SOON
    }

    /// Until something happens, or so long.
    async fn wait(&mut self, pause: Duration) {
        let answer = async {
            match self.monitor.as_mut().and_then(|monitor| monitor.answer.as_mut()) {
                Some(answer) => answer.await,
                None => pending().await,
            }
        };
        let answered = tokio::select! {
            answer = answer => Some(answer),
            // The workload lives as long as this.
            _ = self.ended.changed() => None,
            () = tokio::time::sleep(pause) => None,
        };
        if let (Some(answer), Some(monitor)) = (answered, &mut self.monitor) {
            monitor.answer = None;
            if answer.is_ok() {
                monitor.vouched = monitor.vouched.max(monitor.asked);
            }
            monitor.step(answer.map_or_else(Event::Failed, |()| Event::Passed));
        }
    }
}

impl Monitor {
    fn new(sandbox: Sandbox, watch: Watch, chart: &Chart) -> Monitor {
        let timing = chart.wish.timing;
        Monitor {
            health: Health::new(&watch, timing, chart.health, clock::now()),
            limit: Duration::from_millis(timing.timeout_ms),
            why: None,
            pulse: Pulse::default(),
            answer: None,
            asked: None,
            looked: None,
            vouched: None,
            sandbox,
            watch,
        }
    }

    /// Whether it has to be asked now.
    fn step(&mut self, event: Event) -> bool {
        match self.health.step(clock::now(), event) {
            Some(Act::Probe) => return true,
            Some(Act::Say(_, why)) => self.why = why.map(|why| shorten(&why)),
            None => {}
        }
        false
    }

    /// Looks for a sign of life, and asks when it is time.
    async fn look(&mut self, ground: &Ground, workload: &Arc<Workload>) {
        self.step(Event::Resumed);
        let newest = (workload.record().epoch, ledger::numbered(&ground.host, workload));
        if self.pulse_pause_ms().is_some() {
            if self.has_pulse().await {
                self.vouched = self.vouched.max(self.looked);
                self.step(Event::Pulse);
            }
            // What there was before these signs were looked at is older than the next one.
            self.looked = Some(newest);
        }
        if self.step(Event::Tick) {
            self.asked = Some(newest);
            let (host, workload) = (ground.host.clone(), workload.clone());
            let (watch, limit) = (self.watch.clone(), self.limit);
            self.answer = Some(Box::pin(async move { probe::ask(&host, &workload, &watch, limit).await }));
        }
    }

    async fn has_pulse(&mut self) -> bool {
        let (mut pulse, sandbox) = (std::mem::take(&mut self.pulse), self.sandbox.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let there = pulse.look(&sandbox);
            (pulse, there)
        });
        let there;
        (self.pulse, there) = looked.await.unwrap_or_default();
        there
    }

    /// How long there is nothing to do.
    fn pause(&self) -> Duration {
        let left = self.health.deadline().map(|at| at.0.saturating_sub(clock::now().0));
        let soonest = [left, self.pulse_pause_ms()].into_iter().flatten().min();
        soonest.map_or(IDLE, |ms| Duration::from_millis(ms.max(1)))
    }

    fn pulse_pause_ms(&self) -> Option<u64> {
        match self.watch {
            Watch::Pulse(period_ms) => Some(Pulse::pause_ms(period_ms)),
            Watch::Command(_) | Watch::Tcp(_) | Watch::Http(_) => None,
        }
    }
}
