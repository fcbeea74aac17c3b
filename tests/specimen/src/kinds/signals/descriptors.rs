//! Descriptors that report events: signalfd, eventfd, epoll, inotify.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::{eventually, rest};
use crate::part::Part;
use crate::rawsignal::{queue, take};
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// A signalfd; between two cycles a signal with a value waits in it.
pub(super) struct SignalDescriptor {
    descriptor: SignalFd,
    sent: usize,
}

impl SignalDescriptor {
    const SIGNAL: Signal = Signal::SIGWINCH;

    pub(super) fn new() -> Verdict<Self> {
        let mask = SigSet::from(Self::SIGNAL);
        mask.thread_block().must("sigprocmask")?;
        let descriptor =
            SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).must("signalfd")?;
        queue(Self::SIGNAL as i32, 0)?;
        Ok(Self { descriptor, sent: 0 })
    }
}

impl Part for SignalDescriptor {
    fn name(&self) -> &'static str {
        "signalfd"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let found = self.descriptor.read_signal().must("reading a signalfd")?;
        let found = found.map(|info| (info.ssi_signo, info.ssi_ptr));
        same("signal in a signalfd", Some((Self::SIGNAL as u32, self.sent as u64)), found)?;
        self.sent += 1;
        queue(Self::SIGNAL as i32, self.sent)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        take(Self::SIGNAL as i32).map(drop)
    }
}

/// An eventfd that keeps what was added to it.
pub(super) struct EventCounter {
    descriptor: EventFd,
    content: u64,
}

impl EventCounter {
    pub(super) fn new() -> Verdict<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self { descriptor: EventFd::from_value_and_flags(4711, flags).must("eventfd")?, content: 4711 })
    }
}

impl Part for EventCounter {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("counter of an eventfd", self.content, self.descriptor.read().must("reading an eventfd")?)?;
        self.content = cycle * 1_000_003;
        self.descriptor.write(self.content - 1).must("writing an eventfd")?;
        self.descriptor.write(1).must("writing an eventfd")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.descriptor.write(1).must("writing an eventfd").map(drop)
    }
}

/// An epoll set: one member reports its level, one its edges, one nothing.
pub(super) struct EventSet {
    set: Epoll,
    edge: EventFd,
    _level: EventFd,
    _silent: (OwnedFd, OwnedFd),
}

impl EventSet {
    const LEVEL: u64 = 0xaaaa_bbbb_cccc_dddd;
    const EDGE: u64 = 2;
    const SILENT: u64 = 3;

    pub(super) fn new() -> Verdict<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).must("epoll_create")?;
        let counter = |value| EventFd::from_value_and_flags(value, EfdFlags::EFD_NONBLOCK).must("eventfd");
        let (level, edge) = (counter(1)?, counter(0)?);
        let (silent, writer) = std::io::pipe().must("making a pipe")?;
        let silent = (OwnedFd::from(silent), OwnedFd::from(writer));
        set.add(&level, EpollEvent::new(EpollFlags::EPOLLIN, Self::LEVEL)).must("epoll_ctl")?;
        set.add(&edge, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, Self::EDGE)).must("epoll_ctl")?;
        set.add(&silent.0, EpollEvent::new(EpollFlags::EPOLLIN, Self::SILENT)).must("epoll_ctl")?;
        Ok(Self { set, edge, _level: level, _silent: silent })
    }

    fn reported(&self) -> Verdict<Vec<u64>> {
        let mut events = [EpollEvent::empty(); 4];
        let count = self.set.wait(&mut events, EpollTimeout::ZERO).must("epoll_wait")?;
        let mut tags: Vec<_> = events[..count].iter().map(EpollEvent::data).collect();
        tags.sort_unstable();
        Ok(tags)
    }
}

impl Part for EventSet {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.edge.write(1).must("writing an eventfd")?;
        same("events after a new edge", vec![Self::EDGE, Self::LEVEL], self.reported()?)?;
        // CRIU reports a ready edge once more after a move (see NOT_CARRIED.md); without a move it must not come.
        let again = self.reported()?;
        holds(
            "events without a new edge",
            again.contains(&Self::LEVEL) && !again.contains(&Self::SILENT),
            "the level",
            format_args!("{again:x?}"),
        )?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.set.delete(&self.edge).must("epoll_ctl")
    }
}

/// An inotify watch on a directory.
pub(super) struct Watch {
    inotify: Inotify,
    watch: WatchDescriptor,
    directory: PathBuf,
}

impl Watch {
    pub(super) fn new(dir: &Path) -> Verdict<Self> {
        let directory = dir.join("watched");
        std::fs::create_dir(&directory).must("mkdir")?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).must("inotify_init")?;
        let watch = inotify.add_watch(&directory, AddWatchFlags::IN_CREATE).must("inotify_add_watch")?;
        Ok(Self { inotify, watch, directory })
    }

    /// Whether the watch reports `name` among what is queued.
    fn reports(&self, name: &str) -> Verdict<bool> {
        match self.inotify.read_events() {
            Err(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(Violation::new("reading inotify", "success", error)),
            Ok(events) => {
                for event in &events {
                    same("watch of an inotify event", self.watch, event.wd)?;
                }
                Ok(events.iter().any(|event| event.name.as_deref().is_some_and(|found| found == name)))
            }
        }
    }
}

impl Part for Watch {
    fn name(&self) -> &'static str {
        "inotify"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let name = format!("event {cycle}");
        let path = self.directory.join(&name);
        // Events that are queued during a move are lost (see NOT_CARRIED.md), so the event is made again until it comes.
        let make = || {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, "").must("making a file")
        };
        make()?;
        eventually("inotify event", rest, || Ok(self.reports(&name)? || make().and_then(|()| self.reports(&name))?))?;
        std::fs::remove_file(&path).must("deleting a file")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.inotify.rm_watch(self.watch).must("inotify_rm_watch")
    }
}
