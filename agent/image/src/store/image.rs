//! A complete image: what is in the index, and what CRIU may ask for.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::CHUNKS;
use crate::chunk::{CHUNK_BYTES, StreamSummary};
use crate::serve::{Extent, Served, serve};

const INDEX: &str = "index.json";
const INDEX_NEW: &str = "index.json.new";
const VERSION: u32 = 1;

/// Why an image could not be put down, opened or served.
#[derive(Debug, Error)]
pub enum ImageError {
    /// A file could not be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index is none that this version wrote, or does not fit what is stored.
    #[error("{path}: {reason}")]
    BadIndex {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no image of that name.
    #[error("no image '{}'", name.escape_debug())]
    Unknown {
        /// The name.
        name: String,
    },
    /// The image is larger than the caller wants to have in memory.
    #[error("image '{}' has {length} bytes, more than {limit}", name.escape_debug())]
    TooLarge {
        /// The name.
        name: String,
        /// Its length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// It could not be written into the pipe.
    #[error("cannot serve image '{}': {source}", name.escape_debug())]
    Serve {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What `index.json` holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    streams: Vec<IndexedStream>,
}

/// One stream in the index.
#[derive(Serialize, Deserialize)]
pub(super) struct IndexedStream {
    #[serde(flatten)]
    pub(super) summary: StreamSummary,
    /// Length and place of each part, in order; no place where it is all zeros.
    pub(super) parts: Vec<(u32, Option<u64>)>,
}

impl Index {
    pub(super) fn new(streams: Vec<IndexedStream>) -> Index {
        Index { version: VERSION, streams }
    }
}

/// A complete, verified image.
pub struct StoredImage {
    dir: PathBuf,
    chunks: File,
    streams: Vec<StreamSummary>,
    extents: Vec<Vec<Extent>>,
    by_name: HashMap<String, usize>,
}

impl StoredImage {
    /// Makes the directory a complete image.
    pub(super) fn write(dir: &Path, index: Index) -> Result<(), ImageError> {
        let (path, new) = (dir.join(INDEX), dir.join(INDEX_NEW));
        let json = serde_json::to_vec(&index)
            .map_err(|e| ImageError::BadIndex { path: path.clone(), reason: e.to_string() })?;
        // Durable against the agent's death, not the machine's: the store lies in memory anyhow.
        fs::write(&new, json).map_err(|source| ImageError::Io { path: new.clone(), source })?;
        fs::rename(&new, &path).map_err(|source| ImageError::Io { path, source })
    }

    /// Opens a complete image; one without an index is none.
    pub fn open(dir: impl Into<PathBuf>) -> Result<StoredImage, ImageError> {
        let dir = dir.into();
        let path = dir.join(INDEX);
        let json = fs::read(&path).map_err(|source| ImageError::Io { path: path.clone(), source })?;
        let bad = |reason: String| ImageError::BadIndex { path: path.clone(), reason };
        let index: Index = serde_json::from_slice(&json).map_err(|e| bad(e.to_string()))?;
        if index.version != VERSION {
            return Err(bad(format!("version {} where {VERSION} is known", index.version)));
        }
        let chunks_path = dir.join(CHUNKS);
        let chunks = File::open(&chunks_path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (stored, chunks) = chunks.map_err(|source| ImageError::Io { path: chunks_path, source })?;
        let mut image = StoredImage { dir, chunks, streams: Vec::new(), extents: Vec::new(), by_name: HashMap::new() };
        for stream in index.streams {
            let extents = extents(&stream.parts);
            let fits = |e: &Extent| e.place.is_none_or(|at| at.checked_add(e.len).is_some_and(|end| end <= stored));
            let possible = stream.parts.iter().all(|(len, _)| (1..=CHUNK_BYTES).contains(&(*len as usize)));
            let length: u64 = extents.iter().map(|e| e.len).sum();
            if !possible || !extents.iter().all(fits) || length != stream.summary.length {
                return Err(bad(format!("stream {} is not what is stored", stream.summary.stream)));
            }
            image.by_name.insert(stream.summary.name.clone(), image.streams.len());
            image.streams.push(stream.summary);
            image.extents.push(extents);
        }
        Ok(image)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its streams, in the manifest's order.
    pub fn streams(&self) -> &[StreamSummary] {
        &self.streams
    }

    /// Whether there is an image of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Writes an image into a pipe and closes it. Blocks.
    pub fn serve(&self, name: &str, pipe: OwnedFd) -> Result<Served, ImageError> {
        let extents = &self.extents[self.find(name)?];
        serve(&self.chunks, extents, pipe).map_err(|source| ImageError::Serve { name: name.into(), source })
    }

    /// A small image as a whole.
    pub fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let stream = self.find(name)?;
        let length = self.streams[stream].length;
        if length > limit {
            return Err(ImageError::TooLarge { name: name.into(), length, limit });
        }
        let mut bytes = vec![0; length as usize];
        let mut rest = &mut bytes[..];
        for extent in &self.extents[stream] {
            let (part, after) = rest.split_at_mut(extent.len as usize);
            if let Some(place) = extent.place {
                let read = self.chunks.read_exact_at(part, place);
                read.map_err(|source| ImageError::Io { path: self.dir.join(CHUNKS), source })?;
            }
            rest = after;
        }
        Ok(bytes)
    }

    fn find(&self, name: &str) -> Result<usize, ImageError> {
        self.by_name.get(name).copied().ok_or_else(|| ImageError::Unknown { name: name.into() })
    }
}

/// Joins parts that lie behind each other: chunks mostly came in order.
fn extents(parts: &[(u32, Option<u64>)]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (len, place) in parts {
        let len = u64::from(*len);
        let joins = |last: &Extent| match (last.place, place) {
            (Some(at), Some(place)) => at.checked_add(last.len) == Some(*place),
            (None, None) => true,
            _ => false,
        };
        match extents.last_mut() {
            Some(last) if joins(last) => last.len += len,
            _ => extents.push(Extent { len, place: *place }),
        }
    }
    extents
}
