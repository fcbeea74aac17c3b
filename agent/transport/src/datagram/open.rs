//! The receiving half: what is judged, in which order, and what is remembered.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::aead::{Aad, LessSafeKey};
use bytes::Bytes;
use migrate_proto::cluster::lease::Nanos;
use migrate_proto::name::NodeName;

use super::drops::{Dropped, Drops, Foreign};
use super::keys::{BootId, DatagramKeys, KeyId, nonce};
use super::rates::Rates;
use super::window::Window;
use super::wire::{HEADER_BYTES, Header, MAX_DATAGRAM_BYTES, NoHeader, SHORTEST, read_inside};

/// How many lives of senders are remembered.
pub const MOST_BOOTS: usize = 4096;

/// What was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Where it came from: not authenticated.
    pub from: SocketAddr,
    /// Which life of the sender.
    pub peer: BootId,
    /// Who it says it is.
    pub node: NodeName,
    /// Which kind of message.
    pub kind: u8,
    /// The message.
    pub body: Bytes,
    /// When it was taken from the socket.
    pub at: Nanos,
}

/// One life of a sender.
struct Sender {
    /// Under which key it was heard last; nothing if that key is not in the ring any more.
    key: Option<(KeyId, LessSafeKey)>,
    window: Window,
    /// Of all datagrams that were opened, the number of its last one.
    heard: u64,
}

/// Opens what a node receives.
pub struct Opener {
    own: BootId,
    keys: DatagramKeys,
    senders: HashMap<BootId, Sender>,
    opened: u64,
    rates: Rates,
    drops: Drops,
    foreign: Foreign,
}

impl Opener {
    /// One for the node whose own datagrams have this boot number.
    pub fn new(own: BootId, keys: DatagramKeys) -> Opener {
        Opener {
            own,
            keys,
            senders: HashMap::new(),
            opened: 0,
            rates: Rates::default(),
            drops: Drops::default(),
            foreign: Foreign::default(),
        }
    }

    /// From now on under any of these, and no others. What was there stays remembered.
    pub fn replace_keys(&mut self, keys: DatagramKeys) {
        for sender in self.senders.values_mut() {
            sender.key.take_if(|(id, _)| keys.named(*id).is_none());
        }
        self.keys = keys;
    }

    /// What a datagram says that has come from `from`; or why it is dropped, which is counted.
    pub fn open(&mut self, now: Nanos, from: SocketAddr, datagram: &[u8]) -> Result<Incoming, Dropped> {
        self.judged(now, from, datagram).inspect_err(|why| {
            self.drops.count(*why);
            if *why == Dropped::ForeignKey {
                self.foreign.count(from.ip());
            }
        })
    }

    /// What was dropped since this opener was made.
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// How many were opened.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Where datagrams under another cluster's key came from since this was asked last.
    pub fn take_foreign(&mut self) -> Foreign {
        std::mem::take(&mut self.foreign)
    }

    /// Cheap questions first. Nothing is remembered of a datagram that was not sealed under a key of the ring.
    fn judged(&mut self, at: Nanos, from: SocketAddr, datagram: &[u8]) -> Result<Incoming, Dropped> {
        if !(SHORTEST..=MAX_DATAGRAM_BYTES).contains(&datagram.len()) {
            return Err(Dropped::Alien);
        }
        let (header, sealed) = Header::split(datagram).map_err(|why| match why {
            NoHeader::Magic => Dropped::Alien,
            NoHeader::Version => Dropped::Version,
        })?;
        if header.boot == self.own {
            return Err(Dropped::Own);
        }
        if self.keys.named(header.key).is_none() {
            return Err(Dropped::ForeignKey);
        }
        let known = self.senders.get(&header.boot);
        if !known.map_or(header.counter != 0, |sender| sender.window.is_new(header.counter)) {
            return Err(Dropped::Replayed);
        }
        let inside = self.unsealed(at, from.ip(), &header, datagram, sealed)?;
        let (node, kind, body) = read_inside(&inside).ok_or(Dropped::Malformed)?;
        Ok(Incoming { from, peer: header.boot, node, kind, body: Bytes::from(inside).slice(body..), at })
    }

    /// What is inside. If its sender is not known, or comes under another key, that costs a derivation, and is charged.
    fn unsealed(
        &mut self,
        now: Nanos,
        from: IpAddr,
        header: &Header,
        datagram: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Dropped> {
        let aad = &datagram[..HEADER_BYTES];
        let mut inside = sealed.to_vec();
        let known = self.senders.get(&header.boot).and_then(|sender| sender.key.as_ref());
        let fresh = match known {
            Some((id, key)) if *id == header.key => {
                open_in_place(key, header.counter, aad, &mut inside)?;
                None
            }
            _ => {
                if !self.rates.allow(now, from) {
                    return Err(Dropped::TooOften);
                }
                let key = self.keys.named(header.key).and_then(|key| key.of_boot(header.boot));
                let key = key.ok_or(Dropped::ForeignKey)?;
                open_in_place(&key, header.counter, aad, &mut inside)?;
                Some(key)
            }
        };
        self.remember(header, fresh);
        Ok(inside)
    }

    /// This one was there. `fresh`: the key that it was opened with, where that was not remembered.
    fn remember(&mut self, header: &Header, fresh: Option<LessSafeKey>) {
        self.opened += 1;
        if self.senders.len() >= MOST_BOOTS && !self.senders.contains_key(&header.boot) {
            let silent = self.senders.iter().min_by_key(|(_, sender)| sender.heard).map(|(boot, _)| *boot);
            silent.and_then(|boot| self.senders.remove(&boot));
        }
        let sender = self.senders.entry(header.boot).or_insert_with(|| Sender {
            key: None,
            window: Window::default(),
            heard: 0,
        });
        sender.window.take(header.counter);
        sender.heard = self.opened;
        if let Some(key) = fresh {
            sender.key = Some((header.key, key));
        }
    }

    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.senders.len()
    }
}

/// Leaves what was sealed, without the tag.
fn open_in_place(key: &LessSafeKey, counter: u64, aad: &[u8], sealed: &mut Vec<u8>) -> Result<(), Dropped> {
    let length = key.open_in_place(nonce(counter), Aad::from(aad), sealed).map_err(|_| Dropped::Forged)?.len();
    sealed.truncate(length);
    Ok(())
}
