//! How long a lease is, and how far the rates of clocks may be apart.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A point in time, in nanoseconds of a clock of this machine that does not go backwards. Its zero means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nanos(pub u64);

impl Nanos {
    /// This much later.
    pub fn plus(self, nanos: u64) -> Nanos {
        Nanos(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; nothing if it was not.
    pub fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

const MILLION: u64 = 1_000_000;
const SHORTEST: u64 = 300 * MILLION;
const LONGEST: u64 = 600_000 * MILLION;
const WILDEST_PPM: u32 = 50_000;

/// Why terms make no sense.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadTerms {
    /// Renewals could not keep up with it, or nobody would live to see it end.
    #[error("a lease of {} ms: it must be between 300 ms and 10 minutes", nanos / MILLION)]
    Lease {
        /// What was asked for.
        nanos: u64,
    },
    /// A clock like this is broken.
    #[error("clocks whose rates are wrong by up to {ppm} parts in a million: at most 50000 (5 %) are allowed for")]
    Rates {
        /// What was asked for.
        ppm: u32,
    },
}

/// What holder, voters and leader must agree about. It is carried in every message, and whoever has other terms is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked", into = "Unchecked")]
pub struct Terms {
    lease: u64,
    rho_ppm: u32,
}

#[derive(Serialize, Deserialize)]
struct Unchecked {
    lease: u64,
    rho_ppm: u32,
}

impl TryFrom<Unchecked> for Terms {
    type Error = BadTerms;
    fn try_from(said: Unchecked) -> Result<Terms, BadTerms> {
        Terms::new(said.lease, said.rho_ppm)
    }
}

impl From<Terms> for Unchecked {
    fn from(terms: Terms) -> Unchecked {
        Unchecked { lease: terms.lease, rho_ppm: terms.rho_ppm }
    }
}

impl Terms {
    /// A lease of so many nanoseconds, where the rate of every clock is within 1 ± `rho_ppm` / 1,000,000 of the true one.
    pub fn new(lease: u64, rho_ppm: u32) -> Result<Terms, BadTerms> {
        if !(SHORTEST..=LONGEST).contains(&lease) {
            return Err(BadTerms::Lease { nanos: lease });
        }
        if rho_ppm > WILDEST_PPM {
            return Err(BadTerms::Rates { ppm: rho_ppm });
        }
        Ok(Terms { lease, rho_ppm })
    }

    /// How long an acknowledged renewal lasts, from when it was sent, on the holder's clock.
    pub fn lease(self) -> u64 {
        self.lease
    }

    /// By how many parts in a million the rate of a clock may be wrong.
    pub fn rates_ppm(self) -> u32 {
        self.rho_ppm
    }

    /// How long a promise lasts, from when the renewal was received, on the voter's clock: as much longer as it takes for the slowest
    /// holder's lease to end while the fastest voter's clock runs.
    pub fn promise(self) -> u64 {
        let rho = u64::from(self.rho_ppm);
        // At most 10 minutes times a million: far from what 64 bits hold.
        (self.lease * (MILLION + rho)).div_ceil(MILLION - rho)
    }

    /// How long after its beginning a gather may still become ready, on the leader's clock. It must be less than a voter that has
    /// forgotten its promises is silent.
    pub fn window(self) -> u64 {
        self.lease / 2
    }

    /// How long after a renewal the next one is sent.
    pub fn renewal(self) -> u64 {
        self.lease / 10
    }

    /// The same where the last one has not been acknowledged by a majority.
    pub fn retry(self) -> u64 {
        self.lease / 20
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_promise_outlasts_the_slowest_lease_on_the_fastest_clock() {
        for (lease, rho) in
            [(1_500_000_000, 10_000), (300_000_000, 0), (600_000_000_000, 50_000), (333_333_333, 49_999)]
        {
            let terms = Terms::new(lease, rho).unwrap();
            let (lease, rho) = (u128::from(lease), u128::from(rho));
            // promise / (1 + rho) >= lease / (1 - rho), in real time.
            let promise = u128::from(terms.promise());
            assert!(promise * (1_000_000 - rho) >= lease * (1_000_000 + rho));
            assert!((promise - 1) * (1_000_000 - rho) < lease * (1_000_000 + rho), "not longer than it must be");
            // The same two rates for a gather and for the silence of a voter that has begun anew.
            assert!(u128::from(terms.window()) * (1_000_000 + rho) < promise * (1_000_000 - rho));
        }
        assert_eq!(Terms::new(1_500_000_000, 10_000).unwrap().promise(), 1_530_303_031);
    }

    #[test]
    fn senseless_terms_are_refused_also_from_outside() {
        assert_eq!(Terms::new(299_999_999, 0), Err(BadTerms::Lease { nanos: 299_999_999 }));
        assert_eq!(Terms::new(u64::MAX, 0), Err(BadTerms::Lease { nanos: u64::MAX }));
        assert_eq!(Terms::new(1_500_000_000, 50_001), Err(BadTerms::Rates { ppm: 50_001 }));
        let good = serde_json::to_string(&Terms::new(300_000_000, 50_000).unwrap()).unwrap();
        assert_eq!(good, r#"{"lease":300000000,"rho_ppm":50000}"#);
        assert!(serde_json::from_str::<Terms>(&good).is_ok());
        assert!(serde_json::from_str::<Terms>(r#"{"lease":1,"rho_ppm":0}"#).is_err());
    }
}
