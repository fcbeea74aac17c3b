//! Who leads: the key `leader`, kept by beats like a lease, and taken over by whoever has seen it unchanged for long enough.
//!
//! Two leaders for a moment do no harm: every command is a compare-and-swap, and a fence rests on what its proposer has seen itself.

use std::time::Duration;

use migrate_proto::cluster::command::EntryKey;
use migrate_proto::cluster::lease::Terms;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Shared;
use super::kv::Transaction;
use super::mirror::{Seat, Unchanged, value};

/// For how long a seat that was seen like this is kept for whoever sits there.
pub(super) fn worth(seat: &Unchanged<Seat>, terms: Terms) -> Duration {
    Duration::from_nanos(terms.promise().max(seat.what.terms.promise()))
}

/// The seat as this node has left it.
struct Mine {
    seat: Seat,
    revision: u64,
    until: Instant,
}

impl Shared {
    /// Goes on for as long as the node runs.
    pub(super) async fn sit(&self) {
        let mut mine: Option<Mine> = None;
        loop {
            mine = match mine {
                Some(mine) => self.keep_seat(mine).await,
                None => self.take_seat().await,
            };
            let leads = mine.as_ref().map(|mine| (mine.until, mine.seat.term));
            self.note(|known| known.leads = leads);
        }
    }

    /// A third of what it is worth later it is kept again.
    async fn keep_seat(&self, mine: Mine) -> Option<Mine> {
        let lease = Duration::from_nanos(self.setup.terms.lease());
        sleep_until(mine.until - lease + lease / 3).await;
        loop {
            let sent = Instant::now();
            if sent >= mine.until || self.made().is_err() {
                return None;
            }
            let seat = Seat { number: mine.seat.number + 1, terms: self.setup.terms, ..mine.seat };
            if let Some(revision) =
                self.write_seat(seat, mine.revision, self.in_time_for_a_beat().min(mine.until)).await
            {
                return revision.map(|revision| Mine { seat, revision, until: sent + lease });
            }
            // No answer. It is over before anybody else may think so.
            let again = (sent + lease / 10).min(mine.until);
            sleep_until(again).await;
        }
    }

    /// Waits until nobody leads, and tries to.
    async fn take_seat(&self) -> Option<Mine> {
        let mut moved = self.moved.subscribe();
        let lease = Duration::from_nanos(self.setup.terms.lease());
        loop {
            moved.borrow_and_update();
            let free = self.free_seat();
            let at = match &free {
                Some((_, at)) if *at <= Instant::now() => break,
                Some((_, at)) => *at,
                None => Instant::now() + lease,
            };
            if let Err(_late) = timeout_at(at, moved.changed()).await {
                // Nobody has kept it: that is seen by everybody.
                self.note(|_| ());
            }
        }
        let (seen, _) = self.free_seat()?;
        let (by, terms, term) = (self.setup.joiner.mark, self.setup.terms, seen.map_or(0, |seat| seat.what.term) + 1);
        let (seat, sent) = (Seat { by, term, number: 0, terms }, Instant::now());
        match self.write_seat(seat, seen.map_or(0, |seat| seat.revision), self.in_time_for_a_beat()).await {
            Some(Some(revision)) => Some(Mine { seat, revision, until: sent + lease }),
            // Somebody was quicker: that will be seen.
            Some(None) => {
                let _ = timeout_at(Instant::now() + lease / 10, moved.changed()).await;
                None
            }
            None => {
                sleep_until(Instant::now() + lease / 10).await;
                None
            }
        }
    }

    /// The seat as it is seen, and from when on it may be taken. None for who is no member.
    fn free_seat(&self) -> Option<(Option<Unchanged<Seat>>, Instant)> {
        let me = self.me();
        let known = self.known();
        let mirror = known.mirror.as_ref().filter(|_| known.stopped.is_none())?;
        mirror.record.nodes.values().find(|node| migrate_proto::cluster::VoterId::from(node.mark) == me)?;
        let seat = mirror.seat;
        Some((seat, seat.map_or_else(Instant::now, |seat| seat.since + worth(&seat, self.setup.terms))))
    }

    /// The new revision; `Some(None)`: somebody else has it. `None`: no answer.
    async fn write_seat(&self, seat: Seat, over: u64, deadline: Instant) -> Option<Option<u64>> {
        let (key, cluster) = (self.setup.address.seat(), self.setup.address.entry(&EntryKey::Cluster));
        let body = serde_json::to_vec(&seat).ok()?;
        let mut over = over;
        for _ in 0..2 {
            let write = Transaction::default().if_made_at(&cluster, self.made().ok()?).if_written_at(&key, over);
            let outcome = self.store.commit(write.put(&key, &body).else_read(&key), deadline).await.ok()?;
            if outcome.succeeded {
                return Some(Some(outcome.header.revision));
            }
            let present = outcome.found.first().and_then(|found| found.kvs.first());
            // The answer to an attempt before this one was lost.
            let mine = present.and_then(|pair| Some((value::<Seat>(pair).ok()?, pair.mod_revision)));
            match mine.filter(|(present, _)| present.by == seat.by && present.term == seat.term) {
                Some((_, revision)) => over = revision,
                None => return Some(None),
            }
        }
        None
    }
}
