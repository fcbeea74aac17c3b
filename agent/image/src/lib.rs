//! The image stream: CRIU's pipes and the layer, cut into verified, compressed chunks.
//!
//! ```text
//! source                                                   target
//! memory ─ ahead ──────────┐
//! CRIU's pipes ─ outgoing ─┤                          ┌─ incoming ─ store ─ serve ─ CRIU's pipes
//!                          ├─ (ChunkHeader, Bytes) ───┤
//! layer file ─ LayerSource ┘       transport          └─ incoming ─ LayerTarget ─ layer file
//! ```
//!
//! - [`chunk`]: what travels, and how it is checked. Every chunk carries the BLAKE3 digest of its raw bytes.
//! - [`ahead`]: memory as content, sent while its processes run; the image then names what it finds of it. Pages that change
//!   in between cross twice.
//! - [`pace`]: how hard to compress, from what the link and the data allow.
//! - [`outgoing`]: many pipes at once into chunks, within a fixed window of memory.
//! - [`store`]: chunks into a directory on a tmpfs, complete or not at all; it outlives the agent. [`serve`]: back into pipes.
//! - [`layer`]: the changed blocks of the layer, round by round.
//! - [`vault`]: checkpoints on disk, by content.
//! - [`incoming`]: the asynchronous front of the store and of the layer's target.

pub mod ahead;
mod buffers;
pub mod chunk;
mod encode;
pub mod incoming;
pub mod layer;
pub mod outgoing;
pub mod pace;
mod refs;
pub mod serve;
pub mod store;
pub mod vault;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, also after a panic elsewhere: every section under a lock in this crate leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
