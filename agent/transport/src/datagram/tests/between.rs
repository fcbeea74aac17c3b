//! The two halves, and everything that can happen to a datagram between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use migrate_proto::cluster::lease::Nanos;
use migrate_proto::key::KEY_BYTES;
use proptest::prelude::*;

use crate::datagram::wire::SHORTEST;
use crate::datagram::*;
use crate::keys::ClusterKey;

const SECOND: u64 = 1_000_000_000;

/// The ring of these keys.
fn ring(keys: &[u8]) -> DatagramKeys {
    DatagramKeys::of(&keys.iter().map(|byte| ClusterKey::copied(&[*byte; KEY_BYTES])).collect::<Vec<_>>())
}

fn boot(number: u32) -> BootId {
    let mut boot = [0; 16];
    boot[..4].copy_from_slice(&number.to_be_bytes());
    BootId(boot)
}

fn sealer(number: u32, keys: &[u8]) -> Sealer {
    Sealer::new("one".parse().unwrap(), boot(number), &ring(keys)).unwrap()
}

fn opener(keys: &[u8]) -> Opener {
    Opener::new(boot(0), ring(keys))
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 7000))
}

/// Opened, always in the same moment.
fn open(opener: &mut Opener, datagram: &[u8]) -> Result<Incoming, Dropped> {
    opener.open(Nanos(1000 * SECOND), address(1), datagram)
}

#[test]
fn what_was_sealed_comes_out_once() {
    let (mut sealer, mut opener) = (sealer(1, &[1]), opener(&[1]));
    for body in [&b""[..], b"body", &[7; MAX_BODY_BYTES]] {
        let sealed = sealer.seal(3, body).unwrap();
        assert!(sealed.len() <= MAX_DATAGRAM_BYTES);
        assert!(body.is_empty() || !sealed.windows(body.len()).any(|window| window == body), "it can be read");
        let came = open(&mut opener, &sealed).unwrap();
        assert_eq!((came.node.as_str(), came.peer, came.kind, &came.body[..]), ("one", boot(1), 3, body));
        assert_eq!((came.from, came.at), (address(1), Nanos(1000 * SECOND)));
        assert_eq!(open(&mut opener, &sealed), Err(Dropped::Replayed));
    }
    assert_eq!((opener.opened(), opener.drops().of(Dropped::Replayed), opener.drops().total()), (3, 3, 3));
}

#[test]
fn the_longest_name_and_body_fit_and_a_longer_body_does_not() {
    let name = "n".repeat(63).parse().unwrap();
    let mut sealer = Sealer::new(name, boot(1), &ring(&[1])).unwrap();
    let sealed = sealer.seal(1, &[0; MAX_BODY_BYTES]).unwrap();
    assert_eq!(sealed.len(), MAX_DATAGRAM_BYTES);
    assert_eq!(open(&mut opener(&[1]), &sealed).unwrap().node.as_str().len(), 63);
    let too_long = sealer.seal(1, &[0; MAX_BODY_BYTES + 1]);
    assert_eq!(too_long, Err(SealError::TooLong { bytes: MAX_BODY_BYTES + 1 }));
}

#[test]
fn a_damaged_byte_anywhere_is_noticed_and_the_true_one_is_taken_afterwards() {
    let mut sealer = sealer(0x1234, &[1, 2]);
    let mut opener = opener(&[1, 2]);
    open(&mut opener, &sealer.seal(1, b"before").unwrap()).unwrap();
    let sealed = sealer.seal(1, b"some body").unwrap();
    for at in 0..sealed.len() {
        for bit in 0..8 {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1 << bit;
            // Each from another address: strangers have their rate.
            let from = SocketAddr::from(([10, 1, at as u8, bit], 1));
            let why = opener.open(Nanos((2000 + at as u64) * SECOND), from, &damaged).unwrap_err();
            let expected: &[Dropped] = match at {
                0..4 => &[Dropped::Alien],
                4 => &[Dropped::Version],
                5..13 => &[Dropped::ForeignKey],
                13..29 => &[Dropped::Forged],
                // A counter that was there is not even looked at.
                29..37 => &[Dropped::Forged, Dropped::Replayed],
                _ => &[Dropped::Forged],
            };
            assert!(expected.contains(&why), "byte {at}, bit {bit}: {why}");
        }
    }
    for length in 0..sealed.len() {
        let why = open(&mut opener, &sealed[..length]).unwrap_err();
        assert_eq!(why, if length < SHORTEST { Dropped::Alien } else { Dropped::Forged }, "{length} bytes");
    }
    assert_eq!(open(&mut opener, &[&sealed[..], b"x"].concat()), Err(Dropped::Forged));
    assert_eq!(open(&mut opener, &[0; MAX_DATAGRAM_BYTES + 1]), Err(Dropped::Alien));
    assert_eq!(opener.remembered(), 1);
    assert_eq!(&open(&mut opener, &sealed).unwrap().body[..], b"some body");
}

#[test]
fn strangers_and_echoes_are_told_apart() {
    let mut opener = opener(&[1]);
    assert_eq!(open(&mut opener, &[0; 60]), Err(Dropped::Alien));
    assert_eq!(open(&mut opener, &sealer(1, &[2]).seal(1, b"x").unwrap()), Err(Dropped::ForeignKey));
    assert_eq!(open(&mut opener, &sealer(0, &[1]).seal(1, b"x").unwrap()), Err(Dropped::Own));
    let foreign = opener.take_foreign();
    assert_eq!(foreign.addresses.into_iter().collect::<Vec<_>>(), [(address(1).ip(), 1)]);
    assert_eq!(opener.take_foreign(), Foreign::default());
    assert_eq!(opener.remembered(), 0);
}

#[test]
fn a_life_seals_under_its_own_key() {
    let (mut one, mut two, mut opener) = (sealer(1, &[1]), sealer(2, &[1]), opener(&[1]));
    let (of_one, of_two) = (one.seal(1, b"body").unwrap(), two.seal(1, b"body").unwrap());
    assert_ne!(of_one[HEADER_BYTES..], of_two[HEADER_BYTES..], "the same counter, the same text: not the same key");
    let mixed = [&of_one[..HEADER_BYTES], &of_two[HEADER_BYTES..]].concat();
    assert_eq!(open(&mut opener, &mixed), Err(Dropped::Forged));
}

/// The four files of a rotation, one node a step ahead of the other.
#[test]
fn any_two_nodes_that_are_one_step_of_a_rotation_apart_understand_each_other() {
    let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
    let mut nodes = [(sealer(1, steps[0]), opener(steps[0])), (sealer(2, steps[0]), opener(steps[0]))];
    let mut old = Vec::new();
    for (step, ring_of_step) in steps.into_iter().enumerate() {
        for ahead in [0, 1] {
            nodes[ahead].0.replace_keys(&ring(ring_of_step)).unwrap();
            nodes[ahead].1.replace_keys(ring(ring_of_step));
            for (from, to) in [(0, 1), (1, 0)] {
                let sealed = nodes[from].0.seal(1, b"body").unwrap();
                assert!(open(&mut nodes[to].1, &sealed).is_ok(), "step {step}, {from} to {to}");
                assert_eq!(open(&mut nodes[to].1, &sealed), Err(Dropped::Replayed));
                old.push((to, sealed));
            }
        }
    }
    for (to, sealed) in old {
        // Under the retired key it is foreign; under the one in force it was there.
        let why = open(&mut nodes[to].1, &sealed).unwrap_err();
        assert!(matches!(why, Dropped::ForeignKey | Dropped::Replayed), "{why}");
    }
    // What the key's return would bring back was there all the same.
    let mut opener = opener(&[1]);
    let sealed = sealer(9, &[1]).seal(1, b"x").unwrap();
    assert!(open(&mut opener, &sealed).is_ok());
    opener.replace_keys(ring(&[2]));
    assert_eq!(open(&mut opener, &sealed), Err(Dropped::ForeignKey));
    opener.replace_keys(ring(&[1, 2]));
    assert_eq!(open(&mut opener, &sealed), Err(Dropped::Replayed));
}

#[test]
fn a_change_of_the_key_costs_no_number_twice() {
    let mut sealer = sealer(1, &[1]);
    let mut used = BTreeSet::new();
    for keys in [&[1][..], &[2], &[1], &[2, 1], &[1]] {
        sealer.replace_keys(&ring(keys)).unwrap();
        let sealed = sealer.seal(1, b"x").unwrap();
        assert!(used.insert(sealed[5..HEADER_BYTES].to_vec()), "key, life and counter were there before");
        assert!(used.insert(sealer.seal(1, b"x").unwrap()[5..HEADER_BYTES].to_vec()));
    }
    assert_eq!(sealer.replace_keys(&ring(&[])), Err(SealError::NoKey));
}

#[test]
fn a_flood_of_strangers_does_not_hold_up_those_who_were_heard() {
    let (mut friend, mut opener) = (sealer(1, &[1]), opener(&[1]));
    let now = Nanos(SECOND);
    opener.open(now, address(1), &friend.seal(1, b"x").unwrap()).unwrap();
    let mut forged = sealer(2, &[1]).seal(1, b"x").unwrap();
    *forged.last_mut().unwrap() ^= 1;
    for number in 0..10_000_u32 {
        forged[13..17].copy_from_slice(&(number + 100).to_be_bytes());
        assert!(opener.open(now, address(1), &forged).is_err());
    }
    assert!(opener.drops().of(Dropped::Forged) < 200 && opener.drops().of(Dropped::TooOften) > 9000);
    assert_eq!(opener.remembered(), 1);
    assert!(opener.open(now, address(1), &friend.seal(1, b"y").unwrap()).is_ok(), "it shares the flood's address");
    let mut newcomer = sealer(3, &[1]);
    assert_eq!(opener.open(now, address(1), &newcomer.seal(1, b"z").unwrap()), Err(Dropped::TooOften));
    assert!(opener.open(now, address(2), &newcomer.seal(1, b"z").unwrap()).is_ok());
}

#[test]
fn so_many_senders_are_remembered_and_the_silent_ones_make_room() {
    let mut opener = opener(&[1]);
    let mut first = sealer(1, &[1]);
    let heard = first.seal(1, b"x").unwrap();
    let silent = sealer(2, &[1]).seal(1, b"x").unwrap();
    let mut now = Nanos(0);
    let mut hear = |opener: &mut Opener, sealed: &[u8]| {
        now = now.plus(SECOND);
        opener.open(now, address(1), sealed).map(drop)
    };
    hear(&mut opener, &silent).unwrap();
    hear(&mut opener, &heard).unwrap();
    for number in 3..MOST_BOOTS as u32 + 3 {
        hear(&mut opener, &sealer(number, &[1]).seal(1, b"x").unwrap()).unwrap();
        if number % 1000 == 0 {
            hear(&mut opener, &first.seal(1, b"x").unwrap()).unwrap();
        }
        assert!(opener.remembered() <= MOST_BOOTS);
    }
    assert_eq!(hear(&mut opener, &heard), Err(Dropped::Replayed), "who was heard all the time is remembered");
    assert_eq!(hear(&mut opener, &silent), Ok(()), "stated in the contract: who was forgotten can be repeated once");
    assert_eq!(hear(&mut opener, &silent), Err(Dropped::Replayed));
}

proptest! {
    #[test]
    fn anything_comes_back_as_it_was(kind: u8, body in proptest::collection::vec(any::<u8>(), 0..=MAX_BODY_BYTES), key: u8, number in 1..u32::MAX) {
        let came = open(&mut opener(&[key]), &sealer(number, &[key]).seal(kind, &body).unwrap()).unwrap();
        prop_assert_eq!((came.kind, &came.body[..], came.peer), (kind, &body[..], boot(number)));
    }

    #[test]
    fn rubbish_opens_nothing_and_leaves_nothing(rubbish in proptest::collection::vec(any::<u8>(), 0..1500), beginning in 0..40_usize) {
        let honest = sealer(1, &[1]).seal(1, b"x").unwrap();
        let mut opener = opener(&[1]);
        let datagram = [&honest[..beginning], &rubbish[..]].concat();
        // To put the very rest of the honest one behind its beginning is the one way to succeed.
        prop_assume!(datagram != honest);
        prop_assert!(open(&mut opener, &datagram).is_err());
        prop_assert_eq!(opener.remembered(), 0);
    }

    /// Any order, any repetition, any loss, with the key changing under way: each comes out at most once, as it was; and everything
    /// that is less than a window behind the newest comes out the first time.
    #[test]
    fn order_and_repetition(
        arrivals in proptest::collection::vec(0..60_usize, 0..200),
        rotations in proptest::collection::btree_set(0..60_usize, 0..4),
    ) {
        let mut sealer = sealer(1, &[1, 2]);
        let sealed: Vec<Vec<u8>> = (0..60_usize).map(|number| {
            if rotations.contains(&number) {
                sealer.replace_keys(&ring(if number % 2 == 0 { &[2, 1] } else { &[1, 2] })).unwrap();
            }
            sealer.seal(1, &[number as u8]).unwrap()
        }).collect();
        let (mut opener, mut there) = (opener(&[1, 2]), BTreeSet::new());
        for (count, number) in arrivals.into_iter().enumerate() {
            let came = opener.open(Nanos(count as u64 * SECOND), address(1), &sealed[number]);
            if there.insert(number) {
                prop_assert_eq!(&came.unwrap().body[..], &[number as u8]);
            } else {
                prop_assert_eq!(came, Err(Dropped::Replayed));
            }
        }
    }
}
