//! The sending half.

use aws_lc_rs::aead::{Aad, LessSafeKey};
use migrate_proto::name::NodeName;
use thiserror::Error;

use super::keys::{BootId, DatagramKeys, KeyId, nonce};
use super::wire::{Header, MAX_BODY_BYTES, inside};

/// Why nothing was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// It does not fit into a datagram.
    #[error("a body of {bytes} bytes: a datagram holds at most {MAX_BODY_BYTES}")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// There is no key to seal with.
    #[error("there is no key to seal datagrams with")]
    NoKey,
    /// Every counter was used: 2⁶⁴ of them.
    #[error("this life of the agent has no number left for a datagram")]
    UsedUp,
    /// The library refuses.
    #[error("a datagram cannot be sealed: the cipher refuses")]
    Cipher,
}

/// Seals what one node sends in one life.
pub struct Sealer {
    node: NodeName,
    boot: BootId,
    /// The last counter that was used. It goes on when the key changes: one number, one datagram.
    counter: u64,
    key: KeyId,
    sealing: LessSafeKey,
}

impl Sealer {
    /// One for this node, under the first of the keys. **No boot number may be given to two sealers**, also not to two that live one
    /// after the other: draw it ([`BootId::random`]).
    pub fn new(node: NodeName, boot: BootId, keys: &DatagramKeys) -> Result<Sealer, SealError> {
        let (key, sealing) = first_of(keys, boot)?;
        Ok(Sealer { node, boot, counter: 0, key, sealing })
    }

    /// From now on under the first of these.
    pub fn replace_keys(&mut self, keys: &DatagramKeys) -> Result<(), SealError> {
        (self.key, self.sealing) = first_of(keys, self.boot)?;
        Ok(())
    }

    /// Which life this is.
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// A datagram that says this.
    pub fn seal(&mut self, kind: u8, body: &[u8]) -> Result<Vec<u8>, SealError> {
        if body.len() > MAX_BODY_BYTES {
            return Err(SealError::TooLong { bytes: body.len() });
        }
        self.counter = self.counter.checked_add(1).ok_or(SealError::UsedUp)?;
        let header = Header { key: self.key, boot: self.boot, counter: self.counter };
        sealed(&self.sealing, header, inside(&self.node, kind, body))
    }
}

/// The datagram with this header and this inside.
pub(super) fn sealed(key: &LessSafeKey, header: Header, mut inside: Vec<u8>) -> Result<Vec<u8>, SealError> {
    let clear = header.bytes();
    let tag = key.seal_in_place_separate_tag(nonce(header.counter), Aad::from(clear), &mut inside);
    let tag = tag.map_err(|_| SealError::Cipher)?;
    Ok([&clear[..], &inside, tag.as_ref()].concat())
}

fn first_of(keys: &DatagramKeys, boot: BootId) -> Result<(KeyId, LessSafeKey), SealError> {
    let key = keys.first().ok_or(SealError::NoKey)?;
    Ok((key.id, key.of_boot(boot).ok_or(SealError::Cipher)?))
}
