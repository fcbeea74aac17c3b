//! What a session carries: a small message and the bulk bytes that belong to it.

use bytes::Bytes;

/// The longest header: the longest message that two agents exchange.
pub const MAX_HEADER: usize = 1 << 20;
/// The longest bulk: a chunk of 1 MiB that did not compress, and its framing.
pub const MAX_BULK: usize = (1 << 20) + (64 << 10);

/// A message and the bytes that travel beside it, so that they are never copied into one another.
#[derive(Clone, PartialEq, Eq)]
pub struct Parcel {
    /// An encoded message; opaque here. At most [`MAX_HEADER`] bytes.
    pub header: Bytes,
    /// Bulk bytes, often none. At most [`MAX_BULK`] bytes.
    pub bulk: Bytes,
}

/// A parcel that no peer would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a parcel of {header} bytes and {bulk} bytes of bulk is over the limit ({MAX_HEADER} and {MAX_BULK})")]
pub struct TooLarge {
    header: usize,
    bulk: usize,
}

impl Parcel {
    /// A message without bulk.
    pub fn message(header: impl Into<Bytes>) -> Parcel {
        Parcel { header: header.into(), bulk: Bytes::new() }
    }

    /// Whether both parts are within the limits.
    pub fn check(&self) -> Result<(), TooLarge> {
        if self.header.len() <= MAX_HEADER && self.bulk.len() <= MAX_BULK {
            return Ok(());
        }
        Err(TooLarge { header: self.header.len(), bulk: self.bulk.len() })
    }
}

/// Sizes only: contents are other people's memory.
impl std::fmt::Debug for Parcel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parcel({} + {} bytes)", self.header.len(), self.bulk.len())
    }
}
