//! What the vault has: generations, and who needs which segment. No changes on disk.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;
use migrate_proto::name::WorkloadName;

use super::disk::{self, Disk, list};
use super::manifest::{About, Manifest};
use super::{Broken, Generation, Looked, VaultError};

/// A generation.
pub(super) struct Entry {
    id: CheckpointId,
    about: About,
    raw_bytes: u64,
    new_bytes: u64,
    pub(super) file_bytes: u64,
    segments: Vec<Digest>,
    pub(super) path: PathBuf,
    pub(super) looked: Option<Looked>,
}

impl Entry {
    pub(super) fn new(id: CheckpointId, manifest: &Manifest, path: PathBuf, file_bytes: u64) -> Entry {
        Entry {
            id,
            about: manifest.about.clone(),
            raw_bytes: manifest.raw_bytes(),
            new_bytes: manifest.new_bytes,
            file_bytes,
            segments: manifest.digests().collect(),
            path,
            looked: None,
        }
    }

    pub(super) fn view(&self) -> Generation {
        let Entry { id, raw_bytes, new_bytes, .. } = *self;
        let looked = self.looked.clone();
        Generation { id, about: self.about.clone(), raw_bytes, new_bytes: new_bytes + self.file_bytes, looked }
    }
}

/// A segment.
struct Piece {
    bytes: u64,
    /// How many generations refer to it.
    needed: u32,
    /// How many are at work with it.
    pinned: u32,
    /// Whether its bytes are known to be on disk.
    durable: bool,
}

/// All of it.
#[derive(Default)]
pub(super) struct Stock {
    generations: BTreeMap<WorkloadName, BTreeMap<(u64, CheckpointId), Entry>>,
    pieces: HashMap<Digest, Piece>,
    used: u64,
}

impl Stock {
    /// Looks at what is on disk.
    pub(super) fn read(disk: &Disk) -> Result<(Stock, Vec<Broken>), VaultError> {
        let (mut stock, mut broken) = (Stock::default(), Vec::new());
        for path in list(&disk.segments())? {
            let named = path.file_name().and_then(|name| CheckpointId::try_from(name.to_str()?.to_owned()).ok());
            let length = path.metadata().map(|found| found.len());
            if let (Some(CheckpointId(digest)), Ok(bytes)) = (named, length) {
                stock.add(Digest(digest), bytes, true);
            }
        }
        for dir in list(&disk.generations())? {
            let workload = dir.file_name().and_then(|name| name.to_str()?.parse::<WorkloadName>().ok());
            let Some(workload) = workload else { continue };
            let mut files = list(&dir)?;
            files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
            for path in files {
                match stock.read_generation(disk, &workload, path.clone()) {
                    Ok(entry) => stock.insert(entry),
                    Err(what) => broken.push(Broken { path, workload: workload.clone(), what }),
                }
            }
        }
        Ok((stock, broken))
    }

    fn read_generation(&self, disk: &Disk, workload: &WorkloadName, path: PathBuf) -> Result<Entry, String> {
        let bytes = disk.read(&path).map_err(|error| error.to_string())?;
        let id = CheckpointId::from(Digest::of(&bytes));
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.split_once('-').is_none_or(|(_, named)| named != id.to_string()) {
            return Err("it has another digest than its name says".into());
        }
        let manifest = Manifest::parse(&bytes).map_err(|error| error.to_string())?;
        if manifest.about.spec.name != *workload {
            return Err(format!("it is of the workload {}", manifest.about.spec.name));
        }
        let missing = manifest.digests().find(|digest| !self.pieces.contains_key(digest));
        let looked = disk.read(&disk::looked(&path)).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let mut entry = Entry::new(id, &manifest, path, bytes.len() as u64);
        entry.looked = match missing {
            Some(digest) => Some(Looked::Damaged { what: format!("the segment {digest} is missing") }),
            None => looked,
        };
        Ok(entry)
    }

    /// What everything takes.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &WorkloadName> {
        self.generations.iter().filter(|(_, of)| !of.is_empty()).map(|(name, _)| name)
    }

    /// Oldest first.
    pub(super) fn generations(&self, workload: &WorkloadName) -> impl Iterator<Item = &Entry> {
        self.generations.get(workload).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn find(&self, id: CheckpointId) -> Option<&Entry> {
        self.generations.values().flat_map(BTreeMap::values).find(|entry| entry.id == id)
    }

    pub(super) fn find_mut(&mut self, id: CheckpointId) -> Option<&mut Entry> {
        self.generations.values_mut().flat_map(BTreeMap::values_mut).find(|entry| entry.id == id)
    }

    /// A generation that has come.
    pub(super) fn insert(&mut self, entry: Entry) {
        for digest in &entry.segments {
            if let Some(piece) = self.pieces.get_mut(digest) {
                piece.needed += 1;
            }
        }
        self.used += entry.file_bytes;
        let key = (entry.about.number, entry.id);
        self.generations.entry(entry.about.spec.name.clone()).or_default().insert(key, entry);
    }

    /// A generation that is gone.
    pub(super) fn remove(&mut self, id: CheckpointId) {
        for of in self.generations.values_mut() {
            let Some(key) = of.keys().find(|(_, known)| *known == id).copied() else { continue };
            let Some(entry) = of.remove(&key) else { continue };
            self.used -= entry.file_bytes;
            for digest in entry.segments {
                if let Some(piece) = self.pieces.get_mut(&digest) {
                    piece.needed = piece.needed.saturating_sub(1);
                }
            }
        }
    }

    /// A segment that has come; one that is there stays as it is.
    pub(super) fn add(&mut self, digest: Digest, bytes: u64, durable: bool) {
        if !self.pieces.contains_key(&digest) {
            self.used += bytes;
            let needed = self.needing(digest);
            self.pieces.insert(digest, Piece { bytes, needed, pinned: 0, durable });
        }
    }

    /// How many generations refer to a segment that is not there: they are damaged, and may be mended.
    fn needing(&self, digest: Digest) -> u32 {
        let damaged = |entry: &&Entry| matches!(entry.looked, Some(Looked::Damaged { .. }));
        let all = self.generations.values().flat_map(BTreeMap::values);
        all.filter(damaged).filter(|entry| entry.segments.contains(&digest)).count() as u32
    }

    /// A segment's file was written anew.
    pub(super) fn replace(&mut self, digest: Digest, bytes: u64) {
        self.add(digest, 0, false);
        let Some(piece) = self.pieces.get_mut(&digest) else { return };
        self.used = self.used - piece.bytes + bytes;
        (piece.bytes, piece.durable) = (bytes, false);
    }

    /// How long its file is.
    pub(super) fn length(&self, digest: Digest) -> Option<u64> {
        self.pieces.get(&digest).map(|piece| piece.bytes)
    }

    /// Which of them may not be on disk yet.
    pub(super) fn volatile(&self, digests: impl Iterator<Item = Digest>) -> Vec<Digest> {
        digests.filter(|digest| self.pieces.get(digest).is_some_and(|piece| !piece.durable)).collect()
    }

    pub(super) fn set_durable(&mut self, digests: &[Digest]) {
        for digest in digests {
            if let Some(piece) = self.pieces.get_mut(digest) {
                piece.durable = true;
            }
        }
    }

    /// It stays until it is unpinned. False where it is not there.
    pub(super) fn pin(&mut self, digest: Digest) -> bool {
        self.pieces.get_mut(&digest).map(|piece| piece.pinned += 1).is_some()
    }

    pub(super) fn unpin(&mut self, digest: Digest, times: u32) {
        if let Some(piece) = self.pieces.get_mut(&digest) {
            piece.pinned = piece.pinned.saturating_sub(times);
        }
    }

    /// Segments that nobody needs or works with.
    pub(super) fn rubbish(&self) -> Vec<Digest> {
        let useless = self.pieces.iter().filter(|(_, piece)| piece.needed == 0 && piece.pinned == 0);
        useless.map(|(digest, _)| *digest).collect()
    }

    /// A segment that is gone.
    pub(super) fn forget(&mut self, digest: Digest) {
        if let Some(piece) = self.pieces.remove(&digest) {
            self.used -= piece.bytes;
        }
    }
}
