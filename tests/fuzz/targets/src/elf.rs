//! The build-id of a mapped file, which a workload may have written itself: what is found is in the file, and is a plausible id.

use std::fs::File;
use std::path::Path;

use migrate_agent::preflight::build_id;

pub(crate) fn run(input: &[u8], scratch: &Path) {
    let path = scratch.join("mapped");
    std::fs::write(&path, input).expect("the scratch directory can be written to");
    let found = build_id(&File::open(&path).expect("it was written")).expect("a file that can be read");
    if let Some(id) = found {
        assert!(input.starts_with(b"\x7fELF") && (8..=64).contains(&id.len()), "{} bytes", id.len());
        assert!(input.windows(id.len()).any(|part| part == id), "it is not in the file");
    }
    std::fs::remove_file(&path).expect("it was written");
}
