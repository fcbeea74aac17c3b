//! The last steps of a generation, from its segments to its name: the order of what becomes durable is here.

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::Digest;

use super::manifest::Manifest;
use super::{Entry, Generation, Inner, VaultError};
use crate::lock;

impl Inner {
    /// Whether so much more may be stored.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), VaultError> {
        let (used, budget) = (lock(&self.stock).used(), self.limits.bytes);
        if used.saturating_add(bytes) > budget {
            return Err(VaultError::OverBudget { budget, used });
        }
        if self.disk.free()? < self.limits.keep_free.saturating_add(bytes) {
            return Err(VaultError::DiskFull { path: self.disk.root().into() });
        }
        Ok(())
    }

    /// Makes segments durable, then the generation, in this order.
    pub(super) fn publish(&self, manifest: &Manifest) -> Result<Generation, VaultError> {
        let json = manifest.to_json()?;
        // What this agent would not read again it does not write.
        Manifest::parse(&json)?;
        self.publish_file(manifest, &json)
    }

    /// The same, for a file that has been parsed.
    pub(super) fn publish_file(&self, manifest: &Manifest, json: &[u8]) -> Result<Generation, VaultError> {
        let disk = &self.disk;
        self.make_durable(manifest)?;
        self.admit(json.len() as u64)?;
        let id = CheckpointId::from(Digest::of(json));
        let about = &manifest.about;
        let path = disk.generations_of(&about.spec.name)?.join(format!("{:010}-{id}.json", about.number));
        let new = disk.write_new(&[json])?;
        disk.sync_new(&new)?;
        disk.publish(new, &path)?;
        let entry = Entry::new(id, manifest, path.clone(), json.len() as u64);
        let generation = entry.view();
        lock(&self.stock).insert(entry);
        // Whether the name is durable decides about this generation alone, and it is there either way.
        disk.sync_parent(&path)?;
        Ok(generation)
    }
    /// Waits until the segments of a generation are on disk.
    pub(super) fn make_durable(&self, manifest: &Manifest) -> Result<(), VaultError> {
        let disk = &self.disk;
        let volatile = lock(&self.stock).volatile(manifest.digests());
        volatile.iter().try_for_each(|digest| disk.sync(&disk.segment(*digest)))?;
        if !volatile.is_empty() {
            disk.sync_dir(&disk.segments())?;
            lock(&self.stock).set_durable(&volatile);
        }
        Ok(())
    }
}
