#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn member(name: &str, generation: u64) -> Member {
    Member::new(name.parse().unwrap(), StateMark([7; 8]), generation, "h:1".to_owned()).unwrap()
}

fn header(message: Message<Member>) -> Header<Member> {
    Header { src: member("a", 1), src_incarnation: 2, dst: member("b", 3).goodbye(), message }
}

fn encoded(message: Message<Member>) -> Vec<u8> {
    let mut bytes = Vec::new();
    Words.encode_header(&header(message), &mut bytes).unwrap();
    bytes
}

fn every_message() -> Vec<Message<Member>> {
    let third = || member("c", 4);
    vec![
        Message::Ping(1),
        Message::Ack(2),
        Message::PingReq { target: third(), probe_number: 3 },
        Message::IndirectPing { origin: third(), probe_number: 4 },
        Message::IndirectAck { target: third(), probe_number: 5 },
        Message::ForwardedAck { origin: third(), probe_number: 6 },
        Message::Announce,
        Message::Feed,
        Message::Gossip,
        Message::TurnUndead,
    ]
}

#[test]
fn the_bytes_stay_what_they_are() {
    let src = [b"\x01\x01a".as_slice(), &[7; 8], &[1, 0, 0, 0, 0, 0, 0, 0], &[0], b"\x03h:1", &[2, 0]].concat();
    let dst = [b"\x01b".as_slice(), &[7; 8], &[3, 0, 0, 0, 0, 0, 0, 0], &[1], b"\x03h:1"].concat();
    for (kind, message) in (1..).zip(every_message()) {
        let third = [b"\x01c".as_slice(), &[7; 8], &[4, 0, 0, 0, 0, 0, 0, 0], &[0], b"\x03h:1"].concat();
        let body: Vec<u8> = match kind {
            1 | 2 => vec![kind],
            3..=6 => [third, vec![kind]].concat(),
            _ => Vec::new(),
        };
        assert_eq!(encoded(message), [src.clone(), dst.clone(), vec![kind], body].concat(), "message {kind}");
    }
}

#[test]
fn what_is_said_is_understood_and_only_that_is_taken_off() {
    for message in every_message() {
        let mut bytes = encoded(message.clone());
        bytes.extend(b"rest");
        let mut rest = bytes.as_slice();
        assert_eq!(Words.decode_header(&mut rest).unwrap(), header(message));
        assert_eq!(rest, b"rest");
    }
    for state in [State::Alive, State::Suspect, State::Down] {
        let said = foca::Member::new(member("a", 1), 513, state);
        let mut bytes = Vec::new();
        Words.encode_member(&said, &mut bytes).unwrap();
        bytes.push(9);
        let mut rest = bytes.as_slice();
        assert_eq!(Words.decode_member(&mut rest).unwrap(), said);
        assert_eq!(rest, [9]);
    }
}

#[test]
fn what_ends_too_early_is_refused_wherever_it_ends() {
    for message in every_message() {
        let bytes = encoded(message);
        for end in 0..bytes.len() {
            assert!(matches!(Words::header(&bytes[..end]), Err(WordsError::Short { .. })), "{end} of {}", bytes.len());
        }
    }
}

#[test]
fn nothing_is_written_where_not_everything_fits() {
    let said = foca::Member::new(member("a", 1), 1, State::Alive);
    let mut whole = Vec::new();
    Words.encode_member(&said, &mut whole).unwrap();
    for room in 0..whole.len() {
        let mut bytes = Vec::new();
        let refused = Words.encode_member(&said, (&mut bytes).limit(room));
        assert_eq!(refused, Err(WordsError::NoRoom { wanted: whole.len() }));
        assert!(bytes.is_empty());
    }
}

#[test]
fn numbers_and_text_without_a_meaning_are_refused() {
    let good = encoded(Message::Ping(1));
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Words::header(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 2), WordsError::Format(2));
    assert_eq!(with(2, b'A'), WordsError::Text("a name"));
    assert_eq!(with(2, 0xff), WordsError::Text("a name"));
    assert!(matches!(with(18, 0xff), WordsError::Member(InvalidMember::Generation(_))));
    assert!(matches!(with(19, 2), WordsError::Number { .. }));
    assert!(matches!(with(21, b' '), WordsError::Member(InvalidMember::Address { .. })));
    assert!(matches!(with(good.len() - 2, 11), WordsError::Number { .. }));
    assert_eq!(Words.encode_header(&header(Message::Broadcast), Vec::new()), Err(WordsError::Broadcast));
}

proptest! {
    #[test]
    fn whatever_is_understood_is_said_again_in_the_same_bytes(
        at in 0..60_usize, value: u8, tail in proptest::collection::vec(any::<u8>(), 0..80), message in 0..10_usize,
    ) {
        let mut bytes = encoded(every_message()[message].clone());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        bytes.extend(tail);
        let mut rest = bytes.as_slice();
        if let Ok(header) = Words.decode_header(&mut rest) {
            let mut again = Vec::new();
            Words.encode_header(&header, &mut again).unwrap();
            prop_assert_eq!(&again[..], &bytes[..bytes.len() - rest.len()]);
        }
    }
}
