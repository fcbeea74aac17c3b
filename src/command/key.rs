//! `migrate key`: makes the key file of a cluster ([`make`]) and changes it step by step ([`rotation`]). Key files are made and
//! replaced whole, readable for their owner only.

pub(crate) mod rotation;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use migrate_proto::key::{ClusterKey, Fingerprint, KeyFileError, KeyRing, LONGEST_FILE, RingError};
use serde::Serialize;
use thiserror::Error;

use super::Session;
use crate::failure::Failure;
use crate::show::answer;

/// Why a key file was not made, read or changed.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    #[error("{} is there already; a key is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be {doing}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: KeyFileError },
    #[error("{}: {source}", path.display())]
    Ring { path: PathBuf, source: RingError },
    #[error("no random bytes: {0}")]
    Random(io::Error),
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => KeyError::File { doing, path: path.to_owned(), source },
    }
}

/// Random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

fn new_key() -> Result<ClusterKey, KeyError> {
    ClusterKey::filled(|bytes| fill_random(bytes)).map_err(KeyError::Random)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The JSON of `key new`: the key's name, never the key.
#[derive(Serialize)]
struct NewKey<'a> {
    file: &'a Path,
    keys: [Fingerprint; 1],
}

/// Makes a key file, and says what it is for.
pub(crate) fn new(session: &Session, file: &Path) -> Result<u8, Failure> {
    make(file)?;
    if session.everywhere.json {
        answer::json_document(&NewKey { file, keys: [read(file)?.first().fingerprint()] })?;
    } else {
        let what = "holds a new cluster key: give every node a copy, keep it secret";
        session.remarks.say(format_args!("{} {what}", file.display()));
    }
    Ok(0)
}

/// Writes a new key to `path`. A key that could not be written whole is removed.
pub(crate) fn make(path: &Path) -> Result<(), KeyError> {
    write_new(path, &KeyRing::of(new_key()?))
}

/// Gives another place the same keys.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), KeyError> {
    write_new(to, &read(from)?)
}

fn read(path: &Path) -> Result<KeyRing, KeyError> {
    let file = File::open(path).map_err(failed("opened", path))?;
    // As long as it can get, so that it never moves and leaves a copy behind.
    let mut content = Vec::with_capacity(LONGEST_FILE + 1);
    file.take(LONGEST_FILE as u64 + 1).read_to_end(&mut content).map_err(failed("read", path))?;
    let ring = KeyRing::parse(&content).map_err(|source| KeyError::Content { path: path.to_owned(), source });
    content.fill(0);
    ring
}

fn write_new(path: &Path, ring: &KeyRing) -> Result<(), KeyError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed("made", path))?;
    file.write_all(ring.file().as_bytes()).and_then(|()| file.sync_all()).map_err(|source| {
        let _ = std::fs::remove_file(path);
        KeyError::File { doing: "written", path: path.to_owned(), source }
    })
}

/// The file is the old one or the new one, at every instant.
fn replace(path: &Path, ring: &KeyRing) -> Result<(), KeyError> {
    // A link stays a link.
    let real = std::fs::canonicalize(path).map_err(failed("found", path))?;
    let mut unready = real.clone().into_os_string();
    unready.push(".new");
    let unready = PathBuf::from(unready);
    write_new(&unready, ring)?;
    let renamed = std::fs::rename(&unready, &real).map_err(failed("replaced", &real));
    let directory = real.parent().unwrap_or(Path::new("/"));
    renamed
        .inspect_err(|_| drop(std::fs::remove_file(&unready)))
        .and_then(|()| File::open(directory).and_then(|it| it.sync_all()).map_err(failed("written", &real)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_key_is_secret_random_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (directory.path().join("one"), directory.path().join("other"));
        make(&one).unwrap();
        make(&other).unwrap();
        let text = std::fs::read_to_string(&one).unwrap();
        assert_eq!(text.len(), 65);
        assert!(text.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(text, std::fs::read_to_string(&other).unwrap());
        assert_eq!(mode(&one), 0o600);
        assert!(matches!(make(&one), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::read_to_string(&one).unwrap(), text);
    }

    #[test]
    fn a_key_file_is_replaced_whole_also_behind_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("key"), directory.path().join("link"));
        make(&file).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut ring = read(&link).unwrap();
        ring.add(new_key().unwrap()).unwrap();
        replace(&link, &ring).unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!((read(&file).unwrap(), mode(&file)), (ring, 0o600));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_key_file_is_not_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "5ec4e7").unwrap();
        let error = read(&file).unwrap_err();
        assert!(matches!(error, KeyError::Content { .. }) && !format!("{error:?}").contains("5ec4e7"), "{error:?}");
    }
}
