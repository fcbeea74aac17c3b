//! The key file of a node: nobody but its owner may read it, put another in its place, or reach it by another name.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use migrate_proto::key::{KeyFileError, KeyRing, LONGEST_FILE};
use thiserror::Error;
use zeroize::Zeroizing;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot {doing} the cluster key {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read or change the file.
    #[error(
        "the cluster key {} has mode {mode:04o}: it must be 0600 or 0400, so that nobody else can read it (chmod 600 {})",
        path.display(), path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file is somebody else's.
    #[error("the cluster key {} belongs to user {owner}: it must belong to root or to the agent's user", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The file has a second name, where it may be in sight of workloads.
    #[error("the cluster key {} has {links} names: a hard link to it lies somewhere else", path.display())]
    Linked {
        /// The file.
        path: PathBuf,
        /// How many.
        links: u64,
    },
    /// Others could put another file in its place.
    #[error(
        "the directory {} of the cluster key can be changed by others (mode {mode:04o}, user {owner}): chmod go-w {}",
        directory.display(), directory.display()
    )]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        owner: u32,
    },
    /// The file holds something else.
    #[error("the cluster key {}: {source} (make one with: migrate key new)", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeyFileError,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// Reads a ring from a file that nobody else can read, in a directory that nobody else can change.
pub fn load(path: &Path) -> Result<KeyRing, KeyError> {
    let failed = |doing| move |source| KeyError::File { doing, path: path.to_owned(), source };
    // Where it really is: a link may lead into another directory.
    let real = std::fs::canonicalize(path).map_err(failed("find"))?;
    for directory in real.ancestors().skip(1) {
        let metadata = std::fs::metadata(directory).map_err(failed("examine the directory of"))?;
        check_directory(directory, metadata.mode() & 0o7777, metadata.uid())?;
    }
    let file = File::open(&real).map_err(failed("open"))?;
    // Of the open file, not of the name: the two could be different files.
    let metadata = file.metadata().map_err(failed("examine"))?;
    let mode = metadata.mode() & 0o7777;
    if !matches!(mode, 0o600 | 0o400) {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    let owner = metadata.uid();
    if !is_ours(owner) {
        return Err(KeyError::Owner { path: path.to_owned(), owner });
    }
    if metadata.nlink() > 1 {
        return Err(KeyError::Linked { path: path.to_owned(), links: metadata.nlink() });
    }
    // As long as it can get, so that it never moves and leaves a copy behind.
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST_FILE + 1));
    file.take(LONGEST_FILE as u64 + 1).read_to_end(&mut content).map_err(failed("read"))?;
    KeyRing::parse(&content).map_err(|source| KeyError::Content { path: path.to_owned(), source })
}

fn is_ours(owner: u32) -> bool {
    owner == 0 || owner == nix::unistd::geteuid().as_raw()
}

/// In a directory with the sticky bit, such as /tmp, others can add names but not change ours.
fn check_directory(directory: &Path, mode: u32, owner: u32) -> Result<(), KeyError> {
    let others_write = mode & 0o022 != 0 && mode & 0o1000 == 0;
    if others_write || !is_ours(owner) {
        return Err(KeyError::Directory { directory: directory.to_owned(), mode, owner });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn saved(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn good() -> (tempfile::TempDir, PathBuf) {
        saved(&("a".repeat(64) + "\n"), 0o600)
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o644, 0o700] {
            let (_dir, path) = saved(&"a".repeat(64), mode);
            let error = load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Mode { mode: found, .. } if found == mode), "{error}");
        }
        for mode in [0o600, 0o400] {
            let (_dir, path) = saved(&"a".repeat(64), mode);
            assert_eq!(load(&path).unwrap().fingerprints().len(), 1);
        }
    }

    #[test]
    fn a_key_of_another_user_is_refused() {
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        let (_dir, path) = good();
        chown(&path, Some(4321), None).unwrap();
        assert!(matches!(load(&path), Err(KeyError::Owner { owner: 4321, .. })));
    }

    #[test]
    fn a_key_that_others_could_replace_is_refused() {
        for mode in [0o770, 0o707, 0o777] {
            let (dir, path) = good();
            let below = dir.path().join("open");
            fs::create_dir(&below).unwrap();
            fs::set_permissions(&below, Permissions::from_mode(mode)).unwrap();
            // Also where it is another directory on the way.
            let deep = below.join("deep");
            fs::create_dir(&deep).unwrap();
            for place in [&below, &deep] {
                fs::rename(&path, place.join("key")).unwrap();
                let error = load(&place.join("key")).unwrap_err();
                assert!(matches!(&error, KeyError::Directory { directory, .. } if *directory == below), "{error}");
                fs::rename(place.join("key"), &path).unwrap();
            }
            fs::set_permissions(&below, Permissions::from_mode(mode | 0o1000)).unwrap();
            fs::rename(&path, below.join("key")).unwrap();
            load(&below.join("key")).unwrap();
        }
    }

    #[test]
    fn a_link_is_followed_to_where_the_key_really_is() {
        let (dir, path) = good();
        let (elsewhere, link) = (tempfile::tempdir().unwrap(), dir.path().join("link"));
        fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o777)).unwrap();
        symlink(elsewhere.path().join("key"), &link).unwrap();
        fs::rename(&path, elsewhere.path().join("key")).unwrap();
        assert!(matches!(load(&link), Err(KeyError::Directory { .. })));
    }

    #[test]
    fn a_key_with_a_second_name_is_refused() {
        let (dir, path) = good();
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(matches!(load(&path), Err(KeyError::Linked { links: 2, .. })));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_repeated() {
        let secret = "5ec4e7".repeat(10);
        let (_dir, path) = saved(&secret, 0o600);
        let error = load(&path).unwrap_err();
        assert!(matches!(error, KeyError::Content { source: KeyFileError::Line(1), .. }));
        assert!(!format!("{error} {error:?}").contains("5ec4e7"));
        let (_dir, path) = saved(&"#".repeat(1 << 20), 0o600);
        assert!(matches!(load(&path), Err(KeyError::Content { source: KeyFileError::NoKeyFile, .. })));
    }
}
