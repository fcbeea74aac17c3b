//! What a descriptor is beyond its file: shared and own offsets, directories, `O_PATH`, numbers and flags.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::create;
use crate::blocks::random_bytes;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, holds, same};

/// One file through three descriptors: two share their offset, the third has its own.
pub(crate) struct Offsets {
    first: File,
    twin: File,
    other: File,
    left_at: (u64, u64),
}

impl Offsets {
    const LEN: u64 = 50_000;

    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("offsets");
        let first = create(&path, &random_bytes(Self::LEN as usize, 13))?;
        let twin = first.try_clone().must("dup")?;
        let other = File::open(&path).must("opening a file")?;
        Ok(Self { first, twin, other, left_at: (0, 0) })
    }
}

impl Part for Offsets {
    fn name(&self) -> &'static str {
        "offsets"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let (shared, own) = self.left_at;
        same("shared offset by its first descriptor", shared, self.first.stream_position().must("lseek")?)?;
        same("shared offset by its second descriptor", shared, self.twin.stream_position().must("lseek")?)?;
        same("offset that is not shared", own, self.other.stream_position().must("lseek")?)?;
        self.left_at = (cycle * 7 % Self::LEN, cycle * 3 % Self::LEN);
        self.first.seek(SeekFrom::Start(self.left_at.0)).must("seeking")?;
        self.other.seek(SeekFrom::Start(self.left_at.1)).must("seeking")?;
        same("offset after seeking by dup", self.left_at.0, self.twin.stream_position().must("lseek")?)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.twin = self.other.try_clone().must("dup")?;
        Ok(())
    }
}

/// An open directory, through which files are still found.
pub(crate) struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

impl Directory {
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("directory");
        std::fs::create_dir(&path).must("mkdir")?;
        std::fs::write(path.join("inside"), "content").must("writing")?;
        let handle = nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
        Ok(Self { handle: handle.must("opening a directory")?, path })
    }
}

impl Part for Directory {
    fn name(&self) -> &'static str {
        "directory"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let inside = nix::fcntl::openat(&self.handle, "inside", OFlag::O_RDONLY, Mode::empty());
        let mut content = String::new();
        File::from(inside.must("opening by a directory")?).read_to_string(&mut content).must("reading")?;
        same("file in an open directory", "content", &*content)?;
        let by_path = std::fs::metadata(&self.path).must("stat of a directory")?.ino();
        same("inode of an open directory", by_path, nix::sys::stat::fstat(&self.handle).must("fstat")?.st_ino)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        std::fs::write(self.path.join("inside"), "other").must("writing")
    }
}

/// A descriptor that only names a file.
pub(crate) struct PathOnly {
    handle: File,
    path: PathBuf,
}

impl PathOnly {
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("named");
        create(&path, b"named")?;
        let handle = File::options().read(true).custom_flags(nix::libc::O_PATH).open(&path).must("open(O_PATH)")?;
        Ok(Self { handle, path })
    }
}

impl Part for PathOnly {
    fn name(&self) -> &'static str {
        "path_only"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let flags = OFlag::from_bits_retain(fcntl(&self.handle, FcntlArg::F_GETFL).must("F_GETFL")?);
        holds("flags of an O_PATH descriptor", flags.contains(OFlag::O_PATH), "O_PATH", "none")?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", self.handle.as_raw_fd())).must("readlink")?;
        same("path of an O_PATH descriptor", &self.path, &link)?;
        let by_path = std::fs::metadata(&self.path).must("stat")?.ino();
        same("inode of an O_PATH descriptor", by_path, self.handle.metadata().must("fstat")?.ino())?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        std::fs::rename(&self.path, self.path.with_extension("moved")).must("rename")
    }
}

/// Descriptors keep their numbers, far above the others too, and their close-on-exec flags.
pub(crate) struct Numbers {
    high: Vec<(OwnedFd, FdFlag)>,
    expected: Vec<(i32, PathBuf)>,
}

impl Numbers {
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let file = create(&dir.join("numbers"), b"1")?;
        let mut high = Vec::new();
        for (at_least, flag) in [(150, FdFlag::empty()), (200, FdFlag::FD_CLOEXEC)] {
            let number = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(at_least)).must("F_DUPFD")?;
            // SAFETY: the descriptor was made just now, and nobody else owns it.
            #[allow(unsafe_code)]
            let descriptor = unsafe { std::os::fd::FromRawFd::from_raw_fd(number) };
            fcntl(&descriptor, FcntlArg::F_SETFD(flag)).must("F_SETFD")?;
            high.push((descriptor, flag));
        }
        let expected = Self::open_now(&high)?;
        Ok(Self { high, expected })
    }

    fn open_now(high: &[(OwnedFd, FdFlag)]) -> Verdict<Vec<(i32, PathBuf)>> {
        let path = |number: i32| std::fs::read_link(format!("/proc/self/fd/{number}")).must("readlink");
        high.iter().map(|(fd, _)| Ok((fd.as_raw_fd(), path(fd.as_raw_fd())?))).collect()
    }
}

impl Part for Numbers {
    fn name(&self) -> &'static str {
        "numbers"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("descriptors with high numbers", &self.expected, &Self::open_now(&self.high)?)?;
        for (descriptor, expected) in &self.high {
            let found = FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).must("F_GETFD")?);
            same(format_args!("flags of descriptor {}", descriptor.as_raw_fd()), *expected, found)?;
        }
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        fcntl(&self.high[0].0, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).must("F_SETFD").map(drop)
    }
}
