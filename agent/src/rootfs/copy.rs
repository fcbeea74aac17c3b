//! Copies a directory of this node, without leaving its file system and without following any link.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::RootfsError;
use super::tree::{Metadata, Name, Tree};

/// Copies what lies in the directory `source`.
pub(super) fn copy(source: &File, tree: &mut Tree) -> Result<(), RootfsError> {
    let mut copier = Copier { source, tree, device: 0, first_names: HashMap::new() };
    let mut waiting = vec![PathBuf::from(".")];
    copier.device = copier.stat(source, Path::new("."))?.st_dev;
    while let Some(path) = waiting.pop() {
        copier.directory(&path, &mut waiting)?;
    }
    Ok(())
}

struct Copier<'a, 'b> {
    source: &'a File,
    tree: &'a mut Tree<'b>,
    device: u64,
    /// The first name of every file that has several, by inode.
    first_names: HashMap<u64, Name>,
}

impl Copier<'_, '_> {
    fn directory(&mut self, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), RootfsError> {
        let dir = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.tree.count_entry()?;
        let found = self.stat(&dir, path)?;
        let metadata = self.metadata(&dir, &found, path)?;
        self.tree.directory(name_of(path)?, metadata)?;
        if found.st_dev != self.device {
            self.tree.stats.skipped_mounts += 1;
            return Ok(());
        }
        let unreadable =
            |error: rustix::io::Errno| RootfsError::entry("read", path.as_os_str().as_bytes())(error.into());
        for entry in Dir::read_from(&dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.entry(path.join(OsStr::from_bytes(name)), waiting)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, waiting: &mut Vec<PathBuf>) -> Result<(), RootfsError> {
        let place = self.open(&path, OFlags::PATH)?;
        let found = self.stat(&place, &path)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory {
            waiting.push(path);
            return Ok(());
        }
        self.tree.count_entry()?;
        let name = name_of(&path)?;
        if found.st_nlink > 1 && !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice | FileType::Socket) {
            if let Some(first) = self.first_names.get(&found.st_ino) {
                return self.tree.hard_link(&name, &first.clone());
            }
            self.first_names.insert(found.st_ino, name.clone());
        }
        match kind {
            FileType::RegularFile => {
                let mut file = self.open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                let found = self.stat(&file, &path)?;
                let metadata = self.metadata(&file, &found, &path)?;
                self.tree.file(&name, &metadata, found.st_size as u64, &mut file)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&place, "", Vec::new())
                    .map_err(|error| RootfsError::entry("read the link", path.as_os_str().as_bytes())(error.into()))?;
                self.tree.symlink(&name, &plain(&found), target.as_bytes())
            }
            FileType::Fifo => self.tree.fifo(&name, &plain(&found)),
            _ => {
                self.tree.stats.skipped_specials += 1;
                Ok(())
            }
        }
    }

    /// Never through a link: a name could have been exchanged since it was listed.
    fn open(&self, path: &Path, flags: OFlags) -> Result<File, RootfsError> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = if flags.contains(OFlags::PATH) { resolve } else { resolve | ResolveFlags::NO_SYMLINKS };
        rustix::fs::openat2(self.source, path, flags, Mode::empty(), resolve)
            .map(File::from)
            .map_err(|error| RootfsError::entry("open", path.as_os_str().as_bytes())(error.into()))
    }

    fn stat(&self, file: &File, path: &Path) -> Result<Stat, RootfsError> {
        rustix::fs::fstat(file)
            .map_err(|error| RootfsError::entry("look at", path.as_os_str().as_bytes())(error.into()))
    }

    fn metadata(&self, file: &File, found: &Stat, path: &Path) -> Result<Metadata, RootfsError> {
        let xattrs =
            xattrs(file).map_err(RootfsError::entry("read the extended attributes of", path.as_os_str().as_bytes()))?;
        Ok(Metadata { xattrs, ..plain(found) })
    }
}

fn name_of(path: &Path) -> Result<Name, RootfsError> {
    Name::new(path.as_os_str().as_bytes())
}

fn plain(found: &Stat) -> Metadata {
    Metadata {
        mode: found.st_mode,
        uid: found.st_uid,
        gid: found.st_gid,
        modified: (found.st_mtime, found.st_mtime_nsec as u32),
        xattrs: Vec::new(),
    }
}

/// None where the file system knows none.
fn xattrs(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Through its own name in /proc, because only a path can be asked for the list.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut list = vec![0; 64 << 10];
    let length = match rustix::fs::listxattr(&path, &mut list[..]) {
        Err(rustix::io::Errno::NOTSUP) => 0,
        other => other?,
    };
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut value = vec![0; 64 << 10];
    names
        .map(|name| {
            let length = rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value[..])?;
            Ok((name.to_owned(), value[..length].to_vec()))
        })
        .collect()
}
