//! Sessions. The header: what is accepted is written again the same. The whole: whatever an authenticated peer says, only what was
//! granted waits here, and it is what was sent, in order.

use std::path::Path;

use bytes::Bytes;
use migrate_transport::parcel::Parcel;
use migrate_transport::session::SessionId;
use migrate_transport::session::outside::{Lone, recoded};
use xxhash_rust::xxh3::Xxh3;

use crate::script::Script;

const HEADER: usize = 64;

/// How many frames there are and whether the check is put right; then their lengths and bytes.
pub(crate) fn header(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let how = script.byte();
    let count = how % 5;
    let mut frames: Vec<Vec<u8>> = (1..count).map(|_| script.long_piece().to_vec()).collect();
    if count > 0 {
        frames.insert(0, script.rest().to_vec());
    }
    if how & 0x80 == 0 {
        put_check_right(&mut frames);
    }
    let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
    let Some(again) = recoded(frames.clone()) else { return };
    assert_eq!(recoded(again.clone()), Some(again.clone()), "what is written is accepted");
    let ignored = 5..8;
    assert_eq!(again[0][..ignored.start], frames[0][..ignored.start]);
    assert_eq!(again[0][ignored.end..HEADER - 8], frames[0][ignored.end..HEADER - 8]);
    // A last part without bytes need not travel.
    let parts = |frames: &[Bytes]| frames[1..].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>();
    assert_eq!(parts(&again), parts(&frames));
}

/// As the book has it: XXH3 of bytes 0–55, the lengths of both parts, and the parts.
fn put_check_right(frames: &mut [Vec<u8>]) {
    let Some((header, parts)) = frames.split_first_mut() else { return };
    header.resize(HEADER, 0);
    let mut hash = Xxh3::new();
    hash.update(&header[..HEADER - 8]);
    if let Some(first) = parts.first() {
        let second = parts.get(1).map_or(&[][..], Vec::as_slice);
        hash.update(&(first.len() as u64).to_le_bytes());
        hash.update(&(second.len() as u64).to_le_bytes());
        hash.update(first);
        hash.update(second);
    }
    header[HEADER - 8..].copy_from_slice(&hash.digest().to_le_bytes());
}

const ID: SessionId = SessionId([9; 16]);
const WINDOW: u64 = 64 << 10;
const GREETING: u8 = 3;
const DATA: u8 = 5;

/// One end of a session and its peer, which says whatever the script wants, mostly with the right number.
pub(crate) fn peer(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let Some(mut session) = Lone::new(ID, script.byte() & 1 == 1, WINDOW) else { return };
    let (mut taken, mut goes_on) = (0u64, true);
    while goes_on && !script.is_over() {
        let (how, next) = (script.byte(), session.received() + 1);
        match how % 8 {
            0 => goes_on = session.greeted(message(&mut script, how, GREETING, next)),
            1 => drop(session.says()),
            2 => drop(session.send(&Parcel::message(vec![0; script.half().into()]))),
            3 => {
                if let Some(parcel) = session.receive() {
                    taken += 1;
                    assert_eq!(parcel.bulk[..], taken.to_le_bytes(), "another than the next one");
                }
            }
            4 => match script.byte() {
                0 => session.close(),
                1 => session.leave(),
                _ => {}
            },
            5 => {
                let kind = script.byte() % 10;
                goes_on = session.hears(message(&mut script, how, kind, next));
            }
            _ => goes_on = session.hears(message(&mut script, how, DATA, next)),
        }
        assert!(session.waiting() <= WINDOW, "{} bytes wait", session.waiting());
        assert!((next - 1..=next).contains(&session.received()), "more than one came");
    }
}

/// Its bulk is its number, so that it can be told which parcel it was.
fn message(script: &mut Script<'_>, how: u8, kind: u8, next: u64) -> Vec<Bytes> {
    let number = if how & 0x80 == 0 { next } else { u64::from(script.word()) };
    let numbers = [number, script.byte().into(), u64::from(script.word()), script.byte().into()];
    let mut header = [b"mS\x01", &[kind, 0, 0, 0, 0][..], &ID.0].concat();
    numbers.iter().for_each(|number| header.extend(number.to_le_bytes()));
    let mut frames = vec![header];
    if kind == DATA {
        frames.extend([vec![0; script.half().into()], number.to_le_bytes().to_vec()]);
    }
    put_check_right(&mut frames);
    frames.into_iter().map(Bytes::from).collect()
}
