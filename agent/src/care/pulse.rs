//! The signs of life of a workload with a pulse: what it is told about them, and looking for them.

use migrate_proto::care::Wish;
use migrate_sandbox::Sandbox;
use migrate_sandbox::pulse::{FILE, SOCKET, Signs};

/// How often is looked, for each pulse that has to come.
const LOOKS: u64 = 4;
/// More often makes no sense.
const SHORTEST_MS: u64 = 50;
/// Signs of life are cheap to see.
const LONGEST_MS: u64 = 500;

/// What the workload finds in its environment: where to give signs of life, and how often. The last two are what programs know that
/// systemd starts.
pub fn environment(wish: &Wish) -> Vec<(&'static str, String)> {
    let Some(period_ms) = wish.pulse_ms() else { return Vec::new() };
    vec![
        ("MIGRATE_PULSE", FILE.to_owned()),
        ("NOTIFY_SOCKET", SOCKET.to_owned()),
        ("WATCHDOG_USEC", period_ms.saturating_mul(1000).to_string()),
    ]
}

/// Follows the signs of life in one sandbox.
#[derive(Debug, Default)]
pub struct Pulse {
    /// What was before the first look does not count.
    known: Option<Signs>,
}

impl Pulse {
    /// Whether there was one since the last look. What cannot be seen is none. Blocks.
    pub fn look(&mut self, sandbox: &Sandbox) -> bool {
        let Ok(signs) = sandbox.signs() else { return false };
        self.known.replace(signs).is_some_and(|before| before != signs)
    }

    /// How long until the next look.
    pub fn pause_ms(period_ms: u64) -> u64 {
        (period_ms / LOOKS).clamp(SHORTEST_MS, LONGEST_MS)
    }
}

#[cfg(test)]
mod tests {
    use migrate_proto::care::Watch;

    use super::*;

    #[test]
    fn only_who_has_to_give_signs_of_life_is_told_how() {
        assert!(environment(&Wish::default()).is_empty());
        let wish = Wish { watch: Some(Watch::Pulse(2000)), ..Wish::default() };
        let told = environment(&wish);
        assert!(told.contains(&("WATCHDOG_USEC", "2000000".to_owned())), "{told:?}");
        assert!(told.iter().any(|(name, _)| *name == "MIGRATE_PULSE"), "{told:?}");
    }

    #[test]
    fn there_are_several_looks_for_each_pulse() {
        for (period_ms, pause_ms) in [(100, 50), (1000, 250), (60_000, 500)] {
            assert_eq!(Pulse::pause_ms(period_ms), pause_ms);
        }
    }
}
