//! Data that waits in a pipe, a fifo or a socket: a few messages are always queued, and must come out once, in order and
//! with their boundaries.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::blocks::random_bytes;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// How many messages wait between two cycles.
const QUEUED: u64 = 5;

/// Whether the channel keeps the boundaries of messages.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Boundaries {
    /// It carries bytes.
    None,
    /// It carries messages.
    Kept,
}

/// A channel with messages in it.
pub(crate) struct Backlog {
    name: &'static str,
    sender: OwnedFd,
    receiver: OwnedFd,
    boundaries: Boundaries,
    received: u64,
    sent: u64,
    capacity: Option<i32>,
}

impl Backlog {
    /// Fills a channel with its first messages.
    pub(crate) fn new(name: &'static str, sender: OwnedFd, receiver: OwnedFd, boundaries: Boundaries) -> Verdict<Self> {
        fcntl(&receiver, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).must("F_SETFL")?;
        let capacity = fcntl(&receiver, FcntlArg::F_GETPIPE_SZ).ok();
        let mut backlog = Self { name, sender, receiver, boundaries, received: 0, sent: 0, capacity };
        for _ in 0..QUEUED {
            backlog.send()?;
        }
        Ok(backlog)
    }

    fn message(&self, number: u64) -> Vec<u8> {
        let len = match self.boundaries {
            Boundaries::None => 40,
            Boundaries::Kept => 8 + number % 90 * 8,
        };
        random_bytes(len as usize, number)
    }

    fn send(&mut self) -> Verdict {
        self.sent += 1;
        let message = self.message(self.sent);
        let written = nix::unistd::write(&self.sender, &message).must(format_args!("writing to {}", self.name))?;
        same(format_args!("bytes written to {}", self.name), message.len(), written)
    }

    fn receive(&mut self) -> Verdict {
        self.received += 1;
        let expected = self.message(self.received);
        let mut found = vec![0; if self.boundaries == Boundaries::Kept { 4096 } else { expected.len() }];
        let what = format!("message {} in {}", self.received, self.name);
        match nix::unistd::read(&self.receiver, &mut found) {
            Ok(len) => found.truncate(len),
            Err(Errno::EAGAIN) => return Err(Violation::new(what, "queued", "nothing")),
            Err(error) => return Err(Violation::new(what, "queued", error)),
        }
        same(format_args!("length of {what}"), expected.len(), found.len())?;
        holds(what, expected == found, "as sent", "other bytes")
    }
}

impl Part for Backlog {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        same(
            format_args!("capacity of {}", self.name),
            self.capacity,
            fcntl(&self.receiver, FcntlArg::F_GETPIPE_SZ).ok(),
        )?;
        self.receive()?;
        self.send()?;
        Ok(self.received)
    }

    fn sabotage(&mut self) -> Verdict {
        self.receive()?;
        self.received -= 1;
        Ok(())
    }
}
