//! Signals that are pending, and signals that are handled.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use nix::libc::{self, SIGRTMIN, SIGUSR1, SIGUSR2};
use nix::unistd::getpid;

use crate::part::Part;
use crate::rawsignal::{
    Taken, alternate_stack, alternate_stack_in_kernel, block, handle, handler_in_kernel, pending, queue, take,
};
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// Real-time signals queued with values, in order, and an ordinary signal pending all the time.
pub(super) struct Pending {
    signal: c_int,
    next_out: usize,
    next_in: usize,
}

impl Pending {
    const QUEUED: usize = 6;
    /// Makes values fill the whole word.
    const SCALE: usize = 0x0123_4567_89ab;

    pub(super) fn new() -> Verdict<Self> {
        let signal = SIGRTMIN() + 1;
        block(&[signal, SIGUSR2])?;
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR2).must("raise")?;
        for number in 0..Self::QUEUED {
            queue(signal, number * Self::SCALE)?;
        }
        Ok(Self { signal, next_out: 0, next_in: Self::QUEUED })
    }
}

impl Part for Pending {
    fn name(&self) -> &'static str {
        "pending"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        holds("SIGUSR2", pending(SIGUSR2)?, "pending", "not pending")?;
        let expected =
            Taken { code: libc::SI_QUEUE, sender: getpid().as_raw(), value: self.next_out.wrapping_mul(Self::SCALE) };
        same(format_args!("queued signal {}", self.next_out), Some(expected), take(self.signal)?)?;
        self.next_out += 1;
        queue(self.signal, self.next_in.wrapping_mul(Self::SCALE))?;
        self.next_in += 1;
        Ok(self.next_out as u64)
    }

    fn sabotage(&mut self) -> Verdict {
        take(self.signal).map(drop)
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static HANDLER_STACK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let here = 0_u8;
    HANDLER_STACK.store(std::ptr::from_ref(std::hint::black_box(&here)) as usize, SeqCst);
    HANDLED.fetch_add(1, SeqCst);
}

/// A handler on the alternate stack.
pub(super) struct Handled {
    in_kernel: (usize, c_int, bool),
}

impl Handled {
    pub(super) fn new() -> Verdict<Self> {
        handle(SIGUSR1, count, &[libc::SIGHUP])?;
        Ok(Self { in_kernel: handler_in_kernel(SIGUSR1, libc::SIGHUP)? })
    }
}

impl Part for Handled {
    fn name(&self) -> &'static str {
        "handled"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        same("handler, flags and mask of SIGUSR1", self.in_kernel, handler_in_kernel(SIGUSR1, libc::SIGHUP)?)?;
        let stack = alternate_stack();
        same("alternate signal stack", (stack.start, stack.len()), alternate_stack_in_kernel()?)?;
        let before = HANDLED.load(SeqCst);
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).must("raise")?;
        same("calls of the handler", before + 1, HANDLED.load(SeqCst))?;
        let at = HANDLER_STACK.load(SeqCst);
        if !stack.contains(&at) {
            return Err(Violation::new("stack of the handler", format_args!("{stack:x?}"), format_args!("{at:#x}")));
        }
        Ok(before + 1)
    }

    fn sabotage(&mut self) -> Verdict {
        handle(SIGUSR1, count, &[])
    }
}
