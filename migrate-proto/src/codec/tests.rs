//! The wire format, byte by byte, and what a hostile peer may try.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::care::health::Word;
use crate::care::restart::{End, Policy};
use crate::care::{Chart, Page, Watch, Wish};
use crate::cluster::CheckpointId;
use crate::error::{Code, Problem};
use crate::frame::MAGIC;
use crate::handover::{Decision, Millis};
use crate::id::{Digest, Epoch, HandoverId};
use crate::manifest::{Manifest, Stream, StreamName};
use crate::message::{
    AgentFacts, Considered, Demands, Encoding, FileIdentity, Finding, HeldCheckpoint, Limit, MappedFile, Needs, Offer,
    Port, Severity, Xsave,
};
use crate::name::WorkloadName;
use crate::spec::{User, Volume, WorkloadSpec};
use crate::text::Text;
use crate::version::Versions;

const HANDOVER: HandoverId = HandoverId([0xab; 16]);

/// One line per message: its frame in hexadecimal. Regenerate a line only when a *new* message is added.
const GOLDEN: &str = include_str!("golden.txt");

fn facts() -> AgentFacts {
    AgentFacts {
        node: "node1".parse().unwrap(),
        agent_version: "0.1.0".to_owned(),
        criu_version: Some("4.2.1".to_owned()),
        kernel: "6.18.5".to_owned(),
    }
}

fn problem() -> Problem {
    Problem::new(Code::NoMemory, "too little memory").hint("free some")
}

fn offer() -> Offer {
    let spec = WorkloadSpec {
        name: "web".parse().unwrap(),
        argv: vec!["sh".into(), Text::new(&b"\xff"[..]).unwrap()],
        env: vec![("K".into(), "V".into())],
        dir: Some("/d".into()),
        user: Some(User { uid: 33, gid: 34 }),
        volumes: vec![Volume { source: "/s".into(), target: "/t".into(), read_only: true }],
        own_root: true,
        memory_bytes: Some(1 << 20),
        cpu_milli: Some(1500),
        layer_bytes: 8 << 30,
    };
    let file = |path: &str, identity| MappedFile { path: path.into(), size: 4096, identity };
    Offer {
        handover: HANDOVER,
        spec,
        epoch: Epoch(7),
        from: "node1".parse().unwrap(),
        to: "node2".parse().unwrap(),
        memory_bytes: 10 << 20,
        layer_bytes: 8 << 30,
        layer_used_bytes: 70_000,
        layer_block_bytes: 65536,
        needs: Needs {
            criu_version: "4.2.1".to_owned(),
            kernel: "6.18.5".to_owned(),
            arch: "x86_64".to_owned(),
            cpu_flags: vec!["avx2".to_owned()],
            mapped_files: vec![
                file("/lib/a.so", FileIdentity::BuildId(vec![0xde, 0xad])),
                file("/lib/b", FileIdentity::Digest(Digest([2; 32]))),
            ],
        },
        last_pid: 321,
        started: Some("2026-01-02T03:04:05.678Z".to_owned()),
    }
}

fn demands() -> Demands {
    Demands {
        agent_version: "0.1.0".to_owned(),
        xsave: Some(Xsave { enabled: 0xe7, bytes: 2696, components: vec![(2, 576, 256), (9, 2688, 8)] }),
        ports: vec![Port { udp: false, address: "00000000".to_owned(), port: 6379 }],
        limits: vec![
            Limit { name: "Max open files".to_owned(), hard: Some(1 << 20) },
            Limit { name: "Max cpu time".to_owned(), hard: None },
        ],
    }
}

fn chart() -> Chart {
    let watch = Watch::Http(Page { host: "::1".to_owned(), port: 8080, path: "/".to_owned() });
    let wish = Wish { restart: Policy::OnFailure(Some(3)), watch: Some(watch), ..Wish::default() };
    let mut chart = Chart::new(wish);
    chart.past.ended(Millis(1_795_255_872_123), Policy::Always, &End::Ill("hung".to_owned()));
    (chart.health, chart.ill) = (Word::Unhealthy, Some("refused".to_owned()));
    chart
}

fn manifest() -> Manifest {
    let stream = |name, length| Stream { name, length, digest: Digest([3; 32]) };
    let streams = vec![stream(StreamName::image("inventory.img").unwrap(), 60), stream(StreamName::layer(), 1 << 33)];
    Manifest::new("4.2.1".to_owned(), "node1".parse().unwrap(), Epoch(7), streams)
}

fn workload() -> WorkloadName {
    "w".parse().unwrap()
}

fn checkpoint(number: u8) -> CheckpointId {
    CheckpointId([number; 32])
}

/// At least one of every message, in the order of their numbers.
fn samples() -> Vec<Message> {
    let handover = HANDOVER;
    let chunk =
        |encoding| Message::Chunk { stream: 2, offset: 1 << 40, raw_len: 1 << 20, encoding, digest: Digest([5; 32]) };
    let answer = |decision| Message::Answer { handover, decision };
    vec![
        Message::Hello { offer: Versions { min: 1, max: 2 }, facts: facts() },
        Message::Welcome { version: 1, facts: AgentFacts { criu_version: None, ..facts() } },
        Message::Request { method: "GET".to_owned(), path: "/v1/nodes".to_owned() },
        Message::ResponseHead { status: 404 },
        Message::ResponseBody(b"{}".to_vec()),
        Message::ResponseEnd,
        Message::Offer(Box::new(offer())),
        Message::Accepted { free_memory: 1 << 34, free_disk: 200 },
        Message::Refused(problem()),
        Message::LayerAheadDone { blocks: 300 },
        Message::Prepared,
        Message::Complete(manifest()),
        Message::Verified,
        Message::Restored { pid: 100 },
        Message::Commit { handover, epoch: Epoch(8) },
        Message::Resumed { handover, pid: 100 },
        Message::Abort { handover, problem: problem() },
        Message::Failed(Problem::new(Code::Unknown, "")),
        Message::Ask { handover },
        answer(None),
        answer(Some(Decision::Commit)),
        answer(Some(Decision::Abort)),
        Message::Done { handover },
        Message::OpenStream { stream: 1, name: StreamName::image("pages-1.img").unwrap() },
        chunk(Encoding::Raw),
        chunk(Encoding::Zstd),
        chunk(Encoding::Zero),
        chunk(Encoding::Refs),
        Message::RequestBody(b"in".to_vec()),
        Message::RequestEnd,
        Message::Demands(Box::new(demands())),
        Message::Considered(Box::new(Considered {
            findings: vec![Finding { severity: Severity::Unlikely, problem: problem() }],
            clock_ms: 1_795_255_872_123,
        })),
        Message::Lost { handover, problem: Problem::new(Code::Lost, "gone") },
        Message::Call { id: 7, what: 3, body: b"x".to_vec() },
        Message::Reply { id: 300, body: Vec::new() },
        Message::CallFailed { id: 7, problem: Problem::new(Code::PeerDown, "") },
        Message::Care(Box::new(chart())),
        Message::Keep { workload: workload(), epoch: Epoch(4), checkpoints: vec![checkpoint(1)], removed: false },
        Message::Holding {
            checkpoints: vec![HeldCheckpoint {
                id: checkpoint(2),
                number: 12,
                epoch: Epoch(4),
                taken_ms: 1_795_255_872_123,
                healthy: true,
                whole: false,
            }],
        },
        Message::Have { workload: workload(), checkpoint: checkpoint(3), bytes: 70_000 },
        Message::Lack { workload: workload(), checkpoint: checkpoint(3) },
        Message::Outline,
        Message::OutlinePiece,
        Message::Want { segments: vec![Digest([6; 32]), Digest([7; 32])] },
        Message::Segment { digest: Digest([6; 32]) },
        Message::Kept { checkpoint: checkpoint(3) },
        Message::Numbered { highest: 300 },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_wire_format_is_the_golden_one() {
    let now: String = samples().iter().map(|message| hex(&encode(message).unwrap()) + "\n").collect();
    for (number, (golden, now)) in GOLDEN.lines().zip(now.lines()).enumerate() {
        assert_eq!(golden, now, "sample {number}: {:?}", samples()[number]);
    }
    assert_eq!(GOLDEN.lines().count(), samples().len(), "the golden file lacks a line; all of them now:\n{now}");
}

#[test]
fn lists_have_their_limits() {
    let want = |count| Message::Want { segments: vec![Digest([6; 32]); count] };
    let frame = encode(&want(MOST_WANTED)).unwrap();
    assert_eq!(decode(&frame).unwrap(), want(MOST_WANTED));
    let refused = |message| matches!(encode(&message), Err(CodecError::TooMany { .. }));
    assert!(refused(want(MOST_WANTED + 1)));
    let checkpoints = vec![checkpoint(1); MOST_CHECKPOINTS + 1];
    assert!(refused(Message::Keep { workload: workload(), epoch: Epoch(4), checkpoints, removed: true }));
    // What another end sends all the same.
    let body: Vec<u8> = {
        let message = want(MOST_WANTED + 1);
        bincode::serde::encode_to_vec(&message, CONFIG).unwrap()
    };
    let frame = [&Header { kind: 39, length: body.len() as u64 }.to_bytes()[..], &body].concat();
    assert!(matches!(decode(&frame), Err(CodecError::TooMany { .. })));
}

#[test]
fn every_message_has_a_sample_and_survives() {
    let mut seen: Vec<u16> = samples().iter().map(Message::kind).collect();
    seen.dedup();
    assert_eq!(seen, (1..=Message::LAST_KIND).collect::<Vec<_>>());
    for message in samples() {
        assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
    }
}

#[test]
fn every_code_has_its_place() {
    let codes = [(Code::Usage, 0), (Code::PeerVersion, 9), (Code::LinkLost, 19), (Code::Unknown, 24), (Code::Lost, 25)];
    for (code, position) in codes {
        let frame = encode(&Message::Failed(Problem::new(code, ""))).unwrap();
        assert_eq!(frame[HEADER_BYTES + 1], position, "{code:?}");
    }
}

/// A frame with this number and body, whatever they are.
fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Header { kind, length: body.len() as u64 }.to_bytes().to_vec();
    frame.extend_from_slice(body);
    frame
}

#[test]
fn nothing_may_follow_a_message() {
    let whole = encode(&Message::Ask { handover: HANDOVER }).unwrap();
    let body = [&whole[HEADER_BYTES..], &[0]].concat();
    assert!(matches!(decode(&frame(19, &body)), Err(CodecError::Trailing { kind: 19, bytes: 1 })));
    let beyond_the_header = [&whole[..], &[0]].concat();
    assert!(matches!(decode(&beyond_the_header), Err(CodecError::Length { said: 17, have: 18 })));
    assert!(matches!(decode(&whole[..whole.len() - 1]), Err(CodecError::Length { said: 17, have: 16 })));
}

#[test]
fn the_number_in_the_header_must_be_the_messages() {
    let body = [Message::Prepared.kind() as u8 - 1];
    assert!(matches!(decode(&frame(13, &body)), Err(CodecError::WrongType { said: 13, found: 11 })));
    assert!(matches!(decode(&frame(0, &body)), Err(CodecError::UnknownType { kind: 0 })));
    assert!(matches!(decode(&frame(43, &[42])), Err(CodecError::UnknownType { kind: 43 })));
}

#[test]
fn claims_of_size_cost_nothing() {
    let mut header = frame(1, &[]);
    header[8..16].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    assert!(matches!(decode(&header), Err(CodecError::Frame(FrameError::TooLong { .. }))));
    // A body of 2^60 bytes, a method of 2^60 bytes: refused without an attempt to make room.
    let huge = [253, 0, 0, 0, 0, 0, 0, 0, 0x10];
    assert!(matches!(decode(&frame(5, &[&[4], &huge[..]].concat())), Err(CodecError::Decode { kind: 5, .. })));
    assert!(matches!(decode(&frame(3, &[&[2], &huge[..]].concat())), Err(CodecError::Decode { kind: 3, .. })));
}

#[test]
fn what_the_other_side_would_refuse_is_not_sent() {
    let of_length = |bytes| Message::ResponseBody(vec![7; bytes]);
    let most = MAX_BODY_BYTES - 6;
    assert_eq!(decode(&encode(&of_length(most)).unwrap()).unwrap(), of_length(most));
    assert!(matches!(encode(&of_length(MAX_BODY_BYTES)), Err(CodecError::TooLong { kind: 5, .. })));
}

#[test]
fn whatever_can_be_sent_can_be_read() {
    let mut many = offer();
    many.needs.cpu_flags = vec!["a".to_owned(); MAX_BODY_BYTES / 2 - 1000];
    let message = Message::Offer(Box::new(many));
    assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
}

#[test]
fn the_largest_manifest_fits() {
    let longest = crate::manifest::MAX_NAME_BYTES - "image/".len();
    let name = |i: usize| StreamName::image(&format!("{i:0longest$}")).unwrap();
    let streams =
        (0..crate::manifest::MAX_STREAMS).map(|i| Stream { name: name(i), length: u64::MAX, digest: Digest([9; 32]) });
    let manifest = Manifest { streams: streams.collect(), ..manifest() };
    manifest.validate().unwrap();
    let message = Message::Complete(manifest);
    assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
}

#[test]
fn bad_names_do_not_get_through() {
    let good = encode(&Message::OpenStream { stream: 1, name: StreamName::image("a.b").unwrap() }).unwrap();
    let at = good.len() - 3;
    let mut bad = good.clone();
    bad[at..].copy_from_slice(b"../");
    assert!(decode(&good).is_ok() && decode(&bad).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn no_body_makes_it_panic(kind in 0..30_u16, body in prop::collection::vec(any::<u8>(), 0..300)) {
        let variant = kind.wrapping_sub(1) as u8;
        if let Ok(message) = decode(&frame(kind, &[&[variant], &body[..]].concat())) {
            prop_assert_eq!(message.kind(), kind);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(
        sample: prop::sample::Index, at in any::<prop::sample::Index>(), value: u8
    ) {
        let mut frame = encode(sample.get(&samples())).unwrap();
        let at = at.index(frame.len());
        frame[at] = value;
        if at < 4 && value != MAGIC[at] {
            prop_assert!(decode(&frame).is_err());
        } else if let Ok(message) = decode(&frame) {
            prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn chunks_survive(stream: u32, offset: u64, raw_len: u32, digest: [u8; 32]) {
        let message = Message::Chunk { stream, offset, raw_len, encoding: Encoding::Zstd, digest: Digest(digest) };
        prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
    }

    #[test]
    fn requests_survive(method in ".{0,9}", path in ".{0,99}", body in prop::collection::vec(any::<u8>(), 0..999)) {
        for message in [Message::Request { method, path }, Message::RequestBody(body)] {
            prop_assert_eq!(decode(&encode(&message).unwrap()).unwrap(), message);
        }
    }
}
