//! Buffers of [`CHUNK_BYTES`] that are allocated and touched once, and then go round: the first touch of fresh memory costs
//! more than everything that is done to a chunk. Their fixed number is what bounds the memory in flight.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::chunk::CHUNK_BYTES;
use crate::lock;

/// Content up to this size leaves its buffer for an allocation of its own, so that a hundred small images do not hold a
/// hundred large buffers.
const SMALL_BYTES: usize = 64 << 10;

/// A fixed number of buffers.
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: Vec<Box<[u8]>>,
    closed: bool,
    /// How long buffers were waited for, since that was last asked.
    waited: Duration,
}

impl Pool {
    /// `count` buffers, touched.
    pub(crate) fn new(count: usize) -> Arc<Pool> {
        // Filled with something else than zero, which the allocator would hand out untouched.
        let free = (0..count.max(1)).map(|_| vec![0xa5; CHUNK_BYTES].into()).collect();
        Arc::new(Pool {
            state: Mutex::new(State { free, closed: false, waited: Duration::ZERO }),
            changed: Condvar::new(),
        })
    }

    /// Waits for a buffer. Its content is arbitrary. `None` once the pool is closed.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Buffer> {
        let mut state = lock(&self.state);
        if state.free.is_empty() && !state.closed {
            let begun = Instant::now();
            state = self
                .changed
                .wait_while(state, |state| state.free.is_empty() && !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
            state.waited += begun.elapsed();
        }
        if state.closed {
            return None;
        }
        // The one that came back last: it is still warm.
        state.free.pop().map(|bytes| Buffer { bytes, pool: self.clone() })
    }

    /// How long buffers were waited for since the last call: whoever has them does not keep up.
    pub(crate) fn waited(&self) -> Duration {
        std::mem::take(&mut lock(&self.state).waited)
    }

    /// From now on nobody gets a buffer, and nobody waits for one.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

/// A buffer that goes back to its pool when dropped.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

impl Buffer {
    /// The first `len` bytes as [`Bytes`]; the buffer goes back when the last of them is dropped.
    pub(crate) fn freeze(self, len: usize) -> Bytes {
        if len <= SMALL_BYTES {
            return Bytes::copy_from_slice(&self.bytes[..len]);
        }
        Bytes::from_owner(Frozen { buffer: self, len })
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.pool.state).free.push(std::mem::take(&mut self.bytes));
        self.pool.changed.notify_one();
    }
}

struct Frozen {
    buffer: Buffer,
    len: usize,
}

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_frozen_buffer_comes_back_with_its_last_slice() {
        let pool = Pool::new(1);
        let frozen = pool.take().unwrap().freeze(CHUNK_BYTES);
        let slice = frozen.slice(10..20);
        drop(frozen);
        assert!(lock(&pool.state).free.is_empty());
        drop(slice);
        assert_eq!(lock(&pool.state).free.len(), 1);
    }

    #[test]
    fn small_content_does_not_hold_a_buffer() {
        let pool = Pool::new(1);
        let mut buffer = pool.take().unwrap();
        buffer[..3].copy_from_slice(b"abc");
        let small = buffer.freeze(3);
        assert_eq!(lock(&pool.state).free.len(), 1);
        assert_eq!(&small[..], b"abc");
    }

    #[test]
    fn closing_ends_the_wait_of_others() {
        let pool = Pool::new(1);
        let held = pool.take();
        let waiting = std::thread::spawn({
            let pool = pool.clone();
            move || pool.take().is_none()
        });
        pool.close();
        assert!(waiting.join().unwrap());
        drop(held);
    }
}
