//! Ends all changes of the vault's files after some number of them, as a crash or a full disk does, and takes back what was not made
//! durable, as a loss of power may.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use super::disk::Step;
use crate::lock;

/// What becomes of changes that were not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Nothing,
    Everything,
    /// Every other one.
    Some,
}

#[derive(Default)]
struct State {
    /// How many steps are still made; none: no end.
    left: Option<usize>,
    full: bool,
    /// Files whose bytes are not on disk.
    soft: HashSet<PathBuf>,
    /// Names that are not on disk, or that are still there; with the bytes of what was removed.
    names: Vec<(PathBuf, Option<Vec<u8>>)>,
}

#[derive(Default)]
pub(in crate::vault) struct Fuse(Mutex<State>);

impl Fuse {
    /// Called before every change.
    pub(in crate::vault) fn step(&self, step: Step<'_>) -> io::Result<()> {
        let mut state = lock(&self.0);
        let full = state.full;
        match (&mut state.left, &step) {
            (Some(0), Step::Remove(_)) if full => {}
            (Some(0), _) if full => return Err(io::ErrorKind::StorageFull.into()),
            (Some(0), _) => return Err(io::Error::other("the power is gone")),
            (Some(left), _) => *left -= 1,
            (None, _) => {}
        }
        match step {
            Step::Write(path) => _ = state.soft.insert(path.into()),
            Step::Sync(path) => _ = state.soft.remove(path),
            Step::Rename(from, to) => {
                if state.soft.remove(from) {
                    state.soft.insert(to.into());
                }
                state.names.push((to.into(), None));
            }
            Step::SyncDir(dir) => state.names.retain(|(path, _)| path.parent() != Some(dir)),
            Step::Remove(path) => {
                if let Ok(bytes) = fs::read(path) {
                    state.names.push((path.into(), Some(bytes)));
                }
            }
        }
        Ok(())
    }

    /// The process dies before this step from now.
    pub(super) fn blow_after(&self, steps: usize) {
        *lock(&self.0) = State { left: Some(steps), ..State::default() };
    }

    /// The disk is full from this step on.
    pub(super) fn full_after(&self, steps: usize) {
        *lock(&self.0) = State { left: Some(steps), full: true, ..State::default() };
    }

    pub(super) fn mend(&self) {
        *lock(&self.0) = State::default();
    }

    /// Whether it has ended anything.
    pub(super) fn blown(&self) -> bool {
        lock(&self.0).left == Some(0)
    }

    /// Takes back what was not made durable.
    pub(super) fn lose(&self, lost: Lost) {
        let mut state = lock(&self.0);
        let chosen = |index: usize| match lost {
            Lost::Nothing => false,
            Lost::Everything => true,
            Lost::Some => index.is_multiple_of(2),
        };
        let mut soft: Vec<PathBuf> = state.soft.drain().collect();
        soft.sort();
        for (index, path) in soft.into_iter().enumerate() {
            if let (true, Ok(file)) = (chosen(index), OpenOptions::new().write(true).open(&path)) {
                let len = file.metadata().map_or(0, |found| found.len());
                file.set_len(len / 2).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        for (index, (path, removed)) in std::mem::take(&mut state.names).into_iter().enumerate().rev() {
            if chosen(index) {
                match removed {
                    None => drop(fs::remove_file(&path)),
                    Some(bytes) => fs::write(&path, bytes).unwrap_or_else(|error| panic!("{error}")),
                }
            }
        }
    }
}
