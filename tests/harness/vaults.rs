//! What nodes keep of checkpoints, as files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Lab, eventually};

impl Lab {
    /// The files with the pages of a node's checkpoints; none where it has none.
    pub(crate) fn segments(&self, node: &str) -> BTreeSet<PathBuf> {
        files(&self.directory().join(node).join("state/vault/seg")).into_iter().collect()
    }

    /// Waits until a sign of life has come after the checkpoint of this number, as its node has written down.
    pub(crate) fn wait_until_well_after(&self, node: &str, name: &str, number: u64) {
        let record = self.directory().join(format!("{node}/state/workloads/{name}/workload.json"));
        let vouched = || {
            let written = std::fs::read_to_string(&record).unwrap_or_default();
            // After its digest.
            let json = written.split_once('\n').map_or("", |(_, json)| json);
            let record: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
            record["trust"]["vouched"][1].as_u64().is_some_and(|vouched| vouched >= number)
        };
        assert!(eventually(vouched), "{}", std::fs::read_to_string(&record).unwrap());
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
