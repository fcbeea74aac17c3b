//! How many bytes, and when which phase: for progress lines and for the report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use migrate_proto::api::MoveProgress;
use migrate_proto::phase::Phase;
use tokio::sync::watch;

/// Counts one handover. Shared by everybody who moves bytes for it.
#[derive(Debug)]
pub struct Meter {
    begun: Instant,
    memory: AtomicU64,
    files: AtomicU64,
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
            sent: zero(),
            expected: zero(),
            phase: watch::channel(Phase::Negotiate).0,
        }
    }
}

impl Meter {
    /// When the handover was asked for.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// A chunk of memory images: raw bytes, and what crosses.
    pub fn memory(&self, raw: u64, sent: u64) {
        self.memory.fetch_add(raw, Ordering::Relaxed);
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
        self.memory_bytes() + self.file_bytes()
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
