//! The cluster key: who has it belongs to the cluster.
//!
//! It is a file of 64 hexadecimal digits that only its owner can read. From it every node derives the same certificate
//! authority ([`authority`]) and issues a certificate for itself; nothing but the file ever has to be distributed.

pub mod authority;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use rustls::crypto::aws_lc_rs::default_provider;
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

const KEY_BYTES: usize = 32;
/// 64 digits and whatever white space an editor leaves.
const LONGEST_FILE: u64 = 256;

/// The secret that makes nodes a cluster.
pub struct ClusterKey([u8; KEY_BYTES]);

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file cannot be read or written.
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
    /// The file holds something else.
    #[error("the cluster key {} is not 64 hexadecimal digits (make one with: migrate key new)", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl ClusterKey {
    /// A new key.
    pub fn generate() -> Result<ClusterKey, KeyError> {
        let mut key = ClusterKey([0; KEY_BYTES]);
        fill_random(&mut key.0)?;
        Ok(key)
    }

    /// Writes the key into a file that does not exist yet.
    pub fn save_new(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |doing| move |source| KeyError::File { doing, path: path.to_owned(), source };
        let mut digits = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
        for byte in self.0 {
            for digit in [byte >> 4, byte & 15] {
                digits.push(char::from_digit(digit.into(), 16).unwrap_or_default());
            }
        }
        digits.push('\n');
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed("create"))?;
        file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write"))
    }

    /// Reads a key from a file that nobody else can read.
    pub fn load(path: &Path) -> Result<ClusterKey, KeyError> {
        let failed = |doing| move |source| KeyError::File { doing, path: path.to_owned(), source };
        let file = File::open(path).map_err(failed("open"))?;
        // Of the open file, not of the name: the two could be different files.
        let metadata = file.metadata().map_err(failed("examine"))?;
        let mode = metadata.mode() & 0o7777;
        if !matches!(mode, 0o600 | 0o400) {
            return Err(KeyError::Mode { path: path.to_owned(), mode });
        }
        let owner = metadata.uid();
        if owner != 0 && owner != nix::unistd::geteuid().as_raw() {
            return Err(KeyError::Owner { path: path.to_owned(), owner });
        }
        let mut text = Zeroizing::new(String::with_capacity(LONGEST_FILE as usize));
        file.take(LONGEST_FILE).read_to_string(&mut text).map_err(failed("read"))?;
        ClusterKey::from_hex(text.trim_ascii()).ok_or_else(|| KeyError::Content { path: path.to_owned() })
    }

    fn from_hex(digits: &str) -> Option<ClusterKey> {
        let mut key = ClusterKey([0; KEY_BYTES]);
        if digits.len() != 2 * KEY_BYTES {
            return None;
        }
        for (byte, pair) in key.0.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        Some(key)
    }

    /// A key for one purpose; knowing it tells nothing about the others.
    pub(crate) fn derive(&self, purpose: &'static str) -> Zeroizing<[u8; 32]> {
        let mut derived = Zeroizing::new([0; 32]);
        let expanded =
            Hkdf::<Sha256>::new(Some(b"migrate cluster key v1"), &self.0).expand(purpose.as_bytes(), &mut *derived);
        debug_assert!(expanded.is_ok(), "HKDF-SHA256 gives up to 8160 bytes");
        derived
    }
}

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey")
    }
}

/// Random bytes from the system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), KeyError> {
    default_provider().secure_random.fill(bytes).map_err(|_| KeyError::NoRandomness)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn saved(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_saved_key_is_loaded_again_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = ClusterKey::generate().unwrap();
        key.save_new(&path).unwrap();
        assert_eq!(ClusterKey::load(&path).unwrap().0, key.0);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(key.save_new(&path), Err(KeyError::File { doing: "create", .. })));
        assert_ne!(ClusterKey::generate().unwrap().0, key.0);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o660, 0o644, 0o700] {
            let (_dir, path) = saved(&"a".repeat(64), mode);
            let error = ClusterKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Mode { mode: found, .. } if found == mode), "{error}");
        }
        for mode in [0o600, 0o400] {
            let (_dir, path) = saved(&"a".repeat(64), mode);
            assert!(ClusterKey::load(&path).is_ok());
        }
    }

    #[test]
    fn a_key_of_another_user_is_refused() {
        let (_dir, path) = saved(&"a".repeat(64), 0o600);
        if !nix::unistd::geteuid().is_root() {
            return; // only root can give files away
        }
        std::os::unix::fs::chown(&path, Some(4321), None).unwrap();
        assert!(matches!(ClusterKey::load(&path), Err(KeyError::Owner { owner: 4321, .. })));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for content in ["", "a", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"é".repeat(32), &"a".repeat(4096)]
        {
            let (_dir, path) = saved(content, 0o600);
            assert!(matches!(ClusterKey::load(&path), Err(KeyError::Content { .. })), "{content:?}");
        }
        let (_dir, path) = saved(&format!("{}\n", "0f".repeat(32)), 0o600);
        assert_eq!(ClusterKey::load(&path).unwrap().0, [15; 32]);
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", ClusterKey([7; 32])), "ClusterKey");
    }

    #[test]
    fn purposes_have_keys_of_their_own() {
        let key = ClusterKey([7; 32]);
        assert_eq!(key.derive("a"), ClusterKey([7; 32]).derive("a"));
        assert_ne!(key.derive("a"), key.derive("b"));
        assert_ne!(key.derive("a"), ClusterKey([8; 32]).derive("a"));
    }
}
