//! A key file: what is accepted can be written and read again, and is what a person sees in it.

use std::path::Path;

use migrate_proto::key::{KeyRing, MOST_KEYS};

pub(crate) fn run(input: &[u8], _: &Path) {
    let parsed = KeyRing::parse(input);
    let text = std::str::from_utf8(input).unwrap_or("?");
    let lines = text.lines().map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let seen: Vec<String> = lines.map(str::to_ascii_lowercase).collect();
    let Ok(ring) = parsed else { return };
    assert_eq!(*ring.file(), seen.iter().map(|line| format!("{line}\n")).collect::<String>());
    assert!((1..=MOST_KEYS).contains(&seen.len()));
    assert!(seen.iter().all(|line| line.len() == 64 && !format!("{ring:?}").contains(line.as_str())));
    assert_eq!(KeyRing::parse(ring.file().as_bytes()), Ok(ring));
}
