//! Chunks of the layer, written into a file: what is accepted lands where it belongs, the file keeps its length, and the digest is
//! that of what is there.

use std::path::Path;

use migrate_image::chunk::{ChunkHeader, Encoding, LAYER_STREAM};
use migrate_image::layer::LayerTarget;
use migrate_proto::id::Digest;
use migrate_proto::message::MAX_LAYER_BYTES;

use crate::script::Script;

pub(crate) fn run(input: &[u8], scratch: &Path) {
    let mut script = Script::new(input);
    if input.first() == Some(&255) {
        return huge(scratch);
    }
    // Some blocks, and perhaps a piece of one.
    let size = usize::from(script.byte() % 6) * (64 << 10) + usize::from(script.byte());
    let path = scratch.join("layer");
    let target = LayerTarget::create(&path, size as u64).expect("the scratch directory can be written to");
    let mut expected = vec![0; size];
    for _ in 0..32 {
        if script.is_over() {
            break;
        }
        let how = script.byte();
        let offset = match how & 0x80 {
            0 => u64::from(script.byte() % 8) * (64 << 10),
            _ => u64::from(script.word()) << (script.byte() % 40),
        };
        let length = match how & 0x40 {
            0 => (script.byte() as usize % 4 * (64 << 10)).min(size.saturating_sub(offset as usize)),
            _ => script.word() as usize % (2 << 20),
        };
        let raw = if how & 1 == 0 { vec![0; length] } else { vec![script.byte(); length] };
        let (encoding, body) = match how % 6 {
            0 => (Encoding::Zero, Vec::new()),
            1 | 2 => (Encoding::Raw, raw.clone()),
            3 | 4 => (Encoding::Zstd, zstd::bulk::compress(&raw, 1).unwrap_or_default()),
            _ => (Encoding::Refs, script.piece().to_vec()),
        };
        let stream = if how & 0x20 == 0 { LAYER_STREAM } else { script.word() };
        let header = ChunkHeader { stream, offset, raw_len: length as u32, encoding, digest: Digest::of(&raw) };
        if target.apply(&header, &body).is_ok() {
            assert_eq!(stream, LAYER_STREAM);
            expected[offset as usize..][..length].copy_from_slice(&raw);
        }
    }
    assert!(std::fs::read(&path).expect("it is there") == expected, "the layer is another");
    std::fs::remove_file(&path).expect("it was made");
}

/// The largest layer that an offer may name costs no memory before something is in it.
fn huge(scratch: &Path) {
    let path = scratch.join("layer");
    let target = LayerTarget::create(&path, MAX_LAYER_BYTES).expect("the scratch directory can be written to");
    let zeros = Digest::of(&[0; 64 << 10]);
    let (raw_len, encoding) = (64 << 10, Encoding::Zero);
    let header = ChunkHeader { stream: LAYER_STREAM, offset: MAX_LAYER_BYTES / 2, raw_len, encoding, digest: zeros };
    target.apply(&header, &[]).expect("a chunk of the layer");
    std::fs::remove_file(&path).expect("it was made");
}
