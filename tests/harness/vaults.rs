//! What nodes keep of checkpoints, as files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Lab;

impl Lab {
    /// The files with the pages of a node's checkpoints; none where it has none.
    pub(crate) fn segments(&self, node: &str) -> BTreeSet<PathBuf> {
        files(&self.directory().join(node).join("state/vault/seg")).into_iter().collect()
    }
}

/// What is in a directory; nothing where it is not.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Damages a file in its middle.
pub(crate) fn flip_a_byte(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}
