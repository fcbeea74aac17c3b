#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;

/// A process that ends with its test, and its children with it: all of them read the same pipe until it is closed.
struct Running {
    child: Child,
    said: String,
    _stdin: ChildStdin,
}

impl Running {
    /// Returns once the program says a line.
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let stdin = child.stdin.take().unwrap();
        let running = Running { child, said, _stdin: stdin };
        assert!(!running.said.is_empty(), "{command:?} said nothing");
        running
    }

    fn shell(script: &str) -> Running {
        Running::start(Command::new("/bin/sh").args(["-c", script]))
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn problems(&self) -> Vec<String> {
        let tree = [self.pid()];
        unmovable(own_pid(), &tree, &tree).iter().map(Problem::to_string).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn own_pid() -> i32 {
    std::process::id() as i32
}

fn may_see_limits() -> bool {
    Agent::look().may_see_limits
}

#[test]
fn an_ordinary_process_can_be_moved() {
    let running = Running::shell("exec 3</dev/null 4</dev/zero 5>/dev/full 6</dev/urandom; echo ready; read line");
    assert_eq!(running.problems(), Vec::<String>::new());
}

/// A process that some init has adopted; it ends with its test.
struct Stray(i32);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0), nix::sys::signal::Signal::SIGKILL);
    }
}

#[test]
fn a_process_that_left_the_tree_is_named() {
    // The shell goes on when the subshell has ended: then its child has been adopted.
    let running = Running::shell("pid=$(sleep 1000 </dev/null >/dev/null 2>/dev/null & echo $!); echo $pid; read line");
    let stray = Stray(running.said.trim().parse().unwrap());
    wait_for_name(stray.0, "sleep");
    let init = Stat::read(stray.0).unwrap().parent;
    assert_ne!(init, running.pid());
    let found = unmovable(init, &[running.pid()], &[running.pid(), stray.0]);
    let left: Vec<_> = found.iter().filter(|problem| problem.message.contains("left the workload")).collect();
    assert_eq!(left.len(), 1, "{found:?}");
    assert_eq!(
        left[0].message,
        format!("sleep (PID {}) left the workload's process tree, so it would stay behind", stray.0)
    );
    assert!(left[0].hint.contains("foreground"));
}

/// Until it runs its program.
fn wait_for_name(pid: i32, name: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != name {
        assert!(std::time::Instant::now() < deadline, "{name} does not start");
        std::thread::yield_now();
    }
}

#[test]
fn descendants_and_outsiders_are_no_strays() {
    let running = Running::shell("sleep 1000 >/dev/null & echo $!; read line; kill $!");
    let child = Stray(running.said.trim().parse().unwrap());
    assert_eq!(strays(own_pid(), &[running.pid()], &[child.0]), Vec::<i32>::new());
    // With an init that is not among its ancestors it comes from elsewhere.
    assert_eq!(strays(child.0, &[child.0], &[running.pid()]), Vec::<i32>::new());
}

#[test]
fn a_namespace_of_its_own_is_named() {
    for (option, word) in [("--uts", "host name"), ("--mount", "mount"), ("--net", "network"), ("--ipc", "IPC")] {
        let running =
            Running::start(Command::new("unshare").args([option, "--", "/bin/sh", "-c", "echo ready; read line"]));
        let found = unmovable(own_pid(), &[own_pid(), running.pid()], &[]);
        let said = format!("sh (PID {}) runs in a {word} namespace of its own", running.pid());
        assert!(found.iter().any(|problem| problem.message == said), "{option}: {found:?}");
    }
}

/// The main process of a workload has IPC and UTS namespaces of its own: these travel.
#[test]
fn what_the_whole_tree_shares_travels() {
    let running =
        Running::start(Command::new("unshare").args(["--uts", "--ipc", "/bin/sh", "-c", "echo ready; read line"]));
    assert_eq!(running.problems(), Vec::<String>::new());
}

#[test]
fn odd_descriptors_are_named_and_usual_ones_are_not() {
    for known in KNOWN_ANONYMOUS {
        assert_eq!(anonymous(known), None, "{known}");
    }
    assert_eq!(anonymous("[io_uring]"), Some(Reason::IoUring));
    for (kind, words) in [
        ("[userfaultfd]", "a userfaultfd"),
        ("[perf_event]", "a performance counter"),
        ("kvm-vm", "a virtual machine (KVM)"),
        ("bpf-prog", "a BPF object (bpf-prog)"),
        ("[new\n]", "a descriptor of type new\\n"),
    ] {
        assert_eq!(anonymous(kind), Some(Reason::Anonymous(words.to_owned())), "{kind}");
    }
}

/// Real descriptors, as the kernel names them, in a child of this process.
#[test]
fn the_kernel_names_them_as_we_think() {
    let event = nix::sys::eventfd::EventFd::new().unwrap();
    let running = with_descriptor(event.into());
    assert_eq!(running.problems(), Vec::<String>::new());
    let Some(faults) = userfaultfd() else { return };
    let running = with_descriptor(faults);
    let said = format!("sh (PID {}) has a userfaultfd open", running.pid());
    assert_eq!(running.problems(), [said]);
}

fn with_descriptor(descriptor: OwnedFd) -> Running {
    // A child has for its stderr what is given to it.
    Running::start(Command::new("/bin/sh").args(["-c", "echo ready; read line"]).stderr(Stdio::from(descriptor)))
}

/// `None` where this machine does not allow it.
#[allow(unsafe_code)]
fn userfaultfd() -> Option<OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: no memory is passed; a descriptor that is returned is ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

#[test]
fn devices_are_named() {
    let Ok(kmsg) = File::open("/dev/kmsg") else { return };
    let running = with_descriptor(kmsg.into());
    let said = format!("sh (PID {}) uses the device /dev/kmsg", running.pid());
    assert_eq!(running.problems(), [said]);
}

#[test]
fn a_debugger_is_named() {
    let running = Running::shell("echo ready; read line");
    seize(running.pid());
    let found = running.problems();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&format!("sh (PID {}) is being debugged by process ", running.pid())), "{found:?}");
}

/// Lasts until this thread ends.
#[allow(unsafe_code)]
fn seize(pid: i32) {
    // SAFETY: PTRACE_SEIZE takes numbers only and touches no memory of ours.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test]
fn another_user_is_named_where_the_agent_lacks_the_right() {
    let running = Running::start(Command::new("setpriv").args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "/bin/sh",
        "-c",
        "echo ready; read line",
    ]));
    let said = format!(
        "sh (PID {}) runs as user 65534, and this node's agent may only move processes of its own user",
        running.pid()
    );
    let expected = if may_see_limits() { Vec::new() } else { vec![said] };
    assert_eq!(running.problems(), expected);
}

#[test]
fn every_id_counts() {
    let agent = Agent { uid: 0, gid: 0, may_see_limits: false };
    assert_eq!(agent.may_not_dump("Uid:\t0\t0\t0\t7\nGid:\t0\t0\t0\t0\n"), None);
    assert_eq!(agent.may_not_dump("Uid:\t0\t33\t0\t0\nGid:\t0\t0\t0\t0\n"), Some(33));
    assert_eq!(agent.may_not_dump("Uid:\t0\t0\t0\t0\nGid:\t0\t0\t5\t0\n"), Some(0));
    let able = Agent { may_see_limits: true, ..agent };
    assert_eq!(able.may_not_dump("Uid:\t33\t33\t33\t33\nGid:\t0\t0\t0\t0\n"), None);
}

/// In a mount namespace of its own: a program that was deleted, on a file system that is read-only by now.
#[test]
fn a_file_that_was_replaced_on_a_read_only_root_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs none \"$0\" && cp /bin/sh \"$0/program\" && cd \"$0\" && \
                  exec ./program -c 'rm program && mount -o remount,bind,ro . . && echo ready && read line'";
    let mut command = Command::new("unshare");
    // Opened out here: on a mount that is not in there.
    command.stderr(File::open("/dev/null").unwrap());
    let running = Running::start(command.args(["--mount", "/bin/sh", "-c", script]).arg(dir.path()));
    let path = dir.path().join("program");
    let said = format!(
        "program (PID {}) uses {}, which has been deleted or replaced on this node since",
        running.pid(),
        path.display()
    );
    // Its mount namespace is not this process's, so it is its own init.
    let found = unmovable(running.pid(), &[running.pid()], &[]);
    let outside =
        format!("program (PID {}) has /dev/null open, on a file system that its sandbox does not have", running.pid());
    assert_eq!(found.iter().map(Problem::to_string).collect::<Vec<_>>(), [said, outside]);
}

#[test]
fn a_pipe_in_packet_mode_is_named() {
    use nix::fcntl::OFlag;
    let (_reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    assert_eq!(with_descriptor(writer).problems(), Vec::<String>::new());
    let (_reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_DIRECT).unwrap();
    let running = with_descriptor(writer);
    assert_eq!(running.problems(), [format!("sh (PID {}) has a pipe in packet mode (O_DIRECT)", running.pid())]);
}

#[test]
fn many_processes_are_one_problem() {
    let mut findings = Findings::default();
    // No process has such a PID, so no names appear.
    (0..5).for_each(|n| findings.add(Reason::IoUring, i32::MAX - n));
    findings.add(Reason::IoUring, i32::MAX);
    let problems = findings.into_problems();
    assert_eq!(problems.len(), 1);
    let named = [0, 1, 2].map(|n| format!("a process (PID {})", i32::MAX - n)).join(", ");
    assert_eq!(problems[0].message, format!("{named} and 2 more uses io_uring"));
    assert!(!problems[0].hint.is_empty());
}
