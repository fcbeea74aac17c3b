//! With the key, about handovers: a valid node that says what is not its to say. Nothing of it changes anything, and each lie is
//! answered, or ignored and told of.

use migrate_proto::error::Code;
use migrate_proto::handover::Decision;
use migrate_proto::id::{Epoch, HandoverId};
use migrate_proto::manifest::{Manifest, Stream, StreamName};
use migrate_proto::message::{Encoding, Message, Offer};
use migrate_proto::version::{SPOKEN, Versions};

use crate::fake::{Fake, HANDOVER, Talk, offer, problem, rand, soon};
use crate::field::Field;

/// What lies about handovers may cost an agent, in MiB.
const BOUND: u64 = 96;

/// A field with a workload `count` on node1 that nobody may take away or have twice.
fn guarding() -> Field {
    let field = Field::open().with_honest_moves();
    field.lab.specimen("count", "node1", &["counter"]);
    field.lab.wait_for_more_ok("count", 1);
    field
}

fn assert_untouched(field: Field) {
    let view = field.lab.view("count");
    assert_eq!((view.node.as_str(), view.epoch.0), ("node1", 1), "{view:?}");
    field.lab.assert_runs_only_on("count", "node1");
    field.lab.wait_for_more_ok("count", 2);
    // Everything that lies have left would stand in the way of this.
    field.lab.force("count", "node2");
    field.lab.assert_runs_only_on("count", "node2");
    field.lab.wait_for_more_ok("count", 2);
    field.lab.assert_clean();
}

/// What is offered, and what the refusal says.
type Lie = (&'static str, Offer, Code, &'static str);

#[test]
fn offers_of_what_is_not_ones_own() {
    let field = guarding();
    field.hold("liar: offers of others' workloads, in others' names, of impossible sizes", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        let with = |change: fn(&mut Offer)| {
            let mut lie = offer("forged", "node3", "node2", 1);
            change(&mut lie);
            lie
        };
        hold.begun();
        let lies: Vec<Lie> = vec![
            ("node2", offer("count", "node3", "node2", 0), Code::NameTaken, "node1 has it in epoch 1"),
            ("node2", offer("count", "node3", "node2", 1), Code::NameTaken, "node1 has it in epoch 1"),
            ("node2", offer("count", "node3", "node2", 99), Code::NameTaken, "node1 has it in epoch 1"),
            ("node1", offer("count", "node3", "node1", 99), Code::NameTaken, "node1 has a workload count of its own"),
            ("node2", offer("forged", "node1", "node2", 1), Code::PeerUntrusted, "in the name of node1"),
            ("node2", offer("forged", "node3", "node1", 1), Code::Corrupt, "it is for node1, and this is node2"),
            ("node2", offer("forged", "node3", "node2", u64::MAX), Code::Corrupt, "epoch cannot rise"),
            ("node2", with(|lie| lie.memory_bytes = u64::MAX), Code::Corrupt, "bytes of memory"),
            ("node2", with(|lie| lie.memory_bytes = 1 << 50), Code::NoMemory, "too little memory"),
            ("node2", with(|lie| lie.layer_bytes = 1 << 60), Code::Corrupt, "a layer of"),
            ("node2", with(|lie| lie.layer_used_bytes = 1 << 50), Code::NoDisk, "too little disk"),
            ("node2", with(|lie| lie.layer_block_bytes = 3), Code::Corrupt, "blocks of 3 bytes"),
            ("node2", with(|lie| lie.spec.argv.clear()), Code::Corrupt, "no command"),
        ];
        for (to, lie, code, words) in lies {
            let (name, epoch) = (lie.spec.name.clone(), lie.epoch);
            let mut talk = fake.call(to, HANDOVER).await;
            talk.say(&Message::Offer(Box::new(lie))).await;
            let problem = talk.refusal().await;
            assert_eq!(problem.code, code, "{name} {epoch}: {problem}");
            assert!(problem.message.contains(words), "{name} {epoch}: {problem}");
        }
        hold.over().await;
    });
    field.assert_told("node3 offered forged in the name of node1");
    assert_untouched(field);
}

#[test]
fn words_about_handovers_that_there_are_not() {
    let field = guarding();
    field.hold("liar: decisions without an offer, words out of place", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        let handover = HandoverId(rand());
        hold.begun();
        for to in ["node1", "node2"] {
            let answer = |decision| Message::Answer { handover, decision };
            for decision in [None, Some(Decision::Abort), Some(Decision::Commit)] {
                assert_eq!(fake.tell(to, &answer(decision)).await, None);
            }
            assert_eq!(fake.tell(to, &Message::Abort { handover, problem: problem() }).await, None);
            assert_eq!(fake.tell(to, &Message::Done { handover }).await, None);
            // This has an answer, which says that it is over, and changes nothing.
            let resumed = Message::Resumed { handover, pid: 1 };
            assert_eq!(fake.tell(to, &resumed).await, Some(Message::Done { handover }));
            // Of these the agent knows nothing, and an answer would be a guess.
            assert_eq!(fake.tell(to, &Message::Commit { handover, epoch: Epoch(2) }).await, None);
            assert_eq!(fake.tell(to, &Message::Ask { handover }).await, None);
            for odd in [
                Message::Prepared,
                Message::Verified,
                Message::Restored { pid: 1 },
                Message::LayerAheadDone { blocks: 0 },
                Message::Failed(problem()),
                Message::Accepted { free_memory: 1, free_disk: 1 },
                Message::Complete(manifest("node3", 1)),
                Message::ResponseEnd,
            ] {
                assert_eq!(fake.tell(to, &odd).await, None, "{odd:?}");
            }
        }
        hold.over().await;
    });
    assert_untouched(field);
}

fn manifest(made_by: &str, epoch: u64) -> Manifest {
    let streams = vec![Stream {
        name: StreamName::layer(),
        length: 1,
        digest: migrate_proto::id::Digest::of(b"nothing like it"),
    }];
    Manifest::new("4.2.0".into(), made_by.parse().unwrap(), Epoch(epoch), streams)
}

#[test]
fn greetings_that_are_not_right() {
    let field = guarding();
    field.hold("liar: versions that nobody speaks, another node's name", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        hold.begun();
        for (offer, older) in [(Versions { min: 2, max: 9 }, "node2"), (Versions { min: 0, max: 0 }, "node3")] {
            let mut talk = fake.open("node2", HANDOVER).await.unwrap();
            let Message::Refused(problem) = talk.greet(offer, fake.facts()).await else { panic!("welcome") };
            assert_eq!(problem.code, Code::PeerVersion);
            assert_eq!(
                problem.message,
                format!(
                    "there is no protocol version that both agents know: node2 speaks {} to {}, node3 speaks {} to {}",
                    SPOKEN.min, SPOKEN.max, offer.min, offer.max
                )
            );
            assert_eq!(problem.hint, format!("upgrade the agent on {older}"));
        }
        let mut talk = fake.open("node2", HANDOVER).await.unwrap();
        let mut facts = fake.facts();
        facts.node = "node1".parse().unwrap();
        let Message::Refused(problem) = talk.greet(SPOKEN, facts).await else { panic!("welcome") };
        assert_eq!((problem.code, &*problem.message), (Code::PeerUntrusted, "node3 says that it is node1"));
        hold.over().await;
    });
    assert_untouched(field);
}

/// An offer that is taken, of a workload that does not exist.
async fn accepted(fake: &Fake, lie: &Offer) -> Talk {
    let taking = async {
        loop {
            let mut talk = fake.call("node2", HANDOVER).await;
            talk.say(&Message::Offer(Box::new(lie.clone()))).await;
            match talk.answer_or_end().await {
                Some(Message::Accepted { .. }) => return talk,
                // What the one before it of this name has left is still being removed.
                Some(Message::Refused(problem)) if problem.code == Code::Busy => {}
                other => panic!("not accepted: {other:?}"),
            }
        }
    };
    soon(taking).await
}

/// What the target says about it in the end.
async fn failure(talk: &mut Talk) -> migrate_proto::error::Problem {
    loop {
        match talk.answer_or_end().await {
            Some(Message::Failed(problem)) => return problem,
            Some(Message::Prepared) => {}
            other => panic!("it did not fail: {other:?}"),
        }
    }
}

#[test]
fn offers_that_are_taken_and_then_lied_about() {
    let field = guarding();
    field.hold("liar: chunks of 4 GiB, too many streams, false manifests, one number twice", BOUND, async |hold| {
        let fake = Fake::start(&field, "node3").await;
        hold.begun();
        let chunk = |stream, offset, raw_len| Message::Chunk {
            stream,
            offset,
            raw_len,
            encoding: Encoding::Zstd,
            digest: migrate_proto::id::Digest::of(b"no such bytes"),
        };
        let layer = u32::MAX;
        let bulk = bytes::Bytes::from_static(b"(\xb5/\xfd no zstd");
        for lie in [chunk(0, 0, u32::MAX), chunk(0, u64::MAX, 1 << 20), chunk(0, 0, 5), chunk(layer, 1 << 50, 1 << 16)]
        {
            let mut talk = accepted(&fake, &offer("forged", "node3", "node2", 1)).await;
            // A refused chunk is told with a later one.
            for _ in 0..8 {
                let _ = talk.try_say(&lie, bulk.clone()).await;
            }
            let _ = talk.try_say(&Message::LayerAheadDone { blocks: 0 }, bytes::Bytes::new()).await;
            let problem = failure(&mut talk).await;
            assert_eq!(problem.code, Code::Corrupt, "{lie:?}: {problem}");
        }
        let mut talk = accepted(&fake, &offer("forged", "node3", "node2", 1)).await;
        for stream in 0..=migrate_proto::manifest::MAX_STREAMS as u32 {
            let name = StreamName::image(&format!("pages-{stream}.img")).unwrap();
            if talk.try_say(&Message::OpenStream { stream, name }, bytes::Bytes::new()).await.is_err() {
                break;
            }
        }
        assert!(failure(&mut talk).await.message.contains("one too many"));

        // The number of a handover that is under way: what that one has stays.
        let first = offer("forged", "node3", "node2", 1);
        let mut talk = accepted(&fake, &first).await;
        let second = Offer { spec: offer("other", "node3", "node2", 1).spec, ..first.clone() };
        let mut again = fake.call("node2", HANDOVER).await;
        again.say(&Message::Offer(Box::new(second))).await;
        assert!(again.refusal().await.message.contains("a handover of this number"));
        // The same name, under another number: it is being received.
        let mut again = fake.call("node2", HANDOVER).await;
        again.say(&Message::Offer(Box::new(offer("forged", "node3", "node2", 5)))).await;
        assert_eq!(again.refusal().await.code, Code::Busy);
        // Decisions before anything was sent do nothing; the manifest that comes then is compared.
        for early in [
            Message::Commit { handover: first.handover, epoch: Epoch(2) },
            Message::Answer { handover: first.handover, decision: Some(Decision::Commit) },
            Message::Done { handover: first.handover },
        ] {
            talk.say(&early).await;
        }
        talk.say(&Message::LayerAheadDone { blocks: 0 }).await;
        loop {
            match talk.answer_or_end().await {
                Some(Message::Prepared) => break,
                other => assert!(matches!(other, Some(Message::Verified)), "{other:?}"),
            }
        }
        talk.say(&Message::Complete(manifest("node1", 1))).await;
        let problem = failure(&mut talk).await;
        assert!(problem.message.contains("the image was made by node1"), "{problem}");

        let mut talk = accepted(&fake, &offer("forged", "node3", "node2", 1)).await;
        talk.say(&Message::LayerAheadDone { blocks: 0 }).await;
        assert_eq!(talk.answer_or_end().await, Some(Message::Prepared));
        talk.say(&Message::Complete(manifest("node3", 1))).await;
        let problem = failure(&mut talk).await;
        assert!(problem.message.contains("the layer has another digest"), "{problem}");
        hold.over().await;
    });
    field.assert_told("node3 made an offer under the number of a handover that is under way");
    assert!(field.lab.ps().iter().all(|view| view.name.as_str() != "forged"));
    assert_untouched(field);
}
