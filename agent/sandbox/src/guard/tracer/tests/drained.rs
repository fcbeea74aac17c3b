//! The shim in something that writes pages as CRIU does.

use std::io::Read;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

/// Something that has pages go into its standard output, as CRIU does, and says when that is closed.
fn feeds(kind: Kind) -> (Criu, Child) {
    let criu = Criu::start(kind);
    let shim = criu.dir.path().join("shim.so");
    std::fs::write(&shim, SHIM).unwrap();
    let script = "import os; a, b = os.pipe(); os.write(b, bytes(100)); os.splice(a, 1, 100); os.close(1); os.write(2, b'closed')";
    // Not what a developer has before it in the path, which may be a script.
    let child = Command::new("python3")
        .args(["-c", script])
        .env("PATH", "/usr/bin:/bin")
        .env("LD_PRELOAD", &shim)
        .env(LINE_VARIABLE, "0")
        .stdin(criu.line.try_clone().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    (criu, child)
}

#[test]
fn a_dump_goes_on_only_when_its_pages_have_been_read() {
    for reader_stays in [true, false] {
        let (criu, mut child) = feeds(Kind::Dump);
        let (pages, mut said) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let mut readable = [PollFd::new(pages.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut readable, PollTimeout::NONE), Ok(1));
        let mut closed = [PollFd::new(said.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut closed, 300u16), Ok(0), "it went on, and nobody had read anything");
        let mut pages = Some(pages).filter(|_| reader_stays);
        if let Some(pages) = &mut pages {
            pages.read_exact(&mut [0; 100]).unwrap();
        }
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        assert_eq!(text, "closed");
        assert!(child.wait().unwrap().success());
        drop(criu);
    }
}

#[test]
fn a_restore_waits_for_no_reader() {
    let (criu, mut child) = feeds(Kind::Restore);
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "closed");
    assert!(child.wait().unwrap().success());
    drop(criu);
}
