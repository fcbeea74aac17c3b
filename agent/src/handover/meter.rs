//! How many bytes, and when which phase: for progress lines and for the report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use migrate_proto::api::{Mode, MoveProgress, MoveReport, Outcome, PhaseTime};
use migrate_proto::error::Problem;
use migrate_proto::handover::{Terms, Timeline};
use migrate_proto::phase::Phase;
use tokio::sync::watch;

use crate::clock;

/// Counts one handover. Shared by everybody who moves bytes for it.
#[derive(Debug)]
pub struct Meter {
    begun: Instant,
    memory: AtomicU64,
    files: AtomicU64,
    ahead: AtomicU64,
    sent: AtomicU64,
    expected: AtomicU64,
    phase: watch::Sender<Phase>,
}

impl Default for Meter {
    fn default() -> Meter {
        let zero = AtomicU64::default;
        Meter {
            begun: Instant::now(),
            memory: zero(),
            files: zero(),
            ahead: zero(),
            sent: zero(),
            expected: zero(),
            phase: watch::channel(Phase::Negotiate).0,
        }
    }
}

impl Meter {
    /// A chunk of memory images: raw bytes, and what crosses.
    pub fn memory(&self, raw: u64, sent: u64) {
        self.memory.fetch_add(raw, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// A chunk of memory that is copied ahead. It comes on top of what was expected, and is not counted as an image.
    pub fn ahead(&self, raw: u64, sent: u64) {
        self.ahead.fetch_add(raw, Ordering::Relaxed);
        self.expected.fetch_add(raw, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// A chunk of the layer.
    pub fn files(&self, raw: u64, sent: u64) {
        self.files.fetch_add(raw, Ordering::Relaxed);
        self.sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// How much there will be, about.
    pub fn expect(&self, bytes: u64) {
        self.expected.store(bytes, Ordering::Relaxed);
    }

    /// A phase begins.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Follows the phases.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Memory images so far, raw.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Files so far, raw.
    pub fn file_bytes(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// What has crossed so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Rises whenever anything moved.
    pub fn moved(&self) -> u64 {
        self.memory_bytes() + self.file_bytes() + self.ahead.load(Ordering::Relaxed)
    }

    /// What the handover was.
    pub fn report(
        &self,
        terms: &Terms,
        timeline: &Timeline,
        outcome: Outcome,
        error: Option<Problem>,
        pause: Option<Duration>,
        rounds: u32,
    ) -> MoveReport {
        let moved = outcome == Outcome::Moved;
        let phases = timeline.durations(clock::now());
        MoveReport {
            workload: terms.workload.clone(),
            from: terms.from.clone(),
            to: Some(terms.to.clone()),
            outcome,
            mode: Mode::Stream,
            downtime_ms: pause.filter(|_| moved).map(milliseconds),
            total_ms: milliseconds(self.begun.elapsed()),
            rounds,
            bytes_memory: self.memory_bytes(),
            bytes_files: self.file_bytes(),
            bytes_sent: self.sent_bytes(),
            epoch: if moved { terms.epoch.next() } else { terms.epoch },
            phases: phases.into_iter().map(|(name, ms)| PhaseTime { name, ms: ms as f64 }).collect(),
            error,
            predicted_downtime_ms: None,
            predicted_total_ms: None,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> MoveProgress {
        let bytes = self.moved();
        MoveProgress {
            phase: *self.phase.borrow(),
            bytes,
            bytes_sent: self.sent_bytes(),
            bytes_expected: self.expected.load(Ordering::Relaxed).max(bytes),
            elapsed_ms: self.begun.elapsed().as_millis() as u64,
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
