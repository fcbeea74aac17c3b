//! Which checkpoints of a workload were taken while it was well.
//!
//! Nobody knows when an illness began, only when the last good sign came. So a checkpoint is taken for one of a workload that was well once a
//! sign of life has come *after* it; and when an illness is found, those for which none came are distrusted for ever. No clock is compared:
//! what there was when somebody looked last is older than a sign that came since.

use serde::{Deserialize, Serialize};

use crate::cluster::CheckpointId;
use crate::id::Epoch;

/// Where a checkpoint stands among all of its workload: the epoch that it was taken in, and its number.
pub type Place = (Epoch, u64);

/// What is known of a workload's checkpoints. Durable on its node; it does not move with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// A sign of life has come after all up to here; `None` where none has been seen on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<Place>,
    /// For these none came until the workload was found to be ill.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distrusted: Vec<CheckpointId>,
}

impl Trust {
    /// Of a workload that was brought back from this checkpoint by a node that knows nothing else of it.
    pub fn brought_back(from: Place) -> Trust {
        Trust { vouched: Some((from.0, from.1.saturating_sub(1))), distrusted: Vec::new() }
    }

    /// Nothing is known.
    pub fn is_nothing(&self) -> bool {
        *self == Trust::default()
    }

    /// There was a sign of life after all checkpoints up to here had been taken. Whether that is news.
    pub fn vouch(&mut self, up_to: Place) -> bool {
        let is_news = self.vouched.is_none_or(|vouched| vouched < up_to);
        if is_news {
            self.vouched = Some(up_to);
        }
        is_news
    }

    /// The workload, now in this epoch, is ill, and these are its checkpoints. Those that came from another node count until something is known of
    /// them here.
    pub fn doubt(&mut self, epoch: Epoch, all: impl IntoIterator<Item = (CheckpointId, Place)>) {
        let vouched = *self.vouched.get_or_insert((epoch, 0));
        let before = std::mem::take(&mut self.distrusted);
        let doubtful = all.into_iter().filter(|(id, place)| *place > vouched || before.contains(id));
        self.distrusted = doubtful.map(|(id, _)| id).collect();
    }

    /// Whether a workload that is ill may be brought back from it.
    pub fn allows(&self, id: CheckpointId) -> bool {
        !self.distrusted.contains(&id)
    }

    /// Whether it is known to have been taken while the workload was well; all count of one of which nothing is known here.
    pub fn vouches_for(&self, id: CheckpointId, place: Place) -> bool {
        self.allows(id) && self.vouched.is_none_or(|vouched| place <= vouched)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(epoch: u64, number: u64) -> Place {
        (Epoch(epoch), number)
    }

    fn one(epoch: u64, number: u8) -> (CheckpointId, Place) {
        (CheckpointId([number; 32]), at(epoch, number.into()))
    }

    fn allowed(trust: &Trust, all: &[(CheckpointId, Place)]) -> Vec<u64> {
        all.iter().filter(|(id, _)| trust.allows(*id)).map(|(_, (_, number))| *number).collect()
    }

    #[test]
    fn what_no_sign_of_life_came_after_is_distrusted() {
        let all = [one(1, 1), one(1, 2), one(1, 3)];
        let mut trust = Trust::default();
        assert!(trust.vouch(at(1, 1)) && trust.vouch(at(1, 2)) && !trust.vouch(at(1, 2)));
        assert!(trust.vouches_for(all[1].0, all[1].1) && !trust.vouches_for(all[2].0, all[2].1));
        assert_eq!(allowed(&trust, &all), [1, 2, 3], "nobody says that it is ill");
        trust.doubt(Epoch(1), all);
        assert_eq!(allowed(&trust, &all), [1, 2]);
    }

    #[test]
    fn what_was_distrusted_once_stays_so_whatever_comes_later() {
        let all = [one(1, 1), one(1, 2)];
        let mut trust = Trust::default();
        trust.vouch(at(1, 1));
        trust.doubt(Epoch(1), all);
        // Brought back from the first one, it is well again and has another.
        let all = [all[0], all[1], one(2, 3), one(2, 4)];
        trust.vouch(at(2, 3));
        trust.doubt(Epoch(2), all);
        assert_eq!(allowed(&trust, &all), [1, 3]);
        trust.doubt(Epoch(2), all[2..].to_vec());
        assert_eq!(trust.distrusted, [all[3].0], "what is not there any more is not remembered");
    }

    #[test]
    fn who_has_never_given_a_sign_has_no_healthy_checkpoint_but_those_it_came_with() {
        let mut trust = Trust::default();
        trust.doubt(Epoch(2), [one(1, 1), one(2, 2)]);
        assert_eq!(allowed(&trust, &[one(1, 1), one(2, 2)]), [1]);
        let mut trust = Trust::brought_back(at(1, 2));
        trust.doubt(Epoch(2), [one(1, 1), one(1, 2), one(2, 3)]);
        assert_eq!(allowed(&trust, &[one(1, 1), one(1, 2), one(2, 3)]), [1], "it hangs as soon as it is brought back");
    }

    #[test]
    fn it_reads_what_it_wrote() {
        let trust = Trust { vouched: Some(at(3, 9)), distrusted: vec![CheckpointId([7; 32])] };
        let json = serde_json::to_string(&trust).unwrap();
        assert_eq!(serde_json::from_str::<Trust>(&json).unwrap(), trust);
        assert_eq!(serde_json::from_str::<Trust>("{}").unwrap(), Trust::default());
    }
}
