//! Frames and messages between agents: what is decoded says the same when it is encoded, and nothing that is in it upsets
//! those who judge it first.

use std::path::Path;

use migrate_proto::frame::{Header, MAGIC};
use migrate_proto::handover::answer_without_machine;
use migrate_proto::handover::source::Source;
use migrate_proto::handover::target::{Event, Target};
use migrate_proto::handover::{Budgets, Millis};
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use migrate_proto::{codec, version};

/// A frame as it is; or a type and a body, which get a header that fits.
pub(crate) fn run(input: &[u8], _: &Path) {
    let frame = match input {
        [kind, body @ ..] if !input.starts_with(&MAGIC) => {
            [&Header { kind: (*kind).into(), length: body.len() as u64 }.to_bytes(), body].concat()
        }
        _ => input.to_vec(),
    };
    let Ok(message) = codec::decode(&frame) else { return };
    let again = codec::encode(&message).expect("what was decoded can be sent");
    assert_eq!(codec::decode(&again).expect("what is sent can be decoded"), message);
    assert!(again.len() <= frame.len(), "{} bytes became {}", frame.len(), again.len());
    judge(message);
}

/// As the receiver of a first message does.
fn judge(message: Message) {
    let _ = format!("{message:?}");
    drop(answer_without_machine(&message, None));
    match message {
        Message::Hello { offer, .. } => {
            if let Ok(chosen) = version::SPOKEN.choose(offer) {
                assert!(version::SPOKEN.contains(chosen) && offer.contains(chosen), "{chosen} of {offer:?}");
            }
        }
        Message::Complete(manifest) => {
            let sane = manifest.validate().is_ok();
            assert!(!sane || !manifest.streams.is_empty());
            let _ = manifest.total_bytes();
        }
        Message::Offer(offer) => {
            let me: NodeName = "b".parse().expect("a name");
            let sane = offer.check(&me).is_ok();
            let mut source = Source::new(offer.terms(), Budgets::default());
            let mut target = Target::new(offer, me, Budgets::default());
            let commands = target.step(Millis(0), Event::Offered);
            assert!(sane || target.finished(), "an offer that is refused goes no further: {commands:?}");
            for message in [Message::Prepared, Message::Verified, Message::Restored { pid: -1 }] {
                if let Some(event) = source.heard(message) {
                    let _ = source.step(Millis(u64::MAX), event);
                }
            }
        }
        _ => {}
    }
}
