//! What the agent takes off, seen from its children. One test: what is taken off is so for the whole process.

#![allow(clippy::unwrap_used, missing_docs)]

use std::os::fd::AsRawFd;
use std::process::Command;

use migrate_agent::hygiene;

fn child(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", script]).env_clear().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_taken_off_is_off_and_children_are_as_they_were() {
    let stray = std::fs::File::open("/etc/passwd").unwrap();
    // As a careless parent leaves one: without the flag that closes it.
    let stray = nix::unistd::dup(&stray).unwrap();
    let sees_stray = format!("test -e /proc/self/fd/{} && echo stray || true", stray.as_raw_fd());
    assert_eq!(child(&sees_stray), "stray\n");
    let limits = child("ulimit -Hc; ulimit -Sc");

    hygiene::begin().unwrap();
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    assert_eq!(child(&sees_stray), "");
    assert_eq!(child("ulimit -Hc; ulimit -Sc"), limits);
    for who in [child("cat /proc/self/status"), std::fs::read_to_string("/proc/thread-self/status").unwrap()] {
        for line in who.lines().filter(|line| line.starts_with("CapBnd") || line.starts_with("CapEff")) {
            let set = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            assert_eq!(set & hygiene::UNUSED.bits(), 0, "{line}");
        }
    }
    // No longer than this process: the next program can be looked into again, by those who may.
    let script = "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) != 1)";
    assert!(Command::new("python3").args(["-c", script]).status().unwrap().success());
    hygiene::begin().expect("doing it twice does no harm");
}
