//! Where the bytes of one stream come from: a pipe, memory, or a file. Each runs on a thread of its own.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc as sync;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Job, OutgoingError, Shared};
use crate::chunk::CHUNK_BYTES;
use crate::lock;

/// The largest pipe asked for: fewer wake-ups between CRIU and us.
const PIPE_BYTES: usize = 4 << 20;
/// How long a stream may keep a partly filled buffer without getting on.
const IDLE_MS: u16 = 10;

/// Ends the waits of all feeds at once: they poll the read end of a pipe, whose write end is closed to stop them.
pub(super) struct Stop {
    seen: OwnedFd,
    held: Mutex<Option<OwnedFd>>,
}

impl Stop {
    pub(super) fn new() -> io::Result<Stop> {
        let (seen, held) = io::pipe()?;
        Ok(Stop { seen: seen.into(), held: Mutex::new(Some(held.into())) })
    }

    pub(super) fn stop(&self) {
        lock(&self.held).take();
    }
}

#[derive(PartialEq, Eq)]
enum Wait {
    /// Bytes are there, or the end.
    Readable,
    /// Nothing came in time.
    Idle,
    Stopped,
}

fn wait(pipe: BorrowedFd<'_>, stop: &Stop, timeout: PollTimeout) -> io::Result<Wait> {
    let mut fds = [PollFd::new(pipe, PollFlags::POLLIN), PollFd::new(stop.seen.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(Wait::Idle),
            Ok(_) if fds[1].any() == Some(true) => return Ok(Wait::Stopped),
            Ok(_) => return Ok(Wait::Readable),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One stream being read.
pub(super) struct Feed {
    stream: u32,
    name: String,
    offset: u64,
    shared: Arc<Shared>,
    jobs: sync::SyncSender<Job>,
}

impl Feed {
    pub(super) fn new(stream: u32, name: String, shared: Arc<Shared>, jobs: sync::SyncSender<Job>) -> Feed {
        Feed { stream, name, offset: 0, shared, jobs }
    }

    /// Reads a pipe until its end.
    pub(super) fn pipe(&mut self, pipe: OwnedFd) -> Result<(), OutgoingError> {
        enlarge(pipe.as_fd());
        loop {
            match wait(pipe.as_fd(), &self.shared.stop, PollTimeout::NONE) {
                Ok(Wait::Stopped) => return Err(OutgoingError::Stopped),
                Ok(_) => {}
                Err(source) => return Err(self.unreadable(source)),
            }
            let mut buffer = self.shared.raw.take().ok_or(OutgoingError::Stopped)?;
            let (len, ended) = fill(pipe.as_fd(), &self.shared.stop, &mut buffer).map_err(|e| self.unreadable(e))?;
            if len > 0 {
                self.put(buffer.freeze(len))?;
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Sends what is in memory.
    pub(super) fn bytes(&mut self, mut bytes: Bytes) -> Result<(), OutgoingError> {
        while !bytes.is_empty() {
            self.put(bytes.split_to(bytes.len().min(CHUNK_BYTES)))?;
        }
        Ok(())
    }

    /// Reads a range of a file.
    pub(super) fn file(&mut self, file: &File, range: Range<u64>) -> Result<(), OutgoingError> {
        let mut at = range.start;
        while at < range.end {
            let mut buffer = self.shared.raw.take().ok_or(OutgoingError::Stopped)?;
            let len = (range.end - at).min(CHUNK_BYTES as u64) as usize;
            match file.read_exact_at(&mut buffer[..len], at) {
                Ok(()) => self.put(buffer.freeze(len))?,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(self.short(file, range)),
                Err(source) => return Err(self.unreadable(source)),
            }
            at += len as u64;
        }
        Ok(())
    }

    fn put(&mut self, raw: Bytes) -> Result<(), OutgoingError> {
        let (stream, offset) = (self.stream, self.offset);
        self.offset += raw.len() as u64;
        self.jobs.send(Job { stream, offset, raw }).map_err(|_| OutgoingError::Stopped)
    }

    fn unreadable(&self, source: io::Error) -> OutgoingError {
        OutgoingError::Read { name: self.name.clone(), source }
    }

    fn short(&self, file: &File, range: Range<u64>) -> OutgoingError {
        let there = file.metadata().map_or(0, |m| m.len()).clamp(range.start, range.end);
        OutgoingError::Short { name: self.name.clone(), got: there - range.start, expected: range.end - range.start }
    }
}

/// Reads until the buffer is full, the pipe ended, or nothing came for a moment. Returns how much, and whether it ended.
fn fill(pipe: BorrowedFd<'_>, stop: &Stop, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut len = 0;
    loop {
        // Never blocks: it is only reached when poll has said that there is something, and nobody else reads.
        match rustix::io::read(pipe, &mut buffer[len..]) {
            Ok(0) => return Ok((len, true)),
            Ok(got) => len += got,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if len == buffer.len() || wait(pipe, stop, IDLE_MS.into())? != Wait::Readable {
            return Ok((len, false));
        }
    }
}

/// As large as may be. A smaller pipe is slower and nothing else.
fn enlarge(pipe: BorrowedFd<'_>) {
    let now = rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(PIPE_BYTES);
    let mut size = PIPE_BYTES;
    while size > now && rustix::pipe::fcntl_setpipe_size(pipe, size).is_err() {
        size /= 2;
    }
}
