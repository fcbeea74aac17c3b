//! What datagrams are sealed and opened with.
//!
//! From each key of the ring one key is derived for datagrams alone ([`DatagramKeys`]). So an agent that keeps these for as long as it runs
//! does not keep the ring: who reads them out of its memory can seal datagrams, but issue no certificate.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::keys::{ClusterKey, Fingerprint, KeyError, derive, fill_random};

/// What the key for datagrams is derived for.
const PURPOSE: &str = "datagrams";
/// What the key of one life of one sender is derived for.
const OF_A_BOOT: &[u8] = b"migrate datagram 1";

/// Tells one life of one agent from all others. Whoever starts draws one, and no number seals in two sealers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// A number that nobody had before.
    pub fn random() -> Result<BootId, KeyError> {
        let mut boot = BootId([0; 16]);
        fill_random(&mut boot.0)?;
        Ok(boot)
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key's name, as it stands in headers: that of its fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct KeyId(pub(super) [u8; 8]);

impl KeyId {
    fn of(fingerprint: &Fingerprint) -> KeyId {
        // Sixteen hexadecimal digits, its type sees to that.
        KeyId(u64::from_str_radix(&fingerprint.to_string(), 16).unwrap_or_default().to_be_bytes())
    }
}

/// The keys for datagrams of a ring, in its order: the first one seals, all of them open. Cheap to clone; wiped when the last is dropped.
#[derive(Clone)]
pub struct DatagramKeys(Arc<[DatagramKey]>);

pub(super) struct DatagramKey {
    pub(super) id: KeyId,
    root: Zeroizing<[u8; 32]>,
}

impl DatagramKeys {
    /// Those of this ring.
    pub fn of(ring: &(impl AsRef<[ClusterKey]> + ?Sized)) -> DatagramKeys {
        let key = |key: &ClusterKey| DatagramKey { id: KeyId::of(&key.fingerprint()), root: derive(key, PURPOSE) };
        DatagramKeys(ring.as_ref().iter().map(key).collect())
    }

    /// The one that seals.
    pub(super) fn first(&self) -> Option<&DatagramKey> {
        self.0.first()
    }

    /// The one that a header names.
    pub(super) fn named(&self, id: KeyId) -> Option<&DatagramKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for DatagramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| key.id)).finish()
    }
}

impl DatagramKey {
    /// The key of one life of one sender. Nothing only if the library refuses 32 bytes, which it does not.
    pub(super) fn of_boot(&self, boot: BootId) -> Option<LessSafeKey> {
        let mut derived = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(&boot.0), &*self.root).expand(OF_A_BOOT, &mut *derived).ok()?;
        UnboundKey::new(&AES_256_GCM, &*derived).ok().map(LessSafeKey::new)
    }
}

/// Under a key of one boot number a counter is used once.
pub(super) fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use migrate_proto::key::KEY_BYTES;

    use super::*;

    #[test]
    fn a_name_in_a_header_is_the_fingerprint() {
        let key = ClusterKey::copied(&[9; KEY_BYTES]);
        let id = DatagramKeys::of(&key).first().unwrap().id;
        let digits: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits, key.fingerprint().to_string());
        assert!(!format!("{:?}", DatagramKeys::of(&key)).contains("root"));
    }

    #[test]
    fn what_seals_datagrams_is_not_the_key_itself() {
        let key = ClusterKey::copied(&[9; KEY_BYTES]);
        assert_ne!(*DatagramKeys::of(&key).first().unwrap().root, *key.bytes());
    }
}
