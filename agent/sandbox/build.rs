//! Makes the shim that is preloaded into CRIU: a shared object without any library, so it cannot be an ordinary dependency of
//! programs that are linked statically.

use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 3] = ["src/guard/tracer/shim.rs", "src/guard/tracer/calls.rs", "src/guard/tracer/drained.rs"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let shim = PathBuf::from(variable("OUT_DIR")).join("shim.so");
    if variable("CARGO_CFG_TARGET_ARCH") != "x86_64" {
        std::fs::write(shim, []).unwrap_or_else(|error| panic!("cannot write an empty shim: {error}"));
        return;
    }
    let made = Command::new(variable("RUSTC"))
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "shim", "--target", &variable("TARGET")])
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols", "-C", "target-feature=-crt-static"])
        .args(["-C", "link-arg=-nostdlib", "-C", "link-arg=-Wl,--gc-sections"])
        .arg("-o")
        .args([shim.as_os_str(), SOURCES[0].as_ref()])
        .status();
    assert!(made.as_ref().is_ok_and(std::process::ExitStatus::success), "the shim was not made: {made:?}");
}
