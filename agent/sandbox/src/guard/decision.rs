//! The decision file of a handover: created exactly once, by whoever comes first.
//!
//! `link(2)` fails where the name exists, so of two who decide at the same time one wins and the other learns who did. The
//! content is written and synced before it gets its name, and the name is synced before anybody acts upon it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use migrate_proto::handover::Decision;

const NAME: &str = "decision";

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Commit => "commit\n",
        Decision::Abort => "abort\n",
    }
}

/// What was decided, if anything; it is durable then. Whoever decided may have died between the name and its sync.
pub fn read(dir: &Path) -> io::Result<Option<Decision>> {
    let decided = look(dir)?;
    if decided.is_some() {
        File::open(dir)?.sync_all()?;
    }
    Ok(decided)
}

fn look(dir: &Path) -> io::Result<Option<Decision>> {
    match fs::read_to_string(dir.join(NAME)) {
        Ok(text) if text == word(Decision::Commit) => Ok(Some(Decision::Commit)),
        Ok(text) if text == word(Decision::Abort) => Ok(Some(Decision::Abort)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the decision file says neither commit nor abort")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes what an earlier handover left: its decision would be taken for the next one's. When this returns it is gone, also
/// after a loss of power.
pub fn clear(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_parent(dir)),
    }
}

/// Makes the directory of a new handover, and writes both possible decisions down as drafts, so that deciding needs neither room
/// on the disk nor time. An error where there is a decision already.
pub fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if dir.join(NAME).try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "an earlier handover's decision is still there"));
    }
    [Decision::Commit, Decision::Abort].into_iter().try_for_each(|wish| write_draft(&draft(dir, wish), wish))?;
    File::open(dir)?.sync_all()?;
    sync_parent(dir)
}

fn sync_parent(dir: &Path) -> io::Result<()> {
    File::open(dir.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn draft(dir: &Path, wish: Decision) -> PathBuf {
    dir.join(format!("draft-{}", word(wish).trim_end()))
}

fn write_draft(path: &Path, wish: Decision) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(word(wish).as_bytes())?;
    file.sync_all()
}

/// Decides, or learns what had been decided before. What comes back is durable and final.
pub fn decide(dir: &Path, wish: Decision) -> io::Result<Decision> {
    match fs::hard_link(draft(dir, wish), dir.join(NAME)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => without_draft(dir, wish)?,
        Err(error) => return Err(error),
    }
    read(dir)?.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the decision file vanished"))
}

fn without_draft(dir: &Path, wish: Decision) -> io::Result<()> {
    let path = dir.join(format!("draft.{}.{:?}", std::process::id(), std::thread::current().id()));
    write_draft(&path, wish)?;
    let linked = fs::hard_link(&path, dir.join(NAME));
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
}
