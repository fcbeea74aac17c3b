//! The agent watches itself: it dies rather than hang.
//!
//! Every loop has a stamp that it touches all the time. A plain thread, which needs nothing of the runtime, looks at all of them; when one
//! has not been touched for [`SILENCE`], it logs them and aborts. A supervisor starts the agent again, and workloads run on meanwhile: they
//! depend on their own PID 1.
//!
//! Looks are counted, not time: an agent that was stopped, or got no processor, has missed looks as well as touches, and is not judged by
//! them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a loop may be silent.
pub const SILENCE: Duration = Duration::from_secs(5);
/// How often loops say that they are there.
const BEAT: Duration = Duration::from_millis(500);
/// How often they are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// A look that comes so late says more about this thread than about the others.
const LATE: Duration = Duration::from_secs(1);

static STAMPS: Mutex<Vec<Weak<Touched>>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Touched {
    name: &'static str,
    count: AtomicU64,
    silence: Duration,
}

/// A loop's sign of life. While it exists it has to be touched.
#[derive(Debug)]
pub struct Stamp(Arc<Touched>);

impl Stamp {
    /// The stamp of the loop of this name, which from now on may be silent no longer than [`SILENCE`].
    pub fn of(name: &'static str) -> Stamp {
        Stamp::impatient(name, SILENCE)
    }

    /// The same, with another limit.
    pub fn impatient(name: &'static str, silence: Duration) -> Stamp {
        let touched = Arc::new(Touched { name, count: AtomicU64::new(0), silence });
        let mut all = stamps();
        all.retain(|stamp| stamp.strong_count() > 0);
        all.push(Arc::downgrade(&touched));
        Stamp(touched)
    }

    /// The loop is there.
    pub fn touch(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
    }

    /// For a loop that waits for something else: returns when it has to come round, so that its stamp is touched.
    pub async fn beat(&self) {
        self.touch();
        tokio::time::sleep(BEAT).await;
    }
}

fn stamps() -> MutexGuard<'static, Vec<Weak<Touched>>> {
    STAMPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to watch, once in this process.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if let Err(error) = std::thread::Builder::new().name("watchdog".into()).spawn(watch) {
            tracing::error!(%error, "nobody watches whether this agent hangs");
        }
    });
}

fn watch() {
    let (mut judge, mut last) = (Judge::default(), Instant::now());
    loop {
        std::thread::sleep(LOOK);
        let seen: Vec<Arc<Touched>> = stamps().iter().filter_map(Weak::upgrade).collect();
        let late = last.elapsed() > LATE;
        last = Instant::now();
        let silent = judge.look(&seen, late);
        if !silent.is_empty() {
            for loops in &judge.known {
                let silent_ms = u64::from(loops.silent) * LOOK.as_millis() as u64;
                tracing::error!(name = loops.of.name, silent_ms, "a loop of this agent");
            }
            // The log may be what hangs.
            eprintln!("this agent hangs in {}: it ends, to be started again", silent.join(", "));
            std::process::abort();
        }
    }
}

/// What is known of each loop.
#[derive(Debug, Default)]
struct Judge {
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    of: Arc<Touched>,
    count: u64,
    /// Looks since it was touched.
    silent: u32,
}

impl Judge {
    /// The names of those that have been silent for too long.
    fn look(&mut self, seen: &[Arc<Touched>], late: bool) -> Vec<&'static str> {
        self.known.retain(|known| seen.iter().any(|stamp| Arc::ptr_eq(stamp, &known.of)));
        for stamp in seen {
            let count = stamp.count.load(Ordering::Relaxed);
            match self.known.iter_mut().find(|known| Arc::ptr_eq(stamp, &known.of)) {
                Some(known) if known.count == count && !late => known.silent += 1,
                Some(known) => (known.count, known.silent) = (count, 0),
                None => self.known.push(Known { of: stamp.clone(), count, silent: 0 }),
            }
        }
        self.known.iter().filter(|known| LOOK * known.silent >= known.of.silence).map(|known| known.of.name).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn touched(name: &'static str, silence: Duration) -> Arc<Touched> {
        Arc::new(Touched { name, count: AtomicU64::new(0), silence })
    }

    #[test]
    fn who_is_silent_for_long_is_named_and_nobody_else() {
        let (busy, silent, patient) =
            (touched("busy", LOOK * 3), touched("silent", LOOK * 3), touched("patient", LOOK * 9));
        let all = [busy.clone(), silent, patient];
        let mut judge = Judge::default();
        let mut looks = || {
            busy.count.fetch_add(1, Ordering::Relaxed);
            judge.look(&all, false)
        };
        assert_eq!([looks(), looks(), looks()], [vec![], vec![], Vec::<&str>::new()]);
        assert_eq!(looks(), ["silent"]);
    }

    #[test]
    fn who_was_stopped_with_everybody_else_is_not_judged_by_that() {
        let all = [touched("stopped", LOOK * 2)];
        let mut judge = Judge::default();
        let looks = [false, false, true, false, true].map(|late| judge.look(&all, late).len());
        assert_eq!(looks, [0; 5]);
        assert_eq!([judge.look(&all, false).len(), judge.look(&all, false).len()], [0, 1]);
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let stamp = Stamp::of("short");
        let is_there = || stamps().iter().filter_map(Weak::upgrade).any(|stamp| stamp.name == "short");
        assert!(is_there());
        drop(stamp);
        assert!(!is_there());
    }

    /// Part of the next test.
    #[test]
    #[ignore = "not a test: it hangs"]
    fn hang() {
        if std::env::var_os("TEST_HANGS").is_none() {
            return;
        }
        start();
        let (busy, _silent) = (Stamp::of("a busy loop"), Stamp::impatient("a loop that hangs", Duration::from_secs(1)));
        loop {
            busy.touch();
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_with_a_silent_loop_ends_and_says_why() {
        let mut hanging = std::process::Command::new(std::env::current_exe().unwrap());
        hanging.args(["--ignored", "--exact", "care::watchdog::tests::hang", "--nocapture"]).env("TEST_HANGS", "yes");
        let ended = hanging.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{said}");
        assert!(said.contains("this agent hangs in a loop that hangs:"), "{said}");
    }
}
