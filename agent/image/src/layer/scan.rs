//! Which parts of a sparse file are data.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::chunk::CHUNK_BYTES;

/// For each part of [`CHUNK_BYTES`] of a file of `size` bytes: whether any of it is data.
pub(super) fn data_parts(file: &File, size: u64) -> Result<Vec<bool>, Errno> {
    const PART: u64 = CHUNK_BYTES as u64;
    let mut parts = vec![false; size.div_ceil(PART) as usize];
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) if data < size => data,
            // NXIO: no data after this.
            Ok(_) | Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
        let hole = seek(file, SeekFrom::Hole(data))?.min(size);
        parts[(data / PART) as usize..hole.div_ceil(PART) as usize].fill(true);
        // The rest of the last part is read anyhow.
        at = hole.next_multiple_of(PART);
    }
    Ok(parts)
}
