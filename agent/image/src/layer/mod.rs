//! The layer's blocks: what changed since the target last got it.
//!
//! The layer is a sparse file of fixed size. It is looked at in blocks of [`BLOCK_BYTES`]; the last one may be shorter. At
//! first the target's file is all zeros, and that is what [`LayerSource`] takes it to be. Each [`LayerSource::round`]
//! reads what is data in the file (holes cost nothing), compares a fast hash (xxh3-128) of each block with that of what
//! the target has, and sends what differs, neighbours together. A block that became zero, or a hole, is sent as zeros,
//! which become a hole on the target. So the first round sends everything, the next ones what was written meanwhile, and
//! the last one, with the workload frozen and the file system synced, the rest.
//!
//! # The layer's digest
//!
//! BLAKE3 over the file's length (u64, little endian), followed, for each block that is not all zeros, in order, by the
//! block's index (u64, little endian) and the BLAKE3 digest of its bytes. Both ends keep the digests of their blocks as they
//! are sent and received, so that at the freeze only what changed is hashed. It proves that the target has got what
//! the source has sent, and all of it; that a changed block was noticed rests on xxh3.

mod scan;
mod source;
mod target;

use std::io;
use std::path::PathBuf;

use migrate_proto::id::Digest;
use thiserror::Error;

pub use self::source::{LayerSource, Options, RoundStats};
pub use self::target::LayerTarget;
use crate::chunk::{CHUNK_BYTES, ChunkError};

/// How finely changes are seen.
pub const BLOCK_BYTES: usize = 64 << 10;

const BLOCKS_PER_CHUNK: usize = CHUNK_BYTES / BLOCK_BYTES;

/// Why a layer could not be read, sent or written.
#[derive(Debug, Error)]
pub enum LayerError {
    /// The file could not be used.
    #[error("layer {path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has another size than at the beginning.
    #[error("layer {path}: its size changed from {expected} to {got} bytes")]
    Resized {
        /// Which.
        path: PathBuf,
        /// Its size now.
        got: u64,
        /// Its size at the beginning.
        expected: u64,
    },
    /// zstd failed.
    #[error("cannot compress the layer: {0}")]
    Compress(io::Error),
    /// Nobody takes chunks any more.
    #[error("nobody takes the layer's chunks any more")]
    Stopped,
    /// A round failed, so that it is not known what the target has.
    #[error("layer {path}: an earlier round failed")]
    Broken {
        /// Which.
        path: PathBuf,
    },
    /// The chunk itself is bad.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The chunk is of another stream, not whole blocks, or beyond the end.
    #[error("chunk {stream}+{offset}, {len} bytes: not blocks of the layer")]
    Misplaced {
        /// The stream.
        stream: u32,
        /// The offset.
        offset: u64,
        /// The length.
        len: u32,
    },
}

/// The digest of a layer, from its size and the digests of its blocks that are not zeros, by their indexes and in order.
pub(crate) fn layer_digest(size: u64, blocks: impl IntoIterator<Item = (u64, Digest)>) -> Digest {
    let mut whole = blake3::Hasher::new();
    whole.update(&size.to_le_bytes());
    for (index, digest) in blocks {
        whole.update(&index.to_le_bytes());
        whole.update(&digest.0);
    }
    Digest(*whole.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
