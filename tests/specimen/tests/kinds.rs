//! Every kind verifies itself without complaint, and every part of it notices when its state is broken.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Far more than any of this takes; ends a test whose specimen hangs.
const DEADLINE: Duration = Duration::from_secs(120);

/// Every kind with its arguments and the parts that `--sabotage` knows.
const KINDS: &[(&[&str], &[&str])] = &[
    (&["counter"], &["counter"]),
    (&["threads"], &["threads", "meetings", "census"]),
    (&["tree"], &["processes", "zombies", "orphans"]),
    (
        &["signals"],
        &[
            "pending",
            "handled",
            "interval",
            "cpu_interval",
            "posix_timer",
            "distant_timer",
            "timer",
            "periodic_timer",
            "signalfd",
            "eventfd",
            "epoll",
            "inotify",
        ],
    ),
    (
        &["shm"],
        &[
            "anonymous",
            "memfd",
            "posix",
            "mapped_file",
            "sysv",
            "children",
            "semaphores",
            "messages",
            "sealed",
            "posix_name",
        ],
    ),
    (&["locks"], &["flock", "record", "open_file"]),
    (
        &["files"],
        &["deleted", "appended", "read", "sparse", "offsets", "directory", "path_only", "numbers", "pipe", "fifo"],
    ),
    (&["tree-of-files"], &["tree", "held_open"]),
    (
        &["sockets"],
        &["stream", "datagrams", "packets", "connection", "named_listener", "abstract_listener", "tcp_listener", "udp"],
    ),
    (&["memory", "--mib", "4"], &["memory", "copied", "protected", "discarded", "locked", "elastic", "stack"]),
    (&["memory", "--mib", "2", "--kind", "zero"], &["memory", "copied"]),
    (&["memory", "--mib", "2", "--kind", "random"], &["memory", "copied"]),
    (&["memory", "--mib", "2", "--kind", "text"], &["memory", "copied"]),
    (&["memory", "--mib", "2", "--quiet"], &[]),
    (&["clocks"], &["clocks", "sleeps", "alarms"]),
    (&["surroundings"], &["facts"]),
    (&["demo", "--mib", "4"], &["memory", "files", "threads", "child", "pipe", "timer"]),
    (&["writer", "records"], &["records"]),
];

/// A specimen in a directory of its own; killed, with its children, when dropped.
struct Specimen {
    process: Child,
    lines: Receiver<String>,
    directory: tempfile::TempDir,
}

impl Specimen {
    fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self::start_in(directory, arguments)
    }

    fn start_in(directory: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut process = command(directory.path(), arguments).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { process, lines, directory }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }

    /// Waits for its end, which its output announced.
    fn end(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }
}

impl Drop for Specimen {
    fn drop(&mut self) {
        // Its children ask the kernel to be killed with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Who is just being killed may write once more: then it is not empty when it is to go.
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::remove_dir_all(self.directory.path()).is_err_and(|error| error.kind() != ErrorKind::NotFound)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_specimen"));
    command.args(arguments).current_dir(directory).arg("--shm-dir").arg(directory).stdin(Stdio::null());
    command
}

#[test]
fn every_kind_verifies_itself() {
    for (arguments, _) in KINDS {
        let specimen = Specimen::start(arguments);
        for cycle in 1..=12 {
            let line = specimen.line();
            let mut words = line.split(' ');
            assert_eq!((words.next(), words.next()), (Some("ok"), Some(&*cycle.to_string())), "{arguments:?}: {line}");
        }
    }
}

#[test]
fn every_part_notices_sabotage() {
    for (arguments, parts) in KINDS {
        for part in *parts {
            let sabotaged = [arguments, &["--sabotage", part][..]].concat();
            let specimen = Specimen::start(&with_options_first(&sabotaged));
            let mut cycles = 0;
            let complaint = loop {
                let line = specimen.line();
                if !line.starts_with("ok ") {
                    break line;
                }
                cycles += 1;
                assert!(cycles < 2000, "{arguments:?} does not notice sabotage of {part}");
            };
            assert!(complaint.starts_with("BAD "), "{arguments:?}, {part}: {complaint}");
            assert!(complaint.contains("expected") && !complaint.contains("--sabotage"), "{complaint}");
            assert!(cycles >= 2, "{arguments:?}, {part} complained before it was sabotaged: {complaint}");
            assert_eq!(specimen.end().code(), Some(1), "{arguments:?}, {part}");
        }
    }
}

/// Everything after `surroundings` is kept as odd arguments, so options come before the kind.
fn with_options_first<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    let (kind, option) = arguments.split_at(arguments.len() - 2);
    [option, kind].concat()
}

#[test]
fn two_writers_are_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let file = path.to_str().unwrap().to_owned();
    let first = Specimen::start(&["writer", &file]);
    first.line();
    let second = Specimen::start(&["writer", &file]);
    let complaint = loop {
        let line = first.line();
        if line.starts_with("BAD ") {
            break line;
        }
    };
    assert!(complaint.contains("only this process writes"), "{complaint}");
    drop((first, second));
}

#[test]
fn a_writers_file_is_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("records");
    let file = path.to_str().unwrap().to_owned();
    let writer = Specimen::start(&["writer", &file]);
    for _ in 0..5 {
        writer.line();
    }
    drop(writer);
    let check = || command(directory.path(), &["check-writer", &file]).output().unwrap();
    let verdict = check();
    assert!(verdict.status.success(), "{verdict:?}");
    assert!(String::from_utf8_lossy(&verdict.stdout).starts_with("records "), "{verdict:?}");

    let content = std::fs::read_to_string(&path).unwrap();
    let without_second: String =
        content.split_inclusive('\n').enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| line).collect();
    std::fs::write(&path, without_second).unwrap();
    let verdict = check();
    assert_eq!(verdict.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verdict.stdout).starts_with("BAD number of a record"), "{verdict:?}");
}

#[test]
fn an_observer_tells_of_a_gap() {
    let observer = Specimen::start(&["pause"]);
    observer.line();
    let pid = nix::unistd::Pid::from_raw(observer.process.id() as i32);
    // Several times: a stop that falls into the printing of an earlier gap is not seen, and is not meant to be.
    for _ in 0..5 {
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), nix::sys::wait::WaitPidFlag::WSTOPPED).unwrap();
        // The gap to be seen is this wait.
        std::thread::sleep(Duration::from_millis(50));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
        // It has run again once it says anything, or has had time to.
        std::thread::sleep(Duration::from_millis(5));
    }
    loop {
        let line = observer.line();
        let gap: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        if gap >= 49.0 {
            return;
        }
    }
}
