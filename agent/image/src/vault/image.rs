//! What a generation holds, as CRIU and the layer need it: put together part by part, each compared with the digest that was taken
//! during the dump before a byte of it is passed on.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;

use super::manifest::{About, Part, Run, Table};
use super::segment::{MOST_FILE_BYTES, SegmentError, Unpacker};
use super::{Inner, Pins, Vault, VaultError};
use crate::chunk::{CHUNK_BYTES, PAGE_BYTES, ZEROS};
use crate::lock;
use crate::serve::Served;

/// How many segments are kept unpacked: those that neighbouring parts refer to. A generation that came about in many steps has its pages in
/// many.
const KEPT_SEGMENTS: usize = 64;
/// How many threads put parts together while one writes.
const ASSEMBLERS: usize = 2;
/// How many parts each is ahead.
const AHEAD: usize = 2;

/// A generation, opened.
pub struct VaultImage {
    inner: Arc<Inner>,
    id: CheckpointId,
    about: About,
    segments: Vec<Digest>,
    layer: Table,
    images: Vec<Table>,
    by_name: HashMap<String, usize>,
    cache: Mutex<Cache>,
    damage: Mutex<Option<String>>,
    _pins: Pins,
}

/// Segments that were used last.
#[derive(Default)]
struct Cache {
    unpacked: HashMap<u32, (Arc<Vec<u8>>, u64)>,
    clock: u64,
}

impl Cache {
    fn get(&mut self, segment: u32) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (raw, used) = self.unpacked.get_mut(&segment)?;
        *used = self.clock;
        Some(raw.clone())
    }

    fn put(&mut self, segment: u32, raw: Arc<Vec<u8>>) {
        if self.unpacked.len() >= KEPT_SEGMENTS
            && let Some(oldest) = self.unpacked.iter().min_by_key(|(_, (_, used))| *used).map(|(segment, _)| *segment)
        {
            self.unpacked.remove(&oldest);
        }
        self.unpacked.insert(segment, (raw, self.clock));
    }
}

/// Why a part cannot be passed on.
enum Failure {
    Vault(VaultError),
    /// Its digest differs.
    Part {
        name: String,
        offset: u64,
    },
}

impl Vault {
    /// Opens a generation. What it needs stays, also when it is dropped meanwhile.
    pub fn open_image(&self, id: CheckpointId) -> Result<VaultImage, VaultError> {
        let (manifest, _) = self.manifest(id)?;
        let mut pins = Pins::none(&self.inner);
        if let Some(missing) = pins.hold(manifest.digests()).first() {
            let what = format!("the segment {missing} is missing");
            return Err(VaultError::Damaged { id, what });
        }
        Ok(VaultImage {
            inner: self.inner.clone(),
            id,
            segments: manifest.digests().collect(),
            by_name: manifest.images.iter().map(|image| image.name.clone()).zip(0..).collect(),
            about: manifest.about,
            layer: manifest.layer,
            images: manifest.images,
            cache: Mutex::default(),
            damage: Mutex::default(),
            _pins: pins,
        })
    }
}

impl VaultImage {
    /// Which generation it is.
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    /// What it is of.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Whether there is an image of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// What was found to be damaged so far. Whoever was served anything must not go on where this is something.
    pub fn damage(&self) -> Option<String> {
        lock(&self.damage).clone()
    }

    /// The length of the layer's file, and what of it is no zeros.
    pub fn layer_bytes(&self) -> (u64, u64) {
        let content = self.layer.runs.iter().filter(|run| run.0.is_some()).map(|run| run.2).sum();
        (self.layer.length, content)
    }

    /// The bytes of all images together.
    pub fn image_bytes(&self) -> u64 {
        self.images.iter().map(|image| image.length).sum()
    }

    /// Writes an image into a pipe and closes it. Blocks.
    pub fn serve(&self, name: &str, pipe: OwnedFd) -> Result<Served, VaultError> {
        // Larger is faster, and that is all.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, CHUNK_BYTES);
        let mut pipe = File::from(pipe);
        let served = self.walk(self.find(name)?, |_, bytes| pipe.write_all(bytes));
        match served {
            Ok(()) => Ok(Served::Whole),
            Err(VaultError::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(Served::ClosedEarly),
            Err(error) => Err(error),
        }
    }

    /// A small image as a whole.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, VaultError> {
        let table = self.find(name)?;
        if table.length > limit {
            return Err(VaultError::TooLarge { name: name.into(), length: table.length, limit });
        }
        let mut bytes = Vec::with_capacity(table.length as usize);
        self.walk(table, |_, part| bytes.write_all(part))?;
        Ok(bytes)
    }

    /// Makes the layer's file, which must not be there, and waits until it is on disk.
    pub fn write_layer(&self, path: &Path) -> Result<(), VaultError> {
        let failed = |source| VaultError::Io { path: path.into(), source };
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = made.and_then(|file| file.set_len(self.layer.length).map(|()| file)).map_err(failed)?;
        self.walk(&self.layer, |offset, bytes| match crate::chunk::is_zero(bytes) {
            // It is a hole already.
            true => Ok(()),
            false => file.write_all_at(bytes, offset),
        })
        .and_then(|()| file.sync_all().map_err(failed))
    }

    /// Reads everything, and calls `pace` with the bytes of each part.
    pub(super) fn read_all(&self, mut pace: impl FnMut(usize)) -> Result<(), VaultError> {
        let tables = std::iter::once(&self.layer).chain(&self.images);
        tables.into_iter().try_for_each(|table| {
            self.walk(table, |_, bytes| {
                pace(bytes.len());
                Ok(())
            })
        })
    }

    fn find(&self, name: &str) -> Result<&Table, VaultError> {
        let found = self.by_name.get(name).map(|index| &self.images[*index]);
        found.ok_or_else(|| VaultError::NoImage { name: name.into() })
    }

    /// Gives every part of a table, in order, verified. Zeros of any length are given in pieces.
    fn walk(&self, table: &Table, mut give: impl FnMut(u64, &[u8]) -> io::Result<()>) -> Result<(), VaultError> {
        let Some(parts) = table.split() else { return Err(self.damaged(format!("the table of '{}'", table.name))) };
        let passed_on = |source| VaultError::Io { path: table.name.clone().into(), source };
        let walked = if parts.len() <= AHEAD {
            self.assembler().map_err(Failure::Vault).and_then(|mut assembler| {
                parts.iter().try_for_each(|part| {
                    let bytes = assembler.part(&table.name, part)?;
                    pass_on(part, bytes.as_deref(), &mut give).map_err(|source| Failure::Vault(passed_on(source)))
                })
            })
        } else {
            self.walk_ahead(table, &parts, |part, bytes| pass_on(part, bytes, &mut give).map_err(passed_on))
        };
        walked.map_err(|failure| match failure {
            Failure::Vault(VaultError::Segment { path, source }) => {
                self.damaged(format!("{}: {source}", path.display()))
            }
            Failure::Vault(error) => error,
            Failure::Part { name, offset } => self.name_damage(table, &name, offset),
        })
    }

    /// The same, with threads that are some parts ahead of the one that gives.
    fn walk_ahead(
        &self,
        table: &Table,
        parts: &[Part],
        mut give: impl FnMut(&Part, Option<&[u8]>) -> Result<(), VaultError>,
    ) -> Result<(), Failure> {
        type Assembled = Result<Option<Vec<u8>>, Failure>;
        std::thread::scope(|scope| {
            let assemblers: Vec<Receiver<Assembled>> = (0..ASSEMBLERS)
                .map(|first| {
                    let (tell, assembled): (SyncSender<Assembled>, _) = sync_channel(AHEAD);
                    scope.spawn(move || {
                        let mut assembler = match self.assembler() {
                            Ok(assembler) => assembler,
                            Err(error) => return drop(tell.send(Err(Failure::Vault(error)))),
                        };
                        for part in parts.iter().skip(first).step_by(ASSEMBLERS) {
                            // Nobody takes it where an earlier one was bad, or the reader has enough.
                            if tell.send(assembler.part(&table.name, part)).is_err() {
                                return;
                            }
                        }
                    });
                    assembled
                })
                .collect();
            for (index, part) in parts.iter().enumerate() {
                let lost = || Failure::Part { name: table.name.clone(), offset: part.offset };
                let bytes = assemblers[index % ASSEMBLERS].recv().map_err(|_| lost())??;
                give(part, bytes.as_deref()).map_err(Failure::Vault)?;
            }
            Ok(())
        })
    }

    fn assembler(&self) -> Result<Assembler<'_>, VaultError> {
        let unpacker = Unpacker::new();
        let unpacker = unpacker.map_err(|source| VaultError::Io { path: self.inner.disk.root().into(), source })?;
        Ok(Assembler { image: self, unpacker })
    }

    /// A part is not what was dumped: a segment of it may say why.
    fn name_damage(&self, table: &Table, name: &str, offset: u64) -> VaultError {
        let of_part = table.split().into_iter().flatten().find(|part| part.offset == offset);
        let segments: Vec<u32> = of_part.into_iter().flat_map(|part| part.runs).filter_map(|Run(s, _, _)| s).collect();
        let bad = Unpacker::new().ok().and_then(|mut unpacker| {
            segments.iter().find_map(|segment| {
                let digest = self.segments[*segment as usize];
                let loaded = self.inner.load(&mut unpacker, digest, true);
                loaded.err().map(|error| error.to_string())
            })
        });
        let part = format!("'{name}' from byte {offset} on is not what was dumped");
        self.damaged(match bad {
            Some(bad) => format!("{part}: {bad}"),
            None => format!("{part}, though every segment is as it was stored: it refers to wrong pages"),
        })
    }

    fn damaged(&self, what: String) -> VaultError {
        lock(&self.damage).get_or_insert_with(|| what.clone());
        VaultError::Damaged { id: self.id, what }
    }
}

/// Passes a part on; zeros in pieces.
fn pass_on(part: &Part, bytes: Option<&[u8]>, give: &mut impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let Some(bytes) = bytes else {
        let mut at = 0;
        while at < part.len {
            let piece = (part.len - at).min(CHUNK_BYTES as u64);
            give(part.offset + at, &ZEROS[..piece as usize])?;
            at += piece;
        }
        return Ok(());
    };
    give(part.offset, bytes)
}

/// Puts parts together.
struct Assembler<'a> {
    image: &'a VaultImage,
    unpacker: Unpacker,
}

impl Assembler<'_> {
    /// A part, verified; `None` where it is all zeros.
    fn part(&mut self, name: &str, part: &Part) -> Result<Option<Vec<u8>>, Failure> {
        let wrong = || Failure::Part { name: name.into(), offset: part.offset };
        let Some(digest) = part.digest else {
            return if part.runs.iter().all(|run| run.0.is_none()) { Ok(None) } else { Err(wrong()) };
        };
        let mut bytes = Vec::with_capacity(part.len as usize);
        for Run(segment, page, len) in &part.runs {
            match segment {
                None => bytes.extend_from_slice(&ZEROS[..*len as usize]),
                Some(segment) => {
                    let raw = self.segment(*segment).map_err(Failure::Vault)?;
                    let from = *page as usize * PAGE_BYTES;
                    bytes.extend_from_slice(raw.get(from..from + *len as usize).ok_or_else(wrong)?);
                }
            }
        }
        if Digest::of(&bytes) == digest { Ok(Some(bytes)) } else { Err(wrong()) }
    }

    fn segment(&mut self, segment: u32) -> Result<Arc<Vec<u8>>, VaultError> {
        if let Some(raw) = lock(&self.image.cache).get(segment) {
            return Ok(raw);
        }
        // Its own digest is compared only where a part differs: the part's covers what is used.
        let digest = self.image.segments[segment as usize];
        let raw = Arc::new(self.image.inner.load(&mut self.unpacker, digest, false)?);
        lock(&self.image.cache).put(segment, raw.clone());
        Ok(raw)
    }
}

impl Inner {
    /// Reads and unpacks a segment; on wish it is compared with its name.
    pub(super) fn load(&self, unpacker: &mut Unpacker, digest: Digest, compare: bool) -> Result<Vec<u8>, VaultError> {
        let path = self.disk.segment(digest);
        let file = self.read_segment(digest)?;
        let raw = if compare { unpacker.unpack_as(digest, &file) } else { unpacker.unpack(&file) };
        raw.map_err(|source| VaultError::Segment { path, source })
    }

    /// The file of a segment, as it is.
    pub(super) fn read_segment(&self, digest: Digest) -> Result<Vec<u8>, VaultError> {
        let path = self.disk.segment(digest);
        match self.disk.read(&path) {
            Ok(file) if file.len() <= MOST_FILE_BYTES => Ok(file),
            Ok(_) => Err(VaultError::Segment { path, source: SegmentError::Header }),
            Err(VaultError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(VaultError::Segment { path, source: SegmentError::Missing })
            }
            Err(error) => Err(error),
        }
    }
}
