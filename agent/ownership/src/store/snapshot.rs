//! The record as bytes that are stored, and sent to those who have nothing yet: JSON, packed.

use std::io::{Cursor, Read};

use migrate_proto::cluster::record::{Record, RecordError};
use migrate_proto::id::Digest;
use openraft::{LogId, Snapshot, SnapshotMeta};
use thiserror::Error;

use crate::types::{Place, Types};

/// Far more than ten thousand workloads need; what unpacks to more than that is no record.
const MOST_BYTES: u64 = 256 << 20;
const LEVEL: i32 = 3;

/// A snapshot, and what it is of.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub(super) of: SnapshotMeta<u64, Place>,
    pub(super) data: Vec<u8>,
}

impl Packed {
    /// As raft sends it.
    pub(super) fn for_raft(self) -> Snapshot<Types> {
        Snapshot { meta: self.of, snapshot: Box::new(Cursor::new(self.data)) }
    }
}

/// Why bytes are no snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// They cannot be packed or unpacked.
    #[error("cannot be unpacked: {0}")]
    Pack(#[source] std::io::Error),
    /// They unpack to more than any record has.
    #[error("is larger than {MOST_BYTES} bytes")]
    TooLarge,
    /// It is no record.
    #[error("is no record: {0}")]
    Record(#[source] RecordError),
    /// It has taken commands that it cannot have.
    #[error("has the number {revision}, but ends at entry {index}")]
    Ahead {
        /// Its number.
        revision: u64,
        /// The last entry that it may know of.
        index: u64,
    },
}

/// `record` as it is stored and sent. The same bytes on every node that has the same version of the packer.
pub(super) fn encode(record: &Record) -> Result<Vec<u8>, SnapshotError> {
    let json = record.to_json().map_err(SnapshotError::Record)?;
    zstd::bulk::compress(&json, LEVEL).map_err(SnapshotError::Pack)
}

/// What was encoded; `last` is the last entry that it may know of.
pub(super) fn decode(data: &[u8], last: Option<&LogId<u64>>) -> Result<Record, SnapshotError> {
    let mut json = Vec::new();
    let unpacked = zstd::Decoder::new(Cursor::new(data)).map_err(SnapshotError::Pack)?;
    unpacked.take(MOST_BYTES + 1).read_to_end(&mut json).map_err(SnapshotError::Pack)?;
    if json.len() as u64 > MOST_BYTES {
        return Err(SnapshotError::TooLarge);
    }
    let record = Record::from_json(&json).map_err(SnapshotError::Record)?;
    match last {
        Some(last) if record.revision <= super::machine::revision_of(last) => Ok(record),
        None if record.revision == 0 => Ok(record),
        last => Err(SnapshotError::Ahead { revision: record.revision, index: last.map_or(0, |last| last.index) }),
    }
}

/// Tells a snapshot from every other: two of the same entry may differ where the packers do.
pub(super) fn id_of(last: Option<&LogId<u64>>, data: &[u8]) -> String {
    let entry = last.map_or_else(|| "none".to_owned(), |last| format!("{}-{}", last.leader_id.term, last.index));
    let digest = Digest::of(data).to_string();
    format!("{entry}-{}", digest.get(..16).unwrap_or(&digest))
}
