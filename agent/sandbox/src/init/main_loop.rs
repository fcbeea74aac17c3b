//! Reap, answer, repeat. One poll.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use migrate_proto::api::Exit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::leash::Leashed;
use super::notify::Notify;
use super::{EXIT_FILE, Parts, requests, spawn};
use crate::control::{Leash, Reply, Status};
use crate::{reap, wire};

/// A slow agent loses its connection, before the others wait for long.
pub(super) const MESSAGE_TIME: Duration = Duration::from_secs(5);
const MAX_CONNECTIONS: usize = 64;

/// What PID 1 knows.
pub(super) struct Keeper {
    pub(super) house: super::mounts::House,
    directory: File,
    pub(super) status: Status,
    pub(super) leash: Leashed,
    /// Where the workload may send signs of life; from the layer on.
    pub(super) notify: Option<Notify>,
}

impl Keeper {
    /// A process ended. Remembers it where it was the workload.
    fn reaped(&mut self, pid: Pid, exit: Exit) -> bool {
        if self.status != (Status::Running { pid: pid.as_raw() }) {
            return false;
        }
        self.end(exit);
        true
    }

    /// The workload has ended: says so, also to an agent that asks after PID 1 is gone.
    pub(super) fn end(&mut self, exit: Exit) {
        self.status = Status::Ended(exit);
        if let Ok(text) = serde_json::to_vec(&exit) {
            let _ = spawn::write_at(&self.directory, EXIT_FILE, &text);
        }
    }
}

pub(super) fn run(parts: Parts) -> ! {
    let Parts { listener, directory, house, leash } = parts;
    let mut keeper = Keeper { house, directory, status: Status::Empty, leash, notify: None };
    let mut told = keeper.leash.state();
    let _ = listener.set_nonblocking(true);
    let mut connections: HashMap<RawFd, Connection> = HashMap::new();
    let children = child_signals();
    loop {
        let leash = keeper.leash.state();
        if std::mem::replace(&mut told, leash) != leash {
            tell_followers(&mut connections, leash);
        }
        let ready = wait_for_something(&children, &listener, &keeper, &connections);
        keeper.leash.heard();
        if let Some(children) = &children {
            while let Ok(Some(_)) = children.read_signal() {}
        }
        if let Some(notify) = &keeper.notify {
            notify.listen();
        }
        if take_ended(&mut keeper) {
            tell_watchers(&mut connections, keeper.status);
        }
        if let Ok((stream, _)) = listener.accept()
            && connections.len() < MAX_CONNECTIONS
        {
            let _ = stream.set_write_timeout(Some(MESSAGE_TIME));
            connections.insert(stream.as_raw_fd(), Connection { stream, watches: false, follows: false });
        }
        for fd in ready {
            let Some(mut connection) = connections.remove(&fd) else { continue };
            if requests::serve(&mut keeper, &mut connection) {
                connections.insert(fd, connection);
            }
        }
    }
}

/// One agent's connection.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) watches: bool,
    pub(super) follows: bool,
}

fn child_signals() -> Option<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().ok()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).ok()
}

/// Which connections have something to read.
fn wait_for_something(
    children: &Option<SignalFd>,
    listener: &std::os::unix::net::UnixListener,
    keeper: &Keeper,
    connections: &HashMap<RawFd, Connection>,
) -> Vec<RawFd> {
    let mut polled: Vec<PollFd<'_>> =
        connections.values().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)).collect();
    polled.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    polled.push(PollFd::new(keeper.leash.done(), PollFlags::POLLIN));
    if let Some(notify) = &keeper.notify {
        polled.push(PollFd::new(notify.as_fd(), PollFlags::POLLIN));
    }
    if let Some(children) = children {
        polled.push(PollFd::new(children.as_fd(), PollFlags::POLLIN));
    }
    // Without a signalfd (out of descriptors at the very start) children are looked for once a second.
    let timeout = if children.is_some() { PollTimeout::NONE } else { PollTimeout::from(1000u16) };
    let _ = poll(&mut polled, timeout);
    let count = connections.len();
    polled[..count].iter().filter(|fd| fd.any().unwrap_or(false)).map(|fd| fd.as_fd().as_raw_fd()).collect()
}

/// Takes every process that ended; says whether the workload was among them.
fn take_ended(keeper: &mut Keeper) -> bool {
    let mut ended = false;
    // Ends with "none yet" as well as with "no child at all".
    while let Ok(Some((pid, exit))) = reap::take_ended(reap::ANY) {
        ended |= keeper.reaped(pid, exit);
    }
    ended
}

fn tell_watchers(connections: &mut HashMap<RawFd, Connection>, status: Status) {
    connections.retain(|_, connection| {
        !connection.watches || wire::send(&mut connection.stream, &Reply::Status(status), &[]).is_ok()
    });
}

fn tell_followers(connections: &mut HashMap<RawFd, Connection>, leash: Leash) {
    connections.retain(|_, connection| {
        !connection.follows || wire::send(&mut connection.stream, &Reply::Leash(leash), &[]).is_ok()
    });
}
