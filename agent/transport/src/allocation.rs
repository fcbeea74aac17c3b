//! Keeps the memory of bulk frames in the process.
//!
//! A bulk frame is a buffer of a good mebibyte that lives for a millisecond. By default the allocator takes such buffers from
//! the kernel and gives them back each time, and the kernel clears every page anew: that cost 40 % of the time of a transfer.

use libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD};

/// Above the largest frame and its read-ahead: larger buffers still come from the kernel and go back to it.
const LARGEST_KEPT: libc::c_int = 4 << 20;
/// How much free memory at the end of the heap is not given back.
const MOST_KEPT: libc::c_int = 32 << 20;

/// Gives what is free back to the kernel, for times between transfers. Takes some milliseconds.
#[allow(unsafe_code)]
pub fn give_back() {
    // SAFETY: malloc_trim takes an integer, locks what it looks at, and has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Sets the allocator of this process. Doing it twice does no harm; where it fails, transfers are slower.
///
/// To be called before there are threads: one that had to allocate gets an arena of its own, each arena keeps as much as
/// the whole process should, and only the first one's can be given back.
#[allow(unsafe_code)]
pub fn keep_frames() {
    // SAFETY: mallopt takes two integers, locks what it changes, and has no preconditions.
    unsafe {
        libc::mallopt(M_ARENA_MAX, 1);
        libc::mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT);
        libc::mallopt(M_TRIM_THRESHOLD, MOST_KEPT);
    }
}
