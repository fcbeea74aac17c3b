//! How many bytes, and when which phase: for progress lines and for the report.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use migrate_proto::api::{Mode, MoveFigures, MoveProgress, MoveReport, Outcome, PhaseTime};
use migrate_proto::error::Problem;
use migrate_proto::handover::{Terms, Timeline};
use migrate_proto::phase::Phase;
use tokio::sync::watch;

use crate::clock;
use crate::predict::{Forecast, Move, Size};

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
    /// What there is to move, and what was expected of that.
    foreseen: OnceLock<(Size, Forecast)>,
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
            foreseen: OnceLock::new(),
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

    /// How much there is to move, and what that is expected to take.
    pub fn foresee(&self, size: Size, forecast: Forecast) {
        let _ = self.foreseen.set((size, forecast));
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
            predicted_downtime_ms: self.foreseen.get().map(|(_, forecast)| forecast.downtime_ms),
            predicted_total_ms: self.foreseen.get().map(|(_, forecast)| forecast.total_ms),
        }
    }

    /// What can be learned from a move that took place. `None` where an earlier agent began it.
    pub fn seen(&self, report: &MoveReport) -> Option<Move> {
        let (size, forecast) = *self.foreseen.get()?;
        let phase = |name| report.phases.iter().find(|phase| phase.name == name).map_or(0.0, |phase| phase.ms);
        Some(Move {
            size,
            sent: report.bytes_sent,
            copy_ms: phase(Phase::Prepare),
            restore_ms: phase(Phase::Restore),
            downtime_ms: report.downtime_ms?,
            total_ms: report.total_ms,
            expected: Some(forecast),
        })
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

/// The measured times, each beside the one that was predicted.
pub(super) fn figures(report: &MoveReport) -> MoveFigures {
    MoveFigures {
        downtime_ms: report.downtime_ms,
        predicted_downtime_ms: report.predicted_downtime_ms,
        total_ms: report.total_ms,
        predicted_total_ms: report.predicted_total_ms,
    }
}

/// The same, to follow where it moved to.
pub(super) fn in_words(report: &MoveReport) -> String {
    let expected = |ms: Option<f64>| ms.map(|ms| format!(" (predicted {ms:.0})")).unwrap_or_default();
    let MoveReport { downtime_ms, total_ms, .. } = report;
    let pause = downtime_ms.map(|ms| format!(", paused for {ms:.0} ms{}", expected(report.predicted_downtime_ms)));
    format!(" in {total_ms:.0} ms{}{}", expected(report.predicted_total_ms), pause.unwrap_or_default())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
