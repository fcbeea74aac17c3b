//! What a node's disk holds of a workload, and what of it survives a loss of power.
//!
//! A file has what every process sees, and what is on the platter. `durable::write` and the decision file make both
//! equal before they return; `durable::write_soon` and removals that nobody syncs do not: a loss of power may then leave
//! the old content, the new one, or (where neither the content nor the new name was synced) something torn.
//!
//! A file that is created in a directory that is new itself counts as synced with it, as ext4, XFS and btrfs do it.

use std::rc::Rc;

use migrate_proto::handover::{Decision, source, target};

use crate::random::Random;

/// What is in a file.
#[derive(Debug)]
enum Content<T> {
    Absent,
    Whole(Rc<T>),
    Torn,
}

impl<T> Clone for Content<T> {
    fn clone(&self) -> Self {
        match self {
            Content::Absent => Content::Absent,
            Content::Whole(value) => Content::Whole(value.clone()),
            Content::Torn => Content::Torn,
        }
    }
}

/// A file whose checksum says that it is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A small file.
#[derive(Debug)]
pub(crate) struct File<T> {
    seen: Content<T>,
    platter: Content<T>,
    synced: bool,
    /// Whether not even the content was synced.
    can_tear: bool,
}

impl<T> Default for File<T> {
    fn default() -> Self {
        File { seen: Content::Absent, platter: Content::Absent, synced: true, can_tear: false }
    }
}

impl<T> File<T> {
    /// What a process reads.
    pub(crate) fn read(&self) -> Result<Option<Rc<T>>, Damaged> {
        match &self.seen {
            Content::Absent => Ok(None),
            Content::Whole(value) => Ok(Some(value.clone())),
            Content::Torn => Err(Damaged),
        }
    }

    /// What a process reads, where it is whole.
    pub(crate) fn whole(&self) -> Option<&T> {
        match &self.seen {
            Content::Whole(value) => Some(value),
            _ => None,
        }
    }

    /// Whether there is something, whole or not.
    pub(crate) fn exists(&self) -> bool {
        !matches!(self.seen, Content::Absent)
    }

    /// Replaces it; when this returns it is on the platter.
    pub(crate) fn write(&mut self, value: T) {
        self.write_soon(value);
        self.sync();
    }

    /// Replaces it, some time.
    pub(crate) fn write_soon(&mut self, value: T) {
        self.seen = Content::Whole(Rc::new(value));
        self.synced = false;
        self.can_tear = true;
    }

    /// Gives a synced content its name; the name is not synced yet.
    pub(crate) fn link_soon(&mut self, value: T) {
        self.write_soon(value);
        self.can_tear = false;
    }

    /// Removes it; when this returns it is gone from the platter.
    pub(crate) fn remove(&mut self) {
        self.remove_soon();
        self.sync();
    }

    /// Removes it, some time.
    pub(crate) fn remove_soon(&mut self) {
        self.synced = !self.exists() && self.synced;
        self.seen = Content::Absent;
    }

    /// What is seen is on the platter.
    pub(crate) fn sync(&mut self) {
        self.platter = self.seen.clone();
        self.synced = true;
    }

    /// The power goes. Says whether something was lost.
    fn power_loss(&mut self, random: &mut Random) -> bool {
        if self.synced {
            return false;
        }
        let lost = match random.below(4) {
            0 => false,
            1 if self.can_tear && self.exists() => {
                self.seen = Content::Torn;
                true
            }
            _ => {
                self.seen = self.platter.clone();
                true
            }
        };
        self.sync();
        lost
    }
}

/// What a workload does, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// It is being received.
    Arriving,
    /// It runs, or is frozen for a move.
    Running,
    /// It has ended by itself.
    Stopped,
    /// Its processes went with the node.
    Lost,
}

/// A workload's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Whether the node owns it.
    pub(crate) owned: bool,
    /// In which epoch.
    pub(crate) epoch: u64,
    /// What it does.
    pub(crate) doing: Doing,
}

/// The directory of a workload on a node.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// `workload.json`.
    pub(crate) record: File<Record>,
    /// `departure.json`.
    pub(crate) departure: File<source::Entry>,
    /// `arrival.json`.
    pub(crate) arrival: File<target::Entry>,
    /// `dump`: a guard was started there.
    pub(crate) dump: bool,
    /// `dump/decision`.
    pub(crate) decision: File<Decision>,
    /// `layer.img`.
    pub(crate) layer: File<()>,
}

impl Place {
    /// `Registry::remove`: the record durably, then the rest, which is rubbish without it.
    pub(crate) fn remove(&mut self) {
        self.record.remove();
        self.departure.remove_soon();
        self.arrival.remove_soon();
        self.decision.remove_soon();
        self.dump = false;
        self.layer.remove_soon();
    }

    /// Changes the record, durably.
    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(mut record) = self.record.whole().copied() {
            change(&mut record);
            self.record.write(record);
        }
    }

    /// The power goes. Says whether something was lost.
    pub(crate) fn power_loss(&mut self, random: &mut Random) -> bool {
        let lost = [
            self.record.power_loss(random),
            self.departure.power_loss(random),
            self.arrival.power_loss(random),
            self.decision.power_loss(random),
            self.layer.power_loss(random),
        ];
        lost.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_synced_survives_and_what_is_not_may_be_lost() {
        let mut random = Random::new(1);
        let (mut old, mut new, mut torn) = (0, 0, 0);
        for _ in 0..100 {
            let mut file = File::default();
            file.write(1);
            file.write_soon(2);
            assert_eq!(file.whole(), Some(&2));
            file.power_loss(&mut random);
            match file.read() {
                Ok(Some(value)) if *value == 1 => old += 1,
                Ok(Some(_)) => new += 1,
                _ => torn += 1,
            }
            file.write(3);
            assert!(!file.power_loss(&mut random) && file.whole() == Some(&3));
        }
        assert!(old > 10 && new > 10 && torn > 10, "{old} {new} {torn}");
    }
}
