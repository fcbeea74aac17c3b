//! How much a pipe may hold: CRIU moves memory through pipes.

use std::fs;
use std::io;
use std::path::Path;

/// Enough that CRIU needs few pipes, and that a dump of lazy pages works at all without CAP_SYS_RESOURCE.
const WANTED: u64 = 256 << 20;
const SETTING: &str = "/proc/sys/fs/pipe-max-size";

/// What came of raising the limit. Nothing of it is fatal: with a low one, dumps take longer.
#[derive(Debug)]
pub enum PipeLimit {
    /// It was high enough.
    Enough {
        /// In bytes.
        bytes: u64,
    },
    /// It has been raised, for the whole machine, until it starts again.
    Raised {
        /// In bytes, before.
        from: u64,
        /// In bytes, now.
        to: u64,
    },
    /// It stays as it was.
    Refused {
        /// In bytes, where it could be read.
        bytes: Option<u64>,
        /// Why.
        source: io::Error,
    },
}

/// Raises the largest size that a pipe may have, unless it is high enough.
pub fn raise_pipe_max_size() -> PipeLimit {
    raise(Path::new(SETTING))
}

fn raise(setting: &Path) -> PipeLimit {
    let from = match read(setting) {
        Ok(bytes) if bytes >= WANTED => return PipeLimit::Enough { bytes },
        Ok(bytes) => bytes,
        Err(source) => return PipeLimit::Refused { bytes: None, source },
    };
    // The kernel rounds, so what it says afterwards is what holds.
    match fs::write(setting, WANTED.to_string()).and_then(|()| read(setting)) {
        Ok(to) => PipeLimit::Raised { from, to },
        Err(source) => PipeLimit::Refused { bytes: Some(from), source },
    }
}

fn read(setting: &Path) -> io::Result<u64> {
    fs::read_to_string(setting)?.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_low_limit_is_raised_and_a_high_one_left() {
        let setting = tempfile::NamedTempFile::new().unwrap();
        fs::write(setting.path(), "1048576\n").unwrap();
        assert!(matches!(raise(setting.path()), PipeLimit::Raised { from: 1_048_576, to: WANTED }));
        assert!(matches!(raise(setting.path()), PipeLimit::Enough { bytes: WANTED }));
        fs::write(setting.path(), "999999999\n").unwrap();
        assert!(matches!(raise(setting.path()), PipeLimit::Enough { bytes: 999_999_999 }));
    }

    #[test]
    fn a_setting_that_cannot_be_changed_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(raise(&dir.path().join("none")), PipeLimit::Refused { bytes: None, .. }));
        let setting = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(raise(setting.path()), PipeLimit::Refused { bytes: None, .. }), "an empty one has no value");
    }
}
