//! Mapped memory with the operations that programs use on it, safe to call.
//!
//! Three types keep the unsafe part small: [`Private`] memory is this process's alone and can be borrowed as bytes;
//! [`Shared`] memory may change at any time and is only seen as atomic words; [`Reserved`] memory may not be touched.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{
    MRemapFlags, MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect, mremap, munmap,
};

use crate::verdict::{MustSucceed, Verdict, Violation};

/// The page size of x86-64.
pub(crate) const PAGE: usize = 4096;

/// An owned range of pages, unmapped when dropped.
struct Pages {
    start: NonNull<c_void>,
    len: usize,
}

// SAFETY: pages belong to the process, not to a thread.
#[allow(unsafe_code)]
unsafe impl Send for Pages {}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this module and nobody else owns it.
        #[allow(unsafe_code)]
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

impl Pages {
    fn anonymous(len: usize, flags: MapFlags) -> Verdict<Self> {
        let size = size(len)?;
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        #[allow(unsafe_code)]
        let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) };
        Ok(Self { start: start.must("mmap")?, len })
    }

    fn protect(&self, rights: ProtFlags) -> Verdict {
        // SAFETY: the caller gives up, or has given up, every view that `rights` would make invalid.
        #[allow(unsafe_code)]
        unsafe { mprotect(self.start, self.len, rights) }.must("mprotect")
    }

    /// Cuts `[at, len)` off.
    fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len && at.is_multiple_of(PAGE));
        // SAFETY: `at` lies within the range.
        #[allow(unsafe_code)]
        let start = unsafe { self.start.add(at) };
        let rest = Self { start, len: self.len - at };
        self.len = at;
        rest
    }
}

fn size(len: usize) -> Verdict<NonZeroUsize> {
    NonZeroUsize::new(len).ok_or_else(|| Violation::new("size of a mapping", "more than 0", 0))
}

/// Readable and writable memory of this process alone.
pub(crate) struct Private(Pages);

impl Private {
    /// Fresh memory.
    pub(crate) fn new(len: usize) -> Verdict<Self> {
        Pages::anonymous(len, MapFlags::MAP_PRIVATE).map(Self)
    }

    /// Fresh memory whose address is a multiple of `alignment`, a power of two.
    pub(crate) fn aligned(len: usize, alignment: usize) -> Verdict<Self> {
        let mut pages = Pages::anonymous(len + alignment, MapFlags::MAP_PRIVATE)?;
        let before = pages.start.as_ptr().align_offset(alignment);
        let mut middle = pages.split_off(before);
        drop(middle.split_off(len));
        // Dropping what lies before and after unmaps it; an empty range has nothing to unmap.
        Ok(Self(middle))
    }

    /// Where it lies.
    pub(crate) fn address(&self) -> usize {
        self.0.start.as_ptr() as usize
    }

    /// Its content.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped readable as long as `self` lives, and only `self` gives views of it.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.0.start.as_ptr().cast(), self.0.len)
        }
    }

    /// Its content, to change.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the range is writable and `self` is borrowed mutably.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.0.start.as_ptr().cast(), self.0.len)
        }
    }

    /// Drops the pages of `range`; they read as zero afterwards.
    pub(crate) fn discard(&mut self, range: Range<usize>) -> Verdict {
        let part = &mut self.bytes_mut()[range];
        let start = NonNull::from(&mut *part).cast();
        // SAFETY: anonymous private pages become zero pages; any bit pattern is a valid byte, and no view is alive.
        #[allow(unsafe_code)]
        unsafe { madvise(start, part.len(), MmapAdvise::MADV_DONTNEED) }.must("madvise(MADV_DONTNEED)")
    }

    /// Locks it in memory.
    pub(crate) fn lock(&self) -> nix::Result<()> {
        // SAFETY: locking changes no content.
        #[allow(unsafe_code)]
        unsafe {
            mlock(self.0.start, self.0.len)
        }
    }

    /// Grows or shrinks it; it may lie elsewhere afterwards.
    pub(crate) fn resize(&mut self, len: usize) -> Verdict {
        // SAFETY: `self` is borrowed mutably, so no view of the old place is alive.
        #[allow(unsafe_code)]
        let start = unsafe { mremap(self.0.start, self.0.len, len, MRemapFlags::MREMAP_MAYMOVE, None) };
        self.0.start = start.must("mremap")?;
        self.0.len = len;
        Ok(())
    }

    /// Makes `gap` untouchable; the memory before and after it stays.
    pub(crate) fn with_gap(mut self, gap: Range<usize>) -> Verdict<(Self, Reserved, Self)> {
        let after = self.0.split_off(gap.end);
        let hole = self.0.split_off(gap.start);
        hole.protect(ProtFlags::PROT_NONE)?;
        Ok((self, Reserved(hole), Self(after)))
    }

    /// Makes it read-only.
    pub(crate) fn read_only(self) -> Verdict<ReadOnly> {
        self.0.protect(ProtFlags::PROT_READ)?;
        Ok(ReadOnly(self))
    }
}

/// Memory that can be read, not written.
pub(crate) struct ReadOnly(Private);

impl ReadOnly {
    /// Its content.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Where it lies.
    pub(crate) fn address(&self) -> usize {
        self.0.address()
    }

    /// Makes it writable again.
    pub(crate) fn make_writable(&self) -> Verdict {
        self.0.0.protect(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)
    }
}

/// Address space that may not be touched.
pub(crate) struct Reserved(Pages);

impl Reserved {
    /// Where it lies.
    pub(crate) fn address(&self) -> usize {
        self.0.start.as_ptr() as usize
    }
}

/// Memory that other processes may share: only seen as atomic words.
pub(crate) struct Shared(Pages);

impl Shared {
    /// Fresh memory, shared with children forked later.
    pub(crate) fn anonymous(len: usize) -> Verdict<Self> {
        Pages::anonymous(len, MapFlags::MAP_SHARED).map(Self)
    }

    /// The first `len` bytes of a file.
    pub(crate) fn of_file(file: impl AsFd, len: usize) -> Verdict<Self> {
        let size = size(len)?;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: no address is asked for; the memory is only seen as atomics.
        #[allow(unsafe_code)]
        let start = unsafe { mmap(None, size, rights, MapFlags::MAP_SHARED, file, 0) };
        Ok(Self(Pages { start: start.must("mmap of a file")?, len }))
    }

    /// Its words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned memory, mapped as long as `self` lives, and atomics may be changed by anyone.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.0.start.as_ptr().cast(), self.0.len / size_of::<AtomicU64>())
        }
    }
}

/// The rights (`rw-p`) that the kernel reports for the mapping around `address`.
pub(crate) fn rights_at(address: usize) -> Verdict<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").must("reading /proc/self/maps")?;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some((start, end)) = words.next().and_then(|range| range.split_once('-')) else { continue };
        let bound = |hex: &str| usize::from_str_radix(hex, 16).must("parsing /proc/self/maps");
        if (bound(start)?..bound(end)?).contains(&address) {
            return Ok(words.next().unwrap_or_default().to_owned());
        }
    }
    Err(Violation::new(format_args!("mapping at {address:#x}"), "one", "none"))
}
