//! libFuzzer around one target: `MIGRATE_FUZZ_TARGET` says which, the arguments are libFuzzer's. See `scripts/fuzz`.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use migrate_fuzz_targets::{Target, by_name};

/// The target, and a directory for its files; `scripts/fuzz` removes it.
static CHOSEN: OnceLock<(&'static Target, PathBuf)> = OnceLock::new();

fn chosen() -> &'static (&'static Target, PathBuf) {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("MIGRATE_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = by_name(&name) else {
            eprintln!("MIGRATE_FUZZ_TARGET: there is no target '{name}'");
            std::process::exit(2)
        };
        let scratch = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&scratch) {
            eprintln!("cannot create {}: {error}", scratch.display());
            std::process::exit(2)
        }
        (target, scratch)
    })
}

fuzz_target!(|input: &[u8]| {
    let (target, scratch) = chosen();
    target.run(input, scratch);
});
