//! How often a key is derived for somebody who was not heard before, per address and in all. Pure.
//!
//! Only strangers are charged. Whoever was heard is opened with a key that is there, whatever else comes from its address.

use std::collections::HashMap;
use std::net::IpAddr;

use migrate_proto::cluster::lease::Nanos;

use crate::door::admission::neighbourhood;

/// What one address may do. Many nodes behind one address, all started at once, must get through in seconds.
const OF_AN_ADDRESS: Rate = Rate { burst: 128, every: 10_000_000 };
/// The same for all together: a few microseconds of work each, so about a hundredth of a processor.
const IN_ALL: Rate = Rate { burst: 2048, every: 500_000 };
/// Of how many addresses there is an account. With more, only the rate of all together counts for new ones.
const MOST_ADDRESSES: usize = 1024;

/// This many at once, and one more each time that so many nanoseconds have passed.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    every: u64,
}

/// When the next one would be due if all had come evenly; in the past where there were few.
#[derive(Debug, Clone, Copy, Default)]
struct Account(Nanos);

impl Account {
    fn has_room(self, rate: Rate, now: Nanos) -> bool {
        self.0.since(now) <= rate.every * (rate.burst - 1)
    }

    fn charge(&mut self, rate: Rate, now: Nanos) {
        self.0 = self.0.max(now).plus(rate.every);
    }
}

/// The accounts.
#[derive(Debug, Default)]
pub(super) struct Rates {
    addresses: HashMap<IpAddr, Account>,
    all: Account,
}

impl Rates {
    /// Whether there is time for one more stranger at this address; if so, it is charged.
    pub(super) fn allow(&mut self, now: Nanos, address: IpAddr) -> bool {
        let address = neighbourhood(address);
        let own = self.addresses.get(&address).copied();
        let mut account = own.unwrap_or_default();
        if !account.has_room(OF_AN_ADDRESS, now) || !self.all.has_room(IN_ALL, now) {
            return false;
        }
        self.all.charge(IN_ALL, now);
        account.charge(OF_AN_ADDRESS, now);
        if own.is_none() && self.addresses.len() >= MOST_ADDRESSES {
            self.addresses.retain(|_, account| account.0 > now);
        }
        if own.is_some() || self.addresses.len() < MOST_ADDRESSES {
            self.addresses.insert(address, account);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn address(number: u32) -> IpAddr {
        (10 << 24 | number).to_be_bytes().into()
    }

    #[test]
    fn one_address_gets_its_share_and_harms_no_other() {
        let mut rates = Rates::default();
        let now = Nanos(5 * SECOND);
        assert_eq!((0..1000).filter(|_| rates.allow(now, address(1))).count(), 128);
        assert!(rates.allow(now, address(2)));
        let later = now.plus(SECOND);
        assert_eq!((0..1000).filter(|_| rates.allow(later, address(1))).count(), 100);
        let much_later = now.plus(60 * SECOND);
        assert_eq!((0..1000).filter(|_| rates.allow(much_later, address(1))).count(), 128);
    }

    #[test]
    fn many_addresses_share_one_rate_and_a_bounded_table() {
        let mut rates = Rates::default();
        let mut now = Nanos(SECOND);
        assert_eq!((0..100_000).filter(|number| rates.allow(now, address(*number))).count(), 2048);
        assert_eq!(rates.addresses.len(), MOST_ADDRESSES);
        for number in 200_000..210_000 {
            now = now.plus(SECOND / 2000);
            assert!(rates.allow(now, address(number)), "{number}");
            assert!(rates.addresses.len() <= MOST_ADDRESSES);
        }
        let known = rates
            .addresses
            .keys()
            .filter(|address| matches!(address, IpAddr::V4(v4) if u32::from(*v4) >= (10 << 24 | 200_000)));
        assert!(known.count() > 0, "accounts that are settled make room");
    }
}
