//! Proves that signals, and what waits for events, arrive: pending signals with the values sent along, handlers and
//! their stack, interval and POSIX timers that go on firing, timerfd, signalfd, eventfd, an epoll set, inotify.

mod descriptors;
mod queued;
mod timers;

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use self::timers::TimerDescriptor;
use super::Parts;
use crate::rawsignal::use_alternate_stack;
use crate::verdict::{Verdict, Violation};

/// The kind's parts, with files in `dir`.
pub(crate) fn parts(dir: &Path) -> Verdict<Parts> {
    use_alternate_stack()?;
    Ok(vec![
        Box::new(queued::Pending::new()?),
        Box::new(queued::Handled::new()?),
        Box::new(timers::Interval::real()?),
        Box::new(timers::Interval::of_cpu_time()?),
        Box::new(timers::Posix::new()?),
        Box::new(timers::Distant::new()?),
        Box::new(TimerDescriptor::new()?),
        Box::new(timers::PeriodicDescriptor::new()?),
        Box::new(descriptors::SignalDescriptor::new()?),
        Box::new(descriptors::EventCounter::new()?),
        Box::new(descriptors::EventSet::new()?),
        Box::new(descriptors::Watch::new(dir)?),
    ])
}

/// How long something that must happen within milliseconds may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `happened` says so, doing `meanwhile` between two looks.
fn eventually(what: &str, mut meanwhile: impl FnMut(), mut happened: impl FnMut() -> Verdict<bool>) -> Verdict {
    let start = Instant::now();
    while !happened()? {
        if start.elapsed() > PATIENCE {
            return Err(Violation::new(what, "within moments", format_args!("not in {PATIENCE:?}")));
        }
        meanwhile();
    }
    Ok(())
}

/// Leaves the processor for a moment.
fn rest() {
    std::thread::sleep(Duration::from_millis(1));
}
