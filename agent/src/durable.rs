//! Small files that must be whole after a crash: JSON with a checksum, replaced in one step.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use migrate_proto::id::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a file could not be kept or read.
#[derive(Debug, Error)]
pub enum DurableError {
    /// The file system said no.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What is there is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
}

fn file_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError::File { action, path: path.to_owned(), source }
}

/// Writes `value`; when this returns it is on disk, and a crash leaves either the old content or the new one.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), DurableError> {
    replace(path, value, File::sync_all)?;
    sync_parent(path)
}

/// Makes a directory with all above it; when this returns it is on disk.
pub fn make_dir(path: &Path) -> Result<(), DurableError> {
    fs::create_dir_all(path).map_err(file_error("create", path))?;
    sync_parent(path)
}

/// Removes a directory with all that is in it, durably; one that is not there is removed already.
pub fn remove_dir(path: &Path) -> Result<(), DurableError> {
    match fs::remove_dir_all(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("remove", path)(error)),
    }
}

/// Writes `value` so that it survives this agent, and in time reaches the disk. A loss of power may leave neither the old
/// content nor the new one, on some file systems an empty file: only for what can be done without.
pub fn write_soon<T: Serialize>(path: &Path, value: &T) -> Result<(), DurableError> {
    replace(path, value, |_| Ok(()))
}

fn replace<T: Serialize>(path: &Path, value: &T, settle: fn(&File) -> io::Result<()>) -> Result<(), DurableError> {
    let body = serde_json::to_string(value)
        .map_err(|error| DurableError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh).map_err(file_error("create", &fresh))?;
    let text = format!("{}\n{body}\n", Digest::of(body.as_bytes()));
    let written = file.write_all(text.as_bytes()).and_then(|()| settle(&file)).map_err(file_error("write", &fresh));
    let replaced = written.and_then(|()| fs::rename(&fresh, path).map_err(file_error("rename to", path)));
    // Half a file is of no use, least of all on a full disk.
    replaced.inspect_err(|_| drop(fs::remove_file(&fresh)))
}

/// Reads what [`write()`] wrote; `None` where there is nothing.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DurableError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(file_error("read", path))?,
    };
    let damaged = |reason: &str| DurableError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let (digest, body) = text.split_once('\n').ok_or_else(|| damaged("it ends early"))?;
    let body = body.trim_end_matches('\n');
    if digest != Digest::of(body.as_bytes()).to_string() {
        return Err(damaged("its checksum is wrong"));
    }
    serde_json::from_str(body).map(Some).map_err(|error| damaged(&error.to_string()))
}

/// Removes a file, durably; one that is not there is removed already.
pub fn remove(path: &Path) -> Result<(), DurableError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(file_error("remove", path)(error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), DurableError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(file_error("sync", parent))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1, 2, 3]).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![1, 2, 3]));
        remove(&path).unwrap();
        remove(&path).unwrap();
        let deep = dir.path().join("a/b");
        make_dir(&deep).unwrap();
        make_dir(&deep).unwrap();
        remove_dir(&dir.path().join("a")).unwrap();
        remove_dir(&deep).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write(&path, &1).unwrap();
        let full = |_: &File| Err(io::ErrorKind::StorageFull.into());
        assert!(replace(&path, &2, full).is_err());
        assert_eq!(read::<u32>(&path).unwrap(), Some(1));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write(&path, &vec![1, 2, 3]).unwrap();
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read::<Vec<u32>>(&path).is_err(), "byte {at}");
        }
    }
}
