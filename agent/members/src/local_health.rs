//! How slow this node is itself, after Lifeguard: who is slow must not take the others for dead.
//!
//! A score from 0 to 8. It multiplies the times that a probe and a suspicion take here by `1 + score`.

use std::time::Duration;

use migrate_proto::name::NodeName;

use crate::settings::Settings;

/// As slow as it gets.
const WORST: u8 = 8;

/// What speaks for and against this node.
#[derive(Debug, Default)]
pub(crate) struct LocalHealth {
    score: u8,
    /// Whether anything was heard since the last probe began.
    heard: bool,
    /// Whose probe failed last, if nothing at all was heard meanwhile.
    silence: Option<NodeName>,
}

impl LocalHealth {
    /// 0: well.
    pub(crate) fn score(&self) -> u8 {
        self.score
    }

    /// How long something takes on a node like this.
    pub(crate) fn stretch(&self, time: Duration) -> Duration {
        time * (1 + u32::from(self.score))
    }

    /// Timers were served that much too late.
    pub(crate) fn late(&mut self, by: Duration, settings: &Settings) {
        if by > settings.period {
            self.worse(2);
        } else if by > settings.rtt / 2 {
            self.worse(1);
        }
    }

    /// A probe begins.
    pub(crate) fn probing(&mut self) {
        self.heard = false;
    }

    /// Somebody said something.
    pub(crate) fn heard(&mut self) {
        self.heard = true;
        self.silence = None;
    }

    /// The probe was answered, by its target or by a proxy.
    pub(crate) fn answered(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// The probe of `target` has failed. Once, that is the target's fault. If nothing at all is heard while two different members
    /// do not answer, it is more likely this node's. (With one member in the cluster nobody can tell.)
    pub(crate) fn probe_failed(&mut self, target: &NodeName) {
        if self.heard {
            return;
        }
        if self.silence.as_ref().is_some_and(|before| before != target) {
            self.worse(1);
        }
        self.silence = Some(target.clone());
    }

    fn worse(&mut self, by: u8) {
        self.score = (self.score + by).min(WORST);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn after_lateness(by: &[u64]) -> LocalHealth {
        let mut health = LocalHealth::default();
        by.iter().for_each(|by| health.late(MS(*by), &Settings::default()));
        health
    }

    #[test]
    fn late_timers_tell_and_answers_heal() {
        assert_eq!(after_lateness(&[0, 75]).score(), 0);
        assert_eq!(after_lateness(&[76]).score(), 1);
        assert_eq!(after_lateness(&[500]).score(), 1);
        assert_eq!(after_lateness(&[501]).score(), 2);
        let mut health = after_lateness(&[501; 20]);
        assert_eq!((health.score(), health.stretch(MS(10))), (WORST, MS(90)));
        (0..WORST).for_each(|_| health.answered());
        health.answered();
        assert_eq!((health.score(), health.stretch(MS(10))), (0, MS(10)));
    }

    #[test]
    fn only_silence_around_two_different_members_is_this_nodes_fault() {
        let (a, b): (NodeName, NodeName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let score = |steps: &dyn Fn(&mut LocalHealth)| {
            let mut health = LocalHealth::default();
            steps(&mut health);
            health.score()
        };
        let fail = |health: &mut LocalHealth, target| {
            health.probing();
            health.probe_failed(target);
        };
        assert_eq!(score(&|h| (0..9).for_each(|_| fail(h, &a))), 0, "one dead member is one dead member");
        assert_eq!(score(&|h| [&a, &b].into_iter().for_each(|n| fail(h, n))), 1);
        let with_a_word_between = |h: &mut LocalHealth| {
            fail(h, &a);
            h.heard();
            fail(h, &b);
        };
        assert_eq!(score(&with_a_word_between), 0);
        let heard_meanwhile = |h: &mut LocalHealth| {
            fail(h, &a);
            h.probing();
            h.heard();
            h.probe_failed(&b);
        };
        assert_eq!(score(&heard_meanwhile), 0);
    }
}
