//! A disk in memory that forgets what was not synced, tears what it was writing, fills up and rots.

use std::io;
use std::sync::{Arc, Mutex};

use rand::RngExt;
use rand::rngs::StdRng;
use redb::StorageBackend;

/// Disks write whole ones of these, or may: some of what is torn is torn elsewhere.
const SECTOR: usize = 512;

/// The disk under a store. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Unsynced>,
    writes: u64,
    dies_at: Option<u64>,
    room: Option<u64>,
}

#[derive(Debug, Clone)]
enum Unsynced {
    Bytes(usize, Vec<u8>),
    Length(usize),
}

impl Disk {
    /// One on which this lies.
    pub(super) fn with(bytes: Vec<u8>) -> Disk {
        let disk = Disk::default();
        disk.platter().synced.clone_from(&bytes);
        disk.platter().bytes = bytes;
        disk
    }

    fn platter(&self) -> std::sync::MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    /// It stops for good at the write with this number, of all that change something.
    pub(super) fn dies_at(&self, write: u64) {
        self.platter().dies_at = Some(write);
    }

    /// How many writes there were.
    pub(super) fn writes(&self) -> u64 {
        self.platter().writes
    }

    /// There is room for as many bytes as this and no more.
    pub(super) fn has_room_for(&self, bytes: Option<u64>) {
        self.platter().room = bytes;
    }

    /// What lies on it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.platter().bytes.clone()
    }

    /// What is found when the process was killed: everything that was written.
    pub(super) fn after_kill(&self) -> Disk {
        Disk::with(self.bytes())
    }

    /// What is found after a power loss: what was synced, and of the rest some, in whatever order, some of it torn.
    pub(super) fn after_power_loss(&self, dice: &mut StdRng) -> Disk {
        let platter = self.platter();
        let mut bytes = platter.synced.clone();
        for unsynced in &platter.unsynced {
            match (unsynced, dice.random_range(0..3)) {
                (_, 0) => {}
                (Unsynced::Length(length), _) => bytes.resize(*length, 0),
                (Unsynced::Bytes(at, written), 1) => put(&mut bytes, *at, written),
                (Unsynced::Bytes(at, written), _) => {
                    let (skip, len) = torn(written.len(), dice);
                    put(&mut bytes, at + skip, &written[skip..skip + len]);
                }
            }
        }
        Disk::with(bytes)
    }
}

fn torn(len: usize, dice: &mut StdRng) -> (usize, usize) {
    let cut = dice.random_range(0..=len);
    let cut = if dice.random_bool(0.5) { cut - cut % SECTOR } else { cut };
    if dice.random_bool(0.5) { (0, cut) } else { (cut, len - cut) }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    bytes.resize(bytes.len().max(at + written.len()), 0);
    bytes[at..at + written.len()].copy_from_slice(written);
}

impl Platter {
    /// The write during which the power fails may be half on the disk.
    fn next_write(&mut self, write: Option<Unsynced>) -> io::Result<()> {
        self.writes += 1;
        let dead = |dies_at: u64, writes: u64| dies_at < writes;
        if self.dies_at.is_some_and(|dies_at| dead(dies_at, self.writes - 1)) {
            return Err(io::Error::other("the power is off"));
        }
        self.unsynced.extend(write);
        match self.dies_at {
            Some(dies_at) if dead(dies_at, self.writes) => Err(io::Error::other("the power goes off")),
            _ => Ok(()),
        }
    }

    fn must_have_room(&self, len: usize) -> io::Result<()> {
        match self.room {
            Some(room) if len as u64 > room && len > self.bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.platter();
        let from = offset as usize;
        let bytes = platter.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.platter();
        platter.must_have_room(len as usize)?;
        platter.next_write(Some(Unsynced::Length(len as usize)))?;
        platter.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        platter.next_write(None)?;
        platter.unsynced.clear();
        let bytes = platter.bytes.clone();
        platter.synced = bytes;
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.platter();
        let at = offset as usize;
        platter.must_have_room(at + data.len())?;
        platter.next_write(Some(Unsynced::Bytes(at, data.to_vec())))?;
        put(&mut platter.bytes, at, data);
        Ok(())
    }
}
