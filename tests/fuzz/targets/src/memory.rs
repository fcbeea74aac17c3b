//! Counts what a run holds, so that an input that claims a gigabyte is a finding even where nothing breaks.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What one input may make a decoder hold at a time. The largest honest things are a parcel and a chunk, 1 MiB each.
pub const LIMIT: usize = 64 << 20;

thread_local! {
    /// Signed: a thread may free what another one made.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread by itself.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(change: isize) {
    // A thread that ends may have lost its counters; what it does then is no run's.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: everything is the system allocator's; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

/// The most bytes that this thread held at a time during `work`, beyond those that it held before.
pub(crate) fn most_during(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    MOST.set(before);
    work();
    usize::try_from(MOST.get() - before).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_at_a_time_counts_and_what_was_freed_does_not() {
        let one_by_one = most_during(|| (0..10).for_each(|_| drop(std::hint::black_box(vec![1u8; 1 << 20]))));
        assert!((1 << 20..2 << 20).contains(&one_by_one), "{one_by_one}");
        let together = most_during(|| drop(std::hint::black_box([vec![0u8; 1 << 20], vec![1; 1 << 20]])));
        assert!((2 << 20..3 << 20).contains(&together), "{together}");
    }
}
