//! The index of a stored image, which an agent reads that has been restarted: what it says is in bounds, or it is no image.

use std::path::Path;

use migrate_image::store::StoredImage;

use crate::script::Script;

/// How many kilobytes are stored; then the index.
pub(crate) fn run(input: &[u8], scratch: &Path) {
    let mut script = Script::new(input);
    let stored = vec![1; usize::from(script.byte()) << 10];
    let files = [("chunks", &stored[..]), ("index.json", script.rest())];
    for (name, content) in files {
        std::fs::write(scratch.join(name), content).expect("the scratch directory can be written to");
    }
    if let Ok(image) = StoredImage::open(scratch) {
        for stream in image.streams() {
            assert!(image.contains(&stream.name));
            // The same name twice is one image; then the length is the other's.
            let Ok(bytes) = image.read(&stream.name, 1 << 20) else { continue };
            assert!(image.streams().iter().any(|s| s.name == stream.name && s.length == bytes.len() as u64));
            assert!(bytes.iter().all(|byte| *byte <= 1));
        }
    }
    for (name, _) in files {
        std::fs::remove_file(scratch.join(name)).expect("it was written");
    }
}
