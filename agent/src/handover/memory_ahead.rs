//! Memory on its way out before the freeze, as content: what of it is still the same at the freeze is then only named.

use std::sync::Arc;

use migrate_image::ahead::{self, KnownPages};
use migrate_image::pace::SharedPace;
use migrate_proto::error::Problem;
use migrate_sandbox::process;
use tokio::sync::mpsc;

use super::meter::Meter;
use super::outlet::{Outlet, send_chunks};

/// A process with less memory than this is sent in the pause, in no time.
const WORTH_BYTES: u64 = 4 << 20;
const QUEUE_CHUNKS: usize = 4;

/// Copies the memory of the workload whose first process is `main`, while it runs. `None` where there was nothing to copy.
pub(crate) async fn copy(
    main: i32,
    outlet: Arc<dyn Outlet>,
    meter: Arc<Meter>,
    pace: SharedPace,
) -> Result<Option<KnownPages>, Problem> {
    let (chunks, queue) = mpsc::channel(QUEUE_CHUNKS);
    let work = tokio::task::spawn_blocking(move || {
        let tree = process::tree(main);
        let large: Vec<i32> = tree.into_iter().filter(|pid| process::resident(*pid) >= WORTH_BYTES).collect();
        // Ends when nobody takes its chunks any more.
        ahead::copy(&large, pace, &chunks)
    });
    send_chunks(queue, &*outlet, |raw, sent| meter.ahead(raw, sent)).await?;
    let (known, stats) = work.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    tracing::debug!(?stats, "memory was copied ahead");
    Ok((!known.is_empty()).then_some(known))
}
