//! Chunks on their way into an image, references to memory that was copied ahead included. A second account is kept of what was
//! accepted; the image that comes out must be exactly that.

use std::collections::BTreeMap;
use std::path::Path;

use migrate_image::chunk::{
    AHEAD_STREAM, CHUNK_BYTES, ChunkHeader, Encoding, LAYER_STREAM, StreamSummary, stream_digest,
};
use migrate_image::store::Store;
use migrate_proto::id::Digest;

use crate::script::Script;

const BUDGET: u64 = 8 << 20;
const PAGE: usize = 4096;

/// What was accepted: of each stream the chunks by their offset.
type Account = BTreeMap<u32, BTreeMap<u64, Vec<u8>>>;

pub(crate) fn run(input: &[u8], scratch: &Path) {
    let mut script = Script::new(input);
    let dir = scratch.join("image");
    let store = Store::create(&dir, BUDGET).expect("the scratch directory can be written to");
    let mut account = Account::new();
    for _ in 0..32 {
        if script.is_over() {
            break;
        }
        let (header, body, raw) = chunk(&mut script, &account);
        if store.write_chunk(&header, &body).is_ok() {
            accept(&mut account, &header, raw);
        }
    }
    let charged: usize = account.values().flat_map(BTreeMap::values).map(|raw| raw.len().min(PAGE)).sum();
    assert!(charged as u64 <= BUDGET);
    complete(&store, account);
    std::fs::remove_dir_all(&dir).expect("it was made");
}

/// A chunk as it travels, and what its raw bytes are where this side can tell; the digest is theirs.
fn chunk(script: &mut Script<'_>, account: &Account) -> (ChunkHeader, Vec<u8>, Vec<u8>) {
    let how = script.byte();
    let stream = match script.byte() % 8 {
        7 => LAYER_STREAM,
        4..7 => AHEAD_STREAM,
        low => low.into(),
    };
    // At the end of what is there, or anywhere.
    let end =
        account.get(&stream).and_then(|parts| parts.last_key_value()).map_or(0, |(at, raw)| at + raw.len() as u64);
    let offset = if how & 0x80 == 0 { end } else { u64::from(script.word()) << (script.byte() % 40) };
    let (encoding, body, raw) = match how % 8 {
        0 => {
            let raw = script.long_piece().to_vec();
            (Encoding::Raw, raw.clone(), raw)
        }
        1 => {
            let raw = pages(script);
            (Encoding::Raw, raw.clone(), raw)
        }
        2 => (Encoding::Zero, script.piece().to_vec(), vec![0; script.word() as usize % (CHUNK_BYTES + 2)]),
        3 => {
            let raw = pages(script);
            (Encoding::Zstd, zstd::bulk::compress(&raw, 1).unwrap_or_default(), raw)
        }
        4 => {
            let body = script.long_piece().to_vec();
            let raw = zstd::bulk::decompress(&body, CHUNK_BYTES).unwrap_or_default();
            (Encoding::Zstd, body, raw)
        }
        _ => {
            let body = if how % 8 == 5 { script.long_piece().to_vec() } else { references(script) };
            let raw = resolved(&body, account).unwrap_or_default();
            (Encoding::Refs, body, raw)
        }
    };
    // Mostly honest.
    let raw_len = if how & 0x40 == 0 { raw.len() as u32 } else { script.word() };
    (ChunkHeader { stream, offset, raw_len, encoding, digest: Digest::of(&raw) }, body, raw)
}

/// Up to sixteen pages that can be told apart, and perhaps a piece of one.
fn pages(script: &mut Script<'_>) -> Vec<u8> {
    let (count, first, more) = (script.byte(), script.byte(), usize::from(script.byte() & 1) * 100);
    let pages = (0..count % 16).flat_map(|page| [first.wrapping_add(page); PAGE]);
    pages.chain(std::iter::repeat_n(first, more)).collect()
}

/// A body of references with literals to match.
fn references(script: &mut Script<'_>) -> Vec<u8> {
    let runs: Vec<(u32, u32)> = (0..script.byte() % 6)
        .map(|_| match script.byte() {
            255 => (u32::MAX, u32::from(script.byte() % 8)),
            254 => (u32::MAX - 1, u32::from(script.byte() % 8)),
            page => (u32::from(page % 32), u32::from(script.byte() % 8)),
        })
        .collect();
    let mut body = (runs.len() as u32).to_le_bytes().to_vec();
    for (what, pages) in &runs {
        body.extend([what.to_le_bytes(), pages.to_le_bytes()].concat());
    }
    let literals = runs.iter().filter(|(what, _)| *what == u32::MAX).map(|(_, pages)| *pages as usize).sum::<usize>();
    body.extend(std::iter::repeat_n(script.byte(), literals * PAGE));
    body
}

/// What a body of references stands for, whole pages only; `None` where it stands for nothing.
fn resolved(body: &[u8], account: &Account) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?) as usize);
    let count = word(0)?;
    let mut literals = body.get(count.checked_mul(8)?.checked_add(4)?..)?;
    let ahead: BTreeMap<u64, &[u8]> = (account.get(&AHEAD_STREAM).into_iter().flatten())
        .flat_map(|(at, raw)| (*at..).step_by(PAGE).zip(raw.chunks(PAGE)))
        .collect();
    let mut raw = Vec::new();
    for run in 0..count {
        let (what, pages) = (word(4 + 8 * run)?, word(8 + 8 * run)?);
        if raw.len() + pages.checked_mul(PAGE)? > CHUNK_BYTES {
            return None;
        }
        for page in 0..pages {
            match what as u32 {
                u32::MAX => {
                    let (page, rest) = literals.split_at_checked(PAGE.min(literals.len()))?;
                    raw.extend_from_slice(page);
                    literals = rest;
                }
                0xffff_fffe => raw.extend([0; PAGE]),
                _ => raw.extend_from_slice(ahead.get(&((what + page) as u64 * PAGE as u64))?),
            }
        }
    }
    Some(raw)
}

fn accept(account: &mut Account, header: &ChunkHeader, raw: Vec<u8>) {
    assert_eq!(raw.len(), header.raw_len as usize, "{header:?}");
    assert!((1..=CHUNK_BYTES).contains(&raw.len()));
    let end = header.offset.checked_add(raw.len() as u64).expect("a place in a stream");
    let parts = account.entry(header.stream).or_default();
    let before = parts.range(..end).next_back().map_or(0, |(at, there)| at + there.len() as u64);
    assert!(before <= header.offset, "bytes were accepted twice: {header:?}");
    parts.insert(header.offset, raw);
}

/// The manifest names what was accepted. It is an image exactly if no stream has a hole.
fn complete(store: &Store, mut account: Account) {
    account.remove(&AHEAD_STREAM);
    let mut wholes = BTreeMap::new();
    let mut manifest = Vec::new();
    let mut has_hole = false;
    for (stream, parts) in &account {
        let whole = parts.values().flatten().copied().collect::<Vec<u8>>();
        let digests: Vec<Digest> = parts.values().map(|raw| Digest::of(raw)).collect();
        let length = whole.len() as u64;
        let mut end = 0;
        for (at, raw) in parts {
            has_hole |= *at != end;
            end = at + raw.len() as u64;
        }
        let name = format!("s{stream}");
        wholes.insert(name.clone(), whole);
        manifest.push(StreamSummary { stream: *stream, name, length, digest: stream_digest(&digests) });
    }
    let image = store.complete(&manifest);
    assert_eq!(image.is_ok(), !has_hole, "{:?}", image.err());
    let Ok(image) = image else { return };
    for (name, whole) in &wholes {
        assert!(image.read(name, BUDGET * 64).expect("it is in the image") == *whole, "{name} is another");
    }
    assert_eq!(image.streams(), manifest);
}
