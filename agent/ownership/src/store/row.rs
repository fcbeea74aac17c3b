//! A row as it is stored: a checksum, then what it says. The checksum covers which row it is.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

const CHECKSUM: usize = size_of::<u64>();

/// Something that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Whose store it is.
    Identity,
    /// Of which cluster it is.
    Cluster,
    /// Whom the node has voted for.
    Vote,
    /// Up to where the log was cut.
    Purged,
    /// Up to where the log is known to be agreed.
    Committed,
    /// What the snapshot is of.
    SnapshotMeta,
    /// The snapshot.
    Snapshot,
    /// An entry of the log.
    Entry(u64),
}

impl Row {
    /// Under which name it is stored; entries have a table of their own.
    pub(super) fn name(self) -> &'static str {
        match self {
            Row::Identity => "store",
            Row::Cluster => "cluster",
            Row::Vote => "vote",
            Row::Purged => "purged",
            Row::Committed => "committed",
            Row::SnapshotMeta => "snapshot-meta",
            Row::Snapshot => "snapshot",
            Row::Entry(_) => "entry",
        }
    }

    /// `says` as it is stored here.
    pub(super) fn seal(self, says: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(CHECKSUM + says.len());
        sealed.extend(self.checksum(says).to_le_bytes());
        sealed.extend(says);
        sealed
    }

    /// What was sealed here, or nothing where that is not what is stored.
    pub(super) fn unseal(self, sealed: &[u8]) -> Option<&[u8]> {
        let (checksum, says) = sealed.split_first_chunk::<CHECKSUM>()?;
        (u64::from_le_bytes(*checksum) == self.checksum(says)).then_some(says)
    }

    fn checksum(self, says: &[u8]) -> u64 {
        let seed = match self {
            Row::Entry(index) => index,
            named => xxh3_64_with_seed(named.name().as_bytes(), 0),
        };
        xxh3_64_with_seed(says, seed)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Row::Identity => f.write_str("whose store it is"),
            Row::Cluster => f.write_str("the cluster's number"),
            Row::Vote => f.write_str("the vote"),
            Row::Purged => f.write_str("where the log begins"),
            Row::Committed => f.write_str("how far the log is committed"),
            Row::SnapshotMeta => f.write_str("the description of the snapshot"),
            Row::Snapshot => f.write_str("the snapshot"),
            Row::Entry(index) => write!(f, "entry {index} of the log"),
        }
    }
}
