//! The lease page: until when this node may run its workloads, as its agent has written it down for every sandbox to see.
//!
//! A file of one page on a tmpfs, mapped by the agent, which writes, and by the init of every sandbox, which reads. So a deadline
//! reaches all of them with one store, and stays where it is when the agent dies. It is never made shorter: whoever reads
//! beyond a file's end is killed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use migrate_proto::cluster::lease::{Nanos, Page};

use crate::error::{Result, SandboxError};
use crate::process::Boot;

/// One page of memory.
const LENGTH: usize = 4096;

/// What is in the page. Everything is zero in a new one: no session, no deadline.
#[repr(C)]
struct Words {
    session: AtomicU64,
    until: AtomicU64,
    /// The boot whose clock `until` is of.
    boot: [AtomicU64; 2],
}

/// The lease page as the agent has it: to write.
#[derive(Debug)]
pub struct LeasePage(Mapping);

impl LeasePage {
    /// The page at this path; made if it is not there. What it says stays, so that an agent that was started anew goes on from it; what
    /// was said before the machine was started does not. One process writes at a time.
    pub fn create(path: &Path) -> Result<LeasePage> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(SandboxError::file("open", path))?;
        let length = file.metadata().map_err(SandboxError::file("look at", path))?.len();
        if length < LENGTH as u64 {
            file.set_len(LENGTH as u64).map_err(SandboxError::file("extend", path))?;
        }
        let boot = Boot::now().map_err(SandboxError::system("find out which boot this is"))?.halves();
        let page = LeasePage(Mapping::new(&file, true).map_err(SandboxError::file("map", path))?);
        let of = &page.0.words().boot;
        if [of[0].load(SeqCst), of[1].load(SeqCst)] != boot {
            page.write(Page::default());
            of[0].store(boot[0], SeqCst);
            of[1].store(boot[1], SeqCst);
        }
        Ok(page)
    }

    /// Says that a session lasts until its deadline. Between one session and the next there is a moment without a deadline, and
    /// none in which one session's deadline is seen beside the other session.
    pub fn write(&self, page: Page) {
        let words = self.0.words();
        if words.session.load(SeqCst) != page.session {
            words.until.store(0, SeqCst);
            words.session.store(page.session, SeqCst);
        }
        words.until.store(page.until.0, SeqCst);
    }

    /// What it says.
    pub fn read(&self) -> Page {
        self.0.read()
    }
}

/// The lease page as an init has it: to read.
#[derive(Debug)]
pub(crate) struct LeaseView(Mapping);

impl LeaseView {
    pub(crate) fn open(path: &Path) -> Result<LeaseView> {
        let file = File::open(path).map_err(SandboxError::file("open", path))?;
        if file.metadata().map_err(SandboxError::file("look at", path))?.len() < LENGTH as u64 {
            return Err(SandboxError::Protocol { who: "the lease page", detail: "it is no whole page".into() });
        }
        Ok(LeaseView(Mapping::new(&file, false).map_err(SandboxError::file("map", path))?))
    }

    /// What it says. While one session follows the other, that is none.
    pub(crate) fn read(&self) -> Page {
        self.0.read()
    }
}

#[derive(Debug)]
struct Mapping(NonNull<Words>);

// SAFETY: the mapping is this value's for as long as it lives, and is only touched by atomic operations.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    #[allow(unsafe_code)]
    fn new(file: &File, writable: bool) -> std::io::Result<Mapping> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let (anywhere, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: a new mapping, of which nobody else knows.
        let at = unsafe { libc::mmap(anywhere, LENGTH, protection, shared, file.as_raw_fd(), 0) };
        match NonNull::new(at.cast()) {
            Some(words) if at != libc::MAP_FAILED => Ok(Mapping(words)),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    #[allow(unsafe_code)]
    fn words(&self) -> &Words {
        // SAFETY: it points to a mapping of a page, which is aligned and longer than this, and which goes with `self`.
        unsafe { self.0.as_ref() }
    }

    fn read(&self) -> Page {
        let words = self.words();
        let session = words.session.load(SeqCst);
        let until = words.until.load(SeqCst);
        if words.session.load(SeqCst) == session { Page { session, until: Nanos(until) } } else { Page::default() }
    }
}

impl Drop for Mapping {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing that was borrowed from it is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}

/// The clock of deadlines: it goes on while the machine sleeps.
pub fn now() -> Nanos {
    // The clock exists on every kernel that runs this; were it not there, everything would have ended.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(Nanos(u64::MAX), |now| Nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page(session: u64, until: u64) -> Page {
        Page { session, until: Nanos(until) }
    }

    #[test]
    fn what_is_written_is_read_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let writer = LeasePage::create(&path).unwrap();
        let reader = LeaseView::open(&path).unwrap();
        assert_eq!(reader.read(), Page::default());
        writer.write(page(7, 100));
        writer.write(page(7, 200));
        assert_eq!(reader.read(), page(7, 200));
        drop(writer);
        let again = LeasePage::create(&path).unwrap();
        assert_eq!(again.read(), page(7, 200));
        again.write(page(8, 300));
        assert_eq!(reader.read(), page(8, 300), "it is the same file");
    }

    #[test]
    fn a_deadline_does_not_outlive_its_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        LeasePage::create(&path).unwrap().write(page(7, 200));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[16] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let again = LeasePage::create(&path).unwrap();
        assert_eq!(again.read(), Page::default());
        again.write(page(8, 300));
        assert_eq!(LeasePage::create(&path).unwrap().read(), page(8, 300));
    }

    #[test]
    fn less_than_a_page_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        std::fs::write(&path, [1; 100]).unwrap();
        assert!(LeaseView::open(&path).is_err());
    }

    /// Every session has deadlines that only it has, so that one beside another session would be seen.
    #[test]
    fn a_deadline_is_never_seen_beside_another_session() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lease");
        let writer = LeasePage::create(&path).unwrap();
        let reader = LeaseView::open(&path).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for session in 1..=200_000 {
                    writer.write(page(session, session * 10 + 1));
                    writer.write(page(session, session * 10 + 2));
                }
                done.store(true, SeqCst);
            });
            let mut seen = 0;
            while !done.load(SeqCst) {
                let Page { session, until: Nanos(until) } = reader.read();
                assert!(until == 0 || until / 10 == session, "{until} beside {session}");
                assert!(session == 0 || session >= seen, "{session} after {seen}");
                seen = seen.max(session);
            }
        });
        assert_eq!(reader.read(), page(200_000, 2_000_002));
    }
}
