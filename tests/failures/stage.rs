//! A move over the agent's own API, watched line by line: a test knows in which phase it is, without a clock.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use migrate_proto::api::{MoveLine, MoveReport, MoveRequest};
use migrate_proto::phase::Phase;

use crate::harness::Lab;

/// So slow that 32 MiB take some seconds: a test that acts in a phase that moves bytes acts before its end.
const NARROW: &str = "80mbit";

/// What is moved by [`Watched`] moves: enough random memory to be long on its way.
pub(crate) const BULKY: &[&str] = &["memory", "--mib", "32", "--kind", "random"];

/// A move under way. Dropping it cancels it, as any client that goes away does.
pub(crate) struct Watched(BufReader<UnixStream>);

impl Watched {
    /// Orders the move from the agent of `node`.
    pub(crate) fn begin(lab: &Lab, node: &str, name: &str, to: &str) -> Watched {
        let mut socket = UnixStream::connect(lab.directory().join(node).join("agent.sock")).unwrap();
        let request = MoveRequest { to: Some(to.parse().unwrap()), force: true, ..MoveRequest::default() };
        let body = serde_json::to_string(&request).unwrap();
        // Version 1.0 has no chunks: after the head come the lines as they are.
        write!(
            socket,
            "POST /v1/workloads/{name}/move HTTP/1.0\r\nhost: lab\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut lines = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "the answer ended: {head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        Watched(lines)
    }

    /// Waits until the move is in `phase`; a short one may be over by then. Panics where the move ends before.
    pub(crate) fn until(&mut self, phase: Phase) {
        loop {
            match self.next() {
                Some(MoveLine::Progress(progress)) if progress.phase >= phase => return,
                Some(MoveLine::Progress(_)) => {}
                other => panic!("the move ended before {phase}: {other:?}"),
            }
        }
    }

    /// Waits until `bytes` have crossed.
    pub(crate) fn until_sent(&mut self, bytes: u64) {
        loop {
            match self.next() {
                Some(MoveLine::Progress(progress)) if progress.bytes_sent >= bytes => return,
                Some(MoveLine::Progress(_)) => {}
                other => panic!("the move ended before {bytes} bytes were sent: {other:?}"),
            }
        }
    }

    /// Waits for the end; `None` where the agent is gone without a word.
    pub(crate) fn report(mut self) -> Option<MoveReport> {
        loop {
            match self.next()? {
                MoveLine::Progress(_) => {}
                MoveLine::Report(report) => return Some(*report),
            }
        }
    }

    fn next(&mut self) -> Option<MoveLine> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(read) if read > 0 && line.ends_with('\n') => Some(serde_json::from_str(&line).unwrap()),
            // The agent was killed.
            _ => None,
        }
    }
}

impl Lab {
    /// Makes the way to `node` so narrow that phases that move bytes take seconds.
    pub(crate) fn narrow(&self, node: &str) {
        self.done(["lab", "slow", node, "--rate", NARROW]);
    }

    /// Gives a workload files that are long on their way: the phase in which files are copied ahead takes seconds.
    pub(crate) fn give_files(&self, name: &str) {
        self.done(["exec", name, "--", "dd", "if=/dev/urandom", "of=/work/bulk", "bs=1M", "count=32", "status=none"]);
    }
}
