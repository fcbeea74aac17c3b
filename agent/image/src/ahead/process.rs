//! One process, looked at from outside while it runs: its mappings, which of their pages are there, and their content.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::chunk::PAGE_BYTES;

/// A process that was there a moment ago.
pub(super) struct Process {
    pid: i32,
    maps: String,
    pagemap: File,
}

impl Process {
    pub(super) fn open(pid: i32) -> io::Result<Process> {
        let maps = fs::read(format!("/proc/{pid}/maps"))?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Process { pid, maps: String::from_utf8_lossy(&maps).into_owned(), pagemap })
    }

    /// The mappings that may hold pages of its own.
    pub(super) fn mappings(&self) -> impl Iterator<Item = Range<u64>> {
        self.maps.lines().filter_map(private_mapping)
    }

    /// The pages of a mapping that are in memory and its own, in runs.
    pub(super) fn present(&self, mapping: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        match scan(&self.pagemap, mapping.clone()) {
            // Linux before 6.7.
            Err(Errno::ENOTTY | Errno::EINVAL) => read_pagemap(&self.pagemap, mapping),
            scanned => Ok(scanned?),
        }
    }

    /// Copies what is at `at`; less than asked for where a page cannot be read.
    pub(super) fn read(&self, at: u64, room: &mut [u8]) -> Result<usize, Errno> {
        let remote = RemoteIoVec { base: at as usize, len: room.len() };
        process_vm_readv(Pid::from_raw(self.pid), &mut [IoSliceMut::new(room)], &[remote])
    }
}

/// The range of a line of `maps`; `None` for shared mappings, devices, and what the kernel maps.
fn private_mapping(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_ascii_whitespace();
    let (range, mode) = (words.next()?, words.next()?);
    let path = words.nth(3).unwrap_or("");
    let device = path.starts_with("/dev/") && !path.starts_with("/dev/zero") && !path.starts_with("/dev/shm/");
    let kernels = path.starts_with("[v") || path.starts_with("[uprobes");
    if !mode.ends_with('p') || device || kernels {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// A run of pages, as the kernel writes it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// What the kernel is asked: `struct pm_scan_arg` of `linux/fs.h`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const REGIONS: usize = 1024;

#[allow(unsafe_code)]
mod ioctl {
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, super::Scan);
}

/// Asks for the pages that are present and neither the file's nor the zero page.
fn scan(pagemap: &File, mapping: Range<u64>) -> Result<Vec<Range<u64>>, Errno> {
    let mut regions = [Region::default(); REGIONS];
    let (mut runs, mut at) = (Vec::new(), mapping.start);
    while at < mapping.end {
        let mut ask = Scan {
            size: size_of::<Scan>() as u64,
            start: at,
            end: mapping.end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: REGIONS as u64,
            category_inverted: PAGE_IS_FILE | PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_PFNZERO,
            return_mask: PAGE_IS_PRESENT,
            ..Scan::default()
        };
        // SAFETY: `ask` is as large as it says, and `vec` points to `vec_len` regions that live until the call returns.
        #[allow(unsafe_code)]
        let filled = unsafe { ioctl::pagemap_scan(pagemap.as_raw_fd(), &mut ask) }?;
        runs.extend(regions.iter().take(filled as usize).map(|region| region.start..region.end));
        if ask.walk_end <= at {
            break;
        }
        at = ask.walk_end;
    }
    Ok(runs)
}

const PAGEMAP_PRESENT: u64 = 1 << 63;
const PAGEMAP_FILE: u64 = 1 << 61;
const ENTRY_BYTES: u64 = 8;

/// The same for older kernels: one word a page. Zero pages are among them.
fn read_pagemap(pagemap: &File, mapping: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut entries = vec![0; 32 << 10];
    let mut at = mapping.start;
    while at < mapping.end {
        let wanted = ((mapping.end - at) / PAGE * ENTRY_BYTES).min(entries.len() as u64) as usize;
        pagemap.read_exact_at(&mut entries[..wanted], at / PAGE * ENTRY_BYTES)?;
        for entry in entries[..wanted].as_chunks().0 {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PAGEMAP_PRESENT | PAGEMAP_FILE) == PAGEMAP_PRESENT {
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += PAGE,
                    _ => runs.push(at..at + PAGE),
                }
            }
            at += PAGE;
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_private_memory_is_taken() {
        let taken = |line| private_mapping(line).is_some();
        assert_eq!(private_mapping("7f00-7f1000 rw-p 00000000 00:00 0 "), Some(0x7f00..0x7f1000));
        assert!(taken("1000-2000 rw-p 00000000 00:00 0                  [heap]"));
        assert!(taken("1000-2000 rw-p 00000000 00:00 0                  [anon:glibc: malloc]"));
        assert!(taken("1000-2000 rw-p 00000000 fd:01 77                 /usr/lib/a b.so"));
        assert!(taken("1000-2000 rw-p 00000000 00:01 77                 /dev/zero"));
        assert!(!taken("1000-2000 rw-s 00000000 00:01 77                 /dev/zero (deleted)"));
        assert!(!taken("1000-2000 rw-p 00000000 00:05 77                 /dev/mem"));
        assert!(!taken("1000-2000 r--p 00000000 00:00 0                  [vvar]"));
        assert!(!taken("1000-2000 r-xp 00000000 00:00 0                  [vdso]"));
        assert!(!taken("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]"));
        assert!(!taken("rubbish"));
    }

    #[test]
    fn both_ways_see_the_same_pages() {
        let mut memory = vec![1u8; 64 * PAGE_BYTES];
        let start = (memory.as_mut_ptr() as u64).next_multiple_of(PAGE_BYTES as u64);
        let range = start..start + 60 * PAGE_BYTES as u64;
        let process = Process::open(std::process::id() as i32).unwrap();
        let seen = read_pagemap(&process.pagemap, range.clone()).unwrap();
        assert_eq!(seen, std::slice::from_ref(&range));
        assert_eq!(process.present(range.clone()).unwrap(), seen);
        let mut room = vec![0; PAGE_BYTES];
        assert_eq!(process.read(start, &mut room), Ok(PAGE_BYTES));
        assert_eq!(room, vec![1; PAGE_BYTES]);
        drop(memory);
    }
}
