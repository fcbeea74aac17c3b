//! An image's manifest as JSON: what is accepted can be written and read again, and names nothing outside of its directory.

use std::path::{Component, Path};

use migrate_proto::manifest::Manifest;

pub(crate) fn run(input: &[u8], _: &Path) {
    let Ok(manifest) = Manifest::from_json(input) else { return };
    assert!(manifest.validate().is_ok());
    for stream in &manifest.streams {
        let Some(file) = stream.name.image_file() else { continue };
        let mut parts = Path::new(file).components();
        assert!(matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)), "{file:?}");
        assert_eq!(manifest.stream(&stream.name), Some(stream));
    }
    let again = manifest.to_json().expect("what was read can be written");
    assert_eq!(Manifest::from_json(&again).expect("what is written can be read"), manifest);
}
