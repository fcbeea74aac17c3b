#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// Of a real dump by CRIU 4.2.1 of a program with six timerfds (see [`BEFORE`]) and five other files.
const REAL: &[u8] = include_bytes!("files.img");

#[derive(Clone, PartialEq, prost::Message)]
struct File {
    #[prost(uint32, required, tag = "1")]
    kind: u32,
    #[prost(uint32, required, tag = "2")]
    id: u32,
    #[prost(message, optional, tag = "12")]
    timer: Option<Timer>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Timer {
    #[prost(uint32, required, tag = "1")]
    id: u32,
    #[prost(uint32, required, tag = "4")]
    clock: u32,
    #[prost(uint64, required, tag = "5")]
    ticks: u64,
    #[prost(uint32, required, tag = "6")]
    flags: u32,
    #[prost(uint64, required, tag = "7")]
    seconds: u64,
    #[prost(uint64, required, tag = "8")]
    nanoseconds: u64,
    #[prost(uint64, required, tag = "9")]
    every_seconds: u64,
    #[prost(uint64, required, tag = "10")]
    every_nanoseconds: u64,
}

/// Clock, ticks, flags, what is left, period.
type Plain = (u32, u64, u32, (u64, u64), (u64, u64));

/// The timers of [`REAL`], in the order in which the program made them.
const BEFORE: [Plain; 6] = [
    // Expired.
    (1, 1, 0, (0, 0), (0, 20_000_000)),
    // Disarmed by the program, which set an interval nevertheless.
    (1, 0, 0, (0, 0), (0, 20_000_000)),
    // Once, and expired.
    (1, 1, 0, (0, 0), (0, 0)),
    // Expired, and armed anew by timerfd_gettime.
    (1, 1, 0, (3599, 0), (3600, 0)),
    // Expired, absolute.
    (0, 1, 1, (0, 0), (0, 30_000_000)),
    // Expired, of CLOCK_BOOTTIME.
    (7, 1, 0, (0, 0), (7200, 5)),
];

fn timers(image: &[u8]) -> Vec<Timer> {
    let mut rest = &image[8..];
    let mut timers = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (entry, after) = after.split_at(u32::from_ne_bytes(*length) as usize);
        timers.extend(File::decode(entry).unwrap().timer);
        rest = after;
    }
    timers
}

fn plain(image: &[u8]) -> Vec<Plain> {
    let plain = |timer: Timer| {
        // Of the one that runs, the fraction depends on the moment.
        let nanoseconds = if timer.seconds > 0 { 0 } else { timer.nanoseconds };
        let (left, period) = ((timer.seconds, nanoseconds), (timer.every_seconds, timer.every_nanoseconds));
        (timer.clock, timer.ticks, timer.flags, left, period)
    };
    timers(image).into_iter().map(plain).collect()
}

/// An image with these files, and nothing else.
fn image_of(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut image = [COMMON_MAGIC.to_ne_bytes(), FILES_MAGIC.to_ne_bytes()].concat();
    for entry in entries {
        image.extend((entry.len() as u32).to_ne_bytes());
        image.extend(entry);
    }
    image
}

fn expired() -> Timer {
    let (seconds, nanoseconds) = (0, 0);
    Timer { id: 7, clock: 1, ticks: 3, flags: 0, seconds, nanoseconds, every_seconds: 0, every_nanoseconds: 5_000_000 }
}

fn file(timer: Timer) -> Vec<u8> {
    File { kind: 17, id: timer.id, timer: Some(timer) }.encode_to_vec()
}

fn assert_left(image: Vec<u8>, why: Result<Vec<Mended>, NotUnderstood>) {
    assert_eq!(mend(FILES, image.clone()), (image, why));
}

#[test]
fn of_a_real_image_exactly_the_expired_timers_are_armed() {
    assert_eq!(plain(REAL), BEFORE);
    let (image, mended) = mend(FILES, REAL.to_vec());
    let ids: Vec<u64> = timers(REAL).iter().map(|timer| u64::from(timer.id)).collect();
    let expected = [
        Mended::Timer { file: ids[0], ticks: 1, period: (0, 20_000_000) },
        Mended::Timer { file: ids[5], ticks: 1, period: (7200, 5) },
    ];
    assert_eq!(mended.unwrap(), expected);
    let mut after = BEFORE;
    after[0].3 = (0, 1);
    after[5].3 = (0, 1);
    assert_eq!(plain(&image), after);
    assert_eq!(image.len(), REAL.len());
    assert_eq!(image.iter().zip(REAL).filter(|(new, old)| new != old).count(), 2);
    // Nothing is left to be done.
    assert_left(image, Ok(Vec::new()));
}

#[test]
fn other_images_are_left_alone() {
    assert!(knows("files.img") && !knows("fdinfo-2.img"));
    let (image, mended) = mend("fdinfo-2.img", REAL.to_vec());
    assert_eq!((&image[..], mended), (REAL, Ok(Vec::new())));
}

#[test]
fn a_real_image_cut_short_is_left_alone() {
    let mut whole = 0;
    for length in 0..REAL.len() {
        let cut = REAL[..length].to_vec();
        match mend(FILES, cut.clone()) {
            (image, Err(_)) => assert_eq!(image, cut, "{length} bytes"),
            (_, Ok(_)) => whole += 1,
        }
    }
    // Before each of the 11 files nothing shows that something is missing.
    assert_eq!(whole, 11);
}

#[test]
fn only_expired_periodic_relative_timers_are_armed() {
    let mended = |timer: Timer| mend(FILES, image_of(&[file(timer)])).1.unwrap().len();
    assert_eq!(mended(expired()), 1);
    assert_eq!(mended(Timer { every_seconds: 1, every_nanoseconds: 0, ..expired() }), 1);
    // TFD_TIMER_CANCEL_ON_SET means nothing without TFD_TIMER_ABSTIME.
    assert_eq!(mended(Timer { flags: 2, ..expired() }), 1);
    let left = [
        Timer { ticks: 0, ..expired() },
        Timer { seconds: 1, ..expired() },
        Timer { nanoseconds: 1, ..expired() },
        Timer { every_nanoseconds: 0, ..expired() },
        Timer { flags: 1, ..expired() },
        Timer { flags: 3, ..expired() },
    ];
    for timer in left {
        assert_eq!(mended(timer), 0, "{timer:?}");
    }
    let other_type = File { kind: 1, id: 7, timer: Some(expired()) };
    assert_left(image_of(&[other_type.encode_to_vec()]), Ok(Vec::new()));
}

#[test]
fn unknown_fields_and_long_zeros_are_kept() {
    let mut timer = expired().encode_to_vec();
    // Fields 100 to 102, of each size, and the nanoseconds, which prost writes as [0x40, 0], in more bytes than they need.
    timer.extend([0xa0, 6, 1, 0xa9, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0xb2, 6, 2, 9, 9, 0xb5, 6, 1, 2, 3, 4]);
    let at = timer.windows(2).position(|bytes| bytes == [0x40, 0]).unwrap();
    timer.splice(at + 1..at + 2, [0x80, 0x80, 0]);
    let entry = [&[8, 17, 16, 7, 0x62, timer.len() as u8], &timer[..]].concat();
    let image = image_of(&[entry]);
    let (new, mended) = mend(FILES, image.clone());
    assert_eq!(mended.unwrap().len(), 1);
    assert_eq!(timers(&new)[0].nanoseconds, 1);
    let differing: Vec<_> = new.iter().zip(&image).filter(|(new, old)| new != old).collect();
    assert_eq!(differing, [(&0x81, &0x80)]);
}

#[test]
fn what_is_no_such_image_is_left_alone_and_said() {
    let header = image_of(&[]);
    assert_left(header.clone(), Ok(Vec::new()));
    assert_left(Vec::new(), Err(NotUnderstood::Beginning));
    assert_left([&REAL[4..8], &REAL[..4], &REAL[8..]].concat(), Err(NotUnderstood::Beginning));
    assert_left([&header[..], &[0xff; 4], &[0; 50]].concat(), Err(NotUnderstood::TooShort { at: 8 }));

    let good = file(expired());
    let after_good = |bad: &[u8]| image_of(&[good.clone(), bad.to_vec()]);
    let start = 8 + 4 + good.len() + 4;
    let field = |field| Err(NotUnderstood::Field { at: start, field });
    // No type; a type twice; a timer twice, missing, as a number.
    assert_left(after_good(&[16, 1]), field(1));
    assert_left(after_good(&[8, 17, 8, 17]), field(1));
    assert_left(after_good(&[&good[..], &good[4..]].concat()), field(12));
    assert_left(after_good(&[8, 17]), field(12));
    assert_left(after_good(&[8, 17, 0x60, 1]), field(12));
    // A timer without anything; a group; field 0; a number without end; one of more than 64 bits; a text beyond its message.
    assert_left(after_good(&[8, 17, 0x62, 0]), Err(NotUnderstood::Field { at: start + 4, field: 8 }));
    assert_left(after_good(&[8, 1, 0x1b]), Err(NotUnderstood::NotProtobuf { at: start + 2 }));
    assert_left(after_good(&[8, 1, 0, 1]), Err(NotUnderstood::NotProtobuf { at: start + 2 }));
    assert_left(after_good(&[8, 0x80]), Err(NotUnderstood::TooShort { at: start + 2 }));
    let too_much = [&[8][..], &[0xff; 9], &[2]].concat();
    assert_left(after_good(&too_much), Err(NotUnderstood::NotProtobuf { at: start + 1 }));
    assert_left(after_good(&[8, 1, 0x1a, 5, 0, 0]), Err(NotUnderstood::TooShort { at: start + 4 }));
}

#[test]
fn what_was_done_is_said_in_words() {
    let mended = Mended::Timer { file: 0x1f, ticks: 2, period: (0, 20_000_000) };
    assert_eq!(mended.to_string(), "timerfd 0x1f, every 0.020000000 s, expired and not read (2), is armed");
}

fn any_timer() -> impl Strategy<Value = Timer> {
    let small = || 0..3_u64;
    (small(), 0..4_u32, small(), small(), small(), small()).prop_map(
        |(ticks, flags, seconds, nanoseconds, every_seconds, every_nanoseconds)| Timer {
            id: 1,
            clock: 1,
            ticks,
            flags,
            seconds,
            nanoseconds,
            every_seconds,
            every_nanoseconds,
        },
    )
}

/// The bytes that differ are as many as what was mended, each changed as it must be; nothing is left to mend.
fn assert_sound(image: Vec<u8>) {
    let (new, mended) = mend(FILES, image.clone());
    assert_eq!(new.len(), image.len());
    let differing: Vec<_> = new.iter().zip(&image).filter(|(new, old)| new != old).collect();
    assert!(differing.iter().all(|(new, old)| **new == **old | 1), "{differing:?}");
    assert_eq!(differing.len(), mended.as_ref().map_or(0, Vec::len));
    assert_eq!(mend(FILES, new.clone()), (new, mended.map(|_| Vec::new())));
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        assert_left(bytes, Err(NotUnderstood::Beginning));
    }

    #[test]
    fn any_bytes_as_entries(entries: Vec<Vec<u8>>) {
        assert_sound(image_of(&entries));
    }

    #[test]
    fn any_bytes_as_a_timer(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        assert_sound(image_of(&[[&[8, 17, 0x62, bytes.len() as u8], &bytes[..]].concat()]));
    }

    #[test]
    fn any_timers(timers in proptest::collection::vec(any_timer(), 0..5)) {
        let image = image_of(&timers.iter().copied().map(file).collect::<Vec<_>>());
        let expired = |timer: &&Timer| {
            timer.ticks > 0
                && timer.flags & 1 == 0
                && timer.seconds + timer.nanoseconds == 0
                && timer.every_seconds + timer.every_nanoseconds > 0
        };
        prop_assert_eq!(mend(FILES, image.clone()).1.unwrap().len(), timers.iter().filter(expired).count());
        assert_sound(image);
    }

    #[test]
    fn any_damage_to_a_real_image(damage in proptest::collection::vec((8..REAL.len(), any::<u8>()), 1..8)) {
        let mut image = REAL.to_vec();
        for (at, byte) in damage {
            image[at] = byte;
        }
        assert_sound(image);
    }
}
