#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::cluster::lease::{Ack, Ask, Lapse, LogId, Nanos, Renew, Terms, Voters};
use crate::cluster::{Claim, ClusterId, VoterId};
use crate::datagram::{Figures, Here, Who};
use crate::error::{Code, Problem};
use crate::id::StateMark;
use crate::version::Versions;

/// One line per sample: its kind and its body in hexadecimal. Regenerate a line only when a *new* kind is added.
const GOLDEN: &str = include_str!("golden.txt");

fn samples() -> Vec<Datagram> {
    let claim = Claim { node: "a".parse().unwrap(), session: 7 };
    let terms = Terms::new(1_500_000_000, 10_000).unwrap();
    let voter = VoterId(u64::MAX);
    let sets = vec![[1, 2, 3].map(VoterId).into(), [voter].into()];
    let voters = Voters { config: LogId { term: 2, index: 300 }, sets };
    let versions = Versions { min: 1, max: 2 };
    let mark = StateMark([9; 8]);
    let here = Here {
        question: 5,
        mark,
        versions,
        cluster: Some(ClusterId([0xab; 16])),
        address: "10.0.0.1:7700".to_owned(),
        refused: Some(Problem::new(Code::NameTaken, "taken").hint("another")),
    };
    let figures = Figures {
        generation: 1_795_255_872,
        count: 3,
        cpu_permille: 505,
        memory_used_bytes: 1 << 30,
        memory_total_bytes: 1 << 34,
        disk_free_bytes: 1 << 40,
        workloads: 12,
        slowness: 1,
        agent_version: "0.1.0".to_owned(),
        criu_version: None,
    };
    vec![
        Datagram::Renew(Renew { claim: claim.clone(), sent: Nanos(1 << 40), terms }),
        Datagram::Ack(Ack { voter, claim: claim.clone(), sent: Nanos(1), voters, terms }),
        Datagram::Ask(Ask { claim: claim.clone(), gather: Nanos(2), terms }),
        Datagram::Lapse(Lapse { voter, claim, gather: Nanos(2), terms }),
        Datagram::Who(Who { question: 5, mark, versions, cluster: None }),
        Datagram::Here(here.clone()),
        Datagram::Here(Here { cluster: None, refused: None, ..here }),
        Datagram::Figures(figures.clone()),
        Datagram::Figures(Figures { criu_version: Some("4.2.1".to_owned()), ..figures }),
    ]
}

fn line(datagram: &Datagram) -> String {
    let body = encode(datagram).unwrap();
    std::iter::once(datagram.kind()).chain(body).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_the_golden_ones() {
    let now: Vec<String> = samples().iter().map(line).collect();
    assert_eq!(GOLDEN.lines().collect::<Vec<_>>(), now, "all of them now:\n{}", now.join("\n"));
}

#[test]
fn what_is_said_is_heard() {
    for sample in samples() {
        assert_eq!(decode(sample.kind(), &encode(&sample).unwrap()).unwrap(), sample);
    }
}

#[test]
fn nothing_may_follow_and_nothing_be_missing() {
    for sample in samples() {
        let (kind, body) = (sample.kind(), encode(&sample).unwrap());
        let longer = [&body[..], &[0]].concat();
        assert!(matches!(decode(kind, &longer), Err(DatagramError::Trailing { bytes: 1, .. })), "{sample:?}");
        for length in 0..body.len() {
            assert!(decode(kind, &body[..length]).is_err(), "{sample:?} cut to {length}");
        }
    }
}

#[test]
fn what_no_agent_sends_is_refused() {
    for kind in [0, 1, 6, 8, 11, 255] {
        assert!(matches!(decode(kind, &[]), Err(DatagramError::UnknownKind(_))), "{kind}");
    }
    assert!(matches!(decode(7, &[0; MAX_DATAGRAM_BYTES + 1]), Err(DatagramError::TooLong { .. })));
    let Datagram::Here(here) = samples().swap_remove(5) else { panic!("another sample") };
    let long = Here { address: "x".repeat(MAX_DATAGRAM_BYTES), ..here };
    assert!(matches!(encode(&Datagram::Here(long)), Err(DatagramError::TooLong { .. })));
    // A claim of a size that no datagram has.
    assert!(decode(10, &[1, 1, 1, 1, 1, 1, 1, 1, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_datagram_or_an_error(kind in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(datagram) = decode(kind, &body) {
            prop_assert_eq!(datagram.kind(), kind);
            prop_assert_eq!(decode(kind, &encode(&datagram).unwrap()).unwrap(), datagram);
        }
    }
}
