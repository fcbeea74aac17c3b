//! The record as a file that people keep: JSON with the cluster's number and a checksum.
//!
//! Also the way back when a majority is lost for good: [`Backup::rebuilt`] makes of it the record of a *new* cluster.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use migrate_proto::cluster::ClusterId;
use migrate_proto::cluster::record::{Record, RecordError, VoterHistory};
use migrate_proto::id::{Digest, Epoch};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const FORMAT: &str = "migrate record 1";

/// How much the epochs rise when a cluster is rebuilt: more than anything can have been moved that the backup does not know of.
pub const REBUILT_EPOCHS: u64 = 1000;

/// The record at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    format: String,
    cluster: ClusterId,
    checksum: String,
    record: Record,
}

/// Why a backup cannot be written or used.
#[derive(Debug, Error)]
pub enum BackupError {
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
    /// There is no such file.
    #[error("there is no {}", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// It is not what was written.
    #[error("{} is damaged, or no backup of a cluster's record: {reason}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// The record itself.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why something is no backup.
#[derive(Debug, Error)]
#[error("that is damaged, or no backup of a cluster's record: {0}")]
pub struct NotABackup(String);

impl Backup {
    /// Of this record.
    pub fn of(record: &Record) -> Backup {
        let record = record.clone();
        Backup { format: FORMAT.to_owned(), cluster: record.cluster.id, checksum: checksum(&record), record }
    }

    /// What was written.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Of which cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Writes it; when this returns it is on disk, and a crash leaves either the old file or the new one.
    pub fn write(&self, path: &Path) -> Result<(), BackupError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BackupError::File { action, path, source }
        };
        let body = serde_json::to_vec(self).map_err(RecordError::Write)?;
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh).map_err(failed("create", &fresh))?;
        let written = file.write_all(&body).and_then(|()| file.sync_all()).map_err(failed("write", &fresh));
        let replaced = written.and_then(|()| fs::rename(&fresh, path).map_err(failed("rename to", path)));
        // Half a file is of no use, least of all on a full disk.
        replaced.inspect_err(|_| drop(fs::remove_file(&fresh)))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed("sync", parent))
    }

    /// Reads what [`Backup::write`] wrote.
    pub fn read(path: &Path) -> Result<Backup, BackupError> {
        let body = fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BackupError::Missing { path: path.to_owned() },
            _ => BackupError::File { action: "read", path: path.to_owned(), source },
        })?;
        let damaged = |NotABackup(reason)| BackupError::Damaged { path: path.to_owned(), reason };
        Backup::from_json(&body).map_err(damaged)
    }

    /// As it is in a file.
    pub fn from_json(body: &[u8]) -> Result<Backup, NotABackup> {
        let backup: Backup = serde_json::from_slice(body).map_err(|error| NotABackup(error.to_string()))?;
        if backup.format != FORMAT {
            return Err(NotABackup(format!("its format is '{}', not '{FORMAT}'", backup.format)));
        }
        if backup.cluster != backup.record.cluster.id || backup.checksum != checksum(&backup.record) {
            return Err(NotABackup("its checksum is wrong".to_owned()));
        }
        Ok(backup)
    }

    /// The record of a new cluster that goes on from here, without a majority of the old one.
    ///
    /// Every session is fenced and every epoch raised, so that nothing that ran under the old cluster is taken for the owner of
    /// anything in the new one. What the old cluster decided after this backup is lost; its members are strangers to the new one
    /// by its number. The numbers of commands go on, so that `since` still tells everything apart.
    pub fn rebuilt(self, id: ClusterId) -> Record {
        let raised = |epoch: Epoch| Epoch(epoch.0.saturating_add(REBUILT_EPOCHS));
        let mut record = self.record;
        record.cluster.id = id;
        record.cluster.floor = raised(record.cluster.floor);
        record.cluster.voters = VoterHistory::default();
        for node in record.nodes.values_mut() {
            node.fenced = true;
        }
        for load in record.loads.values_mut() {
            load.epoch = raised(load.epoch);
            load.refused.clear();
        }
        record
    }
}

/// Of the record as it is stored: what is read is written again to compare, so that blanks do not count.
fn checksum(record: &Record) -> String {
    // A record has only names for keys, which is all that JSON can refuse.
    Digest::of(&record.to_json().unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests;
