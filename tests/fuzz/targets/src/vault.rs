//! Checkpoints from another node: the file of a generation, and files of segments. What is refused leaves nothing; what is taken is what its name
//! says.

use std::path::Path;

use migrate_image::vault::{Limits, Outline, Vault};
use migrate_proto::id::Digest;

const LIMITS: Limits = Limits { bytes: 8 << 20, keep_free: 0 };

/// The file of a generation, as it is and as what it says it needs would be asked for.
pub(crate) fn outline(input: &[u8], scratch: &Path) {
    let Ok(outline) = Outline::read(input) else { return };
    assert_eq!(outline.id.0, Digest::of(input).0);
    let dir = scratch.join("vault");
    let (vault, _) = Vault::open(&dir, LIMITS).expect("the scratch directory can be written to");
    let mut receiving = vault.receive();
    assert_eq!(receiving.missing(&outline.segments).len(), outline.segments.len());
    // Without its segments it is none; one that needs none is whole.
    assert_eq!(receiving.install(input).is_ok(), outline.segments.is_empty());
    drop(receiving);
    std::fs::remove_dir_all(&dir).expect("it was made");
}

/// The file of a segment, under its right name where that can be known, and under a wrong one.
pub(crate) fn segment(input: &[u8], scratch: &Path) {
    let dir = scratch.join("vault");
    let (vault, _) = Vault::open(&dir, LIMITS).expect("the scratch directory can be written to");
    let mut receiving = vault.receive();
    assert!(receiving.put(Digest([7; 32]), input).is_err(), "nothing has this digest");
    let raw = match input.get(13..) {
        // Not compressed: the name is that of what follows the head.
        Some(raw) if input[12] == 0 => raw.to_vec(),
        Some(body) => zstd::bulk::decompress(body, 1 << 20).unwrap_or_default(),
        None => Vec::new(),
    };
    let digest = Digest::of(&raw);
    let taken = receiving.put(digest, input).is_ok();
    assert_eq!(taken, receiving.missing(&[digest]).is_empty());
    assert_eq!(taken, vault.segment(digest).is_ok_and(|file| file == input));
    drop(receiving);
    assert!(vault.segment(digest).is_err(), "what no generation needs goes");
    assert_eq!(vault.used_bytes(), 0);
    drop(vault);
    std::fs::remove_dir_all(&dir).expect("it was made");
}
