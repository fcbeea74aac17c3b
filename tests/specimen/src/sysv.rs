//! System V IPC, safe to call: one shared memory segment, a semaphore set, a message queue.

use std::io;
use std::sync::atomic::AtomicU64;

use nix::libc;

use crate::verdict::{MustSucceed, Verdict};

fn outcome(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A segment of shared memory, attached.
pub(crate) struct Segment {
    id: i32,
    words: &'static [AtomicU64],
}

impl Segment {
    /// Makes one of `len` bytes.
    pub(crate) fn new(len: usize) -> Verdict<Self> {
        // SAFETY: no memory is passed.
        #[allow(unsafe_code)]
        let id = unsafe { libc::shmget(libc::IPC_PRIVATE, len, libc::IPC_CREAT | 0o600) };
        outcome(id.into()).must("shmget")?;
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        #[allow(unsafe_code)]
        let start = unsafe { libc::shmat(id, std::ptr::null(), 0) };
        outcome(start as i64).must("shmat")?;
        // SAFETY: the segment is never detached, its memory is zero, and atomics may be changed by anyone.
        #[allow(unsafe_code)]
        let words = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), len / size_of::<AtomicU64>()) };
        Ok(Self { id, words })
    }

    /// Its content.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.words
    }

    /// Size, mode and how many processes are attached.
    pub(crate) fn status(&self) -> Verdict<(usize, u32, u64)> {
        // SAFETY: an all-zero `shmid_ds` is valid, and the call fills it.
        #[allow(unsafe_code)]
        let (result, status) = unsafe {
            let mut status = std::mem::zeroed::<libc::shmid_ds>();
            (libc::shmctl(self.id, libc::IPC_STAT, &raw mut status), status)
        };
        outcome(result.into()).must("shmctl(IPC_STAT)")?;
        Ok((status.shm_segsz, u32::from(status.shm_perm.mode) & 0o777, status.shm_nattch))
    }
}

/// A set of semaphores.
pub(crate) struct Semaphores {
    id: i32,
}

impl Semaphores {
    /// Makes one with these values.
    pub(crate) fn new(values: &[i32]) -> Verdict<Self> {
        // SAFETY: no memory is passed.
        #[allow(unsafe_code)]
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, values.len() as i32, libc::IPC_CREAT | 0o600) };
        outcome(id.into()).must("semget")?;
        for (index, &value) in values.iter().enumerate() {
            // SAFETY: SETVAL takes its argument by value.
            #[allow(unsafe_code)]
            let result = unsafe { libc::semctl(id, index as i32, libc::SETVAL, value) };
            outcome(result.into()).must("semctl(SETVAL)")?;
        }
        Ok(Self { id })
    }

    /// The value of one semaphore.
    pub(crate) fn value(&self, index: i32) -> Verdict<i32> {
        // SAFETY: GETVAL takes no argument.
        #[allow(unsafe_code)]
        let result = unsafe { libc::semctl(self.id, index, libc::GETVAL) };
        outcome(result.into()).must("semctl(GETVAL)")?;
        Ok(result)
    }

    /// Adds `change` to one semaphore; waits until that is possible.
    pub(crate) fn change(&self, index: u16, change: i16) -> Verdict {
        loop {
            let mut operation = libc::sembuf { sem_num: index, sem_op: change, sem_flg: 0 };
            // SAFETY: one operation is passed, and it lives through the call.
            #[allow(unsafe_code)]
            let result = unsafe { libc::semop(self.id, &raw mut operation, 1) };
            match outcome(result.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(drop).must("semop"),
            }
        }
    }
}

/// A message queue.
pub(crate) struct Queue {
    id: i32,
}

const MESSAGE: usize = 64;

#[repr(C)]
struct Message {
    kind: libc::c_long,
    content: [u8; MESSAGE],
}

impl Queue {
    /// Makes an empty one.
    pub(crate) fn new() -> Verdict<Self> {
        // SAFETY: no memory is passed.
        #[allow(unsafe_code)]
        let id = unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) };
        outcome(id.into()).must("msgget")?;
        Ok(Self { id })
    }

    /// Appends a message.
    pub(crate) fn send(&self, kind: i64, content: &[u8]) -> Verdict {
        let mut message = Message { kind, content: [0; MESSAGE] };
        message.content[..content.len()].copy_from_slice(content);
        // SAFETY: the message lives through the call and is as long as said.
        #[allow(unsafe_code)]
        let result = unsafe { libc::msgsnd(self.id, (&raw const message).cast(), content.len(), libc::IPC_NOWAIT) };
        outcome(result.into()).map(drop).must("msgsnd")
    }

    /// Takes the first message of a kind (0: of any); fails if there is none.
    pub(crate) fn receive(&self, kind: i64) -> Verdict<(i64, Vec<u8>)> {
        let mut message = Message { kind: 0, content: [0; MESSAGE] };
        // SAFETY: the message is as long as said, and any bytes are valid in it.
        #[allow(unsafe_code)]
        let result = unsafe { libc::msgrcv(self.id, (&raw mut message).cast(), MESSAGE, kind, libc::IPC_NOWAIT) };
        let len = outcome(result as i64).must("msgrcv")?;
        Ok((message.kind, message.content[..len as usize].to_vec()))
    }
}
