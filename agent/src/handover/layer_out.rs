//! The layer on its way out: copied while the workload runs, round by round, so that little is left for the pause.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use migrate_image::layer::{LayerSource, Options, RoundStats};
use migrate_image::pace::SharedPace;
use migrate_proto::error::Problem;
use migrate_proto::id::Digest;
use migrate_sandbox::Sandbox;
use tokio::sync::mpsc;

use super::dump::{internal, send_chunks};
use super::meter::Meter;
use crate::talk::Speaker;

/// Copying ahead ends when a round found less than this changed …
const SMALL_ROUND: u64 = 4 << 20;
/// … or after this many rounds: a workload that writes faster than the link is left for the pause.
const MOST_ROUNDS: u32 = 6;
const QUEUE_CHUNKS: usize = 4;

/// A layer that is being sent.
#[derive(Clone)]
pub struct LayerOut {
    source: Arc<Mutex<LayerSource>>,
    sandbox: Sandbox,
    speaker: Speaker,
    meter: Arc<Meter>,
}

/// What is known after the last round.
pub struct Sent {
    /// The layer's size.
    pub size: u64,
    /// The digest of what the target must have.
    pub digest: Digest,
}

impl LayerOut {
    /// Nothing has been sent yet.
    pub fn open(path: &std::path::Path, sandbox: Sandbox, speaker: Speaker, meter: Arc<Meter>, pace: SharedPace) -> Result<LayerOut, Problem> {
        let source = LayerSource::open(path, Options { pace, ..Options::default() }).map_err(internal)?;
        Ok(LayerOut { source: Arc::new(Mutex::new(source)), sandbox, speaker, meter })
    }

    /// Copies while the workload runs. Returns how many bytes were sent, raw, and in how many rounds.
    pub async fn ahead(&self) -> Result<(u64, u32), Problem> {
        let mut changed = 0;
        for round in 1..=MOST_ROUNDS {
            let stats = self.round(Before::Sync).await?.stats;
            changed += stats.changed_bytes;
            if stats.changed_bytes < SMALL_ROUND {
                return Ok((changed, round));
            }
        }
        Ok((changed, MOST_ROUNDS))
    }

    /// Sends what has changed, while the workload stands still; then, when `criu_done` says that CRIU, too, writes no
    /// more, what CRIU has changed.
    pub async fn last(&self, criu_done: impl Future<Output = Result<(), Problem>>) -> Result<Sent, Problem> {
        let early = self.round(Before::Settle).await?;
        criu_done.await?;
        let written = self.written();
        if written.is_none() || written != early.written {
            self.round(Before::Settle).await?;
        }
        let source = self.source.clone();
        let sent = move || {
            let source = source.lock().unwrap_or_else(PoisonError::into_inner);
            Sent { size: source.size(), digest: source.digest() }
        };
        tokio::task::spawn_blocking(sent).await.map_err(internal)
    }

    async fn round(&self, before: Before) -> Result<Round, Problem> {
        let (chunks, queue) = mpsc::channel(QUEUE_CHUNKS);
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || -> Result<Round, Problem> {
            let mounted = this.sandbox.mounted_layer().map_err(internal)?;
            match before {
                Before::Sync => mounted.sync().map_err(internal)?,
                Before::Settle => mounted.settle().map_err(internal)?,
            }
            let written = this.written();
            let stats = this.source.lock().unwrap_or_else(PoisonError::into_inner).round(&chunks).map_err(internal)?;
            Ok(Round { stats, written })
        });
        let meter = self.meter.clone();
        send_chunks(queue, self.speaker.clone(), move |raw, sent| meter.files(raw, sent)).await?;
        work.await.map_err(internal)?
    }

    /// How much has ever been written to the layer's device, if the kernel tells. Two equal answers around an idle file
    /// system mean that nothing has changed. What is only in the cache is written first.
    fn written(&self) -> Option<u64> {
        self.sandbox.mounted_layer().ok()?.sync().ok()?;
        let path = format!("/proc/{}/root{}", self.sandbox.init().pid, migrate_sandbox::plan::LAYER_MOUNT);
        let device = std::fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
        stat.split_ascii_whitespace().nth(6)?.parse().ok()
    }
}

/// What makes the file show what the workload wrote.
#[derive(Clone, Copy)]
enum Before {
    /// It goes on writing: good enough to copy ahead.
    Sync,
    /// It stands still: any node can mount the result.
    Settle,
}

struct Round {
    stats: RoundStats,
    written: Option<u64>,
}
