//! A stored stream into a pipe.
//!
//! splice(2) moves references to the tmpfs's pages, so that only the reader copies: measured, a third of the processor time
//! of read and write.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use thiserror::Error;

use crate::chunk::{CHUNK_BYTES, ZEROS};
use crate::store::{ImageError, StoredImage};
use crate::vault::{VaultError, VaultImage};

/// Where a part of a stream lies in the store's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// How long it is.
    pub(crate) len: u64,
    /// Where it is stored; `None` where it is all zeros.
    pub(crate) place: Option<u64>,
}

/// Why an image could not be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// One that came in a move.
    #[error(transparent)]
    Stored(#[from] ImageError),
    /// One from the vault.
    #[error(transparent)]
    Kept(#[from] VaultError),
}

/// What CRIU restores from, wherever it lies. All of it blocks.
pub trait Image: Send + Sync {
    /// Whether there is an image of that name.
    fn contains(&self, name: &str) -> bool;

    /// Writes an image into a pipe and closes it.
    fn serve(&self, name: &str, pipe: OwnedFd) -> Result<Served, ServeError>;

    /// A small image as a whole.
    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ServeError>;
}

impl Image for StoredImage {
    fn contains(&self, name: &str) -> bool {
        StoredImage::contains(self, name)
    }

    fn serve(&self, name: &str, pipe: OwnedFd) -> Result<Served, ServeError> {
        Ok(StoredImage::serve(self, name, pipe)?)
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ServeError> {
        Ok(StoredImage::read(self, name, limit)?)
    }
}

impl Image for VaultImage {
    fn contains(&self, name: &str) -> bool {
        VaultImage::contains(self, name)
    }

    fn serve(&self, name: &str, pipe: OwnedFd) -> Result<Served, ServeError> {
        Ok(VaultImage::serve(self, name, pipe)?)
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ServeError> {
        Ok(VaultImage::read(self, name, limit)?)
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Everything is in the pipe.
    Whole,
    /// The reader closed its end first, as CRIU does with images of which it needs only the beginning.
    ClosedEarly,
}

/// Writes the extents into the pipe and closes it. Blocks until the reader has taken all but a pipe full.
///
/// SIGPIPE must be ignored, as it is in every Rust program.
pub(crate) fn serve(file: &File, extents: &[Extent], pipe: OwnedFd) -> io::Result<Served> {
    // Larger is faster, and that is all.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, CHUNK_BYTES);
    for extent in extents {
        let written = match extent.place {
            Some(place) => splice_all(file, place, extent.len, pipe.as_fd()),
            None => write_zeros(extent.len, pipe.as_fd()),
        };
        match written {
            Ok(()) => {}
            Err(Errno::PIPE) => return Ok(Served::ClosedEarly),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Served::Whole)
}

fn splice_all(file: &File, place: u64, len: u64, pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let (mut at, end) = (place, place + len);
    while at < end {
        let left = (end - at) as usize;
        match splice(file, Some(&mut at), pipe, None, left, SpliceFlags::empty()) {
            // The file is shorter than its index says.
            Ok(0) => return Err(Errno::IO),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn write_zeros(mut len: u64, pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    while len > 0 {
        match rustix::io::write(pipe, &ZEROS[..len.min(CHUNK_BYTES as u64) as usize]) {
            Ok(written) => len -= written as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
