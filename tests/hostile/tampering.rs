//! Lies about the bytes and the decision of a real move: a node with the key passes it on and changes something. Before the
//! decision the workload stays where it was and the reason is told; after it, nobody but its two sides has a say.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use migrate_proto::api::{MoveReport, Outcome};
use migrate_proto::error::Code;
use migrate_proto::handover::Decision;
use migrate_proto::id::{Digest, Epoch, HandoverId};
use migrate_proto::message::{Encoding, Message};
use migrate_proto::version::{SPOKEN, Versions};
use migrate_transport::session::Acceptor;
use tokio::sync::oneshot;

use crate::between::{Between, Tamper, To, Word, pass};
use crate::fake::{Fake, HANDOVER, TIMING, Talk, problem};
use crate::field::{Field, PORT};
use crate::harness::{Output, eventually};
use crate::refusal::Refusal;

/// Streams from here on are no image's.
const FIRST_SPECIAL: u32 = u32::MAX - 1;

fn counting() -> Field {
    let field = Field::with_a_place_to_take();
    field.lab.specimen("count", "node1", &["memory", "--mib", "8"]);
    field.lab.wait_for_more_ok("count", 1);
    field
}

/// Has `work` done while somebody attacks, who tells when it can begin.
fn meanwhile<T>(field: &Field, attack: impl AsyncFnOnce(Sender<()>) + Send, work: impl FnOnce() -> T) -> T {
    let (ready, stands) = channel();
    let (end, ended) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        // Dropped however this ends: then the attack is over.
        let end = end;
        scope.spawn(move || {
            field.attack(async move || {
                tokio::select! {
                    () = attack(ready) => {}
                    _ = ended => {}
                }
            });
        });
        stands.recv().unwrap();
        let result = work();
        drop(end);
        result
    })
}

/// Has `work` done while somebody stands on the way to node3 and changes what is said.
fn on_the_way<T>(field: &Field, tamper: &mut Tamper<'_>, work: impl FnOnce() -> T) -> T {
    let stand = async |ready: Sender<()>| {
        let between = Between::stand(field).await;
        ready.send(()).unwrap();
        between.pass_on(tamper).await;
    };
    meanwhile(field, stand, work)
}

fn is_image(message: &Message) -> bool {
    matches!(message, Message::Chunk { stream, .. } if *stream < FIRST_SPECIAL)
}

/// The move fails with these words, for a person and for a program, and the workload goes on on node1; afterwards an honest
/// move succeeds. No check can foretell what somebody will do on the way.
fn assert_refused(mut tamper: impl FnMut(To, Message, Bytes) -> Vec<Word> + Send, says: &[&str], hint: &str) {
    let field = counting();
    let lab = &field.lab;
    let before = lab.view("count");
    on_the_way(&field, &mut tamper, || {
        let output = lab.migrate(["--force", "count", "--to", "node3"]);
        assert_eq!((output.code(), &*output.stdout), (1, ""), "{output:?}");
        let (what, rest) = output.stderr.split_once('\n').unwrap();
        assert!(what.starts_with("error: ") && says.iter().all(|word| what.contains(word)), "{says:?}: {output:?}");
        assert!(rest.contains("count: stayed on node1 (epoch 1)"), "{output:?}");
        let told = rest.lines().find_map(|line| line.trim_start().strip_prefix("hint: ")).unwrap_or("");
        assert!(!told.is_empty() && told.contains(hint), "{output:?}");

        let (output, report) = lab.try_force("count", "node3");
        let report = report.unwrap_or_else(|| panic!("no report: {output:?}"));
        assert_eq!((report.outcome, output.code()), (Outcome::Stayed, 1), "{output:?}");
        assert_eq!(report.error.map(|error| error.code), Some(Code::Corrupt), "{output:?}");
    });
    let after = lab.view("count");
    assert_eq!((after.pid, after.epoch), (before.pid, before.epoch), "another process: {after:?}");
    lab.assert_goes_on("count", "node1");
    assert!(eventually(|| lab.processes("node2", "count").is_empty()), "something of it is left on node2");
    lab.force("count", "node2");
    lab.assert_goes_on("count", "node2");
    field.lab.assert_clean();
}

/// The move has moved it, once, and the lies on the way were told of.
fn assert_moved(field: Field, (output, report): (Output, Option<MoveReport>), told: &str) {
    let report = report.unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(report.outcome, Outcome::Moved, "{output:?}");
    field.assert_told(told);
    field.lab.assert_runs_only_on("count", "node2");
    assert_eq!(field.lab.view("count").epoch, Epoch(2));
    field.lab.wait_for_more_ok("count", 2);
    field.lab.assert_clean();
}

#[test]
fn a_corrupt_chunk() {
    let tamper = |to, message, bulk: Bytes| {
        let damaged = is_image(&message) && !bulk.is_empty();
        let mut bytes = bulk.to_vec();
        if damaged {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        pass(to, message, bytes.into())
    };
    assert_refused(tamper, &["what arrived", "chunk "], "try again");
}

#[test]
fn a_chunk_with_a_wrong_digest() {
    let tamper = |to, mut message, bulk: Bytes| {
        if let Message::Chunk { stream: ..FIRST_SPECIAL, encoding: Encoding::Raw | Encoding::Zstd, digest, .. } =
            &mut message
        {
            *digest = Digest::of(b"something else");
        }
        pass(to, message, bulk)
    };
    assert_refused(tamper, &["digest differs"], "try again");
}

#[test]
fn a_truncated_stream() {
    // The last chunk of the image that came so far is held back; what the manifest says is then not there.
    let mut held = None;
    let tamper = move |to, message: Message, bulk: Bytes| match &message {
        Message::Offer(_) => {
            held = None;
            pass(to, message, bulk)
        }
        _ if is_image(&message) => held.replace((to, message, bulk)).into_iter().collect(),
        _ => pass(to, message, bulk),
    };
    assert_refused(tamper, &["came"], "try again");
}

#[test]
fn a_manifest_with_a_wrong_digest() {
    let tamper = |to, mut message, bulk: Bytes| {
        if let Message::Complete(manifest) = &mut message {
            manifest.streams.last_mut().unwrap().digest = Digest::of(b"something else");
        }
        pass(to, message, bulk)
    };
    assert_refused(tamper, &["digest differs"], "try again");
}

#[test]
fn a_manifest_of_another_epoch() {
    let tamper = |to, mut message, bulk: Bytes| {
        if let Message::Complete(manifest) = &mut message {
            manifest.epoch = Epoch(7);
        }
        pass(to, message, bulk)
    };
    assert_refused(tamper, &["in epoch 7", "offered was one of node1 in epoch 1"], "agent");
}

/// An agent of another version at the other end: the one that is called says so.
#[test]
fn an_incompatible_protocol_version() {
    let field = counting();
    let newer = Versions { min: SPOKEN.max + 1, max: SPOKEN.max + 2 };
    let answer = async |ready: Sender<()>| {
        let host = Fake::listening(&field, "node3", PORT).await;
        let mut acceptor = Acceptor::start(host.transport.clone(), TIMING);
        ready.send(()).unwrap();
        while let Some(session) = acceptor.next().await {
            let mut talk = Talk::of(session);
            let Some((Message::Hello { offer, .. }, _)) = talk.hear().await else { continue };
            let refusal = newer.choose(offer).unwrap_err();
            talk.say(&Message::Refused(refusal)).await;
            let _ = tokio::time::timeout(TIMING.silence, talk.sender.close()).await;
        }
    };
    let expected = Refusal {
        code: "peer-version",
        exit: 1,
        says: &["no common protocol version", "2 to 3", "1 to 1"],
        hint: "upgrade the agent",
    };
    meanwhile(&field, answer, || field.lab.assert_stays("count", "node1", "node3", &expected));
    field.lab.force("count", "node2");
    field.lab.assert_goes_on("count", "node2");
    field.lab.assert_clean();
}

/// The epoch in `Commit` is wrong, and after the decision an `Abort` comes: the target is held until it hears what is right,
/// and then stays what it has become.
#[test]
fn a_wrong_epoch_in_the_commit_and_an_abort_after_it() {
    let field = counting();
    let mut commits = 0;
    let mut tamper = |to, mut message, bulk: Bytes| match &mut message {
        Message::Commit { handover, epoch } => {
            commits += 1;
            let (handover, right) = (*handover, *epoch);
            if commits == 1 {
                let wrong = |epoch| (To::Target, Message::Commit { handover, epoch }, Bytes::new());
                return [1, 3, u64::MAX].map(|epoch| wrong(Epoch(epoch))).into();
            }
            assert_eq!(right, Epoch(2));
            // Its own source, it seems, has changed its mind: too late.
            let abort = Message::Abort { handover, problem: problem() };
            let no = Message::Answer { handover, decision: Some(Decision::Abort) };
            [vec![(to, message, bulk)], vec![(To::Target, abort, Bytes::new()), (To::Target, no, Bytes::new())]]
                .concat()
        }
        // What the target asks meanwhile is not answered, so that it waits for the next commit.
        Message::Ask { .. } => Vec::new(),
        _ => pass(to, message, bulk),
    };
    let moved = on_the_way(&field, &mut tamper, || field.lab.try_force("count", "node3"));
    assert_moved(field, moved, "and 2 must follow");
}

/// While the target waits for the decision, and while the source waits to hear that it was heard, a third node that knows the
/// handover's number speaks in everybody's name but its own.
#[test]
fn a_third_node_decides_nothing() {
    let field = counting();
    let seen: Arc<Mutex<Option<HandoverId>>> = Arc::default();
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (noted, gate) = (seen.clone(), open.clone());
    // The true decision is held back until the third node has said everything; the source says it again and again.
    let mut tamper = move |to, message: Message, bulk: Bytes| match &message {
        Message::Commit { handover, .. } if !gate.load(Ordering::Relaxed) => {
            noted.lock().unwrap().replace(*handover);
            Vec::new()
        }
        Message::Ask { .. } => Vec::new(),
        _ => pass(to, message, bulk),
    };
    let moved = on_the_way(&field, &mut tamper, || {
        std::thread::scope(|scope| {
            let moving = scope.spawn(|| field.lab.try_force("count", "node3"));
            assert!(eventually(|| seen.lock().unwrap().is_some()), "there was no decision");
            let handover = seen.lock().unwrap().unwrap();
            field.attack(async || {
                let third = Fake::start(&field, "node4").await;
                for message in [
                    Message::Commit { handover, epoch: Epoch(2) },
                    Message::Answer { handover, decision: Some(Decision::Commit) },
                    Message::Abort { handover, problem: problem() },
                    Message::Answer { handover, decision: Some(Decision::Abort) },
                    Message::Done { handover },
                    Message::Ask { handover },
                    Message::Resumed { handover, pid: 1 },
                ] {
                    for to in ["node1", "node2"] {
                        let mut talk = third.call(to, HANDOVER).await;
                        talk.say(&message).await;
                        assert_eq!(talk.answer_or_end().await, None, "{message:?} to {to}");
                    }
                }
            });
            // Held, not running and not gone: it has said nothing since, and nobody thinks that it runs.
            let views = field.lab.ps();
            assert!(views.iter().all(|view| view.node.as_str() != "node2" || view.pid.is_none()), "{views:?}");
            assert!(!field.lab.processes("node2", "count").is_empty(), "what was held is gone");
            open.store(true, Ordering::Relaxed);
            moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    assert_moved(field, moved, "which is between others");
}
