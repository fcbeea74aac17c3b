//! What the agent finds on its disk when it starts: journals of handovers, records of workloads, decisions, and what the guard
//! left. It may be of another version, torn, or of a disk that lies.

use std::path::Path;

use migrate_agent::durable::{self, DurableError};
use migrate_agent::registry::Record;
use migrate_proto::api::Exit;
use migrate_proto::handover::{Budgets, Decision, Millis, source, target};
use migrate_proto::id::Digest;
use migrate_sandbox::guard::{self, decision};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte says what it is, and whether the checksum is put right.
pub(crate) fn run(input: &[u8], scratch: &Path) {
    let Some((which, rest)) = input.split_first() else { return };
    let path = scratch.join("x.json");
    let content = match which & 8 {
        0 => [format!("{}\n", Digest::of(rest)).as_bytes(), rest].concat(),
        _ => rest.to_vec(),
    };
    std::fs::write(&path, &content).expect("the scratch directory can be written to");
    match which % 5 {
        0 => departure(&path),
        1 => arrival(&path),
        2 => drop(read::<Record>(&path)),
        3 => decided(rest, scratch),
        _ => result(rest, scratch),
    }
    std::fs::remove_file(&path).expect("it was written");
}

/// What is read can be written, and is then the same.
fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(path: &Path) -> Option<T> {
    let value: T = match durable::read(path) {
        Ok(value) => value.expect("the file is there"),
        Err(DurableError::Damaged { .. } | DurableError::File { .. }) => return None,
    };
    durable::write_soon(path, &value).expect("what was read can be written");
    assert_eq!(durable::read::<T>(path).expect("what is written can be read").as_ref(), Some(&value));
    Some(value)
}

/// A machine goes on from whatever a journal says, and its own entry is one that it could go on from.
fn departure(path: &Path) {
    let Some(entry) = read::<source::Entry>(path) else { return };
    for decision in [None, Some(Decision::Abort), Some(Decision::Commit)] {
        let (machine, _) = source::Source::recover(entry.clone(), decision, Budgets::default(), Millis(7));
        assert_eq!(machine.terms(), &entry.terms);
        let again = source::Source::recover(machine.entry(entry.phase), decision, Budgets::default(), Millis(7));
        assert_eq!(again.0.terms(), &entry.terms);
    }
}

fn arrival(path: &Path) {
    let Some(entry) = read::<target::Entry>(path) else { return };
    let (machine, _) = target::Target::recover(entry.clone(), Budgets::default(), Millis(7));
    assert_eq!(machine.offer(), &*entry.offer);
    assert_eq!(machine.entry(entry.phase).phase, entry.phase);
}

/// Only the two whole words decide anything, and what cannot be read is never taken for "nothing yet".
fn decided(content: &[u8], scratch: &Path) {
    let path = scratch.join("decision");
    std::fs::write(&path, content).expect("the scratch directory can be written to");
    let expected = match content {
        b"commit\n" => Some(Decision::Commit),
        b"abort\n" => Some(Decision::Abort),
        _ => None,
    };
    assert_eq!(decision::read(scratch).ok(), expected.map(Some));
    std::fs::remove_file(&path).expect("it was written");
}

/// How CRIU ended, as the guard wrote it: damage is no "not yet".
fn result(content: &[u8], scratch: &Path) {
    let path = scratch.join("result.json");
    std::fs::write(&path, content).expect("the scratch directory can be written to");
    assert_eq!(guard::result(scratch).ok(), serde_json::from_slice::<Exit>(content).ok().map(Some));
    std::fs::remove_file(&path).expect("it was written");
}
