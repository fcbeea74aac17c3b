//! Looks at a generation: every segment is what its name says, and every part what was dumped.

use std::time::{Duration, Instant};

use migrate_proto::cluster::CheckpointId;

use super::segment::Unpacker;
use super::{Vault, VaultError};

/// What a look has cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    /// How much was read and compared.
    pub bytes: u64,
    /// In how much time.
    pub took: Duration,
}

impl Vault {
    /// Reads all of a generation and compares it with the digests that were taken during the dump. Not faster than `pace` bytes a second,
    /// where one is given. Blocks. The error names the first damage; noting it is the caller's.
    pub fn check(&self, id: CheckpointId, pace: Option<u64>) -> Result<Checked, VaultError> {
        let begun = Instant::now();
        let image = self.open_image(id)?;
        let mut bytes = 0u64;
        let mut wait = |read: usize| {
            bytes += read as u64;
            let due = pace.map(|pace| Duration::from_secs_f64(bytes as f64 / pace.max(1) as f64));
            if let Some(ahead) = due.and_then(|due| due.checked_sub(begun.elapsed())) {
                std::thread::sleep(ahead);
            }
        };
        image.read_all(&mut wait)?;
        Ok(Checked { bytes, took: begun.elapsed() })
    }

    /// Compares every segment of a generation with its name, also pages that nothing refers to. What it finds is damage of the disk.
    pub fn check_segments(&self, id: CheckpointId) -> Result<(), VaultError> {
        let (manifest, _) = self.manifest(id)?;
        let mut unpacker = Unpacker::new().map_err(|source| self.broken_zstd(source))?;
        manifest.digests().try_for_each(|digest| match self.inner.load(&mut unpacker, digest, true) {
            Ok(_) => Ok(()),
            Err(error) => Err(VaultError::Damaged { id, what: error.to_string() }),
        })
    }
}
