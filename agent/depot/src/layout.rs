//! Where things lie in a depot.
//!
//! ```text
//! WORKLOAD/seg/EPOCH-NODE/DIGEST              a segment, as a vault has it on disk
//! WORKLOAD/gen/EPOCH-NODE/NUMBER-ID.json      the file of a generation, written after all of its segments
//! ```
//!
//! `EPOCH-NODE` is a *shelf*: who owns the workload in an epoch writes and removes there, and nobody else removes anything of it while that epoch
//! lasts. So an owner of before, who has not heard yet that it is none, takes nothing away from the one after it.

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::name::{NodeName, WorkloadName};
use object_store::path::Path;

/// What one owner of a workload has put into a depot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shelf {
    /// In this epoch of the workload.
    pub epoch: Epoch,
    /// Its owner.
    pub node: NodeName,
}

/// A generation that is in a depot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// On this shelf.
    pub shelf: Shelf,
    /// Its number.
    pub number: u64,
    /// Which.
    pub id: CheckpointId,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Object {
    Generation(Stored),
    Segment(Shelf, Digest),
}

const GENERATIONS: &str = "gen";
const SEGMENTS: &str = "seg";

pub(crate) fn of_workload(root: &Path, workload: &WorkloadName) -> Path {
    root.clone().join(workload.as_str())
}

pub(crate) fn generations(root: &Path, workload: &WorkloadName) -> Path {
    of_workload(root, workload).join(GENERATIONS)
}

pub(crate) fn segment(root: &Path, workload: &WorkloadName, shelf: &Shelf, digest: Digest) -> Path {
    of_workload(root, workload).join(SEGMENTS).join(name(shelf)).join(digest.to_string())
}

pub(crate) fn generation(root: &Path, workload: &WorkloadName, Stored { shelf, number, id }: &Stored) -> Path {
    generations(root, workload).join(name(shelf)).join(format!("{number:010}-{id}.json"))
}

/// What lies there; `None` for what is none of ours.
pub(crate) fn read(path: &Path) -> Option<Object> {
    let parts: Vec<_> = path.parts().collect();
    let [.., kind, shelf, file] = parts.as_slice() else { return None };
    let (epoch, node) = shelf.as_ref().split_once('-')?;
    let shelf = Shelf { epoch: Epoch(epoch.parse().ok()?), node: node.parse().ok()? };
    match kind.as_ref() {
        SEGMENTS => Some(Object::Segment(shelf, Digest(id(file.as_ref())?.0))),
        GENERATIONS => {
            let (number, of) = file.as_ref().strip_suffix(".json")?.split_once('-')?;
            Some(Object::Generation(Stored { shelf, number: number.parse().ok()?, id: id(of)? }))
        }
        _ => None,
    }
}

fn name(shelf: &Shelf) -> String {
    format!("{:010}-{}", shelf.epoch.0, shelf.node)
}

fn id(hex: &str) -> Option<CheckpointId> {
    CheckpointId::try_from(hex.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let (root, workload) = (Path::from("a/site"), "web".parse().unwrap());
        let shelf = Shelf { epoch: Epoch(12), node: "node-1".parse().unwrap() };
        let digest = Digest::of(b"x");
        let path = segment(&root, &workload, &shelf, digest);
        assert!(path.as_ref().starts_with("a/site/web/seg/0000000012-node-1/"), "{path}");
        assert_eq!(read(&path), Some(Object::Segment(shelf.clone(), digest)));
        let stored = Stored { shelf, number: 7, id: digest.into() };
        assert_eq!(read(&generation(&root, &workload, &stored)), Some(Object::Generation(stored)));
        for odd in ["x", "web/seg/a/b", "web/seg/1-node1/b", "web/gen/1-node1/7.json", "web/other/1-node1/b"] {
            assert_eq!(read(&Path::from(odd)), None, "{odd}");
        }
    }
}
