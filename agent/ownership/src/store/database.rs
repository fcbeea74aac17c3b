//! The tables, and what may be read from them and written to them at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use migrate_proto::cluster::ClusterId;
use migrate_proto::id::StateMark;
use openraft::{Entry, LogId, SnapshotMeta, Vote};
use redb::backends::FileBackend;
use redb::{ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::error::{Damage, StoreError};
use super::row::Row;
use super::snapshot::Packed;
use super::writer::Change;
use crate::types::{Place, Types};

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// What this version writes. Higher ones are refused.
const FORMAT: u32 = 1;
/// The log of a cluster is small, and nearly only its end is read.
const CACHE_BYTES: usize = 8 << 20;
/// Specifications of workloads have secrets in them.
const OWNER_ONLY: u32 = 0o600;

/// Whose store it is.
#[derive(Serialize, Deserialize)]
struct Identity {
    format: u32,
    mark: StateMark,
}

/// The open file. Fields are dropped in this order: who waits for its end hears of it when the file is closed.
pub(super) struct Database {
    db: redb::Database,
    path: PathBuf,
    _open: watch::Sender<()>,
}

/// Ends when the file is closed.
#[derive(Debug, Clone)]
pub(crate) struct Closed(watch::Receiver<()>);

impl Closed {
    /// Waits for it.
    pub(crate) async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

pub(super) type OpenDatabase = (Database, Closed);
type Table<'tx, Key> = redb::Table<'tx, Key, &'static [u8]>;
type Ends = (Option<LogId<u64>>, Option<LogId<u64>>);

impl Database {
    /// Opens the file at `path`; makes it where there is none.
    pub(super) fn open(path: &Path, mark: StateMark) -> Result<OpenDatabase, StoreError> {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Database::on(file_backend(file, path)?, path, mark),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Database::create(path, mark),
            Err(error) => Err(StoreError::of_file(path, error)),
        }
    }

    /// The file appears when it is complete: a machine that fails meanwhile leaves none.
    fn create(path: &Path, mark: StateMark) -> Result<OpenDatabase, StoreError> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        let of_file = |error| StoreError::of_file(path, error);
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(of_file(error)),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(OWNER_ONLY).open(&unfinished);
        let backend = file_backend(file.map_err(of_file)?, path)?;
        let open = Database::create_on(backend, path, mark)?;
        std::fs::rename(&unfinished, path).map_err(of_file)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(of_file)?;
        Ok(open)
    }

    /// What is stored there already.
    pub(super) fn on(backend: impl StorageBackend, path: &Path, mark: StateMark) -> Result<OpenDatabase, StoreError> {
        let (database, closed) = Database::begin(backend, path)?;
        let identity: Option<Identity> = database.said(Row::Identity)?;
        match identity {
            None => Err(Damage::Missing(Row::Identity).at(path)),
            Some(Identity { format, .. }) if format > FORMAT => {
                Err(StoreError::Newer { path: path.to_owned(), format })
            }
            Some(Identity { mark: store, .. }) if store != mark => {
                Err(StoreError::OtherMark { path: path.to_owned(), store, node: mark })
            }
            Some(_) => Ok((database, closed)),
        }
    }

    /// An empty store.
    pub(super) fn create_on(
        backend: impl StorageBackend,
        path: &Path,
        mark: StateMark,
    ) -> Result<OpenDatabase, StoreError> {
        let (database, closed) = Database::begin(backend, path)?;
        database.transact(|_, meta| database.say(meta, Row::Identity, &Identity { format: FORMAT, mark }))?;
        Ok((database, closed))
    }

    fn begin(backend: impl StorageBackend, path: &Path) -> Result<OpenDatabase, StoreError> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let db = builder.create_with_backend(backend).map_err(|e| StoreError::of(path, e))?;
        let (open, closed) = watch::channel(());
        Ok((Database { db, path: path.to_owned(), _open: open }, Closed(closed)))
    }

    /// Which file it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Of which cluster it is.
    pub(super) fn cluster(&self) -> Result<Option<ClusterId>, StoreError> {
        self.said(Row::Cluster)
    }

    /// Whom the node has voted for.
    pub(super) fn vote(&self) -> Result<Option<Vote<u64>>, StoreError> {
        self.said(Row::Vote)
    }

    /// Up to where the log was known to be agreed.
    pub(super) fn committed(&self) -> Result<Option<LogId<u64>>, StoreError> {
        self.said(Row::Committed)
    }

    /// The last entry that was cut off, and the last of those that are there.
    pub(super) fn log_ends(&self) -> Result<Ends, StoreError> {
        let log = self.log()?;
        let last = log.last().map_err(|e| self.failed(e))?;
        let last = last.map(|(index, row)| self.entry(index.value(), row.value())).transpose()?;
        Ok((self.said(Row::Purged)?, last.map(|entry| entry.log_id)))
    }

    /// The entries in `range`, without a gap; not all of them where they have more than `at_most` bytes, but one at least.
    pub(super) fn entries(
        &self,
        range: (Bound<u64>, Bound<u64>),
        at_most: usize,
    ) -> Result<Vec<Entry<Types>>, StoreError> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0_usize, None);
        for row in self.log()?.range::<u64>(range).map_err(|e| self.failed(e))? {
            let (index, row) = row.map_err(|e| self.failed(e))?;
            bytes = bytes.saturating_add(row.value().len());
            if bytes > at_most && !entries.is_empty() {
                break;
            }
            if let Some(missing) = next.filter(|next| *next != index.value()) {
                return Err(Damage::Missing(Row::Entry(missing)).at(&self.path));
            }
            entries.push(self.entry(index.value(), row.value())?);
            next = Some(index.value() + 1);
        }
        Ok(entries)
    }

    /// The record as it was when it was last made a snapshot of.
    pub(super) fn snapshot(&self) -> Result<Option<Packed>, StoreError> {
        let meta = self.meta()?;
        let Some(of) = self.said_in(&meta, Row::SnapshotMeta)? else { return Ok(None) };
        let row = meta.get(Row::Snapshot.name()).map_err(|e| self.failed(e))?;
        let row = row.ok_or_else(|| Damage::Missing(Row::Snapshot).at(&self.path))?;
        let data = self.unseal(Row::Snapshot, row.value())?.to_owned();
        Ok(Some(Packed { of, data }))
    }

    /// An entry as it is stored, with its index.
    pub(super) fn entry_row(&self, entry: &Entry<Types>) -> Result<(u64, Vec<u8>), StoreError> {
        let index = entry.log_id.index;
        Ok((index, self.seal(Row::Entry(index), entry)?))
    }

    /// Writes all of it, or nothing. When this returns, it is on the disk.
    pub(super) fn commit<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> Result<(), StoreError> {
        self.transact(|log, meta| {
            for change in changes {
                self.write(log, meta, change)?;
            }
            Ok(())
        })
    }

    fn transact(
        &self,
        write: impl FnOnce(&mut Table<'_, u64>, &mut Table<'_, &'static str>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.db.begin_write().map_err(|e| self.failed(e))?;
        {
            let mut log = transaction.open_table(LOG).map_err(|e| self.failed(e))?;
            let mut meta = transaction.open_table(META).map_err(|e| self.failed(e))?;
            write(&mut log, &mut meta)?;
        }
        transaction.commit().map_err(|e| self.failed(e))
    }

    fn write(
        &self,
        log: &mut Table<'_, u64>,
        meta: &mut Table<'_, &'static str>,
        change: &Change,
    ) -> Result<(), StoreError> {
        match change {
            Change::Cluster(cluster) => self.say(meta, Row::Cluster, cluster)?,
            Change::Vote(vote) => self.say(meta, Row::Vote, vote)?,
            Change::Committed(entry) => self.say(meta, Row::Committed, entry)?,
            Change::Append(rows) => {
                for (index, row) in rows {
                    log.insert(index, row.as_slice()).map_err(|e| self.failed(e))?;
                }
            }
            Change::Truncate(from) => log.retain_in(*from.., |_, _| false).map_err(|e| self.failed(e))?,
            Change::Purge(upto) => {
                self.say(meta, Row::Purged, upto)?;
                log.retain_in(..=upto.index, |_, _| false).map_err(|e| self.failed(e))?;
            }
            Change::Snapshot(Packed { of, data }) => {
                let there: Option<SnapshotMeta<u64, Place>> = self.said_in(meta, Row::SnapshotMeta)?;
                // One that took long, after one that came from the leader.
                if there.is_none_or(|there| there.last_log_id <= of.last_log_id) {
                    self.say(meta, Row::SnapshotMeta, of)?;
                    self.put(meta, Row::Snapshot, &Row::Snapshot.seal(data))?;
                }
            }
        }
        Ok(())
    }

    fn say(&self, meta: &mut Table<'_, &'static str>, row: Row, says: &impl Serialize) -> Result<(), StoreError> {
        self.put(meta, row, &self.seal(row, says)?)
    }

    fn put(&self, meta: &mut Table<'_, &'static str>, row: Row, sealed: &[u8]) -> Result<(), StoreError> {
        meta.insert(row.name(), sealed).map_err(|e| self.failed(e))?;
        Ok(())
    }

    fn said<T: DeserializeOwned>(&self, row: Row) -> Result<Option<T>, StoreError> {
        self.said_in(&self.meta()?, row)
    }

    fn said_in<T: DeserializeOwned>(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        row: Row,
    ) -> Result<Option<T>, StoreError> {
        let sealed = meta.get(row.name()).map_err(|e| self.failed(e))?;
        sealed.map(|sealed| self.understand(row, sealed.value())).transpose()
    }

    fn entry(&self, index: u64, sealed: &[u8]) -> Result<Entry<Types>, StoreError> {
        self.understand(Row::Entry(index), sealed)
    }

    fn understand<T: DeserializeOwned>(&self, row: Row, sealed: &[u8]) -> Result<T, StoreError> {
        let says = self.unseal(row, sealed)?;
        serde_json::from_slice(says).map_err(|source| Damage::Meaning { row, source }.at(&self.path))
    }

    fn unseal<'row>(&self, row: Row, sealed: &'row [u8]) -> Result<&'row [u8], StoreError> {
        row.unseal(sealed).ok_or_else(|| Damage::Checksum(row).at(&self.path))
    }

    fn seal(&self, row: Row, says: &impl Serialize) -> Result<Vec<u8>, StoreError> {
        let encoded = serde_json::to_vec(says);
        let encoded = encoded.map_err(|source| StoreError::Encode { path: self.path.clone(), row, source })?;
        Ok(row.seal(&encoded))
    }

    fn log(&self) -> Result<redb::ReadOnlyTable<u64, &'static [u8]>, StoreError> {
        let reading = self.db.begin_read().map_err(|e| self.failed(e))?;
        reading.open_table(LOG).map_err(|e| self.failed(e))
    }

    fn meta(&self) -> Result<redb::ReadOnlyTable<&'static str, &'static [u8]>, StoreError> {
        let reading = self.db.begin_read().map_err(|e| self.failed(e))?;
        reading.open_table(META).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> StoreError {
        StoreError::of(&self.path, error)
    }
}

fn file_backend(file: File, path: &Path) -> Result<FileBackend, StoreError> {
    FileBackend::new(file).map_err(|e| StoreError::of(path, e))
}
