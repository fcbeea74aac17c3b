//! How often members are looked at, and how long one may be silent.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};
use thiserror::Error;

/// The longest datagram.
pub const MAX_DATAGRAM_BYTES: usize = 1200;

/// How often a node asks a random member for the members it knows. Gossip tells sooner; this is for what gossip lost.
const FEED_EVERY: Duration = Duration::from_secs(5);

/// The pace of the protocol. Best the same on all nodes, but nothing breaks if it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// One member is probed each.
    pub period: Duration,
    /// A probe that is not answered in this time is tried through others.
    pub rtt: Duration,
    /// How long a suspected member has to contradict, in a cluster of up to ten. Of a hundred it has twice as long, of a thousand three
    /// times: what it says has farther to go.
    pub suspicion: Duration,
    /// Through how many others.
    pub proxies: u8,
    /// While there is news it is told this often…
    pub gossip_every: Duration,
    /// …to this many.
    pub gossip_to: u8,
    /// How often two of those are tried that seem to be dead, or were never reached: so partitions heal.
    pub reach_out: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            period: Duration::from_millis(500),
            rtt: Duration::from_millis(150),
            suspicion: Duration::from_secs(2),
            proxies: 3,
            gossip_every: Duration::from_millis(150),
            gossip_to: 3,
            reach_out: Duration::from_secs(2),
        }
    }
}

/// Why settings make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadSettings {
    /// Something is zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// No time for the second half of a probe.
    #[error("the period ({period:?}) must be at least three times the round trip ({rtt:?})")]
    Period {
        /// What is set.
        period: Duration,
        /// What is set.
        rtt: Duration,
    },
    /// No time to contradict.
    #[error("the suspicion ({suspicion:?}) must be at least three times the period ({period:?})")]
    Suspicion {
        /// What is set.
        suspicion: Duration,
        /// What is set.
        period: Duration,
    },
}

impl Settings {
    /// Whether they make sense.
    pub fn check(&self) -> Result<(), BadSettings> {
        let times = [
            ("the round trip", self.rtt),
            ("the time between gossip", self.gossip_every),
            ("the time between attempts to reach the dead", self.reach_out),
        ];
        if let Some((what, _)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(BadSettings::Zero(what));
        }
        let numbers = [("the number of proxies", self.proxies), ("the number of those told", self.gossip_to)];
        if let Some((what, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return Err(BadSettings::Zero(what));
        }
        if self.period < 3 * self.rtt {
            return Err(BadSettings::Period { period: self.period, rtt: self.rtt });
        }
        if self.suspicion < 3 * self.period {
            return Err(BadSettings::Suspicion { suspicion: self.suspicion, period: self.period });
        }
        Ok(())
    }

    /// How long a suspected member has to contradict among so many.
    pub(crate) fn suspicion_among(&self, nodes: usize) -> Duration {
        self.suspicion.mul_f64((nodes as f64).log10().max(1.0))
    }

    /// What foca is told, in a cluster of so many nodes.
    pub(crate) fn config(&self, nodes: usize) -> Config {
        let number = |n: u8| NonZeroUsize::new(n.into()).unwrap_or(NonZeroUsize::MIN);
        let every = |frequency, to| Some(PeriodicParams { frequency, num_members: number(to) });
        Config {
            probe_period: self.period,
            probe_rtt: self.rtt,
            num_indirect_probes: number(self.proxies),
            max_transmissions: TRANSMISSIONS,
            suspect_to_down_after: self.suspicion_among(nodes),
            // Memory is bounded by names, and what is forgotten could come back as gossip.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::new(MAX_DATAGRAM_BYTES).unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            periodic_announce: every(FEED_EVERY, 1),
            // Ours, see `Swim::reach_out`: foca's stops when everybody seems to be dead.
            periodic_announce_to_down_members: None,
            periodic_gossip: every(self.gossip_every, self.gossip_to),
        }
    }
}

/// How often one piece of news is passed on by one node, in all, whatever the size. The 4·log₁₀(n + 1) that is usual is 2 for three nodes:
/// a contradiction would be lost every 25th time where every fifth datagram is lost. Nor need it be more in a large cluster: where
/// everybody tells k others at random, e⁻ᵏ of all do not hear of it, and there every telling counts, for news has to share the datagrams.
const TRANSMISSIONS: NonZeroU8 = NonZeroU8::new(20).unwrap();

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn settings_that_leave_no_time_are_refused() {
        assert_eq!(Settings::default().check(), Ok(()));
        let with = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check()
        };
        assert!(matches!(with(|s| s.period = MS(449)), Err(BadSettings::Period { .. })));
        assert!(matches!(with(|s| s.suspicion = MS(1499)), Err(BadSettings::Suspicion { .. })));
        assert!(matches!(with(|s| s.rtt = MS(0)), Err(BadSettings::Zero(_))));
        assert!(matches!(with(|s| s.gossip_every = MS(0)), Err(BadSettings::Zero(_))));
        assert!(matches!(with(|s| s.reach_out = MS(0)), Err(BadSettings::Zero(_))));
        assert!(matches!(with(|s| s.proxies = 0), Err(BadSettings::Zero(_))));
        assert!(matches!(with(|s| s.gossip_to = 0), Err(BadSettings::Zero(_))));
    }

    #[test]
    fn among_many_there_is_more_time_to_contradict() {
        let times = [0, 1, 10, 100, 1000].map(|n| Settings::default().suspicion_among(n).as_secs());
        assert_eq!(times, [2, 2, 2, 4, 6]);
    }
}
