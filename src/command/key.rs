//! `migrate key new`: 32 random bytes as 64 hex digits, in a file that only its owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no new key.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    #[error("{} is there already; a key is never overwritten", path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no random bytes: {0}")]
    Random(io::Error),
}

/// Random bytes from the kernel.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a new key to `path`. A key that could not be written whole is removed.
pub(crate) fn make(path: &Path) -> Result<(), KeyError> {
    let digits = hex(&random_bytes::<32>().map_err(KeyError::Random)?);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|source| {
            match source.kind() {
                io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
                _ => KeyError::Write { path: path.to_owned(), source },
            }
        })?;
    writeln!(file, "{digits}").and_then(|()| file.sync_all()).map_err(|source| {
        let _ = std::fs::remove_file(path);
        KeyError::Write { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
        assert_eq!(std::fs::metadata(&one).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(matches!(make(&one), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::read_to_string(&one).unwrap(), text);
    }
}
