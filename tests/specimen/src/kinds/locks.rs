//! Proves that file locks arrive, and with the right owner: another process of the tree, which asks for the same lock
//! through descriptors of its own, must still be refused, and still be told who holds it.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc::{self, flock};
use nix::unistd::{getpid, getppid};

use super::Parts;
use crate::family::{Child, Parent};
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, refused, same};

/// The kind's parts, with their files in `dir`.
pub(crate) fn parts(dir: &Path) -> Verdict<Parts> {
    let styles = [Style::WholeFile, Style::Record, Style::OpenFile];
    // All rivals are forked before anything is locked, so that none inherits a locked descriptor.
    let rivals = styles.into_iter().map(|style| Rival::fork(style, dir)).collect::<Verdict<Vec<_>>>()?;
    rivals.into_iter().map(|rival| Ok(Box::new(Held::take(rival)?) as Box<dyn Part>)).collect()
}

/// The three sorts of lock.
#[derive(Clone, Copy)]
enum Style {
    WholeFile,
    Record,
    OpenFile,
}

impl Style {
    fn name(self) -> &'static str {
        match self {
            Self::WholeFile => "flock",
            Self::Record => "record",
            Self::OpenFile => "open_file",
        }
    }
}

/// Where the exclusive record lock lies, and the shared one.
const EXCLUSIVE: (i64, i64) = (100, 50);
const SHARED: (i64, i64) = (500, 20);

fn range(kind: i32, (start, len): (i64, i64)) -> flock {
    flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn try_range(style: Style, file: &File, lock: flock) -> nix::Result<()> {
    let request = match style {
        Style::Record => FcntlArg::F_SETLK(&lock),
        Style::WholeFile | Style::OpenFile => FcntlArg::F_OFD_SETLK(&lock),
    };
    fcntl(file, request).map(drop)
}

/// A child that wants the lock.
struct Rival {
    style: Style,
    path: PathBuf,
    child: Child,
}

impl Rival {
    fn fork(style: Style, dir: &Path) -> Verdict<Self> {
        let path = dir.join(style.name());
        std::fs::write(&path, [7; 1000]).must("making a file to lock")?;
        let child = Child::fork(style.name(), |parent| compete(parent, style, &path))?;
        Ok(Self { style, path, child })
    }
}

fn compete(parent: Parent, style: Style, path: &Path) -> Verdict {
    let mut file = open(path)?;
    parent.serve(|cycle| {
        match style {
            Style::WholeFile => match Flock::lock(file.try_clone().must("dup")?, FlockArg::LockSharedNonblock) {
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, error)) => return Err(Violation::new("asking for a held flock", "EWOULDBLOCK", error)),
                Ok(_) => return Err(Violation::new("asking for a held flock", "EWOULDBLOCK", "success")),
            },
            Style::Record | Style::OpenFile => compete_for_ranges(style, &mut file)?,
        }
        Ok(cycle)
    })
}

fn compete_for_ranges(style: Style, file: &mut File) -> Verdict {
    let denied = [Errno::EAGAIN, Errno::EACCES];
    let what = style.name();
    refused(
        format_args!("read lock over an exclusive {what} lock"),
        try_range(style, file, range(libc::F_RDLCK, EXCLUSIVE)),
        &denied,
    )?;
    refused(
        format_args!("write lock over a shared {what} lock"),
        try_range(style, file, range(libc::F_WRLCK, SHARED)),
        &denied,
    )?;
    try_range(style, file, range(libc::F_RDLCK, SHARED)).must(format_args!("read lock over a shared {what} lock"))?;
    try_range(style, file, range(libc::F_UNLCK, SHARED)).must("unlocking")?;
    try_range(style, file, range(libc::F_WRLCK, (EXCLUSIVE.0 + EXCLUSIVE.1, 1))).must("locking behind the lock")?;
    try_range(style, file, range(libc::F_UNLCK, (EXCLUSIVE.0 + EXCLUSIVE.1, 1))).must("unlocking")?;

    let mut found = range(libc::F_WRLCK, EXCLUSIVE);
    fcntl(&*file, FcntlArg::F_GETLK(&mut found)).must("F_GETLK")?;
    let owner = match style {
        Style::Record => getppid().as_raw(),
        Style::WholeFile | Style::OpenFile => -1,
    };
    same(
        format_args!("holder and place of the {what} lock"),
        (libc::F_WRLCK as i16, EXCLUSIVE.0, EXCLUSIVE.1, owner),
        (found.l_type, found.l_start, found.l_len, found.l_pid),
    )
}

fn open(path: &Path) -> Verdict<File> {
    File::options().read(true).write(true).open(path).must("opening a file to lock")
}

/// A lock that this process holds.
struct Held {
    rival: Rival,
    lock: Option<Lock>,
}

enum Lock {
    WholeFile(Flock<File>),
    Ranges(File),
}

impl Held {
    fn take(rival: Rival) -> Verdict<Self> {
        let file = open(&rival.path)?;
        let lock = match rival.style {
            Style::WholeFile => {
                let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
                Lock::WholeFile(lock.must("flock")?)
            }
            Style::Record | Style::OpenFile => {
                try_range(rival.style, &file, range(libc::F_WRLCK, EXCLUSIVE)).must("locking a range")?;
                try_range(rival.style, &file, range(libc::F_RDLCK, SHARED)).must("locking a range")?;
                Lock::Ranges(file)
            }
        };
        Ok(Self { rival, lock: Some(lock) })
    }
}

impl Part for Held {
    fn name(&self) -> &'static str {
        self.rival.style.name()
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        match &self.lock {
            // Asking again for what one holds succeeds at once.
            Some(Lock::WholeFile(lock)) => {
                lock.relock(FlockArg::LockExclusiveNonblock).must("asking again for one's own flock")?;
            }
            Some(Lock::Ranges(file)) => {
                let again = try_range(self.rival.style, file, range(libc::F_WRLCK, EXCLUSIVE));
                again.must(format_args!("process {} asking again for its own lock", getpid()))?;
            }
            None => {}
        }
        self.rival.child.ask(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.lock = None;
        Ok(())
    }
}
