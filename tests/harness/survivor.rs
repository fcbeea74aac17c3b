//! Takes a lab down when its test process dies without unwinding: killed by the test runner for its time, or by a person.
//! The lab's processes are in sessions of their own and would stay.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell that waits for the end of its stdin: a pipe that closes with the test process.
pub(super) struct Survivor(Child);

impl Survivor {
    /// Watches over the lab in `directory`, inside `place`.
    pub(super) fn watch(place: &Path, directory: &Path) -> Survivor {
        // Somebody may be bringing the lab up still: while there is none it is asked for again, for some seconds.
        let script = r#"read -r word; [ "$word" != dismissed ] || exit 0
            tries=0; until "$1" lab down || [ "$((tries += 1))" -ge 20 ]; do sleep 0.25; done
            [ -e "$MIGRATE_LAB" ] || rm -rf --one-file-system "$2""#;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "survivor"]).arg(super::program()).arg(place);
        shell.env("MIGRATE_LAB", directory).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // The runner signals the test's process group.
        shell.process_group(0);
        Survivor(shell.spawn().unwrap())
    }

    /// The lab has been taken down, or is to be looked at.
    pub(super) fn dismiss(&mut self) {
        use std::io::Write;
        if let Some(mut stdin) = self.0.stdin.take() {
            let _ = stdin.write_all(b"dismissed\n");
        }
        let _ = self.0.wait();
    }
}
