//! The decision file of a handover: created exactly once, by whoever comes first.
//!
//! `link(2)` fails where the name exists, so of two who decide at the same time one wins and the other learns who did. The
//! content is written and synced before it gets its name, and the name is synced before anybody acts upon it.
//!
//! Where a cluster's record decides about owners, the file says a third word, `record`: from then on nobody here decides, until
//! the record has been asked and its answer stands in a second file, the *verdict*. In between the decision cannot be read: that is
//! an error, and whoever reads it does nothing, neither resume nor kill.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use migrate_proto::handover::Decision;

const NAME: &str = "decision";
const VERDICT: &str = "verdict";

/// What the decision file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The target's.
    Commit,
    /// The source's.
    Abort,
    /// Whatever the record says.
    Record,
}

impl From<Decision> for Word {
    fn from(decision: Decision) -> Word {
        match decision {
            Decision::Commit => Word::Commit,
            Decision::Abort => Word::Abort,
        }
    }
}

impl Word {
    const ALL: [Word; 3] = [Word::Commit, Word::Abort, Word::Record];

    fn name(self) -> &'static str {
        match self {
            Word::Commit => "commit",
            Word::Abort => "abort",
            Word::Record => "record",
        }
    }

    fn decision(self) -> Option<Decision> {
        match self {
            Word::Commit => Some(Decision::Commit),
            Word::Abort => Some(Decision::Abort),
            Word::Record => None,
        }
    }
}

/// What was decided, if anything; it is durable then. Whoever decided may have died between the name and its sync. An error where
/// the record is to decide and its verdict is not here.
pub fn read(dir: &Path) -> io::Result<Option<Decision>> {
    let decided = match look(dir, NAME)? {
        None => return Ok(None),
        Some(Word::Record) => look(dir, VERDICT)?.and_then(Word::decision),
        Some(word) => word.decision(),
    };
    let decided = decided.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the decision is the record's, and its verdict is not here yet")
    })?;
    File::open(dir)?.sync_all()?;
    Ok(Some(decided))
}

/// The word in the decision file, if there is one; it is durable then.
pub fn word(dir: &Path) -> io::Result<Option<Word>> {
    let word = look(dir, NAME)?;
    if word.is_some() {
        File::open(dir)?.sync_all()?;
    }
    Ok(word)
}

fn look(dir: &Path, name: &str) -> io::Result<Option<Word>> {
    let text = match fs::read_to_string(dir.join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let word = text.strip_suffix('\n').and_then(|text| Word::ALL.into_iter().find(|word| word.name() == text));
    word.map(Some).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the {name} file says neither commit nor abort nor record"))
    })
}

/// Removes what an earlier handover left: its decision would be taken for the next one's. When this returns it is gone, also
/// after a loss of power.
pub fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_parent(dir)),
    }
}

/// Makes the directory of a new handover, and writes all possible words down as drafts, so that deciding needs neither room
/// on the disk nor time. An error where there is a decision already.
pub fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for name in [NAME, VERDICT] {
        if dir.join(name).try_exists()? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "an earlier handover's decision is still there"));
        }
    }
    Word::ALL.into_iter().try_for_each(|wish| write_draft(&draft(dir, wish), wish))?;
    File::open(dir)?.sync_all()?;
    sync_parent(dir)
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    File::open(dir.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn draft(dir: &Path, wish: Word) -> PathBuf {
    dir.join(format!("draft-{}", wish.name()))
}

fn write_draft(path: &Path, wish: Word) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(format!("{}\n", wish.name()).as_bytes())?;
    file.sync_all()
}

/// Decides, or learns what had been decided before. What comes back is durable and final. An error where the decision had been left to
/// the record, and the record has not said it.
pub fn decide(dir: &Path, wish: Decision) -> io::Result<Decision> {
    put(dir, NAME, wish.into())?;
    read(dir)?.ok_or_else(vanished)
}

/// Leaves the decision to the record, or learns what had been decided before; what comes back is durable. At [`Word::Record`]
/// only [`settle`] leads on.
pub fn leave_to_record(dir: &Path) -> io::Result<Word> {
    put(dir, NAME, Word::Record)?;
    word(dir)?.ok_or_else(vanished)
}

/// Writes down what the record has decided, or learns what had been written down before; what comes back is durable and final. An
/// error where the decision was not left to the record.
pub fn settle(dir: &Path, verdict: Decision) -> io::Result<Decision> {
    if word(dir)? != Some(Word::Record) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the decision was not left to the record"));
    }
    put(dir, VERDICT, verdict.into())?;
    read(dir)?.ok_or_else(vanished)
}

fn vanished() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the decision file vanished")
}

/// Gives a draft its name, unless something has that name already.
fn put(dir: &Path, name: &str, wish: Word) -> io::Result<()> {
    match fs::hard_link(draft(dir, wish), dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => put_without_draft(dir, name, wish),
        put => put,
    }
}

fn put_without_draft(dir: &Path, name: &str, wish: Word) -> io::Result<()> {
    let path = dir.join(format!("draft.{}.{:?}", std::process::id(), std::thread::current().id()));
    write_draft(&path, wish)?;
    let linked = fs::hard_link(&path, dir.join(name));
    let _ = fs::remove_file(&path);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_decision_stands() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert_eq!(decide(dir.path(), Decision::Abort).unwrap(), Decision::Abort);
        assert_eq!(decide(dir.path(), Decision::Commit).unwrap(), Decision::Abort);
        assert_eq!(read(dir.path()).unwrap(), Some(Decision::Abort));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "drafts must not stay");
    }

    #[test]
    fn of_many_at_once_all_learn_the_same() {
        let kept = tempfile::tempdir().unwrap();
        let dir = kept.path();
        let seen: Vec<Decision> = std::thread::scope(|scope| {
            let wishes = (0..16).map(|n| if n % 2 == 0 { Decision::Commit } else { Decision::Abort });
            let threads: Vec<_> = wishes.map(|wish| scope.spawn(move || decide(dir, wish).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|decision| *decision == seen[0]), "{seen:?}");
    }

    #[test]
    fn prepared_drafts_decide_the_same_way() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert_eq!(decide(dir.path(), Decision::Commit).unwrap(), Decision::Commit);
        assert_eq!(decide(dir.path(), Decision::Abort).unwrap(), Decision::Commit);
    }

    #[test]
    fn an_earlier_decision_does_not_decide_again() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("dump");
        clear(&dir).unwrap();
        prepare(&dir).unwrap();
        decide(&dir, Decision::Commit).unwrap();
        assert_eq!(prepare(&dir).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        clear(&dir).unwrap();
        prepare(&dir).unwrap();
        assert_eq!(decide(&dir, Decision::Abort).unwrap(), Decision::Abort);
    }

    #[test]
    fn a_damaged_decision_is_no_decision() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "comm").unwrap();
        assert!(read(dir.path()).is_err());
        assert!(decide(dir.path(), Decision::Commit).is_err());
    }

    #[test]
    fn what_was_left_to_the_record_is_decided_by_its_verdict_alone() {
        for verdict in [Decision::Commit, Decision::Abort] {
            let above = tempfile::tempdir().unwrap();
            let dir = above.path().join("dump");
            prepare(&dir).unwrap();
            assert_eq!(word(&dir).unwrap(), None);
            assert!(settle(&dir, verdict).is_err(), "nobody asked the record");
            assert_eq!(leave_to_record(&dir).unwrap(), Word::Record);
            for wish in [Decision::Commit, Decision::Abort] {
                assert!(decide(&dir, wish).is_err());
                assert!(read(&dir).is_err());
            }
            assert_eq!(word(&dir).unwrap(), Some(Word::Record));
            assert_eq!(settle(&dir, verdict).unwrap(), verdict);
            for wish in [Decision::Commit, Decision::Abort] {
                assert_eq!(settle(&dir, wish).unwrap(), verdict);
                assert_eq!(decide(&dir, wish).unwrap(), verdict);
            }
            assert_eq!(read(&dir).unwrap(), Some(verdict));
            assert!(prepare(&dir).is_err());
            clear(&dir).unwrap();
            assert_eq!(read(&dir).unwrap(), None);
        }
    }

    #[test]
    fn what_is_decided_is_not_left_to_the_record_any_more() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(decide(dir.path(), Decision::Abort).unwrap(), Decision::Abort);
        assert_eq!(leave_to_record(dir.path()).unwrap(), Word::Abort);
        assert!(settle(dir.path(), Decision::Commit).is_err());
        assert_eq!(read(dir.path()).unwrap(), Some(Decision::Abort));
    }

    #[test]
    fn a_verdict_decides_nothing_where_nobody_asked_for_it_and_a_damaged_one_nothing_at_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(VERDICT), "commit\n").unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert_eq!(leave_to_record(dir.path()).unwrap(), Word::Record);
        for damaged in ["comm", "commit", "record\n", ""] {
            fs::write(dir.path().join(VERDICT), damaged).unwrap();
            assert!(read(dir.path()).is_err(), "{damaged:?}");
            assert!(decide(dir.path(), Decision::Abort).is_err(), "{damaged:?}");
        }
    }
}
