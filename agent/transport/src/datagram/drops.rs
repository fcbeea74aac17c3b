//! What was dropped, and why: figures, and the addresses that speak under another cluster's key.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::door::admission::neighbourhood;

/// Why a datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// It is no datagram of migrate, or too short or too long for one.
    Alien,
    /// Of a version that is not spoken here.
    Version,
    /// Sealed under a key that is not in the ring.
    ForeignKey,
    /// This node's own, come back.
    Own,
    /// It was there before, or is too far behind the newest.
    Replayed,
    /// Of a sender that was not heard before, from where too many such come.
    TooOften,
    /// Not sealed by who has the key, or damaged.
    Forged,
    /// Sealed by who has the key, but not as a node does it.
    Malformed,
}

impl Dropped {
    /// All reasons.
    pub const ALL: [Dropped; 8] = [
        Dropped::Alien,
        Dropped::Version,
        Dropped::ForeignKey,
        Dropped::Own,
        Dropped::Replayed,
        Dropped::TooOften,
        Dropped::Forged,
        Dropped::Malformed,
    ];

    /// What figures call it.
    pub fn name(self) -> &'static str {
        match self {
            Dropped::Alien => "alien",
            Dropped::Version => "version",
            Dropped::ForeignKey => "foreign_key",
            Dropped::Own => "own",
            Dropped::Replayed => "replayed",
            Dropped::TooOften => "too_often",
            Dropped::Forged => "forged",
            Dropped::Malformed => "malformed",
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many were dropped, for each reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drops([u64; Dropped::ALL.len()]);

impl Drops {
    /// For this reason.
    pub fn of(&self, why: Dropped) -> u64 {
        self.0[why as usize]
    }

    /// For any.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(super) fn count(&mut self, why: Dropped) {
        self.0[why as usize] += 1;
    }
}

/// Where datagrams under another cluster's key came from. Anybody can send such, under any address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// How many from which address; an IPv6 network of 64 bits counts as one.
    pub addresses: BTreeMap<IpAddr, u64>,
    /// How many from still others.
    pub elsewhere: u64,
}

impl Foreign {
    /// How many addresses are told apart.
    pub const MOST: usize = 64;

    pub(super) fn count(&mut self, from: IpAddr) {
        let address = neighbourhood(from);
        if self.addresses.len() >= Foreign::MOST && !self.addresses.contains_key(&address) {
            self.elsewhere += 1;
        } else {
            *self.addresses.entry(address).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_its_name() {
        let mut drops = Drops::default();
        for (index, why) in Dropped::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
            (0..=index).for_each(|_| drops.count(why));
            assert_eq!(drops.of(why), index as u64 + 1);
        }
        assert_eq!(drops.total(), 36);
        let names: std::collections::BTreeSet<&str> = Dropped::ALL.map(Dropped::name).into();
        assert_eq!(names.len(), Dropped::ALL.len());
    }

    #[test]
    fn only_so_many_addresses_are_told_apart() {
        let mut foreign = Foreign::default();
        for last in 0..200 {
            foreign.count([10, 0, 0, last].into());
            foreign.count([10, 0, 0, 0].into());
        }
        assert_eq!((foreign.addresses.len(), foreign.elsewhere), (Foreign::MOST, 200 - 64));
        assert_eq!(foreign.addresses[&IpAddr::from([10, 0, 0, 0])], 201);
    }
}
