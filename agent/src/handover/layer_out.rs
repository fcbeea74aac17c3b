//! The layer on its way out: copied while the workload runs, round by round, so that little is left for the pause.

use std::sync::{Arc, Mutex, PoisonError};

use migrate_image::layer::{LayerSource, Options, RoundStats};
use migrate_image::pace::SharedPace;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Digest;
use migrate_sandbox::Sandbox;
use tokio::sync::mpsc;

use super::meter::Meter;
use super::outlet::{Outlet, send_chunks};

/// Copying ahead ends when a round found less than this changed …
const SMALL_ROUND: u64 = 4 << 20;
/// … or after this many rounds: a workload that writes faster than the link is left for the pause.
const MOST_ROUNDS: u32 = 6;
const QUEUE_CHUNKS: usize = 4;

/// A layer that is being sent.
#[derive(Clone)]
pub(crate) struct LayerOut {
    source: Arc<Mutex<LayerSource>>,
    sandbox: Sandbox,
    outlet: Arc<dyn Outlet>,
    meter: Arc<Meter>,
}

/// What is known after the last round.
pub(crate) struct Sent {
    /// The layer's size.
    pub(crate) size: u64,
    /// The digest of what the target must have.
    pub(crate) digest: Digest,
}

impl LayerOut {
    /// Nothing has been sent yet.
    pub(crate) fn open(
        path: &std::path::Path,
        sandbox: Sandbox,
        outlet: Arc<dyn Outlet>,
        meter: Arc<Meter>,
        pace: SharedPace,
    ) -> Result<LayerOut, Problem> {
        let source = LayerSource::open(path, Options { pace, ..Options::default() }).map_err(Problem::internal)?;
        Ok(LayerOut { source: Arc::new(Mutex::new(source)), sandbox, outlet, meter })
    }

    /// Copies while the workload runs. Returns how many bytes were sent, raw, and in how many rounds.
    pub(crate) async fn ahead(&self) -> Result<(u64, u32), Problem> {
        let mut changed = 0;
        for round in 1..=MOST_ROUNDS {
            let stats = self.round().await?.stats;
            changed += stats.changed_bytes;
            if stats.changed_bytes < SMALL_ROUND {
                return Ok((changed, round));
            }
        }
        Ok((changed, MOST_ROUNDS))
    }

    /// Sends what has changed, while the workload stands still; then, when `criu_done` says that CRIU, too, writes no
    /// more, what CRIU has changed. What was sent in the end is one instant of the file system.
    pub(crate) async fn last(&self, criu_done: impl Future<Output = Result<(), Problem>>) -> Result<Sent, Problem> {
        let mut round = self.round().await?;
        criu_done.await?;
        let mut rounds = 0;
        while round.stood_still != Some(self.written_so_far().await?) {
            rounds += 1;
            if rounds > MOST_ROUNDS {
                let message = "something beside the workload keeps writing to its files, perhaps a `migrate exec`";
                return Err(Problem::new(Code::DumpFailed, message).hint("end it and try again"));
            }
            round = self.round().await?;
        }
        let source = self.source.clone();
        let sent = move || {
            let source = source.lock().unwrap_or_else(PoisonError::into_inner);
            Sent { size: source.size(), digest: source.digest() }
        };
        tokio::task::spawn_blocking(sent).await.map_err(Problem::internal)
    }

    async fn round(&self) -> Result<Round, Problem> {
        let (chunks, queue) = mpsc::channel(QUEUE_CHUNKS);
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || -> Result<Round, Problem> {
            let mounted = this.sandbox.mounted_layer().map_err(Problem::internal)?;
            mounted.sync().map_err(Problem::internal)?;
            let before = mounted.written().map_err(Problem::internal)?;
            let stats =
                this.source.lock().unwrap_or_else(PoisonError::into_inner).round(&chunks).map_err(Problem::internal)?;
            let stood_still = mounted.written().map_err(Problem::internal)? == before;
            Ok(Round { stats, stood_still: stood_still.then_some(before) })
        });
        let meter = self.meter.clone();
        send_chunks(queue, &*self.outlet, |raw, sent| meter.files(raw, sent)).await?;
        work.await.map_err(Problem::internal)?
    }

    /// How much has been written to the layer's device, with everything that was only in the cache.
    async fn written_so_far(&self) -> Result<u64, Problem> {
        let sandbox = self.sandbox.clone();
        let look = move || {
            let mounted = sandbox.mounted_layer()?;
            mounted.sync()?;
            mounted.written()
        };
        tokio::task::spawn_blocking(look).await.map_err(Problem::internal)?.map_err(Problem::internal)
    }
}

struct Round {
    stats: RoundStats,
    /// What had been written to the device before the round and, still, after it.
    stood_still: Option<u64>,
}
