//! Opening what lies in a sandbox or in a layer, where a workload may have put anything in any place.
//!
//! No link is followed, nothing leads out of the root given, and a file is a regular file: a pipe would make its reader wait,
//! a device would do whatever it does.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The root of the process `pid`, which is the root of its sandbox.
pub(crate) fn root_of(pid: i32) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?.into())
}

/// A directory.
pub(crate) fn directory(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<File> {
    open(root, path, flags | OFlags::DIRECTORY, Mode::empty())
}

/// A regular file. Its descriptor blocks, as descriptors usually do.
pub(crate) fn file(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let file = open(root, path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, mode)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? & !OFlags::NONBLOCK)?;
    Ok(file)
}

/// Removes a name. That it is not there is fine.
pub(crate) fn remove(root: impl AsFd, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let removed = directory(root, parent, OFlags::PATH)
        .and_then(|parent| Ok(rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::empty())?));
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat2(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)?.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_planted_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        std::fs::create_dir(at.join("real")).unwrap();
        std::fs::write(at.join("real/file"), "content").unwrap();
        symlink("real", at.join("dir-link")).unwrap();
        symlink("file", at.join("real/file-link")).unwrap();
        symlink("/etc/passwd", at.join("real/out")).unwrap();
        nix::unistd::mkfifo(&at.join("real/pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let root = File::open(at).unwrap();
        let read = |path: &str| file(&root, Path::new(path), OFlags::RDONLY, Mode::empty());
        assert_eq!(io::read_to_string(read("real/file").unwrap()).unwrap(), "content");
        assert_eq!(io::read_to_string(read("/../real/file").unwrap()).unwrap(), "content", "the root is the root");
        for planted in ["dir-link/file", "real/file-link", "real/out", "real/pipe", "real"] {
            assert!(read(planted).is_err(), "{planted}");
        }
        assert!(remove(&root, Path::new("dir-link/file")).is_err());
        for removed in ["real/file-link", "/real/file-link", "no/such", "real/out"] {
            remove(&root, Path::new(removed)).unwrap();
        }
        assert!(at.join("real/file").exists() && Path::new("/etc/passwd").exists() && !at.join("real/out").exists());
        assert!(directory(&root, Path::new("real"), OFlags::RDONLY).is_ok());
        assert!(directory(&root, Path::new("dir-link"), OFlags::RDONLY).is_err());
    }
}
