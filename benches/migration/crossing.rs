//! How long it takes until all has crossed a link, seen from outside: by the counters of the sending node's network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// What agents say to each other besides is less than this in the time between two samples.
const BULK: u64 = 64 << 10;

/// Watches what a node sends.
pub(crate) struct Crossing {
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<Result<Crossed>>,
}

/// What crossed.
#[derive(Default)]
pub(crate) struct Crossed {
    /// All bytes, with whatever headers.
    pub(crate) bytes: u64,
    /// From the first bulk to the last, with all pauses between.
    pub(crate) time: Duration,
}

impl Crossing {
    /// Begins; `agent` is a process on the node.
    pub(crate) fn watch(agent: i32) -> Crossing {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sampler = std::thread::spawn(move || {
            let mut crossed = Crossed::default();
            let (mut before, mut looked, mut first) = (sent_bytes(agent)?, Instant::now(), None);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(SAMPLE_EVERY);
                let (now, at) = (sent_bytes(agent)?, Instant::now());
                if now - before >= BULK {
                    let first = *first.get_or_insert(looked);
                    crossed.time = at - first;
                    crossed.bytes += now - before;
                }
                (before, looked) = (now, at);
            }
            Ok(crossed)
        });
        Crossing { stop, sampler }
    }

    /// Ends.
    pub(crate) fn end(self) -> Result<Crossed> {
        self.stop.store(true, Ordering::Relaxed);
        self.sampler.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))?
    }
}

/// What the node of this process has sent to others since it is there.
fn sent_bytes(process: i32) -> Result<u64> {
    let path = format!("/proc/{process}/net/dev");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let sent = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let sent = counters.split_whitespace().nth(8)?.parse::<u64>().ok()?;
        (name.trim() != "lo").then_some(sent)
    };
    Ok(text.lines().filter_map(sent).sum())
}
