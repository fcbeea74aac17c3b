//! Makes files beneath one directory, and nowhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Limits, RootfsError, Stats};

type Result<T> = std::result::Result<T, RootfsError>;

/// Longer ones cannot be opened.
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;
const BLOCK: usize = 4096;
const BUFFER: usize = 64 * BLOCK;

/// What an entry has besides its content.
#[derive(Debug, Clone, Default)]
pub(super) struct Metadata {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: (i64, u32),
    /// Names and values, all of them: what is not wanted is left out here.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A name beneath the root that has been judged: relative, no `..`, nothing too long. Empty for the root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(PathBuf);

impl Name {
    /// Absolute names count from the new root, as tar does it.
    pub(super) fn new(name: &[u8]) -> Result<Name> {
        let refuse = |why| Err(RootfsError::Name { name: name.to_owned(), why });
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.contains(&0) {
            return refuse("it holds a NUL byte");
        }
        if name.len() > MAX_PATH_BYTES {
            return refuse("it is too long");
        }
        let mut path = PathBuf::new();
        for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
            if part == b".." {
                return refuse("it leads out of the root");
            }
            if part.len() > MAX_NAME_BYTES {
                return refuse("a part of it is too long");
            }
            path.push(OsStr::from_bytes(part));
        }
        Ok(Name(path))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    fn is_root(&self) -> bool {
        self.0.as_os_str().is_empty()
    }
}

/// The root that is being filled.
pub(super) struct Tree<'a> {
    root: &'a File,
    limits: Limits,
    pub(super) stats: Stats,
    entries: u64,
    /// Their modes and times would be disturbed by what is made in them, so they get them last.
    directories: Vec<(Name, Metadata)>,
    buffer: Vec<u8>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a File, limits: Limits) -> Tree<'a> {
        let buffer = vec![0; BUFFER];
        Tree { root, limits, stats: Stats::default(), entries: 0, directories: Vec::new(), buffer }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// How many entries have been seen.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// Every entry counts, also one that is left out.
    pub(super) fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(RootfsError::TooMuch { what: "entries", limit: self.limits.entries });
        }
        Ok(())
    }

    pub(super) fn directory(&mut self, name: Name, metadata: Metadata) -> Result<()> {
        if !name.is_root() {
            let (parent, last) = self.parent(&name)?;
            match make_directory(&parent, &last) {
                Err(Errno::EXIST) => {
                    let kind = rustix::fs::statat(&parent, &last, AtFlags::SYMLINK_NOFOLLOW)
                        .map(|found| rustix::fs::FileType::from_raw_mode(found.st_mode));
                    if !matches!(kind, Ok(rustix::fs::FileType::Directory)) {
                        remove(&parent, &last).map_err(RootfsError::entry("replace", name.bytes()))?;
                        make_directory(&parent, &last)
                            .map_err(|error| RootfsError::entry("create the directory", name.bytes())(error.into()))?;
                    }
                }
                other => {
                    other.map_err(|error| RootfsError::entry("create the directory", name.bytes())(error.into()))?
                }
            }
        }
        self.stats.directories += 1;
        self.directories.push((name, metadata));
        Ok(())
    }

    /// `size` is what was announced; content that ends before is an error of the reader's kind.
    pub(super) fn file(&mut self, name: &Name, metadata: &Metadata, size: u64, content: &mut dyn Read) -> Result<()> {
        if self.stats.bytes.checked_add(size).is_none_or(|sum| sum > self.limits.bytes) {
            return Err(RootfsError::TooMuch { what: "bytes in its files", limit: self.limits.bytes });
        }
        let file = self.create(name, |parent, last| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, last, flags, Mode::from_raw_mode(0o600))
        })?;
        let file = File::from(file);
        self.fill(&file, size, content).map_err(RootfsError::entry("write", name.bytes()))?;
        self.stats.files += 1;
        self.stats.bytes += size;
        self.dress(&file, name, metadata)
    }

    /// Blocks of zeros become holes.
    fn fill(&mut self, file: &File, size: u64, content: &mut dyn Read) -> io::Result<()> {
        let mut offset = 0;
        while offset < size {
            let want = (size - offset).min(BUFFER as u64) as usize;
            content.read_exact(&mut self.buffer[..want])?;
            for (index, block) in self.buffer[..want].chunks(BLOCK).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    file.write_all_at(block, offset + (index * BLOCK) as u64)?;
                }
            }
            offset += want as u64;
        }
        file.set_len(size)
    }

    pub(super) fn symlink(&mut self, name: &Name, metadata: &Metadata, target: &[u8]) -> Result<()> {
        let target = OsStr::from_bytes(target);
        self.create(name, |parent, last| rustix::fs::symlinkat(target, parent, last))?;
        self.stats.symlinks += 1;
        self.dress_by_name(name, metadata)
    }

    /// The target is looked for beneath the root, and a link there is linked itself, not what it leads to.
    pub(super) fn hard_link(&mut self, name: &Name, target: &Name) -> Result<()> {
        let (target_parent, target_last) = self.parent(target)?;
        self.create(name, |parent, last| {
            rustix::fs::linkat(&target_parent, &target_last, parent, last, AtFlags::empty())
        })?;
        self.stats.hard_links += 1;
        Ok(())
    }

    pub(super) fn fifo(&mut self, name: &Name, metadata: &Metadata) -> Result<()> {
        self.create(name, |parent, last| {
            rustix::fs::mknodat(parent, last, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        })?;
        self.stats.fifos += 1;
        self.dress_by_name(name, metadata)
    }

    /// Gives the directories what they are to have: of two entries for one the later.
    pub(super) fn finish(mut self) -> Result<Stats> {
        for (name, metadata) in std::mem::take(&mut self.directories) {
            let path = if name.is_root() { Path::new(".") } else { &name.0 };
            // A later entry may have replaced it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
                Ok(dir) => self.dress(&File::from(dir), &name, &metadata)?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(RootfsError::entry("open", name.bytes())(error.into())),
            }
        }
        Ok(self.stats)
    }

    /// Makes something whose name may be taken: then the later entry counts, as with tar.
    fn create<T>(&self, name: &Name, make: impl Fn(&OwnedFd, &OsStr) -> rustix::io::Result<T>) -> Result<T> {
        let (parent, last) = self.parent(name)?;
        let made = match make(&parent, &last) {
            Err(Errno::EXIST) => {
                remove(&parent, &last).map_err(RootfsError::entry("replace", name.bytes()))?;
                make(&parent, &last)
            }
            other => other,
        };
        made.map_err(|error| RootfsError::entry("create", name.bytes())(error.into()))
    }

    /// The directory that holds `name`, and the last part. Missing directories are made.
    fn parent(&self, name: &Name) -> Result<(OwnedFd, std::ffi::OsString)> {
        let refuse = |why| RootfsError::Name { name: name.bytes().to_owned(), why };
        let last = name.0.file_name().ok_or_else(|| refuse("it is the root itself"))?.to_owned();
        let path = name.0.parent().unwrap_or(Path::new(""));
        let opened = match self.open_parent(path) {
            Err(Errno::NOENT) => self.make_parents(path).and_then(|()| self.open_parent(path)),
            other => other,
        };
        let parent = opened.map_err(|error| match error {
            Errno::XDEV | Errno::LOOP => refuse("a link or a mount on the way leads out of the root"),
            Errno::NOTDIR => refuse("what should hold it is no directory"),
            other => RootfsError::entry("open what holds", name.bytes())(other.into()),
        })?;
        Ok((parent, last))
    }

    fn open_parent(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve)
    }

    fn make_parents(&self, path: &Path) -> rustix::io::Result<()> {
        let mut so_far = PathBuf::new();
        for part in path {
            let holder = self.open_parent(&so_far)?;
            match make_directory(&holder, part) {
                Ok(()) => rustix::fs::chmodat(&holder, part, Mode::from_raw_mode(0o755), AtFlags::empty())?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            so_far.push(part);
        }
        Ok(())
    }

    /// In this order: a change of owner takes away setuid bits and capabilities, and everything changes the times.
    fn dress(&mut self, file: &File, name: &Name, metadata: &Metadata) -> Result<()> {
        let cannot = |what| move |error: Errno| RootfsError::entry(what, name.bytes())(error.into());
        let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(cannot("set the owner of"))?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(metadata.mode & 0o7777)).map_err(cannot("set the mode of"))?;
        for (key, value) in &metadata.xattrs {
            if !is_wanted(key) {
                self.stats.skipped_xattrs += 1;
                continue;
            }
            rustix::fs::fsetxattr(file, OsStr::from_bytes(key), value, XattrFlags::empty())
                .map_err(cannot("set an extended attribute of"))?;
        }
        rustix::fs::futimens(file, &times(metadata)).map_err(cannot("set the time of"))
    }

    /// For what cannot be opened: links and pipes. They hold no attributes that are wanted.
    fn dress_by_name(&mut self, name: &Name, metadata: &Metadata) -> Result<()> {
        self.stats.skipped_xattrs += metadata.xattrs.len() as u64;
        let (parent, last) = self.parent(name)?;
        let cannot = |what| move |error: Errno| RootfsError::entry(what, name.bytes())(error.into());
        let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        let parent = parent.as_fd();
        rustix::fs::chownat(parent, &last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(cannot("set the owner of"))?;
        let found = rustix::fs::statat(parent, &last, AtFlags::SYMLINK_NOFOLLOW).map_err(cannot("look at"))?;
        if rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Fifo {
            // Nobody else writes here, so the name still stands for the pipe.
            rustix::fs::chmodat(parent, &last, Mode::from_raw_mode(metadata.mode & 0o7777), AtFlags::empty())
                .map_err(cannot("set the mode of"))?;
        }
        rustix::fs::utimensat(parent, &last, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(cannot("set the time of"))
    }
}

fn is_wanted(xattr: &[u8]) -> bool {
    xattr.starts_with(b"user.") || xattr == b"security.capability"
}

fn times(metadata: &Metadata) -> Timestamps {
    let (seconds, nanoseconds) = metadata.modified;
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
}

/// A directory only where it is empty: an archive that turns a full one into a file is refused.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?),
        other => Ok(other?),
    }
}
