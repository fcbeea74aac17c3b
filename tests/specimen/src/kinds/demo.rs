//! The demonstration's program: a little of everything, cheap enough to watch. Checksummed memory that is slowly rewritten,
//! a file read on from an offset, one appended to, one deleted but open, threads, a child, a pipe and a timer.

use std::path::Path;

use super::Parts;
use super::files::{self, Appended, Deleted, Reading};
use super::memory::Rotation;
use super::signals::TimerDescriptor;
use super::threads::Ring;
use crate::blocks::Content;
use crate::family::Child;
use crate::part::Part;
use crate::verdict::{Verdict, same};

/// The demo's parts: `mib` MiB of memory, files in `dir`.
pub(crate) fn parts(mib: usize, dir: &Path) -> Verdict<Parts> {
    // The child first: a process is forked while it has one thread and little memory.
    let companion = Companion::new()?;
    let files = Files { reading: Reading::new(dir)?, appended: Appended::new(dir)?, deleted: Deleted::new(dir)? };
    Ok(vec![
        Box::new(Rotation::new(mib, Content::Mixed, 31)?),
        Box::new(files),
        Box::new(Ring::new(8)?),
        Box::new(companion),
        Box::new(files::pipe()?),
        Box::new(TimerDescriptor::new()?),
    ])
}

/// Three files in one figure.
struct Files {
    reading: Reading,
    appended: Appended,
    deleted: Deleted,
}

impl Part for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        Ok(self.reading.check(cycle)? + self.appended.check(cycle)? + self.deleted.check(cycle)?)
    }

    fn sabotage(&mut self) -> Verdict {
        self.deleted.sabotage()
    }
}

/// A child that counts with its parent, over pipes.
struct Companion {
    child: Child,
    skipped: u64,
}

impl Companion {
    fn new() -> Verdict<Self> {
        let child = Child::fork("child of the demo", |parent| {
            let mut counted = 0;
            parent.serve(|cycle| {
                counted += 1;
                same("count of the child", cycle, counted)?;
                Ok(counted)
            })
        })?;
        Ok(Self { child, skipped: 0 })
    }
}

impl Part for Companion {
    fn name(&self) -> &'static str {
        "child"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.child.ask(cycle + self.skipped)
    }

    fn sabotage(&mut self) -> Verdict {
        self.skipped = 1;
        Ok(())
    }
}
