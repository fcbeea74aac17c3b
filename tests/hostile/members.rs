//! With the key, against the transport: a valid node that says nothing, dawdles, floods, does not listen, repeats, or announces
//! lengths that there cannot be.

use std::time::Duration;

use bytes::Bytes;
use migrate_proto::codec;
use migrate_proto::message::Message;
use migrate_proto::version::SPOKEN;
use migrate_transport::door::incoming::MOST_CONNECTIONS_OF_A_PEER;
use migrate_transport::door::outgoing;
use migrate_transport::link::{Link, Transport};
use migrate_transport::session::{PARCEL_COST, SessionId, WINDOW};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{Fake, HANDOVER, REQUEST, address_of, identity, rand, soon};
use crate::field::Field;
use crate::wire::{DATA, Header, OPEN, REFUSED, STATUS, WELCOME, zmtp_greeting};

/// What one member may cost an agent, in MiB, with the honest moves of the meantime: 4 sessions with 16 MiB unread and 60 with 3,
/// the buffers of their 64 connections (some 1.2 each), and 60 for the moves.
const BOUND: u64 = 4 * 16 + 60 * 3 + 77 + 60;

/// The greeting of ZMTP 3 and a READY command.
fn introduction(identity: &str) -> Vec<u8> {
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0".to_vec();
    ready.push(identity.len() as u8);
    ready.extend_from_slice(identity.as_bytes());
    [zmtp_greeting(), vec![4, ready.len() as u8], ready].concat()
}

/// A connection through the door that has not said anything yet.
async fn inside(field: &Field) -> Option<impl AsyncReadExt + AsyncWriteExt + Unpin + use<>> {
    soon(outgoing::connect(&identity(field, "node3"), &address_of("node2"))).await.ok()
}

async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    soon(async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} }).await;
}

#[test]
fn links_that_say_nothing_dawdle_or_announce_too_much() {
    let field = Field::open().with_honest_moves();
    field.hold("member: as many connections as it gets, all silent", BOUND, async |hold| {
        let mut links = Vec::new();
        for number in 0..MOST_CONNECTIONS_OF_A_PEER + 40 {
            let Some(mut stream) = inside(&field).await else { continue };
            let _ = stream.write_all(&introduction(&format!("node3/silent-{number}"))).await;
            links.push(stream);
        }
        hold.here().await;
        for stream in &mut links {
            until_closed(stream).await;
        }
    });
    field.assert_logged("node2", "too many of its links have not said what they are for");
    field.hold("member: one byte a second of ZMTP", BOUND, async |hold| {
        let introduction = introduction("node3/slow");
        let mut stream = inside(&field).await.unwrap();
        hold.begun();
        // Attackers have clocks: this is the attack, not a wait for something.
        let mut said = 0;
        for byte in introduction {
            let heard = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 256])).await;
            if matches!(heard, Ok(Ok(0) | Err(_))) || stream.write_all(&[byte]).await.is_err() {
                break;
            }
            let _ = stream.flush().await;
            said += 1;
        }
        assert!(said < 40, "{said} bytes in as many seconds");
        hold.over().await;
    });
    field.hold("member: ZMTP frames of 1 TiB", BOUND, async |hold| {
        hold.begun();
        for number in 0..8 {
            let mut stream = inside(&field).await.unwrap();
            let mut bytes = introduction(&format!("node3/long-{number}"));
            bytes.extend([2, 0, 0, 1, 0, 0, 0, 0, 0]);
            let _ = stream.write_all(&bytes).await;
            let mebibyte = vec![0; 1 << 20];
            while stream.write_all(&mebibyte).await.is_ok() {}
            until_closed(&mut stream).await;
        }
        hold.over().await;
    });
    field.assert_logged("node2", "a frame of 1099511627776 bytes is over the limit");
    field.lab.assert_clean();
}

/// A link on which a session has been opened by hand; what the answer was.
async fn open_by_hand(fake: &Fake, session: [u8; 16], purpose: u8, attempt: u64) -> (Link, Option<Header>) {
    open_granting(fake, session, purpose, attempt, WINDOW).await
}

/// The same, with so much credit for what the agent says.
async fn open_granting(
    fake: &Fake,
    session: [u8; 16],
    purpose: u8,
    attempt: u64,
    grant: u64,
) -> (Link, Option<Header>) {
    let mut link = soon(fake.transport.connect(&address_of("node2"))).await.unwrap();
    let open = Header { detail: purpose, grant, ..Header::new(OPEN, session, attempt) };
    link.sender.send(open.frames(&[])).await.unwrap();
    let answer = soon(link.receiver.recv()).await.ok().map(|frames| Header::read(&frames));
    (link, answer)
}

fn hello(fake: &Fake) -> Bytes {
    codec::encode(&Message::Hello { offer: SPOKEN, facts: fake.facts() }).unwrap().into()
}

async fn send(link: &mut Link, session: [u8; 16], number: u64, parts: &[Bytes]) -> bool {
    link.sender.send(Header::new(DATA, session, number).frames(parts)).await.is_ok()
}

/// How many messages come until the link is cut; none of a kind that begins a parcel's answer twice.
async fn parcels_until_cut(link: &mut Link) -> usize {
    let mut parcels = 0;
    while let Ok(frames) = soon(link.receiver.recv()).await {
        parcels += usize::from(Header::read(&frames).kind == DATA);
    }
    parcels
}

#[test]
fn sessions_replayed_repeated_and_reordered() {
    let field = Field::open().with_honest_moves();
    field.hold("member: old session ids, old numbers, reordered and repeated parcels", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        let list: Bytes =
            codec::encode(&Message::Request { method: "GET".into(), path: "/v1/health".into() }).unwrap().into();
        let end: Bytes = codec::encode(&Message::RequestEnd).unwrap().into();

        // Repeated parcels: the request is answered once, and who goes on repeating is cut off.
        let id = rand();
        let (mut link, welcome) = open_by_hand(&fake, id, REQUEST, 1).await;
        assert_eq!(welcome.unwrap().kind, WELCOME);
        for (number, part) in [(1, hello(&fake)), (2, list.clone()), (3, end.clone())] {
            for _ in 0..3 {
                assert!(send(&mut link, id, number, std::slice::from_ref(&part)).await);
            }
        }
        hold.begun();
        let mut repeats = 0;
        while repeats < 20_000 && send(&mut link, id, 2, std::slice::from_ref(&list)).await {
            repeats += 1;
            // Lets the other end be heard.
            tokio::task::yield_now().await;
        }
        // Welcome to the conversation, head, body, end: each once.
        assert!(parcels_until_cut(&mut link).await <= 4);

        // The session has ended: its id opens nothing any more, whatever attempt it says it is.
        for attempt in [1, 2, u64::MAX] {
            // Just then it may be ending: who comes at that moment gets no answer, and comes again.
            let answer = soon(async {
                loop {
                    if let (_, Some(answer)) = open_by_hand(&fake, id, REQUEST, attempt).await {
                        return answer;
                    }
                }
            });
            assert_eq!(answer.await.kind, REFUSED, "attempt {attempt}");
        }

        // Reordered: what is missing is not guessed, the link is left.
        let id = rand();
        let (mut link, _) = open_by_hand(&fake, id, REQUEST, 1).await;
        send(&mut link, id, 2, std::slice::from_ref(&list)).await;
        assert_eq!(parcels_until_cut(&mut link).await, 0);
        // An attempt that is older than the one that was: not answered.
        let (_newer, welcome) = open_by_hand(&fake, id, REQUEST, 7).await;
        assert_eq!(welcome.unwrap().kind, WELCOME);
        let (_older, answer) = open_by_hand(&fake, id, REQUEST, 6).await;
        assert!(answer.is_none(), "{answer:?}");

        // Another node cannot take a session up.
        let stranger = Fake::start(&field, "node4").await;
        let mut link = soon(stranger.transport.connect(&address_of("node2"))).await.unwrap();
        link.sender.send(Header::new(2, id, 8).frames(&[])).await.unwrap();
        assert_eq!(Header::read(&soon(link.receiver.recv()).await.unwrap()).kind, REFUSED);

        // Acknowledged what was never sent.
        let id = rand();
        let (mut link, _) = open_by_hand(&fake, id, REQUEST, 1).await;
        let lie = Header { received: 1 << 40, ..Header::new(STATUS, id, 0) };
        link.sender.send(lie.frames(&[])).await.unwrap();
        assert_eq!(parcels_until_cut(&mut link).await, 0);
        hold.over().await;
    });
    field.lab.assert_clean();
}

#[test]
fn more_than_it_may_and_never_listening() {
    let field = Field::open().with_honest_moves();
    field.hold("member: as many sessions as it gets, each filled to its credit and not read", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        let mut links = Vec::new();
        // It grants nothing for an answer: until the agent gives up waiting, nobody reads on.
        let is_full = loop {
            let id = rand();
            match open_granting(&fake, id, HANDOVER, 1, 0).await {
                (link, Some(answer)) if answer.kind == WELCOME => links.push((id, link, answer.grant)),
                (_, Some(answer)) if answer.kind == REFUSED => break true,
                _ if links.len() > 200 => break false,
                _ => {}
            }
        };
        assert!(is_full, "{} sessions were opened and none refused", links.len());
        let bulk = Bytes::from(vec![7; 1 << 20]);
        let cost = |parcel: &[Bytes]| parcel.iter().map(|part| part.len() as u64).sum::<u64>() + PARCEL_COST;
        let mut filled = 0;
        for (id, link, grant) in &mut links {
            let filling = [Bytes::from_static(b"x"), bulk.clone()];
            let mut used = cost(&[hello(&fake)]);
            let mut number = 1;
            let mut goes_on = send(link, *id, number, &[hello(&fake)]).await;
            while goes_on && used + cost(&filling) <= *grant {
                number += 1;
                goes_on = send(link, *id, number, &filling).await;
                used += cost(&filling);
            }
            filled += used;
        }
        println!("{} sessions were opened and filled with {} MiB", links.len(), filled >> 20);
        hold.here().await;
    });
    field.hold("member: sessions filled beyond their credit", BOUND, async |hold| {
        // Another name: the sessions of the first are still being given up.
        let fake = Fake::start(&field, "node4").await;
        let bulk = Bytes::from(vec![7; 1 << 20]);
        hold.begun();
        for _ in 0..20 {
            let id = rand();
            let (mut link, answer) = open_granting(&fake, id, HANDOVER, 1, 0).await;
            assert_eq!(answer.map(|header| header.kind), Some(WELCOME));
            send(&mut link, id, 1, &[hello(&fake)]).await;
            for number in 2..20 {
                send(&mut link, id, number, &[Bytes::from_static(b"x"), bulk.clone()]).await;
            }
            // It is ended for that.
            parcels_until_cut(&mut link).await;
        }
        hold.over().await;
    });
    field.hold("member: asks without end and never listens", BOUND, async |hold| {
        let fake = Fake::start(&field, "node5").await;
        let request = Message::Request { method: "GET".into(), path: "/v1/events?follow=true".into() };
        let request: Bytes = codec::encode(&request).unwrap().into();
        let mut deaf = Vec::new();
        for _ in 0..32 {
            let id = rand();
            let (mut link, answer) = open_by_hand(&fake, id, REQUEST, 1).await;
            if answer.map(|header| header.kind) == Some(WELCOME) {
                send(&mut link, id, 1, &[hello(&fake)]).await;
                send(&mut link, id, 2, std::slice::from_ref(&request)).await;
                // More than is ever answered with is granted, and none of it read.
                let grant = Header { grant: u64::MAX, ..Header::new(STATUS, id, 0) };
                let _ = link.sender.send(grant.frames(&[])).await;
                deaf.push(link);
            }
        }
        assert_eq!(deaf.len(), 32, "not all of them were let in");
        hold.here().await;
    });
    field.lab.assert_clean();
}

#[test]
fn words_that_no_agent_says() {
    let field = Field::open().with_honest_moves();
    field.hold("member: messages of 1 TiB, unknown ones, none at all", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        let mut tebibyte = codec::encode(&Message::ResponseEnd).unwrap();
        tebibyte[8..16].copy_from_slice(&(1_u64 << 40).to_be_bytes());
        let mut unknown = codec::encode(&Message::ResponseEnd).unwrap();
        unknown[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
        // A list of 2^60 flags in a body of a few bytes.
        let mut claims = codec::encode(&Message::ResponseBody(vec![1; 20])).unwrap();
        let body = claims.len() - 21;
        claims[body] = 253;
        claims[body + 1..body + 9].copy_from_slice(&(1_u64 << 60).to_le_bytes());
        hold.begun();
        for bytes in [tebibyte, unknown, claims, Vec::new(), vec![0xff; 1 << 20]] {
            for purpose in [0, REQUEST, HANDOVER, 255] {
                let talk = fake.open("node2", purpose).await.unwrap();
                let parcel = migrate_transport::parcel::Parcel::message(bytes.clone());
                let _ = soon(talk.sender.send(parcel)).await;
                let mut talk = talk;
                assert!(talk.answer_or_end().await.is_none());
            }
        }
        // A session that is opened and on which nothing is said does not stay either.
        let mut silent = fake.open_as("node2", HANDOVER, SessionId(rand())).await.unwrap();
        assert!(silent.answer_or_end().await.is_none());
        hold.over().await;
    });
    field.lab.assert_clean();
}
