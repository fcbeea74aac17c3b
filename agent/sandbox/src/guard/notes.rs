//! What a guard leaves in its directory for an agent that comes late: that it has let restored processes go, and how CRIU
//! ended.
//!
//! Room for it is taken before CRIU starts. On a full disk no call begins, and how one that has begun ends can be written
//! down. The directory is held open, because one of the same name may be another call's by then.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use migrate_proto::api::Exit;

/// How the call ended.
const RESULT: &str = "result.json";
const RESULT_DRAFT: &str = "draft-result";
/// An empty file: it being there says that restored processes were let go.
const RELEASED: &str = "released";
const RELEASED_DRAFT: &str = "draft-released";
/// More than any result takes; what is left of it stays blank.
const ROOM: usize = 64;

/// The notes of a call that is under way.
pub(super) struct Notes {
    dir: File,
    result: File,
}

impl Notes {
    /// Makes room for them. What an earlier call left is removed.
    pub(super) fn prepare(dir: &Path) -> io::Result<Notes> {
        for stale in [RESULT, RELEASED] {
            match std::fs::remove_file(dir.join(stale)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let result = File::create(dir.join(RESULT_DRAFT))?;
        result.write_all_at(&[b' '; ROOM], 0)?;
        File::create(dir.join(RELEASED_DRAFT))?;
        Ok(Notes { dir: File::open(dir)?, result })
    }

    /// From now on restored processes may have run.
    pub(super) fn released(&self) -> io::Result<()> {
        self.name(RELEASED_DRAFT, RELEASED)
    }

    /// CRIU has ended.
    pub(super) fn ended(&self, exit: Exit) -> io::Result<()> {
        self.result.write_all_at(&serde_json::to_vec(&exit)?, 0)?;
        self.name(RESULT_DRAFT, RESULT)
    }

    fn name(&self, draft: &str, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.dir, draft, &self.dir, name)?)
    }
}

/// How a call ended; `None` where it has not, or where its guard was killed.
pub fn result(dir: &Path) -> io::Result<Option<Exit>> {
    match std::fs::read(dir.join(RESULT)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a restore's guard has told CRIU to let the processes go. Where it has not, none of them has run an instruction.
pub fn released(dir: &Path) -> io::Result<bool> {
    dir.join(RELEASED).try_exists()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_noted_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::prepare(dir.path()).unwrap();
        assert_eq!((result(dir.path()).unwrap(), released(dir.path()).unwrap()), (None, false));
        notes.released().unwrap();
        assert_eq!((result(dir.path()).unwrap(), released(dir.path()).unwrap()), (None, true));
        notes.ended(Exit::Signal(9)).unwrap();
        assert_eq!(result(dir.path()).unwrap(), Some(Exit::Signal(9)));
        Notes::prepare(dir.path()).unwrap();
        assert_eq!((result(dir.path()).unwrap(), released(dir.path()).unwrap()), (None, false), "of an earlier call");
    }

    #[test]
    fn the_longest_result_has_room() {
        for exit in [Exit::Code(i32::MIN), Exit::Signal(i32::MIN)] {
            assert!(serde_json::to_vec(&exit).unwrap().len() <= ROOM);
        }
    }

    #[test]
    fn the_next_call_in_a_directory_of_this_name_is_not_touched() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("dump");
        std::fs::create_dir(&dir).unwrap();
        let first = Notes::prepare(&dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        Notes::prepare(&dir).unwrap();
        first.ended(Exit::Code(0)).unwrap_err();
        assert_eq!(result(&dir).unwrap(), None);
    }
}
