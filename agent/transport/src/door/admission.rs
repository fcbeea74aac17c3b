//! How many strangers may stand at the door: connections that have not proved who they are.
//!
//! When there are too many, the one that has stood longest makes room, first among those of the same address. So silent
//! connections cannot keep an honest one out, which needs milliseconds. An address is an IPv4 address, or the /64 network
//! of an IPv6 one, of which a stranger has as many as it likes.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// How many strangers there may be in all.
pub const MOST_STRANGERS: usize = 64;
/// How many of them may come from one address.
pub const MOST_OF_AN_ADDRESS: usize = 16;

/// The strangers, the longest-standing first.
#[derive(Clone, Default)]
pub struct Admission {
    standing: Arc<Mutex<Standing>>,
}

#[derive(Default)]
struct Standing {
    strangers: VecDeque<Stranger>,
    next_number: u64,
}

struct Stranger {
    number: u64,
    address: IpAddr,
    leave: CancellationToken,
}

/// A stranger's place, until it is dropped.
pub struct Place {
    admission: Admission,
    number: u64,
    leave: CancellationToken,
}

impl Admission {
    /// A place for a new connection from this [neighbourhood]; another may have to leave for it.
    pub fn admit(&self, address: IpAddr) -> Place {
        let mut standing = self.lock();
        if standing.of(address) >= MOST_OF_AN_ADDRESS {
            standing.send_away_one_of(address);
        } else if standing.strangers.len() >= MOST_STRANGERS {
            let busiest = standing.busiest_address().unwrap_or(address);
            standing.send_away_one_of(busiest);
        }
        let number = standing.next_number;
        standing.next_number += 1;
        let leave = CancellationToken::new();
        standing.strangers.push_back(Stranger { number, address, leave: leave.clone() });
        Place { admission: self.clone(), number, leave }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn of(&self, address: IpAddr) -> usize {
        self.strangers.iter().filter(|stranger| stranger.address == address).count()
    }

    fn busiest_address(&self) -> Option<IpAddr> {
        // The last of several maxima is found: of addresses with equally many, that of the oldest stranger.
        self.strangers.iter().rev().map(|stranger| stranger.address).max_by_key(|address| self.of(*address))
    }

    fn send_away_one_of(&mut self, address: IpAddr) {
        if let Some(index) = self.strangers.iter().position(|stranger| stranger.address == address)
            && let Some(stranger) = self.strangers.remove(index)
        {
            stranger.leave.cancel();
        }
    }
}

impl Place {
    /// Resolves when this connection has to make room.
    pub async fn has_to_leave(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.lock().strangers.retain(|stranger| stranger.number != self.number);
    }
}

/// By what a stranger's address counts: an IPv4 peer is the same when it comes through an IPv6 socket, and an IPv6 network is
/// one neighbour.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn left(places: &[Place]) -> Vec<usize> {
        places.iter().enumerate().filter(|(_, place)| place.leave.is_cancelled()).map(|(index, _)| index).collect()
    }

    #[test]
    fn an_address_that_has_its_share_makes_room_for_itself() {
        let admission = Admission::default();
        let other = admission.admit(address(2));
        let places: Vec<Place> = (0..MOST_OF_AN_ADDRESS + 2).map(|_| admission.admit(address(1))).collect();
        assert_eq!(left(&places), [0, 1]);
        assert!(!other.leave.is_cancelled());
    }

    #[test]
    fn when_the_door_is_full_the_busiest_address_makes_room() {
        let admission = Admission::default();
        let quiet: Vec<Place> = (10..60).map(|last| admission.admit(address(last))).collect();
        let busy: Vec<Place> = (0..14).map(|_| admission.admit(address(1))).collect();
        assert_eq!(quiet.len() + busy.len(), MOST_STRANGERS);
        let _new = admission.admit(address(99));
        assert_eq!((left(&quiet), left(&busy)), (vec![], vec![0]));
        assert_eq!(admission.lock().strangers.len(), MOST_STRANGERS);
    }

    #[test]
    fn among_many_addresses_the_oldest_makes_room() {
        let admission = Admission::default();
        let mut places: Vec<Place> = (0..=MOST_STRANGERS as u8).map(|last| admission.admit(address(last))).collect();
        assert_eq!(left(&places), [0]);
        places.push(admission.admit(address(200)));
        assert_eq!(left(&places), [0, 1]);
    }

    #[test]
    fn a_network_of_addresses_is_one_neighbour() {
        let of = |text: &str| neighbourhood(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), address(1));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }

    #[test]
    fn who_has_proved_itself_gives_its_place_back() {
        let admission = Admission::default();
        drop(admission.admit(address(1)));
        assert!(admission.lock().strangers.is_empty());
    }
}
