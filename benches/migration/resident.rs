//! What a process takes, read from /proc: memory and processor time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

const SAMPLE_EVERY: Duration = Duration::from_millis(2);

/// What of a process is in memory, in MiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Resident {
    /// All of it.
    pub(crate) all: f64,
    /// Without shared memory: an image on a tmpfs, were it mapped, is not the process's own.
    pub(crate) own: f64,
}

impl Resident {
    /// As it is now.
    pub(crate) fn of(pid: i32) -> Result<Resident> {
        let path = format!("/proc/{pid}/status");
        let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<f64>().ok());
            Ok(kib.with_context(|| format!("{name} in {path}"))? / 1024.0)
        };
        let (anonymous, file, shared) = (field("RssAnon:")?, field("RssFile:")?, field("RssShmem:")?);
        Ok(Resident { all: anonymous + file + shared, own: anonymous + file })
    }

    fn larger(self, other: Resident) -> Resident {
        Resident { all: self.all.max(other.all), own: self.own.max(other.own) }
    }
}

/// Watches a process, for its peak.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    sampler: JoinHandle<Resident>,
}

impl Watch {
    /// Begins.
    pub(crate) fn begin(pid: i32) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sampler = std::thread::spawn(move || {
            let mut peak = Resident::default();
            while !stopped.load(Ordering::Relaxed) {
                peak = Resident::of(pid).map_or(peak, |now| peak.larger(now));
                std::thread::sleep(SAMPLE_EVERY);
            }
            peak
        });
        Watch { stop, sampler }
    }

    /// The most that was seen.
    pub(crate) fn end(self) -> Result<Resident> {
        self.stop.store(true, Ordering::Relaxed);
        self.sampler.join().map_err(|_| anyhow::anyhow!("the sampler panicked"))
    }
}

/// The processor time that a process has used, in seconds.
pub(crate) fn processor_time(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // After the name, which may contain anything, in parentheses: state is the first field, user and system time 12th and 13th.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).with_context(|| path.clone());
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
    Ok((ticks(11)? + ticks(12)?) / per_second)
}
