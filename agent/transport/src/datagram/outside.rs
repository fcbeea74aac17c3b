//! What somebody who has a key and lies can put into a datagram, for the fuzzer.

use super::keys::{BootId, DatagramKeys};
use super::seal::sealed;
use super::wire::Header;

/// Seals anything at all, under the first of the keys. Nothing keeps a number from being used twice: never for what is sent.
pub fn seal_anything(keys: &DatagramKeys, boot: BootId, counter: u64, inside: &[u8]) -> Option<Vec<u8>> {
    let key = keys.first()?;
    sealed(&key.of_boot(boot)?, Header { key: key.id, boot, counter }, inside.to_vec()).ok()
}
