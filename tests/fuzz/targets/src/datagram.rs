//! Sealed datagrams, and what is said in them, but for membership (`swim`). Strangers: whatever is not sealed under a key of the ring opens nothing. Those who have the key, and lie: what they
//! put inside comes out as it is or not at all. The way between: in any order, repeated, damaged, while the keys change, each
//! comes out once and as it was.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use migrate_proto::cluster::lease::Nanos;
use migrate_proto::codec::datagram::{decode, encode};
use migrate_proto::key::{ClusterKey, KEY_BYTES};
use migrate_proto::name::NodeName;
use migrate_transport::datagram::outside::seal_anything;
use migrate_transport::datagram::{
    BootId, DatagramKeys, Dropped, Incoming, MAX_BODY_BYTES, MAX_DATAGRAM_BYTES, Opener, Sealer, WINDOW,
};

use crate::script::Script;

const OWN: BootId = BootId([0xee; 16]);
/// Long enough that nobody comes too often.
const STEP: u64 = 1_000_000_000;
const RINGS: [&[u8]; 5] = [&[1], &[1, 2], &[2, 1], &[2], &[3]];

/// One end and all that was sent to it.
struct Way {
    opener: Opener,
    ring: &'static [u8],
    now: Nanos,
    /// Of each sender, what has come out.
    opened: BTreeMap<BootId, BTreeMap<u64, Vec<u8>>>,
}

/// An honest datagram, and what it says.
struct Honest {
    datagram: Vec<u8>,
    key: u8,
    boot: BootId,
    counter: u64,
    kind: u8,
    body: Vec<u8>,
}

pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let mut way = Way { opener: opener(RINGS[0]), ring: RINGS[0], now: Nanos(0), opened: BTreeMap::new() };
    match script.byte() & 3 {
        0 => {
            // The whole input is what came.
            let came = way.hears(script.rest());
            assert!(came.is_err(), "a stranger is heard: {came:?}");
            return;
        }
        2 => return body(script.byte(), script.rest()),
        _ => {}
    }
    let mut senders = [1, 2].map(|number| sender(number, RINGS[0]));
    let mut rings = [RINGS[0]; 2];
    let mut sent: Vec<Honest> = Vec::new();
    for _ in 0..64 {
        if script.is_over() {
            break;
        }
        let who = usize::from(script.byte() & 1);
        match script.byte() % 8 {
            0 => {
                rings[who] = RINGS[usize::from(script.byte()) % RINGS.len()];
                senders[who].replace_keys(&keys(rings[who])).expect("there is a key");
            }
            1 => {
                way.ring = RINGS[usize::from(script.byte()) % RINGS.len()];
                way.opener.replace_keys(keys(way.ring));
            }
            2 | 3 => sent.push(honest(&mut senders[who], rings[who][0], script.byte(), script.piece(), &sent)),
            4 => way.lied_to(&mut script),
            5 if !sent.is_empty() => {
                let honest = &sent[usize::from(script.byte()) % sent.len()];
                let mut damaged = honest.datagram.clone();
                let at = usize::from(script.half()) % damaged.len();
                damaged[at] ^= script.byte().max(1);
                assert!(way.hears(&damaged).is_err(), "byte {at} was changed");
            }
            6 => assert!(way.hears(script.piece()).is_err()),
            _ if !sent.is_empty() => {
                let honest = &sent[usize::from(script.byte()) % sent.len()];
                way.comes(honest);
            }
            _ => {}
        }
    }
    assert_eq!(way.opener.opened(), way.opened.values().map(|opened| opened.len() as u64).sum::<u64>());
}

/// What a datagram says that was opened: written again it is the same, and no longer.
fn body(kind: u8, bytes: &[u8]) {
    let Ok(said) = decode(kind, bytes) else { return };
    assert_eq!(said.kind(), kind);
    let again = encode(&said).expect("it was read");
    assert!(again.len() <= bytes.len());
    assert_eq!(decode(kind, &again).expect("it was written"), said);
}

fn keys(ring: &[u8]) -> DatagramKeys {
    DatagramKeys::of(&ring.iter().map(|byte| ClusterKey::copied(&[*byte; KEY_BYTES])).collect::<Vec<_>>())
}

fn opener(ring: &[u8]) -> Opener {
    Opener::new(OWN, keys(ring))
}

fn sender(number: u8, ring: &[u8]) -> Sealer {
    Sealer::new(name(number), BootId([number; 16]), &keys(ring)).expect("there is a key")
}

fn name(number: u8) -> NodeName {
    format!("node{number}").parse().expect("a name")
}

fn honest(sealer: &mut Sealer, key: u8, kind: u8, body: &[u8], before: &[Honest]) -> Honest {
    let counter = 1 + before.iter().filter(|honest| honest.boot == sealer.boot()).count() as u64;
    let datagram = sealer.seal(kind, body).expect("it fits");
    assert!(datagram.len() <= MAX_DATAGRAM_BYTES && datagram[29..37] == counter.to_be_bytes());
    Honest { datagram, key, boot: sealer.boot(), counter, kind, body: body.to_vec() }
}

impl Way {
    fn hears(&mut self, datagram: &[u8]) -> Result<Incoming, Dropped> {
        self.now = self.now.plus(STEP);
        let dropped = self.opener.drops().total();
        let came = self.opener.open(self.now, SocketAddr::from(([10, 0, 0, 1], 1)), datagram);
        assert_eq!(self.opener.drops().total(), dropped + u64::from(came.is_err()));
        came
    }

    /// An honest one comes out the first time, if its key is in the ring; too old is none of so few.
    fn comes(&mut self, honest: &Honest) {
        let came = self.hears(&honest.datagram);
        let opened = self.opened.entry(honest.boot).or_default();
        let expected = if !self.ring.contains(&honest.key) {
            Some(Dropped::ForeignKey)
        } else if opened.contains_key(&honest.counter) {
            Some(Dropped::Replayed)
        } else {
            None
        };
        assert_eq!(came.as_ref().err().copied(), expected);
        let Ok(came) = came else { return };
        assert_eq!((came.peer, came.kind, &came.body[..]), (honest.boot, honest.kind, &honest.body[..]));
        opened.insert(honest.counter, honest.body.clone());
    }

    /// Whoever has the key seals what nobody would.
    fn lied_to(&mut self, script: &mut Script<'_>) {
        // No honest life's number, whose counters it would use up.
        let boot = BootId([script.byte() | 0x80; 16]);
        let counter = match script.byte() {
            low @ 0..0x80 => u64::from(low),
            high => u64::MAX - u64::from(high & 0x7f) * (WINDOW / 16),
        };
        let inside = script.long_piece();
        let lie = seal_anything(&keys(self.ring), boot, counter, inside).expect("there is a key");
        let came = self.hears(&lie);
        let opened = self.opened.entry(boot).or_default();
        let newest = opened.last_key_value().map_or(0, |(newest, _)| *newest);
        let is_new = counter > newest || (counter != 0 && newest - counter < WINDOW && !opened.contains_key(&counter));
        let said = second_reading(inside);
        let expected = match () {
            () if !(56..=MAX_DATAGRAM_BYTES).contains(&lie.len()) => Some(Dropped::Alien),
            () if boot == OWN => Some(Dropped::Own),
            () if !is_new => Some(Dropped::Replayed),
            () if said.is_none() => Some(Dropped::Malformed),
            () => None,
        };
        assert_eq!(came.as_ref().err().copied(), expected, "{inside:?}");
        if expected.is_none_or(|why| why == Dropped::Malformed) {
            opened.insert(counter, Vec::new());
        }
        if let (Ok(came), Some((name, kind, body))) = (came, said) {
            assert_eq!((came.node.as_str(), came.kind, &came.body[..]), (name, kind, body));
        }
    }
}

/// What stands inside, by the table in docs/protocol.md.
fn second_reading(inside: &[u8]) -> Option<(&str, u8, &[u8])> {
    let length = usize::from(*inside.get(1)?);
    let name = std::str::from_utf8(inside.get(2..2 + length)?).ok()?;
    let body = &inside[2 + length..];
    let first = *name.as_bytes().first()?;
    let fine = name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    (fine && first != b'-' && length <= 63 && body.len() <= MAX_BODY_BYTES).then_some((name, inside[0], body))
}
