//! What happened on this node, for `migrate events`: the last ten thousand events in memory, and a file that survives
//! the agent.
//!
//! A reader is a place, that of the next event it wants: it first takes what is kept and then waits for more, so that nothing
//! falls between replay and live. A reader that is slower than ten thousand events is told how many it missed. Every event has
//! a number, which rises also over the agent's death: with it a reader goes on after its connection broke.
//!
//! The file is a convenience for people, not a journal: it is not synced, and where it cannot be written (a full disk)
//! the agent says so in its log and goes on.

pub mod everywhere;
mod file;
pub mod timestamp;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use migrate_proto::api::{Event, MoveFigures};
use migrate_proto::name::{NodeName, WorkloadName};
use migrate_proto::phase::Phase;
use thiserror::Error;
use tokio::sync::watch;

use file::EventFile;

/// How many events are kept in memory.
pub const KEPT: usize = 10_000;

/// Longer messages are cut, so that the file's bound holds.
const LONGEST_MESSAGE: usize = 4096;

/// How many events a reader takes at once.
const BATCH: usize = 256;

/// Why the event log could not be opened.
#[derive(Debug, Error)]
pub enum EventError {
    /// The directory could not be made.
    #[error("cannot create the directory {path} for events: {source}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could not be opened or read.
    #[error("cannot open the event file {path}: {source}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where the time of events comes from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970, UTC.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What happened: the first word of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A workload was started.
    Started,
    /// A workload ended by itself.
    Ended,
    /// A workload has ended and begins again.
    Restarting,
    /// A workload is not begun again, although that was its policy.
    Failed,
    /// A workload is well.
    Healthy,
    /// A workload is ill, or hangs.
    Unhealthy,
    /// A checkpoint was taken because somebody asked for it.
    Checkpointed,
    /// A workload was brought back from a checkpoint.
    Restored,
    /// A workload was stopped.
    Stopped,
    /// A workload was forgotten.
    Removed,
    /// A move began, or entered a phase.
    Moving,
    /// A workload moved away.
    Moved,
    /// A workload came here.
    Arrived,
    /// A move failed; the workload runs where it was.
    Stayed,
    /// A restarted agent found a workload that ran on without it.
    Adopted,
    /// A workload stands still: its node has no lease.
    Frozen,
    /// It goes on.
    Thawed,
    /// Other cluster keys are in force.
    Keys,
    /// This node, or another, has joined the cluster.
    NodeJoined,
    /// Another node does not answer.
    NodeSuspect,
    /// It answers again.
    NodeBack,
    /// It is taken for dead.
    NodeDead,
    /// It has said goodbye.
    NodeLeft,
    /// Another node leads.
    Leader,
    /// The lease of a node is over, and its workloads are brought back elsewhere.
    Fenced,
    /// A workload that has lost its node goes on elsewhere.
    Recovering,
    /// A workload was brought back here after its node was lost.
    Recovered,
    /// This node gives its workloads away, or takes some again.
    Draining,
    /// A workload waits for a node.
    Waits,
    /// The agent began.
    AgentStarted,
    /// The agent ends.
    AgentStopped,
    /// Something a person should know.
    Warning,
}

impl Kind {
    /// Its name in JSON and the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Started => "started",
            Kind::Ended => "ended",
            Kind::Restarting => "restarting",
            Kind::Failed => "failed",
            Kind::Healthy => "healthy",
            Kind::Unhealthy => "unhealthy",
            Kind::Checkpointed => "checkpointed",
            Kind::Restored => "restored",
            Kind::Stopped => "stopped",
            Kind::Removed => "removed",
            Kind::Moving => "moving",
            Kind::Moved => "moved",
            Kind::Arrived => "arrived",
            Kind::Stayed => "stayed",
            Kind::Adopted => "adopted",
            Kind::Frozen => "frozen",
            Kind::Thawed => "thawed",
            Kind::Keys => "keys",
            Kind::NodeJoined => "node-joined",
            Kind::NodeSuspect => "node-suspect",
            Kind::NodeBack => "node-back",
            Kind::NodeDead => "node-dead",
            Kind::NodeLeft => "node-left",
            Kind::Leader => "leader",
            Kind::Fenced => "fenced",
            Kind::Recovering => "recovering",
            Kind::Recovered => "recovered",
            Kind::Draining => "draining",
            Kind::Waits => "waits",
            Kind::AgentStarted => "agent-started",
            Kind::AgentStopped => "agent-stopped",
            Kind::Warning => "warning",
        }
    }
}

/// The event log of a node. Clones are the same log.
#[derive(Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeName,
    clock: Box<dyn Clock>,
    kept: Mutex<Kept>,
    /// The number that the next event will have.
    next: watch::Sender<u64>,
}

struct Kept {
    ring: VecDeque<Timed>,
    /// The place of the ring's front among all events since the agent began.
    first: u64,
    /// The number of the newest event.
    newest: u64,
    file: EventFile,
}

struct Timed {
    at_ms: u64,
    event: Event,
}

impl EventLog {
    /// Opens the log in `dir`, which is made where it is missing, and reads what an earlier agent left there.
    pub fn open(dir: &Path, node: NodeName, clock: impl Clock) -> Result<EventLog, EventError> {
        let (file, events) = EventFile::open(dir)?;
        let mut newest = 0;
        let mut ring: VecDeque<Timed> = events.into_iter().filter_map(|event| timed(event, &mut newest)).collect();
        ring.drain(..ring.len().saturating_sub(KEPT));
        let next = watch::Sender::new(ring.len() as u64);
        let kept = Mutex::new(Kept { ring, first: 0, newest, file });
        Ok(EventLog { shared: Arc::new(Shared { node, clock: Box::new(clock), kept, next }) })
    }

    /// Keeps an event, writes it to the file and to the agent's log, and wakes those who follow.
    pub fn record(
        &self,
        kind: Kind,
        workload: Option<&WorkloadName>,
        phase: Option<Phase>,
        message: impl Into<String>,
    ) {
        self.keep(kind, self.event(kind, workload, phase, shorten(message.into())));
    }

    /// The same, of a move that is over: with what it took.
    pub fn record_move(&self, kind: Kind, workload: &WorkloadName, message: impl Into<String>, figures: MoveFigures) {
        let event = self.event(kind, Some(workload), None, shorten(message.into()));
        self.keep(kind, Event { figures: Some(figures), ..event });
    }

    fn keep(&self, kind: Kind, mut event: Event) {
        log(kind, &event);
        let written = {
            let mut kept = self.kept();
            // Under the lock, so that times rise with numbers.
            let at_ms = self.shared.clock.now_ms();
            event.at = timestamp::format(at_ms);
            event.number = kept.number_at(at_ms);
            let written = kept.file.append(&event);
            kept.push(Timed { at_ms, event });
            self.shared.next.send_replace(kept.next());
            written
        };
        if let Err(error) = written {
            tracing::warn!("an event is kept in memory only: {error}");
        }
    }

    /// The events with a number above `after` that are not older than `since` (all that are kept where absent), oldest first. With
    /// `follow` the stream goes on with what happens from now on, and never ends.
    pub fn read(&self, since: Option<Duration>, after: u64, follow: bool) -> BoxStream<'static, Event> {
        let age_ms = since.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let not_before = age_ms.map_or(0, |age| self.shared.clock.now_ms().saturating_sub(age));
        let changes = self.shared.next.subscribe();
        let end = if follow { u64::MAX } else { *changes.borrow() };
        let next = self.kept().first;
        let reader = Reader { log: self.clone(), changes, next, end, not_before, after };
        stream::unfold(reader, |mut reader| async { Some((reader.batch().await?, reader)) })
            .flat_map(stream::iter)
            .boxed()
    }

    /// Something that whoever reads now should know, and that is not kept.
    pub fn remark(&self, message: impl Into<String>) -> Event {
        self.event(Kind::Warning, None, None, shorten(message.into()))
    }

    fn event(&self, kind: Kind, workload: Option<&WorkloadName>, phase: Option<Phase>, message: String) -> Event {
        let at = timestamp::format(self.shared.clock.now_ms());
        Event {
            number: 0,
            at,
            node: self.shared.node.clone(),
            workload: workload.cloned(),
            kind: kind.as_str().to_owned(),
            phase,
            message,
            figures: None,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic under this lock leaves at worst one event unkept.
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// The number of an event that happens now. It is made from the time: what was written last may be lost with the machine's
    /// power, and a number must not be given twice.
    fn number_at(&mut self, at_ms: u64) -> u64 {
        self.newest = number_after(self.newest, at_ms);
        self.newest
    }

    fn push(&mut self, timed: Timed) {
        if self.ring.len() == KEPT {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(timed);
    }
}

struct Reader {
    log: EventLog,
    changes: watch::Receiver<u64>,
    /// The place of the event it wants next.
    next: u64,
    /// The place at which it ends.
    end: u64,
    not_before: u64,
    /// The number of the last event that it has.
    after: u64,
}

impl Reader {
    /// The next events; waits until there are some. `None` at the end.
    async fn batch(&mut self) -> Option<Vec<Event>> {
        while self.next < self.end {
            let batch = self.take();
            if !batch.is_empty() {
                return Some(batch);
            }
            let (next, end) = (self.next, self.end);
            if next < end {
                // The log is ours too, so its sender lives.
                self.changes.wait_for(|newest| *newest > next).await.ok()?;
            }
        }
        None
    }

    fn take(&mut self) -> Vec<Event> {
        let kept = self.log.kept();
        let mut batch = Vec::new();
        if self.next < kept.first {
            let missed = kept.first - self.next;
            let message = format!("{missed} events were left out: the reader is too slow");
            batch.push(self.log.remark(message));
            self.next = kept.first;
        }
        let skip = usize::try_from(self.next - kept.first).unwrap_or(usize::MAX);
        let until_end = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        for timed in kept.ring.iter().skip(skip).take(until_end) {
            self.next += 1;
            if timed.at_ms >= self.not_before && timed.event.number > self.after {
                batch.push(timed.event.clone());
            }
            if batch.len() >= BATCH {
                break;
            }
        }
        batch
    }
}

/// `None` for a line whose time nobody can read. Earlier agents gave no numbers.
fn timed(mut event: Event, newest: &mut u64) -> Option<Timed> {
    let at_ms = timestamp::parse(&event.at)?;
    if event.number <= *newest {
        event.number = number_after(*newest, at_ms);
    }
    *newest = event.number;
    Some(Timed { at_ms, event })
}

fn number_after(newest: u64, at_ms: u64) -> u64 {
    (newest + 1).max(at_ms.saturating_mul(1000))
}

fn shorten(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE - '…'.len_utf8()));
        message.push('…');
    }
    message
}

fn log(kind: Kind, event: &Event) {
    let workload = event.workload.as_ref().map(WorkloadName::as_str);
    let phase = event.phase.map(Phase::as_str);
    match kind {
        Kind::Warning => tracing::warn!(kind = kind.as_str(), workload, phase, "{}", event.message),
        _ => tracing::info!(kind = kind.as_str(), workload, phase, "{}", event.message),
    }
}
