//! The record as it is stored: exact bytes, what is refused, and how large it becomes.

use super::fixtures::*;
use crate::cluster::command::Command;
use crate::cluster::record::{ClusterPolicy, Record};
use crate::cluster::{ClusterId, Ticket};
use crate::id::Epoch;

/// One record with something of everything. It lies on disks for years: fields are added, with a default, never changed.
const GOLDEN: &str = include_str!("record.json");

fn something_of_everything() -> Record {
    let mut book = Book::running();
    book.must(refuse(1, 1)).must(transfer(1, claim("a", 1), "b", 2)).must(fence("a", 1)).must(forget("a"));
    book.must(revive(2, claim("b", 1), Some(2))).must(refuse(3, 3));
    assert!(book.record.set_voters(book.at + 1, voters(1, &[&[1, 2, 3], &[3]])));
    assert!(book.record.set_voters(book.at + 2, voters(book.at + 2, &[&[3]])));
    book.record
}

#[test]
fn its_bytes_do_not_change() {
    let record = something_of_everything();
    let json = String::from_utf8(record.to_json().unwrap()).unwrap();
    assert!(json == GOLDEN.trim_end(), "is:\n{json}\nshould be:\n{GOLDEN}");
    assert_eq!(Record::from_json(GOLDEN.as_bytes()).unwrap(), record);
}

#[test]
fn a_field_that_is_not_known_is_refused() {
    let newer = GOLDEN.replacen("\"priority\":0", "\"priority\":0,\"colour\":\"red\"", 1);
    let problem = Record::from_json(newer.as_bytes()).unwrap_err().to_string();
    assert!(problem.starts_with("the cluster's record cannot be read: unknown field `colour`"), "{problem}");
}

#[test]
fn an_identity_is_hexadecimal() {
    let id = ClusterId([0xab; 16]);
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{}\"", "ab".repeat(16)));
    assert_eq!(serde_json::from_str::<ClusterId>(&json).unwrap(), id);
    for bad in ["ab".repeat(15), "AB".repeat(16), "xy".repeat(16), "ä".repeat(16)] {
        assert!(ClusterId::try_from(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn commands_survive_json() {
    let commands = vec![admit("a", mark("a"), 0), open("a", 0), declare(1, 0, None), kept(1, claim("a", 1), 2)];
    let many = Command::Many(commands);
    let json = serde_json::to_string(&many).unwrap();
    assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), many);
}

/// So many workloads, each with three checkpoints on three nodes.
fn of_size(workloads: u64) -> usize {
    let mut book = Book::empty();
    let mut tell = |command: Command| {
        book.at += 1;
        book.record.apply(book.at, &command).unwrap();
    };
    for name in ["a", "b", "c"] {
        tell(admit(name, mark(name), 0));
        tell(open(name, 0));
    }
    for number in 0..workloads {
        let Command::Declare { mut spec, policy, priority, .. } = declare(number, 0, None) else { unreachable!() };
        spec.name = format!("workload-{number:06}").parse().unwrap();
        let (load, owner) = (spec.name.clone(), Some(claim("a", 1)));
        tell(Command::Declare { ticket: Ticket(number), since: 0, spec, policy, owner, priority });
        for checkpoint in 1..=3 {
            let mut checkpoint = super::fixtures::checkpoint(checkpoint, &["a", "b", "c"]);
            checkpoint.id.0[..8].copy_from_slice(&number.to_le_bytes());
            tell(Command::Kept { load: load.clone(), epoch: Epoch(1), by: claim("a", 1), checkpoint });
        }
    }
    book.record.to_json().unwrap().len()
}

#[test]
fn it_grows_with_the_workloads_and_with_nothing_else() {
    let empty = Record::new(ClusterId([7; 16]), ClusterPolicy::default()).to_json().unwrap().len();
    let sizes = [0, 10, 100, 1_000].map(|workloads| (workloads, of_size(workloads)));
    println!("empty: {empty} bytes; by workloads: {sizes:?}");
    let each = |at: usize| (sizes[at].1 - sizes[0].1) as u64 / sizes[at].0;
    assert!(empty < 512 && sizes[0].1 < 1536, "{empty}, {sizes:?}");
    assert!((512..2048).contains(&each(3)), "{} bytes each", each(3));
    assert!(each(3).abs_diff(each(1)) < 32, "{} and {} bytes each", each(1), each(3));
}
