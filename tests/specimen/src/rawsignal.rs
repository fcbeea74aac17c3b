//! Signals that `nix` does not know: real-time ones, values sent along, the alternate stack, interval timers.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem::zeroed;

use nix::libc;

use crate::verdict::{MustSucceed, Verdict};

/// A signal taken from the queue.
#[derive(Debug, PartialEq)]
pub(crate) struct Taken {
    /// `SI_QUEUE` and so on.
    pub(crate) code: c_int,
    /// Who sent it.
    pub(crate) sender: i32,
    /// What was sent along.
    pub(crate) value: usize,
}

fn outcome(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set_of(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: an all-zero set is valid, and the calls only change it.
    #[allow(unsafe_code)]
    unsafe {
        let mut set = zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}

/// Blocks signals in this thread.
pub(crate) fn block(signals: &[c_int]) -> Verdict {
    let set = set_of(signals);
    // SAFETY: the set lives through the call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    outcome(result).must("sigprocmask")
}

/// Queues a signal with a value to this process.
pub(crate) fn queue(signal: c_int, value: usize) -> Verdict {
    let value = libc::sigval { sival_ptr: value as *mut c_void };
    // SAFETY: the value is a number and never followed.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sigqueue(libc::getpid(), signal, value) };
    outcome(result).must("sigqueue")
}

/// Takes a pending signal, without waiting.
pub(crate) fn take(signal: c_int) -> Verdict<Option<Taken>> {
    let set = set_of(&[signal]);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: all three live through the call; the signals taken here are queued ones, which carry sender and value.
    #[allow(unsafe_code)]
    let (result, taken) = unsafe {
        let mut info = zeroed::<libc::siginfo_t>();
        let result = libc::sigtimedwait(&raw const set, &raw mut info, &raw const at_once);
        (result, Taken { code: info.si_code, sender: info.si_pid(), value: info.si_value().sival_ptr as usize })
    };
    match outcome(result) {
        Ok(()) => Ok(Some(taken)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).must("sigtimedwait"),
    }
}

/// Whether a signal is pending.
pub(crate) fn pending(signal: c_int) -> Verdict<bool> {
    // SAFETY: the call fills the set.
    #[allow(unsafe_code)]
    let (result, is_member) = unsafe {
        let mut set = zeroed();
        let result = libc::sigpending(&raw mut set);
        (result, libc::sigismember(&raw const set, signal))
    };
    outcome(result).must("sigpending")?;
    Ok(is_member == 1)
}

/// Memory for the alternate signal stack; the kernel writes to it.
struct StackMemory(UnsafeCell<[u8; STACK]>);

const STACK: usize = 64 * 1024;

// SAFETY: only the kernel and the handlers of one thread use it.
#[allow(unsafe_code)]
unsafe impl Sync for StackMemory {}

static STACK_MEMORY: StackMemory = StackMemory(UnsafeCell::new([0; STACK]));

/// The addresses of the alternate stack.
pub(crate) fn alternate_stack() -> std::ops::Range<usize> {
    let start = STACK_MEMORY.0.get() as usize;
    start..start + STACK
}

/// Lets handlers run on the alternate stack.
pub(crate) fn use_alternate_stack() -> Verdict {
    let stack = libc::stack_t { ss_sp: STACK_MEMORY.0.get().cast(), ss_flags: 0, ss_size: STACK };
    // SAFETY: the memory is static.
    #[allow(unsafe_code)]
    let result = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    outcome(result).must("sigaltstack")
}

/// Start and size of the alternate stack as the kernel has them.
pub(crate) fn alternate_stack_in_kernel() -> Verdict<(usize, usize)> {
    // SAFETY: the call fills the structure.
    #[allow(unsafe_code)]
    let (result, stack) = unsafe {
        let mut stack = zeroed::<libc::stack_t>();
        (libc::sigaltstack(std::ptr::null(), &raw mut stack), stack)
    };
    outcome(result).must("sigaltstack")?;
    Ok((stack.ss_sp as usize, stack.ss_size))
}

/// A signal handler.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Installs a handler that runs on the alternate stack; calls that it interrupts go on.
pub(crate) fn handle(signal: c_int, handler: Handler, also_blocked: &[c_int]) -> Verdict {
    // SAFETY: all handlers of this program only touch atomics.
    #[allow(unsafe_code)]
    let result = unsafe {
        let mut action = zeroed::<libc::sigaction>();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        action.sa_mask = set_of(also_blocked);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    outcome(result).must("sigaction")
}

/// Address, flags of a handler and whether `blocked` is blocked while it runs, as the kernel has them.
pub(crate) fn handler_in_kernel(signal: c_int, blocked: c_int) -> Verdict<(usize, c_int, bool)> {
    // SAFETY: the call fills the structure.
    #[allow(unsafe_code)]
    let (result, action, is_member) = unsafe {
        let mut action = zeroed::<libc::sigaction>();
        let result = libc::sigaction(signal, std::ptr::null(), &raw mut action);
        (result, action, libc::sigismember(&raw const action.sa_mask, blocked))
    };
    outcome(result).must("sigaction")?;
    // SA_RESTORER is the C library's business.
    let flags = action.sa_flags & (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART);
    Ok((action.sa_sigaction, flags, is_member == 1))
}

/// The value that came with a signal; for handlers.
pub(crate) fn value_of(info: *mut libc::siginfo_t) -> usize {
    // SAFETY: the kernel passes a valid structure to the handler, and the handled signals carry a value.
    #[allow(unsafe_code)]
    unsafe {
        (*info).si_value().sival_ptr as usize
    }
}

/// Sets an interval timer: first and every expiration, in microseconds.
pub(crate) fn set_interval_timer(which: c_int, first: i64, every: i64) -> Verdict {
    let time = |micros| libc::timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 };
    let value = libc::itimerval { it_interval: time(every), it_value: time(first) };
    // SAFETY: the value lives through the call.
    #[allow(unsafe_code)]
    let result = unsafe { libc::setitimer(which as _, &raw const value, std::ptr::null_mut()) };
    outcome(result).must("setitimer")
}

/// The period of an interval timer in microseconds.
pub(crate) fn interval_timer_period(which: c_int) -> Verdict<i64> {
    // SAFETY: the call fills the structure.
    #[allow(unsafe_code)]
    let (result, value) = unsafe {
        let mut value = zeroed::<libc::itimerval>();
        (libc::getitimer(which as _, &raw mut value), value)
    };
    outcome(result).must("getitimer")?;
    Ok(value.it_interval.tv_sec * 1_000_000 + value.it_interval.tv_usec)
}
