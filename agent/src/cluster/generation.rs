//! This node's generation as a member: higher with every life, so that what was said about an earlier one does not touch it.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

/// Where it is kept.
pub struct Generations {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    generation: u64,
}

impl Generations {
    /// Those of the node whose state is in this directory, which has a `cluster` in it.
    pub fn of(state: &Path) -> Generations {
        Generations { path: state.join("cluster").join("generation.json") }
    }

    /// One that is higher than every one before; kept before it is used. By the time of day, so that a node that lost its state
    /// is not taken for what it was.
    pub fn next(&self) -> Result<u64, DurableError> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let last = durable::read::<Kept>(&self.path)?.map_or(0, |kept| kept.generation);
        let generation = since_1970.max(last + 1);
        self.keep(generation)?;
        Ok(generation)
    }

    /// The others have made it rise.
    pub fn keep(&self, generation: u64) -> Result<(), DurableError> {
        durable::write(&self.path, &Kept { generation })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_rises_also_when_the_clock_does_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("cluster")).unwrap();
        let generations = Generations::of(dir.path());
        let first = generations.next().unwrap();
        assert!(first > 1_600_000_000);
        let far = first + 1_000_000;
        generations.keep(far).unwrap();
        assert_eq!(generations.next().unwrap(), far + 1);
        assert_eq!(Generations::of(dir.path()).next().unwrap(), far + 2);
        std::fs::write(&generations.path, "damaged").unwrap();
        assert!(generations.next().is_err());
    }
}
