//! The figures that CRIU leaves in the images directory: `stats-dump` and `stats-restore`.
//!
//! CRIU writes them at the very end, and only if it succeeded. The time that a dump calls frozen includes the time its
//! `post-dump` hook took. They are local files also when the images are streamed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use thiserror::Error;

/// Service files begin with this number ...
const SERVICE_MAGIC: u32 = 0x5510_5940;
/// ... and figures go on with this one.
const STATS_MAGIC: u32 = 0x5709_3306;
/// Far more than they take.
const MAX_BYTES: u64 = 4096;

/// Why the figures could not be read.
#[derive(Debug, Error)]
pub enum StatsError {
    /// The file is not there, or unreadable.
    #[error("cannot read CRIU's figures in {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} does not hold CRIU's figures", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
    },
}

/// What a dump took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpStats {
    /// Until every task was stopped.
    pub freezing: Duration,
    /// How long the tasks were stopped.
    pub frozen: Duration,
    /// Taking memory from the tasks: part of `frozen`.
    pub memory_dump: Duration,
    /// Writing memory: part of `frozen`.
    pub memory_write: Duration,
    /// Pages looked at, shared ones included.
    pub pages_scanned: u64,
    /// Pages written, shared ones included.
    pub pages_written: u64,
}

/// What a restore took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreStats {
    /// Making the tasks: part of `restore`.
    pub forking: Duration,
    /// All of it.
    pub restore: Duration,
    /// Pages put back.
    pub pages_restored: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatsEntry {
    #[prost(message, optional, tag = "1")]
    dump: Option<DumpEntry>,
    #[prost(message, optional, tag = "2")]
    restore: Option<RestoreEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct DumpEntry {
    #[prost(uint32, required, tag = "1")]
    freezing_time: u32,
    #[prost(uint32, required, tag = "2")]
    frozen_time: u32,
    #[prost(uint32, required, tag = "3")]
    memdump_time: u32,
    #[prost(uint32, required, tag = "4")]
    memwrite_time: u32,
    #[prost(uint64, required, tag = "5")]
    pages_scanned: u64,
    #[prost(uint64, required, tag = "7")]
    pages_written: u64,
    #[prost(uint64, optional, tag = "12")]
    shpages_scanned: Option<u64>,
    #[prost(uint64, optional, tag = "14")]
    shpages_written: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RestoreEntry {
    #[prost(uint32, required, tag = "3")]
    forking_time: u32,
    #[prost(uint32, required, tag = "4")]
    restore_time: u32,
    #[prost(uint64, optional, tag = "5")]
    pages_restored: Option<u64>,
}

/// Reads what a dump left in `images_dir`.
pub fn dump(images_dir: &Path) -> Result<DumpStats, StatsError> {
    let path = images_dir.join("stats-dump");
    let entry = read(&path)?.dump.ok_or(StatsError::Format { path })?;
    Ok(DumpStats {
        freezing: microseconds(entry.freezing_time),
        frozen: microseconds(entry.frozen_time),
        memory_dump: microseconds(entry.memdump_time),
        memory_write: microseconds(entry.memwrite_time),
        pages_scanned: entry.pages_scanned.saturating_add(entry.shpages_scanned.unwrap_or(0)),
        pages_written: entry.pages_written.saturating_add(entry.shpages_written.unwrap_or(0)),
    })
}

/// Reads what a restore left in `images_dir`.
pub fn restore(images_dir: &Path) -> Result<RestoreStats, StatsError> {
    let path = images_dir.join("stats-restore");
    let entry = read(&path)?.restore.ok_or(StatsError::Format { path })?;
    Ok(RestoreStats {
        forking: microseconds(entry.forking_time),
        restore: microseconds(entry.restore_time),
        pages_restored: entry.pages_restored.unwrap_or(0),
    })
}

fn microseconds(count: u32) -> Duration {
    Duration::from_micros(count.into())
}

fn read(path: &Path) -> Result<StatsEntry, StatsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(|source| StatsError::Read { path: path.to_owned(), source })?;
    parse(&bytes).ok_or_else(|| StatsError::Format { path: path.to_owned() })
}

/// Two magic numbers, a length and a message, in the machine's byte order.
fn parse(bytes: &[u8]) -> Option<StatsEntry> {
    let (service, rest) = number(bytes)?;
    let (stats, rest) = number(rest)?;
    let (length, rest) = number(rest)?;
    if (service, stats) != (SERVICE_MAGIC, STATS_MAGIC) {
        return None;
    }
    StatsEntry::decode(rest.get(..usize::try_from(length).ok()?)?).ok()
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u32::from_ne_bytes(*first), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Of a real dump of a `sleep` by CRIU 4.2.1, which displayed the figures expected below.
    const REAL: &[u8] = include_bytes!("stats/stats-dump");

    #[test]
    fn reads_what_criu_wrote() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stats-dump"), REAL).unwrap();
        let stats = dump(dir.path()).unwrap();
        let expected = DumpStats {
            freezing: Duration::from_micros(112),
            frozen: Duration::from_micros(3957),
            memory_dump: Duration::from_micros(375),
            memory_write: Duration::from_micros(104),
            pages_scanned: 58,
            pages_written: 30,
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn damaged_figures_are_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stats-dump");
        for length in 0..REAL.len() {
            std::fs::write(&path, &REAL[..length]).unwrap();
            let error = dump(dir.path()).unwrap_err();
            assert!(matches!(error, StatsError::Format { .. }), "{length} bytes: {error}");
        }
        std::fs::write(&path, [&[0], &REAL[1..]].concat()).unwrap();
        assert!(dump(dir.path()).unwrap_err().to_string().contains("stats-dump"));
    }

    #[test]
    fn a_restore_is_not_a_dump() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("stats-restore"), REAL).unwrap();
        assert!(matches!(restore(dir.path()), Err(StatsError::Format { .. })));
        assert!(matches!(dump(dir.path()), Err(StatsError::Read { .. })));
    }
}
