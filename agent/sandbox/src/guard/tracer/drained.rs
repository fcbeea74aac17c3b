//! A part of the shim: a dump goes on only when the pages that it wrote have been read.
//!
//! CRIU does not copy memory. What goes into the pipe of an image are references to the task's own pages, and for as long as
//! nobody has read them, what is written to the task is written to the image. And CRIU writes: once it has a task's pages it has
//! the task make one more system call, for which it puts `syscall` and breakpoints over the first eight bytes of its lowest code, and
//! takes them away afterwards. A reader that was late found these eight bytes, and so did the restored task. Where the lowest code is the
//! vDSO, the restore failed (`vdso: Invalid ELF magic`).
//!
//! CRIU closes an image of pages before it goes on, so here this waits until the pipe is empty.

use core::ffi::{c_int, c_long, c_void};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{long_system_call, number, returned, system_call};

/// `FIONREAD`
const HOW_MUCH: usize = 0x541b;
const EINTR: isize = 4;
/// How soon it is looked again; whoever reads is at it.
const SOON: [c_long; 2] = [0, 50_000];
/// No more descriptors than these are followed; CRIU has a few dozen at a time.
const DESCRIPTORS: usize = 1 << 20;

static WATCHES: AtomicBool = AtomicBool::new(false);
/// Into which descriptors pages went, a bit for each.
static FED: [AtomicU64; DESCRIPTORS / 64] = [const { AtomicU64::new(0) }; DESCRIPTORS / 64];

#[repr(C)]
struct Poll {
    descriptor: c_int,
    events: i16,
    happened: i16,
}

/// CRIU is to dump. In a restore what goes into a pipe is for a task that does not run yet.
pub(crate) fn watch() {
    WATCHES.store(true, Relaxed);
}

fn place(descriptor: c_int) -> Option<(&'static AtomicU64, u64)> {
    let descriptor = usize::try_from(descriptor).ok()?;
    Some((FED.get(descriptor / 64)?, 1 << (descriptor % 64)))
}

/// Returns when everything has been read, or nobody reads any more.
fn await_reader(pipe: c_int) {
    loop {
        let mut unread: c_int = 0;
        // SAFETY: it writes there, and no longer than the call lasts.
        let asked = unsafe {
            system_call(number::IOCTL, pipe as usize, HOW_MUCH, core::ptr::from_mut(&mut unread) as usize, 0)
        };
        if asked < 0 || unread == 0 {
            return;
        }
        // Of a pipe's end that is written to, this says when there is no other end.
        let mut poll = Poll { descriptor: pipe, events: 0, happened: 0 };
        let (poll, soon) = (core::ptr::from_mut(&mut poll) as usize, core::ptr::from_ref(&SOON) as usize);
        // SAFETY: as above; the time is only read.
        let gone = unsafe { system_call(number::PPOLL, poll, 1, soon, 0) };
        if gone != 0 && gone != -EINTR {
            return;
        }
    }
}

/// Stands in for the C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn splice(
    from: c_int,
    from_at: *mut c_void,
    to: c_int,
    to_at: *mut c_void,
    length: usize,
    flags: u32,
) -> c_long {
    let arguments = [from as usize, from_at as usize, to as usize, to_at as usize, length, flags as usize];
    // SAFETY: the caller's arguments.
    let moved = unsafe { long_system_call(number::SPLICE, arguments) };
    if moved > 0
        && WATCHES.load(Relaxed)
        && let Some((word, bit)) = place(to)
    {
        word.fetch_or(bit, Relaxed);
    }
    // SAFETY: see there.
    unsafe { returned(moved) }
}

/// Stands in for the C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(descriptor: c_int) -> c_int {
    if let Some((word, bit)) = place(descriptor)
        && word.load(Relaxed) & bit != 0
    {
        word.fetch_and(!bit, Relaxed);
        await_reader(descriptor);
    }
    // SAFETY: the caller's argument.
    unsafe { returned(system_call(number::CLOSE, descriptor as usize, 0, 0, 0)) as c_int }
}
