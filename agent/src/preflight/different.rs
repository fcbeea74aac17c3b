//! What moves and is not the same afterwards: what CRIU leaves behind without a word, as far as /proc shows it. Where it
//! stands in CRIU's source is in tests/specimen/NOT_CARRIED.md.

use std::collections::BTreeSet;
use std::fs;

use migrate_proto::message::Finding;

use super::compare::name_some;
use super::finding::note;
use super::process_names::name;

const NAMED: usize = 3;

/// Whether it is so with a process; what follows the process's name; what to do.
type Check<'a> = (&'a dyn Fn(i32) -> bool, &'a str, &'a str);

/// What will be different. `init` is the node's PID of the sandbox's PID 1, `tree` the node's PIDs of the workload.
pub(super) fn findings(init: i32, tree: &[i32]) -> Vec<Finding> {
    let processes_that = |has: &dyn Fn(i32) -> bool| {
        let named: Vec<String> = tree.iter().filter(|pid| has(**pid)).map(|pid| name(*pid)).collect();
        (!named.is_empty()).then(|| name_some(&named, NAMED, ", "))
    };
    let usual = line_of(init, "status", "Cpus_allowed_list:");
    let checks: [Check<'_>; 4] = [
        (
            &locks_what_it_has_mapped,
            "holds record locks on a file that it has mapped too: CRIU loses them",
            "other processes that lock the same file must not run beside it (SQLite in WAL mode: one process for each database)",
        ),
        (
            &|pid| line_of(pid, "personality", "").is_some_and(|text| text.bytes().any(|digit| digit != b'0')),
            "has a personality of its own (as setarch gives), which becomes the usual one",
            "",
        ),
        (
            &|pid| line_of(pid, "status", "Cpus_allowed_list:") != usual,
            "is bound to some CPUs, and will run on all of them",
            "bind it again after the move",
        ),
        (
            &|pid| descriptions(pid).any(|text| text.lines().any(|line| line == "eventfd-semaphore: 1")),
            "has an eventfd that is a semaphore, which becomes a plain counter",
            "",
        ),
    ];
    let found =
        checks.iter().filter_map(|(has, what, hint)| Some(note(format!("{} {what}", processes_that(has)?), *hint)));
    found.collect()
}

/// What follows `name` in a file of /proc; `None` where the process has ended.
fn line_of(pid: i32, file: &str, name: &str) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/{file}")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

/// What the kernel says about each open descriptor.
fn descriptions(pid: i32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok())
}

fn locks_what_it_has_mapped(pid: i32) -> bool {
    let locked: BTreeSet<String> =
        descriptions(pid).flat_map(|text| text.lines().filter_map(locked_file).collect::<Vec<_>>()).collect();
    if locked.is_empty() {
        return false;
    }
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps).lines().filter_map(mapped_file).any(|file| locked.contains(&file))
}

/// `lock: 1: POSIX  ADVISORY  WRITE 4711 08:01:42 0 EOF` is about `08:01:42`: device and inode.
fn locked_file(line: &str) -> Option<String> {
    let mut words = line.strip_prefix("lock:")?.split_ascii_whitespace().skip(1);
    (words.next()? == "POSIX").then(|| words.nth(3).map(str::to_owned))?
}

/// `START-END PERMS OFFSET 08:01 42 NAME`.
fn mapped_file(line: &str) -> Option<String> {
    let mut words = line.split_ascii_whitespace().skip(3);
    Some(format!("{}:{}", words.next()?, words.next()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A program that says a line when it is ready, and ends with its test.
    struct Ready(Child);

    impl Ready {
        fn start(command: &mut Command) -> Ready {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let output = child.stdout.take().unwrap();
            let ready = Ready(child);
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            ready
        }

        fn findings(&self) -> Vec<String> {
            let pid = self.0.id() as i32;
            findings(pid, &[pid]).into_iter().map(|finding| finding.problem.message).collect()
        }
    }

    impl Drop for Ready {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn python(program: &str) -> Ready {
        Ready::start(Command::new("python3").args(["-c", &format!("{program}\nprint('ready', flush=True)\ninput()")]))
    }

    #[test]
    fn locks_of_mapped_files_are_noted_and_others_are_not() {
        let lock = "import fcntl, mmap, tempfile\nf = tempfile.TemporaryFile()\nf.write(b'x' * 4096); f.flush()\nfcntl.lockf(f, fcntl.LOCK_EX)\n";
        assert_eq!(python(lock).findings(), Vec::<String>::new());
        let found = python(&format!("{lock}m = mmap.mmap(f.fileno(), 4096)")).findings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("record locks on a file that it has mapped"), "{found:?}");
    }

    #[test]
    fn a_personality_is_noted() {
        let found = Ready::start(Command::new("setarch").args(["-R", "sh", "-c", "echo ready; read line"])).findings();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("sh (PID ") && found[0].contains("personality"), "{found:?}");
    }

    #[test]
    fn lines_of_the_kernel() {
        assert_eq!(locked_file("lock:\t1: POSIX  ADVISORY  WRITE 4711 08:01:42 0 EOF").unwrap(), "08:01:42");
        assert_eq!(locked_file("lock:\t1: FLOCK  ADVISORY  WRITE 4711 08:01:42 0 EOF"), None);
        assert_eq!(locked_file("pos:\t0"), None);
        assert_eq!(mapped_file("7f00-7f10 rw-s 00000000 08:01 42   /a b").unwrap(), "08:01:42");
    }
}
