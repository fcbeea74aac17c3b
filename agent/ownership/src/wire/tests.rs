#![allow(clippy::unwrap_used)]

use migrate_proto::cluster::record::Refusal;
use migrate_proto::version::SPOKEN;
use openraft::{CommittedLeaderId, Entry, LogId, SnapshotMeta, StoredMembership, Vote};
use proptest::prelude::*;

use super::*;
use crate::suite::{declare, mark};

fn id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 7), index)
}

fn place() -> Place {
    Place { name: "a".parse().unwrap(), address: "a:1".to_owned() }
}

fn question(ask: Ask) -> Question {
    Question { cluster: Some(ClusterId([1; 16])), from: VoterId(1), to: Some(VoterId(u64::MAX)), ask }
}

fn append(prev: Option<LogId<u64>>, entries: Vec<Entry<Types>>) -> Ask {
    Ask::Append(AppendEntriesRequest {
        vote: Vote::new_committed(3, 7),
        prev_log_id: prev,
        entries,
        leader_commit: prev,
    })
}

fn command(at: LogId<u64>) -> Entry<Types> {
    Entry { log_id: at, payload: EntryPayload::Normal(declare("web", 1, 0)) }
}

fn members(sets: &[&[u64]], nodes: &[u64]) -> Membership<u64, Place> {
    // As it may come from outside: raft's own constructor would add the nodes that are missing.
    let nodes: std::collections::BTreeMap<u64, Place> = nodes.iter().map(|id| (*id, place())).collect();
    serde_json::from_value(serde_json::json!({ "configs": sets, "nodes": nodes })).unwrap()
}

fn snapshot(data: Vec<u8>) -> Ask {
    let membership = StoredMembership::new(Some(id(1, 0)), members(&[&[1, 2]], &[1, 2]));
    let meta = SnapshotMeta { last_log_id: Some(id(2, 9)), last_membership: membership, snapshot_id: "x".to_owned() };
    Ask::Snapshot(InstallSnapshotRequest { vote: Vote::new_committed(3, 7), meta, offset: 4, data, done: true })
}

fn read(bytes: &[u8]) -> Result<Question, WireError> {
    match decode(bytes)? {
        Message::Question(question) => Ok(question),
        Message::Answer(answer) => panic!("{answer:?}"),
    }
}

fn asks() -> Vec<Ask> {
    let follow = Entry { log_id: id(3, 6), payload: EntryPayload::Membership(members(&[&[1], &[2]], &[1, 2, 3])) };
    vec![
        Ask::Vote(VoteRequest::new(Vote::new(3, u64::MAX), Some(id(2, 9)))),
        append(None, vec![command(id(1, 0))]),
        append(Some(id(2, 4)), vec![command(id(2, 5)), follow]),
        append(Some(id(2, 4)), Vec::new()),
        snapshot(vec![0, 255, 1]),
        Ask::Propose(declare("web", 1, 0)),
        Ask::Confirm,
        Ask::Voters([VoterId(1), VoterId(u64::MAX)].into()),
        Ask::Admit(Joiner { mark: mark(1), place: place(), versions: SPOKEN }),
        Ask::Retire(VoterId(5)),
        Ask::Who,
    ]
}

#[test]
fn every_question_arrives_as_it_was_asked() {
    for ask in asks() {
        let before = format!("{:?}", question(ask.clone()));
        let bytes = question(ask).encode().unwrap();
        assert_eq!(format!("{:?}", read(&bytes).unwrap()), before);
    }
}

#[test]
fn every_answer_arrives_as_it_was_given() {
    let who = Who { id: VoterId(3), place: place(), cluster: None, leader: Some((VoterId(4), place())) };
    let refusal = Refusal::NotFenced { node: "a".parse().unwrap(), session: 3 };
    let answers = [
        Answer::Vote(VoteResponse::new(Vote::new(3, 7), Some(id(2, 9)), true)),
        Answer::Append(AppendEntriesResponse::HigherVote(Vote::new(3, 7))),
        Answer::Snapshot(InstallSnapshotResponse { vote: Vote::new(3, 7) }),
        Answer::Applied(Applied::Changed),
        Answer::Confirmed(Some(8)),
        Answer::Done,
        Answer::Who(who),
        Answer::Failed(Failure::Propose(refusal_of(refusal))),
        Answer::Failed(Failure::OtherCluster(ClusterId([2; 16]))),
    ];
    for answer in answers {
        let Message::Answer(read) = decode(&answer.encode()).unwrap() else { panic!("no answer") };
        assert_eq!(format!("{read:?}"), format!("{answer:?}"));
    }
}

fn refusal_of(refusal: Refusal) -> ProposeError {
    ProposeError::Refused(refusal)
}

#[test]
fn what_raft_would_stumble_over_is_refused() {
    let membership = |sets: &[&[u64]], nodes: &[u64]| {
        append(None, vec![Entry { log_id: id(1, 0), payload: EntryPayload::Membership(members(sets, nodes)) }])
    };
    let nonsense = [
        append(None, vec![command(id(1, 1))]),
        append(Some(id(1, 4)), vec![command(id(1, 4))]),
        append(Some(id(1, 4)), vec![command(id(1, 5)), command(id(1, 7))]),
        append(Some(id(3, 4)), vec![command(id(2, 5))]),
        membership(&[&[1, 2]], &[1]),
        membership(&[&[1], &[1], &[1]], &[1]),
        Ask::Voters((0..65).map(VoterId).collect()),
    ];
    for ask in nonsense {
        let bytes = question(ask.clone()).encode().unwrap();
        assert!(matches!(read(&bytes), Err(WireError::Nonsense(_))), "{ask:?}");
    }
}

#[test]
fn only_snapshots_have_a_bulk_and_only_there() {
    let mut bytes = question(Ask::Confirm).encode().unwrap().to_vec();
    bytes.push(1);
    assert!(matches!(decode(&bytes), Err(WireError::Nonsense(_))));
    let mut bytes = Answer::Done.encode().to_vec();
    bytes.push(1);
    assert!(matches!(decode(&bytes), Err(WireError::Nonsense(_))));
    let Ask::Snapshot(piece) = snapshot(vec![1]) else { unreachable!() };
    let head = serde_json::to_vec(&question(Ask::Snapshot(piece))).unwrap();
    assert!(matches!(decode(&frame(1, &head, &[2]).unwrap()), Err(WireError::Nonsense(_))));
}

#[test]
fn lengths_are_judged_first() {
    let long = question(snapshot(vec![0; MAX_MESSAGE_BYTES]));
    assert!(matches!(long.encode(), Err(WireError::Long { .. })));
    assert!(matches!(decode(&vec![1; MAX_MESSAGE_BYTES + 1]), Err(WireError::Long { .. })));
    let piece = usize::try_from(SNAPSHOT_PIECE_BYTES).unwrap();
    assert!(question(snapshot(vec![0; piece])).encode().is_ok());
    let good = question(Ask::Confirm).encode().unwrap();
    for length in 0..good.len() {
        assert!(decode(&good[..length]).is_err(), "{length} bytes");
    }
    let mut bytes = good.to_vec();
    bytes[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(decode(&bytes), Err(WireError::Short { .. })));
    bytes[0] = 2;
    assert!(matches!(decode(&bytes), Err(WireError::Version { version: 2 })));
}

/// The deepest nesting that commands can have.
#[test]
fn commands_within_commands_do_not_exhaust_the_stack() {
    let head = |depth: usize| {
        let mut ask = serde_json::to_value(Ask::Propose(declare("web", 1, 0))).unwrap();
        let inner = ask["Propose"].take();
        let text = format!("{}{inner}{}", r#"{"many":["#.repeat(depth), "]}".repeat(depth));
        format!(r#"{{"cluster":null,"from":1,"to":null,"ask":{{"Propose":{text}}}}}"#)
    };
    assert!(decode(&frame(1, head(20).as_bytes(), &[]).unwrap()).is_ok());
    assert!(matches!(decode(&frame(1, head(10_000).as_bytes(), &[]).unwrap()), Err(WireError::Json(_))));
}

proptest! {
    #[test]
    fn whatever_arrives_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), which in 0..11_usize, at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let _ = decode(&bytes);
        let mut good = question(asks().swap_remove(which)).encode().unwrap().to_vec();
        let at = at.index(good.len());
        good[at] ^= 1 << bit;
        let _ = decode(&good);
    }
}
