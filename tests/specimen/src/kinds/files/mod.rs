//! Proves that open files arrive: a deleted file with its content and offset, a growing `O_APPEND` file, holes, offsets
//! shared by `dup` and not shared otherwise, directories, `O_PATH`, descriptors with odd numbers, and what waits in pipes
//! and fifos.

mod handles;
mod regular;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

pub(crate) use self::regular::{Appended, Deleted, Reading};
use super::Parts;
use crate::backlog::{Backlog, Boundaries};
use crate::verdict::{MustSucceed, Verdict};

/// The kind's parts, with their files in `dir`.
pub(crate) fn parts(dir: &Path) -> Verdict<Parts> {
    Ok(vec![
        Box::new(Deleted::new(dir)?),
        Box::new(Appended::new(dir)?),
        Box::new(Reading::new(dir)?),
        Box::new(regular::Sparse::new(dir)?),
        Box::new(handles::Offsets::new(dir)?),
        Box::new(handles::Directory::new(dir)?),
        Box::new(handles::PathOnly::new(dir)?),
        Box::new(handles::Numbers::new(dir)?),
        Box::new(pipe()?),
        Box::new(fifo(dir)?),
    ])
}

/// A pipe of unusual capacity with data in it.
pub(crate) fn pipe() -> Verdict<Backlog> {
    let (receiver, sender) = std::io::pipe().must("making a pipe")?;
    let receiver = OwnedFd::from(receiver);
    fcntl(&receiver, FcntlArg::F_SETPIPE_SZ(128 * 1024)).must("F_SETPIPE_SZ")?;
    Backlog::new("pipe", sender.into(), receiver, Boundaries::None)
}

fn fifo(dir: &Path) -> Verdict<Backlog> {
    let path = dir.join("fifo");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).must("mkfifo")?;
    let open = |flags| nix::fcntl::open(&path, flags, Mode::empty()).must("opening a fifo");
    // A reader first: a writer alone would wait for one.
    let receiver = open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    let sender = open(OFlag::O_WRONLY)?;
    Backlog::new("fifo", sender, receiver, Boundaries::None)
}

/// A new file for reading and writing, filled with `content`.
fn create(path: &Path, content: &[u8]) -> Verdict<File> {
    std::fs::write(path, content).must(format_args!("writing {}", path.display()))?;
    File::options().read(true).write(true).open(path).must(format_args!("opening {}", path.display()))
}
