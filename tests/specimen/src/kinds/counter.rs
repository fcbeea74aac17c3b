//! Proves the least: that a process goes on where it was. A counter in the heap, on the stack of the loop (the cycle's
//! number) and in static memory must agree, as must the process id.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::{Pid, getpid};

use super::Parts;
use crate::part::Part;
use crate::verdict::{Verdict, same};

static IN_STATIC_MEMORY: AtomicU64 = AtomicU64::new(0);

/// The kind's parts.
pub(crate) fn parts() -> Verdict<Parts> {
    Ok(vec![Box::new(Counter { pid: getpid(), in_heap: Box::new(0) })])
}

/// Counts in three places.
pub(crate) struct Counter {
    pid: Pid,
    in_heap: Box<u64>,
}

impl Part for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        *self.in_heap += 1;
        same("counter in the heap", cycle, *self.in_heap)?;
        same("counter in static memory", cycle, IN_STATIC_MEMORY.fetch_add(1, Ordering::Relaxed) + 1)?;
        same("process id", self.pid, getpid())?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        *self.in_heap += 1;
        Ok(())
    }
}
