//! The header of sessions: what is accepted is written again the same.

use std::path::Path;

use bytes::Bytes;
use migrate_transport::session;
use xxhash_rust::xxh3::Xxh3;

use crate::script::Script;

const HEADER: usize = 64;

/// How many frames there are and whether the check is put right; then their lengths and bytes.
pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let how = script.byte();
    let mut frames: Vec<Vec<u8>> = (1..how % 5).map(|_| script.long_piece().to_vec()).collect();
    if how % 5 > 0 {
        frames.insert(0, script.rest().to_vec());
    }
    if how & 0x80 == 0 {
        put_check_right(&mut frames);
    }
    let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
    let Some(again) = session::recoded(frames.clone()) else { return };
    assert_eq!(session::recoded(again.clone()), Some(again.clone()), "what is written is accepted");
    let ignored = 5..8;
    assert_eq!(again[0][..ignored.start], frames[0][..ignored.start]);
    assert_eq!(again[0][ignored.end..HEADER - 8], frames[0][ignored.end..HEADER - 8]);
    // A last part without bytes need not travel.
    let parts = |frames: &[Bytes]| frames[1..].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>();
    assert_eq!(parts(&again), parts(&frames));
}

/// As the book has it: XXH3 of bytes 0–55, the lengths of both parts, and the parts.
fn put_check_right(frames: &mut [Vec<u8>]) {
    let Some((header, parts)) = frames.split_first_mut() else { return };
    header.resize(HEADER, 0);
    let mut hash = Xxh3::new();
    hash.update(&header[..HEADER - 8]);
    if let Some(first) = parts.first() {
        let second = parts.get(1).map_or(&[][..], Vec::as_slice);
        hash.update(&(first.len() as u64).to_le_bytes());
        hash.update(&(second.len() as u64).to_le_bytes());
        hash.update(first);
        hash.update(second);
    }
    header[HEADER - 8..].copy_from_slice(&hash.digest().to_le_bytes());
}
