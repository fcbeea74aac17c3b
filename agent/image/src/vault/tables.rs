//! What a writer has of the streams becomes the tables of a generation, compared with what was announced.

use std::collections::BTreeMap;

use super::manifest::{Hex, LAYER, Run, Table, joined};
use super::writing::{Layer, Part};
use crate::chunk::{LAYER_STREAM, StreamSummary, stream_digest, zero_digest};
use crate::layer::{BLOCK_BYTES, layer_digest};
use crate::store::StreamError;

/// The images' tables, each compared with what was announced.
pub(super) fn tables(
    mut streams: BTreeMap<u32, BTreeMap<u64, Part>>,
    images: &[StreamSummary],
) -> Result<Vec<Table>, StreamError> {
    let mut tables = Vec::with_capacity(images.len());
    for StreamSummary { stream, name, length, digest } in images {
        let (mut at, mut digests, mut parts, mut runs) = (0, Vec::new(), Vec::new(), Vec::new());
        for (offset, part) in streams.remove(stream).unwrap_or_default() {
            if offset != at {
                return Err(StreamError::Hole { stream: *stream, offset: at });
            }
            at += u64::from(part.len);
            digests.push(part.digest.unwrap_or_else(|| zero_digest(part.len as usize)));
            parts.push((part.len.into(), part.digest.map(Hex)));
            runs.extend(part.runs);
        }
        if at != *length {
            return Err(StreamError::WrongLength { stream: *stream, got: at, expected: *length });
        }
        if stream_digest(&digests) != *digest {
            return Err(StreamError::WrongDigest { stream: *stream });
        }
        let runs = joined(runs);
        tables.push(Table { name: name.clone(), length: at, digest: Hex(*digest), parts, runs });
    }
    match streams.keys().next() {
        Some(stream) => Err(StreamError::NotInManifest { stream: *stream }),
        None => Ok(tables),
    }
}

/// The layer's table, compared with what was announced.
pub(super) fn layer_table(blocks: BTreeMap<u64, Part>, Layer { size, digest }: Layer) -> Result<Table, StreamError> {
    const BLOCK: u64 = BLOCK_BYTES as u64;
    let (stream, mut at, mut digests) = (LAYER_STREAM, 0, Vec::new());
    let (mut parts, mut runs): (Vec<(u64, Option<Hex>)>, Vec<Run>) = Default::default();
    let zeros = |parts: &mut Vec<_>, runs: &mut Vec<_>, len: u64| {
        if len > 0 {
            parts.push((len, None));
            runs.push(Run(None, 0, len));
        }
    };
    for (index, part) in blocks {
        let begin = index * BLOCK;
        let len = u64::from(part.len);
        if begin >= size || len != BLOCK.min(size - begin) {
            return Err(StreamError::WrongLength { stream, got: begin + len, expected: size });
        }
        zeros(&mut parts, &mut runs, begin - at);
        digests.extend(part.digest.map(|digest| (index, digest)));
        parts.push((len, part.digest.map(Hex)));
        runs.extend(part.runs);
        at = begin + len;
    }
    zeros(&mut parts, &mut runs, size - at);
    if layer_digest(size, digests) != digest {
        return Err(StreamError::WrongDigest { stream });
    }
    Ok(Table { name: LAYER.into(), length: size, digest: Hex(digest), parts, runs: joined(runs) })
}
