//! A segment: up to 256 pages, one behind the other, and how its file says so.
//!
//! ```text
//! "MGRSEG1\n" │ u32 raw length │ u8 encoding: 0 as they are, 1 zstd │ body
//! ```
//!
//! Little-endian. The same bytes are stored and shipped. Whoever decodes trusts nothing: the length is bounded before anything is
//! decompressed, and the digest of the raw bytes is the segment's name.

use migrate_proto::id::Digest;
use thiserror::Error;

use crate::chunk::PAGE_BYTES;

/// The most pages in one.
pub(super) const SEGMENT_PAGES: usize = 256;
/// The most raw bytes in one.
pub(super) const SEGMENT_BYTES: usize = SEGMENT_PAGES * PAGE_BYTES;

const MAGIC: &[u8; 8] = b"MGRSEG1\n";
const HEADER_BYTES: usize = MAGIC.len() + 4 + 1;
const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Checkpoints are taken often and read seldom.
const LEVEL: i32 = 1;
/// No file of a segment is longer.
pub(super) const MOST_FILE_BYTES: usize = HEADER_BYTES + SEGMENT_BYTES;

/// Why bytes are no segment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// It is not there.
    #[error("the segment is missing")]
    Missing,
    /// It does not begin as one.
    #[error("not a segment")]
    Header,
    /// The length is none that a segment can have.
    #[error("{0} bytes is no length of a segment")]
    Length(u32),
    /// It does not become what it should.
    #[error("the segment does not decompress: {0}")]
    Corrupt(String),
    /// Its bytes are not those that it is named by.
    #[error("the segment has another digest")]
    Digest,
}

/// Compresses, where that helps. Reused, for its context's sake.
pub(super) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
    room: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> std::io::Result<Packer> {
        Ok(Packer {
            zstd: zstd::bulk::Compressor::new(LEVEL)?,
            room: vec![0; zstd::zstd_safe::compress_bound(SEGMENT_BYTES)],
        })
    }

    /// Head and body of the file for these pages.
    pub(super) fn pack<'a>(&'a mut self, raw: &'a [u8]) -> std::io::Result<([u8; HEADER_BYTES], &'a [u8])> {
        let packed = self.zstd.compress_to_buffer(raw, &mut self.room[..])?;
        // What saves less than a sixteenth is not worth decompressing.
        let (encoding, body) =
            if packed < raw.len() - raw.len() / 16 { (ZSTD, &self.room[..packed]) } else { (RAW, raw) };
        let mut head = [0; HEADER_BYTES];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&(raw.len() as u32).to_le_bytes());
        head[12] = encoding;
        Ok((head, body))
    }
}

/// Turns files of segments into pages. Reused, for its context's sake.
pub(super) struct Unpacker {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Unpacker {
    pub(super) fn new() -> std::io::Result<Unpacker> {
        Ok(Unpacker { zstd: zstd::bulk::Decompressor::new()? })
    }

    /// The raw bytes of a file; whether they are the right ones is another question.
    pub(super) fn unpack(&mut self, file: &[u8]) -> Result<Vec<u8>, SegmentError> {
        let (head, body) = file.split_first_chunk::<HEADER_BYTES>().ok_or(SegmentError::Header)?;
        let [magic @ .., a, b, c, d, encoding] = head;
        if magic != MAGIC {
            return Err(SegmentError::Header);
        }
        let length = u32::from_le_bytes([*a, *b, *c, *d]);
        let raw_len = length as usize;
        if raw_len == 0 || raw_len > SEGMENT_BYTES || !raw_len.is_multiple_of(PAGE_BYTES) {
            return Err(SegmentError::Length(length));
        }
        match *encoding {
            RAW if body.len() == raw_len => Ok(body.to_vec()),
            RAW => Err(SegmentError::Corrupt(format!("{} bytes where {raw_len} should be", body.len()))),
            ZSTD => {
                let raw =
                    self.zstd.decompress(body, raw_len).map_err(|error| SegmentError::Corrupt(error.to_string()))?;
                let got = raw.len();
                if got == raw_len { Ok(raw) } else { Err(SegmentError::Corrupt(format!("{got} of {raw_len} bytes"))) }
            }
            _ => Err(SegmentError::Header),
        }
    }

    /// The same, and compares the digest.
    pub(super) fn unpack_as(&mut self, digest: Digest, file: &[u8]) -> Result<Vec<u8>, SegmentError> {
        let raw = self.unpack(file)?;
        if Digest::of(&raw) == digest { Ok(raw) } else { Err(SegmentError::Digest) }
    }
}
