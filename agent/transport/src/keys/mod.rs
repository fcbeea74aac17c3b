//! The cluster's keys on a node: who has one belongs to the cluster.
//!
//! The [`mod@file`] holds a ring of keys ([`KeyRing`]). From the first every node derives the same certificate authority
//! ([`authority`]) and issues a certificate for itself; it trusts the authorities of all. [`credentials`]: what is in force,
//! which can be replaced while the node runs. Nothing but the file ever has to be distributed.

pub mod authority;
pub mod credentials;
pub mod file;

use hkdf::Hkdf;
use rustls::crypto::aws_lc_rs::default_provider;
use sha2::Sha256;
use zeroize::Zeroizing;

pub use file::{KeyError, load};
pub use migrate_proto::key::{ClusterKey, Fingerprint, KeyRing};

/// A new key.
pub fn generate() -> Result<ClusterKey, KeyError> {
    ClusterKey::filled(|bytes| fill_random(bytes))
}

/// A key for one purpose; knowing it tells nothing about the others.
pub(crate) fn derive(key: &ClusterKey, purpose: &'static str) -> Zeroizing<[u8; 32]> {
    let mut derived = Zeroizing::new([0; 32]);
    let expanded =
        Hkdf::<Sha256>::new(Some(b"migrate cluster key v1"), key.bytes()).expand(purpose.as_bytes(), &mut *derived);
    debug_assert!(expanded.is_ok(), "HKDF-SHA256 gives up to 8160 bytes");
    derived
}

/// Random bytes from the system.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), KeyError> {
    default_provider().secure_random.fill(bytes).map_err(|_| KeyError::NoRandomness)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use migrate_proto::key::KEY_BYTES;

    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::copied(&[byte; KEY_BYTES])
    }

    #[test]
    fn purposes_have_keys_of_their_own() {
        assert_eq!(derive(&key(7), "a"), derive(&key(7), "a"));
        assert_ne!(derive(&key(7), "a"), derive(&key(7), "b"));
        assert_ne!(derive(&key(7), "a"), derive(&key(8), "a"));
    }

    #[test]
    fn no_two_new_keys_are_alike() {
        assert_ne!(generate().unwrap(), generate().unwrap());
    }
}
