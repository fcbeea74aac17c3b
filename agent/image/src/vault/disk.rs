//! Every change to the vault's files. What is written gets its name only when it is whole, and is durable when asked for.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use migrate_proto::id::Digest;
use migrate_proto::name::WorkloadName;

use super::VaultError;

const SEGMENTS: &str = "seg";
const GENERATIONS: &str = "gen";
const NEW: &str = "new";

/// The vault's directory.
pub(super) struct Disk {
    root: PathBuf,
    next: AtomicU64,
    #[cfg(test)]
    pub(super) fuse: super::tests::fuse::Fuse,
}

/// A file that is written and has no name yet. Removed when dropped.
pub(super) struct New(PathBuf);

impl Drop for New {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// One change, as the tests count them.
#[cfg(test)]
#[derive(Debug)]
pub(super) enum Step<'a> {
    Write(&'a Path),
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
    SyncDir(&'a Path),
    Remove(&'a Path),
}

impl Disk {
    /// Makes the directories where they are not there. What they hold is the memory of processes: nobody else's business.
    pub(super) fn new(root: PathBuf) -> Result<Disk, VaultError> {
        for dir in [root.clone(), root.join(SEGMENTS), root.join(GENERATIONS), root.join(NEW)] {
            make_dir(&dir)?;
        }
        Ok(Disk {
            root,
            next: AtomicU64::new(0),
            #[cfg(test)]
            fuse: Default::default(),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a segment is.
    pub(super) fn segment(&self, digest: Digest) -> PathBuf {
        self.root.join(SEGMENTS).join(digest.to_string())
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.root.join(SEGMENTS)
    }

    pub(super) fn generations(&self) -> PathBuf {
        self.root.join(GENERATIONS)
    }

    /// Where the generations of a workload are. Made where it is not there.
    pub(super) fn generations_of(&self, workload: &WorkloadName) -> Result<PathBuf, VaultError> {
        let dir = self.generations().join(workload.as_str());
        if !dir.exists() {
            make_dir(&dir)?;
            self.sync_dir(&self.generations())?;
        }
        Ok(dir)
    }

    /// Removes what was never finished.
    pub(super) fn clear_new(&self) -> Result<(), VaultError> {
        let dir = self.root.join(NEW);
        for entry in list(&dir)? {
            fs::remove_file(&entry).map_err(|source| VaultError::Io { path: entry, source })?;
        }
        Ok(())
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, VaultError> {
        fs::read(path).map_err(|source| failed(path, source))
    }

    /// Writes a file that has no name yet. It is neither durable nor found by anybody.
    pub(super) fn write_new(&self, pieces: &[&[u8]]) -> Result<New, VaultError> {
        let path = self.root.join(NEW).join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let new = New(path.clone());
        let written = || -> io::Result<()> {
            #[cfg(test)]
            self.fuse.step(Step::Write(&path))?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            pieces.iter().try_for_each(|piece| file.write_all(piece))
        };
        written().map_err(|source| failed(&path, source))?;
        Ok(new)
    }

    /// Waits until a file's bytes are on disk.
    pub(super) fn sync_new(&self, new: &New) -> Result<(), VaultError> {
        self.sync(&new.0)
    }

    /// The same, for one that has a name.
    pub(super) fn sync(&self, path: &Path) -> Result<(), VaultError> {
        let synced = || -> io::Result<()> {
            #[cfg(test)]
            self.fuse.step(Step::Sync(path))?;
            File::open(path)?.sync_all()
        };
        synced().map_err(|source| failed(path, source))
    }

    /// Gives a file its name.
    pub(super) fn publish(&self, new: New, to: &Path) -> Result<(), VaultError> {
        let renamed = || -> io::Result<()> {
            #[cfg(test)]
            self.fuse.step(Step::Rename(&new.0, to))?;
            fs::rename(&new.0, to)
        };
        renamed().map_err(|source| failed(to, source))
    }

    /// Waits until the names in a directory are on disk.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), VaultError> {
        let synced = || -> io::Result<()> {
            #[cfg(test)]
            self.fuse.step(Step::SyncDir(dir))?;
            File::open(dir)?.sync_all()
        };
        synced().map_err(|source| failed(dir, source))
    }

    /// The same, for the directory that a file is in.
    pub(super) fn sync_parent(&self, path: &Path) -> Result<(), VaultError> {
        self.sync_dir(path.parent().unwrap_or(&self.root))
    }

    /// Removes a file; one that is not there is removed already.
    pub(super) fn remove(&self, path: &Path) -> Result<(), VaultError> {
        let removed = || -> io::Result<()> {
            #[cfg(test)]
            self.fuse.step(Step::Remove(path))?;
            fs::remove_file(path)
        };
        match removed() {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed(path, source)),
            _ => Ok(()),
        }
    }

    /// How much of the disk is free for us.
    pub(super) fn free(&self) -> Result<u64, VaultError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|errno| failed(&self.root, errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Where it is written down what a look at a generation has shown.
pub(super) fn looked(generation: &Path) -> PathBuf {
    generation.with_extension("looked")
}

/// What is in a directory.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, VaultError> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    entries.map_err(|source| VaultError::Io { path: dir.into(), source })
}

fn make_dir(dir: &Path) -> Result<(), VaultError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(dir);
    made.map_err(|source| VaultError::Io { path: dir.into(), source })
}

fn failed(path: &Path, source: io::Error) -> VaultError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VaultError::DiskFull { path: path.into() },
        _ => VaultError::Io { path: path.into(), source },
    }
}
