//! The last lines of a log, for the message that tells of a failure.

use std::fmt;
use std::path::{Path, PathBuf};

/// So many lines.
const LINES: usize = 15;

/// What a log ended with when the failure was met: the log itself may be removed before the message is read.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    lines: Vec<String>,
}

impl LogTail {
    /// Of the log at `path`; a log that cannot be read counts as empty.
    pub(crate) fn of(path: &Path) -> LogTail {
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let skipped = text.lines().count().saturating_sub(LINES);
        LogTail { path: path.to_owned(), lines: text.lines().skip(skipped).map(str::to_owned).collect() }
    }
}

impl fmt::Display for LogTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lines.is_empty() {
            true => write!(f, "; {} is empty", self.path.display()),
            false => write!(f, "; the end of {}:\n  {}", self.path.display(), self.lines.join("\n  ")),
        }
    }
}
