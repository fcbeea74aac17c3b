//! How patient raft is, and what it keeps.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use thiserror::Error;

use crate::wire::SNAPSHOT_PIECE_BYTES;

/// Periods and limits. The defaults are for nodes that are milliseconds apart and may be short of processor time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// How long a follower has for an answer. The leader's sign of life is sent every one and a half of it.
    pub heartbeat: Duration,
    /// How long a voter waits before it tries to lead: at least.
    pub election_min: Duration,
    /// At most. It also waits that long before, while the last leader may still be there.
    pub election_max: Duration,
    /// How long whoever proposes waits for an answer.
    pub answer: Duration,
    /// How old the last word of a majority may be for a leader that says it leads.
    pub fresh: Duration,
    /// After how long a store that has failed is opened anew.
    pub reopen: Duration,
    /// After how many commands the log is folded into a snapshot.
    pub snapshot_every: u64,
    /// How many of them are kept nevertheless, for those that are a little behind.
    pub keep: u64,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(400),
            election_max: Duration::from_millis(600),
            answer: Duration::from_secs(2),
            fresh: Duration::from_millis(400),
            reopen: Duration::from_secs(5),
            snapshot_every: 2000,
            keep: 500,
        }
    }
}

/// Periods that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadTiming {
    /// Every lost sign of life would cost an election.
    #[error("an election after {} ms with a heartbeat of {} ms: it must be more than twice as long", election.as_millis(), heartbeat.as_millis())]
    Nervous {
        /// The shortest wait.
        election: Duration,
        /// The heartbeat.
        heartbeat: Duration,
    },
    /// All would try at once.
    #[error("elections after {} to {} ms: the longest wait must be longer than the shortest", min.as_millis(), max.as_millis())]
    NoChance {
        /// The shortest wait.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// Raft counts in milliseconds.
    #[error("a heartbeat of less than 10 ms")]
    Frantic,
}

impl Timing {
    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), BadTiming> {
        let (heartbeat, min, max) = (self.heartbeat, self.election_min, self.election_max);
        if heartbeat < Duration::from_millis(10) {
            return Err(BadTiming::Frantic);
        }
        if min <= 2 * heartbeat {
            return Err(BadTiming::Nervous { election: min, heartbeat });
        }
        if max.as_millis() <= min.as_millis() {
            return Err(BadTiming::NoChance { min, max });
        }
        Ok(())
    }

    /// For raft. Spelt out, because its default asks the program's arguments.
    pub(crate) fn config(&self) -> Config {
        let millis = |duration: Duration| duration.as_millis() as u64;
        #[allow(deprecated, reason = "every field must be named")]
        Config {
            cluster_name: "migrate".to_owned(),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            heartbeat_interval: millis(self.heartbeat),
            install_snapshot_timeout: 5000,
            send_snapshot_timeout: 0,
            max_payload_entries: 300,
            replication_lag_threshold: 2 * self.snapshot_every,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
            max_in_snapshot_log_to_keep: self.keep,
            purge_batch_size: 1,
            enable_tick: true,
            enable_heartbeat: true,
            // Not before it has given the leader time to be heard: see `life`.
            enable_elect: false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = Timing::default();
        assert_eq!(good.check(), Ok(()));
        assert!(good.config().validate().is_ok());
        let ms = Duration::from_millis;
        let nervous = Timing { heartbeat: ms(200), ..good.clone() };
        assert_eq!(nervous.check(), Err(BadTiming::Nervous { election: ms(400), heartbeat: ms(200) }));
        let no_chance = Timing { election_max: ms(400), ..good.clone() };
        assert_eq!(no_chance.check(), Err(BadTiming::NoChance { min: ms(400), max: ms(400) }));
        assert_eq!(Timing { heartbeat: ms(9), ..good }.check(), Err(BadTiming::Frantic));
    }
}
