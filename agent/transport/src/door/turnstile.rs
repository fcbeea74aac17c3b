//! How often strangers may begin a handshake: proving who one is costs this node a signature, so that it is done at a bounded
//! rate, per address and in all. Who comes too often waits; who would wait too long is turned away. Pure.
//!
//! Only those who have said something come here: a silent connection costs nothing but its [place](super::admission).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// What one address may do: this many at once, and one more each time this has passed.
const OF_AN_ADDRESS: Rate = Rate { burst: 32, every: Duration::from_millis(20) };
/// The same for all together.
const IN_ALL: Rate = Rate { burst: 256, every: Duration::from_millis(4) };
/// Of how many addresses there is an account. With more, only the rate of all together counts for new ones.
const MOST_ADDRESSES: usize = 4096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// When the next one would be due if all had come evenly; in the past where there were few.
#[derive(Debug, Clone, Copy)]
struct Account(Instant);

impl Account {
    /// How long the next one has to wait.
    fn wait(self, rate: Rate, now: Instant) -> Duration {
        let ahead = rate.every * (rate.burst - 1);
        self.0.saturating_duration_since(now).saturating_sub(ahead)
    }

    fn charge(&mut self, rate: Rate, now: Instant) {
        self.0 = self.0.max(now) + rate.every;
    }
}

/// The accounts.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    addresses: HashMap<IpAddr, Account>,
    all: Option<Account>,
}

impl Turnstile {
    /// How long a handshake with this address has to wait; `None` where that is longer than `patience`, and nothing is charged.
    pub(super) fn pass(&mut self, address: IpAddr, patience: Duration, now: Instant) -> Option<Duration> {
        if self.addresses.len() >= MOST_ADDRESSES {
            self.addresses.retain(|_, account| account.0 > now);
        }
        let mut all = self.all.unwrap_or(Account(now));
        let mut own = self.addresses.get(&address).copied().unwrap_or(Account(now));
        let wait = all.wait(IN_ALL, now).max(own.wait(OF_AN_ADDRESS, now));
        if wait > patience {
            return None;
        }
        all.charge(IN_ALL, now);
        own.charge(OF_AN_ADDRESS, now);
        self.all = Some(all);
        if self.addresses.contains_key(&address) || self.addresses.len() < MOST_ADDRESSES {
            self.addresses.insert(address, own);
        }
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn who_comes_too_often_waits_and_then_is_turned_away() {
        let (mut turnstile, now) = (Turnstile::default(), Instant::now());
        let waits: Vec<_> = (0..1000).map_while(|_| turnstile.pass(address(1), PATIENCE, now)).collect();
        assert!(waits[..32].iter().all(Duration::is_zero));
        assert!(waits[32..].is_sorted() && !waits[32].is_zero());
        assert_eq!(waits.len(), 32 + 250, "as many as fit into the time that they may wait");
        // Others are not held up by it, and after a while neither is it.
        assert_eq!(turnstile.pass(address(2), PATIENCE, now), Some(Duration::from_millis(4) * 27));
        assert_eq!(turnstile.pass(address(1), PATIENCE, now + Duration::from_secs(60)), Some(Duration::ZERO));
    }

    #[test]
    fn many_addresses_share_one_rate_and_a_bounded_table() {
        let (mut turnstile, now) = (Turnstile::default(), Instant::now());
        let many = (0..100_000u32).map(|number| IpAddr::from((10 << 24 | number).to_be_bytes()));
        let passed = many.filter(|address| turnstile.pass(*address, PATIENCE, now).is_some()).count();
        assert_eq!(passed, 256 + 1250);
        let mut later = now;
        for number in 0..20_000u32 {
            later += Duration::from_millis(4);
            turnstile.pass(IpAddr::from((11 << 24 | number).to_be_bytes()), PATIENCE, later);
            assert!(turnstile.addresses.len() <= MOST_ADDRESSES);
        }
    }
}
