//! The bookkeeping of one direction: what is numbered, acknowledged, granted and buffered. Pure.
//!
//! Items are numbered from 1. Credit is counted in bytes from the beginning of the session: the receiver says how many it
//! will take in all, so a repeated or reordered grant does no harm.

use std::collections::VecDeque;

use crate::parcel::Parcel;

/// How many bytes a direction may hold on either side.
pub const WINDOW: u64 = 16 << 20;
/// The window of sessions beyond a peer's first few: less memory for who opens many at once. It holds the largest parcel.
pub(super) const NARROW_WINDOW: u64 = 3 << 20;
/// What a parcel costs besides its bytes, so that countless empty parcels are bounded too.
pub const PARCEL_COST: u64 = 4 << 10;

/// What a parcel takes from the credit.
fn cost(parcel: &Parcel) -> u64 {
    (parcel.header.len() + parcel.bulk.len()) as u64 + PARCEL_COST
}

/// The peer did what no session of ours does. Going on would be guessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("it acknowledged what was never sent")]
    AcknowledgedTooMuch,
    #[error("it sent more than it was granted")]
    OverCredit,
    #[error("it sent something after its end")]
    AfterEnd,
    #[error("it sends the same again and again")]
    Repetition,
    #[error("it sent a kind of message that has no place here")]
    OutOfPlace,
}

/// One numbered thing on its way.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Parcel(Parcel),
    End,
}

impl Item {
    fn cost(&self) -> u64 {
        match self {
            Item::Parcel(parcel) => cost(parcel),
            Item::End => 0,
        }
    }
}

/// What this side sends: everything that is not acknowledged is kept.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    unacknowledged: VecDeque<Item>,
    acknowledged: u64,
    /// The newest item put on the present link.
    on_link: u64,
    admitted_cost: u64,
    acknowledged_cost: u64,
    grant: u64,
    ended: bool,
}

impl Outgoing {
    /// Takes a parcel if there is credit for it.
    pub(super) fn admit(&mut self, parcel: &Parcel) -> bool {
        // A peer that grants more than the window does not make this side keep more.
        let limit = self.grant.min(self.acknowledged_cost + WINDOW);
        let admitted = self.admitted_cost + cost(parcel);
        if self.ended || admitted > limit {
            return false;
        }
        self.admitted_cost = admitted;
        self.unacknowledged.push_back(Item::Parcel(parcel.clone()));
        true
    }

    /// Nothing more will come.
    pub(super) fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.unacknowledged.push_back(Item::End);
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The number of the newest item.
    pub(super) fn newest(&self) -> u64 {
        self.acknowledged + self.unacknowledged.len() as u64
    }

    /// The newest item put on the present link.
    pub(super) fn on_link(&self) -> u64 {
        self.on_link
    }

    /// Up to which item the peer has everything.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn all_acknowledged(&self) -> bool {
        self.unacknowledged.is_empty()
    }

    /// Whether the peer has every parcel; the end itself does not count.
    pub(super) fn parcels_acknowledged(&self) -> bool {
        self.unacknowledged.iter().all(|item| matches!(item, Item::End))
    }

    /// The next item for the present link.
    pub(super) fn next_for_link(&mut self) -> Option<(u64, Item)> {
        let index = usize::try_from(self.on_link - self.acknowledged).ok()?;
        let item = self.unacknowledged.get(index)?.clone();
        self.on_link += 1;
        Some((self.on_link, item))
    }

    /// The peer has everything up to `received`. Whether that is news.
    pub(super) fn acknowledge(&mut self, received: u64) -> Result<bool, Violation> {
        if received > self.newest() {
            return Err(Violation::AcknowledgedTooMuch);
        }
        let news = received > self.acknowledged;
        while self.acknowledged < received {
            let Some(item) = self.unacknowledged.pop_front() else { break };
            self.acknowledged_cost += item.cost();
            self.acknowledged += 1;
        }
        self.on_link = self.on_link.max(self.acknowledged);
        Ok(news)
    }

    /// The peer will take this many bytes in all.
    pub(super) fn granted(&mut self, grant: u64) {
        self.grant = self.grant.max(grant);
    }

    /// A new link: whatever is not acknowledged goes again.
    pub(super) fn rewind(&mut self) {
        self.on_link = self.acknowledged;
    }

    /// How much is kept for a possible repetition.
    #[cfg(test)]
    pub(super) fn kept(&self) -> u64 {
        self.admitted_cost - self.acknowledged_cost
    }
}

/// What became of an item that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It was the next one.
    Taken,
    /// It has been here before.
    Repeated,
    /// Something before it is missing: this link lost it.
    Gap,
}

/// What this side receives: in order, at most the window.
#[derive(Debug)]
pub(super) struct Incoming {
    waiting: VecDeque<Parcel>,
    received: u64,
    received_cost: u64,
    consumed_cost: u64,
    window: u64,
    announced: u64,
    ended: bool,
}

impl Incoming {
    /// Nothing has arrived yet, and at most this much may wait.
    pub(super) fn with_window(window: u64) -> Incoming {
        let waiting = VecDeque::new();
        Incoming { waiting, received: 0, received_cost: 0, consumed_cost: 0, window, announced: window, ended: false }
    }

    pub(super) fn arrive(&mut self, number: u64, item: Item) -> Result<Arrival, Violation> {
        if number <= self.received {
            return Ok(Arrival::Repeated);
        }
        if number != self.received + 1 {
            return Ok(Arrival::Gap);
        }
        if self.ended {
            return Err(Violation::AfterEnd);
        }
        let received_cost = self.received_cost + item.cost();
        if received_cost > self.announced {
            return Err(Violation::OverCredit);
        }
        self.received = number;
        self.received_cost = received_cost;
        match item {
            Item::Parcel(parcel) => self.waiting.push_back(parcel),
            Item::End => self.ended = true,
        }
        Ok(Arrival::Taken)
    }

    /// The next parcel for the application.
    pub(super) fn take(&mut self) -> Option<Parcel> {
        let parcel = self.waiting.pop_front()?;
        self.consumed_cost += cost(&parcel);
        Some(parcel)
    }

    /// Whether the peer should hear about credit that was given back.
    pub(super) fn grant_is_stale(&self) -> bool {
        self.consumed_cost + self.window - self.announced >= self.window / 8
    }

    /// The grant to announce now.
    pub(super) fn announce(&mut self) -> u64 {
        self.announced = self.consumed_cost + self.window;
        self.announced
    }

    /// How many items have arrived, in order.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn is_drained(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How much waits for the application.
    pub(super) fn buffered(&self) -> u64 {
        self.received_cost - self.consumed_cost
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parcel(bytes: usize) -> Parcel {
        Parcel::message(vec![0; bytes])
    }

    fn item(bytes: usize) -> Item {
        Item::Parcel(parcel(bytes))
    }

    #[test]
    fn credit_bounds_what_is_admitted_whatever_the_peer_grants() {
        let mut out = Outgoing::default();
        assert!(!out.admit(&parcel(1)), "no grant, no parcel");
        out.granted(u64::MAX);
        let admitted = (0..100).take_while(|_| out.admit(&parcel(1 << 20))).count();
        assert_eq!(admitted, 15);
        assert!(out.kept() <= WINDOW);
        out.acknowledge(1).unwrap();
        assert!(out.admit(&parcel(1 << 20)));
        assert!(!out.admit(&parcel(1 << 20)));
    }

    #[test]
    fn empty_parcels_are_bounded_too() {
        let mut out = Outgoing::default();
        out.granted(u64::MAX);
        assert_eq!((0..100_000).take_while(|_| out.admit(&parcel(0))).count() as u64, WINDOW / PARCEL_COST);
    }

    #[test]
    fn a_new_link_repeats_exactly_what_is_unacknowledged() {
        let mut out = Outgoing::default();
        out.granted(WINDOW);
        assert!((0..5).all(|_| out.admit(&parcel(10))));
        while out.next_for_link().is_some() {}
        assert_eq!(out.acknowledge(2), Ok(true));
        assert_eq!(out.acknowledge(1), Ok(false), "an old acknowledgement is no news");
        out.rewind();
        let again: Vec<u64> = std::iter::from_fn(|| out.next_for_link()).map(|(number, _)| number).collect();
        assert_eq!(again, [3, 4, 5]);
        assert_eq!(out.acknowledge(6), Err(Violation::AcknowledgedTooMuch));
    }

    #[test]
    fn an_acknowledgement_that_overtakes_the_link_moves_it_on() {
        let mut out = Outgoing::default();
        out.granted(WINDOW);
        assert!((0..3).all(|_| out.admit(&parcel(10))));
        out.rewind();
        out.acknowledge(2).unwrap();
        assert_eq!(out.next_for_link().map(|(number, _)| number), Some(3));
    }

    #[test]
    fn arrivals_are_taken_once_and_in_order() {
        let mut inc = Incoming::with_window(WINDOW);
        assert_eq!(inc.arrive(1, item(1)), Ok(Arrival::Taken));
        assert_eq!(inc.arrive(1, item(1)), Ok(Arrival::Repeated));
        assert_eq!(inc.arrive(3, item(1)), Ok(Arrival::Gap));
        assert_eq!(inc.arrive(2, Item::End), Ok(Arrival::Taken));
        assert_eq!(inc.arrive(3, item(1)), Err(Violation::AfterEnd));
        assert!(inc.take().is_some() && inc.take().is_none() && inc.has_ended());
    }

    #[test]
    fn a_peer_that_ignores_credit_is_found_out() {
        let mut inc = Incoming::with_window(WINDOW);
        let sent = (1..100).find(|number| inc.arrive(*number, item(1 << 20)).is_err()).unwrap();
        assert_eq!(sent, 16, "fifteen parcels of 1 MiB and their overhead fit the window");
        assert!(inc.buffered() <= WINDOW);
    }

    #[test]
    fn the_largest_parcel_gets_through_a_narrow_window_again_and_again() {
        use crate::parcel::{MAX_BULK, MAX_HEADER};
        let mut inc = Incoming::with_window(NARROW_WINDOW);
        let mut out = Outgoing::default();
        out.granted(NARROW_WINDOW);
        let largest = Parcel { header: vec![0; MAX_HEADER].into(), bulk: vec![0; MAX_BULK].into() };
        for number in 1..=20 {
            assert!(out.admit(&largest), "parcel {number}");
            inc.arrive(number, Item::Parcel(largest.clone())).unwrap();
            inc.take().unwrap();
            out.acknowledge(number).unwrap();
            // Credit is told when it is worth it, and that must be soon enough.
            if inc.grant_is_stale() {
                out.granted(inc.announce());
            }
        }
    }

    #[test]
    fn credit_comes_back_when_the_application_takes() {
        let mut inc = Incoming::with_window(WINDOW);
        for number in 1..=4 {
            inc.arrive(number, item(1 << 20)).unwrap();
        }
        inc.take();
        assert!(!inc.grant_is_stale(), "a little is not worth a message");
        inc.take();
        assert!(inc.grant_is_stale());
        assert_eq!(inc.announce(), WINDOW + 2 * ((1 << 20) + PARCEL_COST));
        assert!(!inc.grant_is_stale());
    }
}
