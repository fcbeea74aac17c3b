//! What is wished for a workload beyond its spec: whoever begins it afresh on another node does all of it there.

use serde::{Deserialize, Serialize};

use crate::care::Wish;
use crate::care::restart::Policy;

/// What is wished for a workload and only the record needs to know.
///
/// New wishes go here and not into the spec: that crosses the wire in an offer, field by field without names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadPolicy {
    /// Whether it is begun again when it has ended; in more detail in `care`.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Whether it may begin from nothing where no checkpoint is left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub afresh: bool,
    /// How often a checkpoint is taken; in more detail in `care`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_s: Option<u32>,
    /// How many checkpoints are kept; as the cluster does where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u8>,
    /// How many nodes beside the owner have each checkpoint; as the owner is told to where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u8>,
    /// What a person asked for, word for word. Records of before it was kept have `restart` and `checkpoint_every_s` alone.
    #[serde(default, skip_serializing_if = "Wish::is_nothing")]
    pub care: Wish,
}

/// Whether a workload is begun again when it has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// If it ended with an error.
    OnFailure,
    /// However it ended.
    Always,
}

impl LoadPolicy {
    /// Of a workload for which this was asked, with so many holders of its checkpoints beside its owner.
    pub fn of(wish: &Wish, replicas: Option<u8>) -> LoadPolicy {
        let restart = match wish.restart {
            Policy::No => RestartPolicy::Never,
            Policy::OnFailure(_) => RestartPolicy::OnFailure,
            Policy::Always | Policy::UnlessStopped => RestartPolicy::Always,
        };
        let every_s = |ms: u64| u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX);
        LoadPolicy {
            restart,
            afresh: restart != RestartPolicy::Never,
            checkpoint_every_s: wish.checkpoint_every_ms.map(every_s),
            keep: None,
            replicas,
            care: wish.clone(),
        }
    }

    /// What was asked for it, as far as the record knows.
    pub fn wish(&self) -> Wish {
        if !self.care.is_nothing() {
            return self.care.clone();
        }
        let restart = match self.restart {
            RestartPolicy::Never => Policy::No,
            RestartPolicy::OnFailure => Policy::OnFailure(None),
            RestartPolicy::Always => Policy::UnlessStopped,
        };
        let checkpoint_every_ms = self.checkpoint_every_s.map(|every_s| u64::from(every_s) * 1000);
        Wish { restart, checkpoint_every_ms, ..Wish::default() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::care::{Timing, Watch};

    #[test]
    fn what_was_asked_for_is_read_word_for_word() {
        let timing = Timing { interval_ms: 1500, timeout_ms: 200, retries: 1, grace_ms: 0 };
        let asked = |restart, watch, checkpoint_every_ms| Wish { restart, watch, timing, checkpoint_every_ms };
        for wish in [
            asked(Policy::OnFailure(Some(3)), Some(Watch::Command(vec!["true".into()])), Some(1500)),
            asked(Policy::Always, Some(Watch::Pulse(2000)), None),
            asked(Policy::UnlessStopped, None, None),
            asked(Policy::No, Some(Watch::Tcp(80)), None),
            Wish::default(),
        ] {
            let json = serde_json::to_string(&LoadPolicy::of(&wish, Some(1))).unwrap();
            let read: LoadPolicy = serde_json::from_str(&json).unwrap();
            assert_eq!((read.wish(), read.replicas), (wish, Some(1)), "{json}");
        }
    }

    #[test]
    fn what_begins_again_may_begin_from_nothing() {
        for (restart, expected) in [
            (Policy::No, RestartPolicy::Never),
            (Policy::OnFailure(Some(3)), RestartPolicy::OnFailure),
            (Policy::Always, RestartPolicy::Always),
            (Policy::UnlessStopped, RestartPolicy::Always),
        ] {
            let policy = LoadPolicy::of(&Wish { restart, checkpoint_every_ms: Some(1500), ..Wish::default() }, None);
            assert_eq!(policy.restart, expected);
            assert_eq!(policy.afresh, expected != RestartPolicy::Never);
            assert_eq!(policy.checkpoint_every_s, Some(2), "not more often than was asked");
        }
        assert_eq!(LoadPolicy::of(&Wish::default(), None), LoadPolicy::default());
    }

    #[test]
    fn what_was_written_before_is_read_as_it_was_meant() {
        let old = r#"{"restart":"always","afresh":true,"checkpoint_every_s":5}"#;
        let wish = serde_json::from_str::<LoadPolicy>(old).unwrap().wish();
        let expected = Wish { restart: Policy::UnlessStopped, checkpoint_every_ms: Some(5000), ..Wish::default() };
        assert_eq!(wish, expected);
        assert_eq!(serde_json::from_str::<LoadPolicy>("{}").unwrap().wish(), Wish::default());
        assert_eq!(serde_json::to_string(&LoadPolicy::default()).unwrap(), r#"{"restart":"never"}"#, "and as it was");
    }
}
