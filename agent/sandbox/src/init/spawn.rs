//! Starting a process with a chosen PID, in the way that a dump needs: no stray descriptor, a session of its own, output to
//! files.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use migrate_proto::spec::User;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, chdir, execve, pipe2, sethostname, setsid};
use rustix::fs::OFlags;
use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_groups, set_thread_uid};

use super::powers;
use crate::beneath;
use crate::control::Command;
use crate::error::{Result, SandboxError};
use crate::plan::{MAIN_PID, Output, WORK};

/// How many signals there are.
const SIGNALS: libc::c_int = 64;

/// `struct clone_args` of the kernel, first version with `set_tid`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks with a chosen PID in the namespace that children go to. `None` in the child. For programs whose other threads hold no
/// lock and have nothing under way in memory: the child has none of them.
#[allow(unsafe_code)]
pub(crate) fn fork_with_pid(pid: Option<i32>, flags: libc::c_int) -> io::Result<Option<Pid>> {
    let chosen = [pid.unwrap_or(0)];
    let mut args = CloneArgs { flags: flags as u64, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if pid.is_some() {
        args.set_tid = chosen.as_ptr() as u64;
        args.set_tid_size = 1;
    }
    // SAFETY: without CLONE_VM this is a fork; args and chosen outlive the call; what other threads there are hold
    // nothing that the child could wait for.
    match unsafe { libc::syscall(libc::SYS_clone3, &args, std::mem::size_of::<CloneArgs>()) } {
        0 => Ok(None),
        child if child > 0 => Ok(Some(Pid::from_raw(child as i32))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts the workload as [`MAIN_PID`], in IPC and UTS namespaces of its own. Returns when its program runs; `None` where it must
/// not, because it is held: then nothing was started, or it is gone before its first instruction.
pub(crate) fn start(command: &Command, groups: Vec<OwnedFd>, held: impl Fn() -> bool) -> Result<Option<i32>> {
    let prepared = Prepared::new(command)?;
    if held() {
        return Ok(None);
    }
    if let Some(user) = command.user {
        give_work_to(user).map_err(SandboxError::file("give to its user", WORK))?;
    }
    let (reader, writer) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(SandboxError::system("pipe"))?;
    let namespaces = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match fork_with_pid(Some(MAIN_PID), namespaces).map_err(SandboxError::system("clone3"))? {
        None => {
            let reason = prepared.become_workload(command, groups, writer.as_raw_fd());
            let _ = File::from(writer).write_all(reason.as_bytes());
            std::process::exit(127)
        }
        Some(child) => {
            drop(writer);
            match hear_of_start(child, reader, held).map_err(SandboxError::system("read from the child"))? {
                Start::Runs => Ok(Some(child.as_raw())),
                Start::Held => {
                    let _ = crate::reap::await_end(child);
                    Ok(None)
                }
                Start::Failed(reason) => {
                    let _ = crate::reap::await_end(child);
                    Err(SandboxError::CannotExecute { program: prepared.shown, reason })
                }
            }
        }
    }
}

/// What became of a start.
enum Start {
    Runs,
    Held,
    Failed(String),
}

/// A child that is held on its way stands still for nobody knows how long. It is killed, which also the frozen are.
fn hear_of_start(child: Pid, words: OwnedFd, held: impl Fn() -> bool) -> io::Result<Start> {
    let look_every = PollTimeout::from(20_u8);
    let (mut words, mut said, mut is_killed) = (File::from(words), Vec::new(), false);
    loop {
        if poll(&mut [PollFd::new(words.as_fd(), PollFlags::POLLIN)], look_every)? > 0 {
            let mut piece = [0; 1024];
            match words.read(&mut piece)? {
                0 if is_killed => return Ok(Start::Held),
                0 if said.is_empty() => return Ok(Start::Runs),
                0 => return Ok(Start::Failed(String::from_utf8_lossy(&said).into_owned())),
                length => said.extend_from_slice(&piece[..length]),
            }
        } else if !is_killed && held() {
            nix::sys::signal::kill(child, Signal::SIGKILL)?;
            is_killed = true;
        }
    }
}

/// Turns this process into a command beside the workload, which ends when `keeper` does. Only returns where that failed.
pub(crate) fn become_command(command: &Command, keeper: &OwnedFd) -> SandboxError {
    let prepared = match Prepared::new(command) {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let ready = chdir(command.dir.as_os_str()).and_then(|()| {
        umask(Mode::from_bits_truncate(0o022));
        close_from(3, &[keeper.as_raw_fd()]);
        reset_signals()?;
        reset_oom_score();
        powers::give_up().map_err(|error| nix::Error::from_raw(error.raw_os_error()))?;
        Ok(())
    });
    let ready = ready.map_err(io::Error::from).and_then(|()| {
        become_user(command)?;
        Ok(end_with(keeper)?)
    });
    let error = match ready {
        Ok(()) => prepared.execute(),
        Err(error) => error,
    };
    SandboxError::CannotExecute { program: prepared.shown, reason: error.to_string() }
}

/// This process is killed when its parent, which `keeper` is, ends. A change of the user would undo this.
fn end_with(keeper: &OwnedFd) -> nix::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before there was anything to be told of it.
    match poll(&mut [PollFd::new(keeper.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? {
        0 => Ok(()),
        _ => Err(nix::Error::ESRCH),
    }
}

/// By the system calls themselves: the C library would have its other threads do the same, and of those that it knows the
/// child of a fork has none.
fn become_user(command: &Command) -> io::Result<()> {
    let Some(user) = command.user else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&[gid])?;
    set_thread_gid(gid)?;
    Ok(set_thread_uid(uid)?)
}

/// A command in the form that the kernel takes.
struct Prepared {
    shown: String,
    argv: Vec<CString>,
    env: Vec<CString>,
    path: Vec<PathBuf>,
}

impl Prepared {
    fn new(command: &Command) -> Result<Prepared> {
        let c_string = |bytes: Vec<u8>| {
            CString::new(bytes).map_err(|_| SandboxError::Protocol { who: "the agent", detail: "a NUL byte".into() })
        };
        let argv: Vec<CString> =
            command.argv.iter().map(|arg| c_string(arg.as_bytes().to_vec())).collect::<Result<_>>()?;
        let env = command.env.iter().map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()));
        let path = command.env.iter().rev().find(|(name, _)| name.as_bytes() == b"PATH").map(|(_, value)| value);
        let path = path.map(|value| std::env::split_paths(value.as_os_str()).collect()).unwrap_or_default();
        let shown = command.argv.first().map(ToString::to_string).unwrap_or_default();
        Ok(Prepared { shown, argv, env: env.collect::<Result<_>>()?, path })
    }

    /// Only returns where it failed, and then says why.
    fn become_workload(&self, command: &Command, groups: Vec<OwnedFd>, keep: RawFd) -> String {
        let outcome = (|| -> std::result::Result<(), (&'static str, io::Error)> {
            let step = |name: &'static str| move |error: nix::Error| (name, io::Error::from(error));
            for group in groups {
                File::from(group).write_all(b"0").map_err(|error| ("join its cgroup", error))?;
            }
            setsid().map_err(step("start a session"))?;
            sethostname(&command.hostname).map_err(step("set the host name"))?;
            chdir(command.dir.as_os_str()).map_err(step("enter its working directory"))?;
            umask(Mode::from_bits_truncate(0o022));
            redirect_output(command.user).map_err(|error| ("open its output", error))?;
            close_from(3, &[keep]);
            reset_signals().map_err(step("reset signals"))?;
            reset_oom_score();
            powers::give_up().map_err(|error| ("give up capabilities", error.into()))?;
            become_user(command).map_err(|error| ("change the user", error))?;
            Err(("execute it", self.execute()))
        })();
        match outcome {
            Ok(()) => "nothing happened".into(),
            Err(("execute it", error)) => error.to_string(),
            Err((step @ "enter its working directory", error)) => format!("cannot {step} {}: {error}", command.dir),
            Err((step, error)) => format!("cannot {step}: {error}"),
        }
    }

    /// As `execvp` does: a name without a slash is looked for in PATH.
    fn execute(&self) -> io::Error {
        let Some(program) = self.argv.first() else { return io::Error::from_raw_os_error(libc::EINVAL) };
        if program.as_bytes().contains(&b'/') {
            return self.try_execute(program.clone());
        }
        let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
        for dir in &self.path {
            let candidate = dir.join(std::ffi::OsStr::from_bytes(program.as_bytes()));
            let Ok(candidate) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
            let error = self.try_execute(candidate);
            if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) {
                worst = error;
            }
        }
        worst
    }

    fn try_execute(&self, program: CString) -> io::Error {
        match execve(&program, &self.argv, &self.env) {
            Err(error) => error.into(),
        }
    }
}

/// The working directory belongs to the workload's user from the beginning; what is in it later is the workload's affair.
fn give_work_to(user: User) -> io::Result<()> {
    let work = beneath::directory(File::open("/")?, Path::new(WORK), OFlags::RDONLY)?;
    let fresh = work.metadata()?.uid() == 0 && std::fs::read_dir(WORK)?.next().is_none();
    if fresh { std::os::unix::fs::fchown(&work, Some(user.uid), Some(user.gid)) } else { Ok(()) }
}

/// Opens a file for output; a new one belongs to the workload's user.
fn open_output(root: &File, output: Output, user: Option<User>) -> io::Result<File> {
    let (path, mode) = (Path::new(output.path()), rustix::fs::Mode::from_raw_mode(0o644));
    let flags = OFlags::WRONLY | OFlags::APPEND;
    match beneath::file(root, path, flags | OFlags::CREATE | OFlags::EXCL, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            beneath::file(root, path, flags, rustix::fs::Mode::empty())
        }
        Ok(new) => {
            if let Some(user) = user {
                std::os::unix::fs::fchown(&new, Some(user.uid), Some(user.gid))?;
            }
            Ok(new)
        }
        Err(error) => Err(error),
    }
}

fn redirect_output(user: Option<User>) -> io::Result<()> {
    let null = OpenOptions::new().read(true).open("/dev/null")?;
    replace(&null, 0)?;
    let root = File::open("/")?;
    for (output, descriptor) in [(Output::Stdout, 1), (Output::Stderr, 2)] {
        replace(&open_output(&root, output, user)?, descriptor)?;
    }
    Ok(())
}

/// For processes that must not hold their parent's output.
pub(crate) fn output_to_null() -> Result<()> {
    let null =
        OpenOptions::new().read(true).write(true).open("/dev/null").map_err(SandboxError::file("open", "/dev/null"))?;
    for descriptor in 0..3 {
        replace(&null, descriptor).map_err(SandboxError::system("dup2"))?;
    }
    Ok(())
}

/// `dup2` over a standard descriptor.
#[allow(unsafe_code)]
pub(crate) fn replace(file: &File, descriptor: RawFd) -> io::Result<()> {
    // SAFETY: descriptors 0 to 2 belong to nobody in particular; the copy stays open on purpose.
    if unsafe { libc::dup2(file.as_raw_fd(), descriptor) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Every signal as it is after a boot: default action, not blocked. By the system calls themselves, since libraries know
/// neither all real-time signals nor those that a C library keeps for itself.
#[allow(unsafe_code)]
pub(crate) fn reset_signals() -> nix::Result<()> {
    // `struct sigaction` of the kernel, at most 4 words: all zero is the default action and nothing else.
    let (default, none, size) = ([0u64; 4], 0u64, std::mem::size_of::<u64>());
    let null = std::ptr::null_mut::<u64>();
    for signal in (1..=SIGNALS).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        // SAFETY: the kernel reads a struct sigaction from the pointer, which outlives the call; the default action runs no
        // code of ours.
        nix::Error::result(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, size) })?;
    }
    // SAFETY: the kernel reads a mask of `size` bytes from the pointer, which outlives the call.
    let unblocked = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &none, null, size) };
    nix::Error::result(unblocked).map(drop)
}

/// An agent that is protected from the kernel's killer does not protect what it runs. Where that is not allowed it is no harm.
fn reset_oom_score() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

/// Closes every descriptor from `first` on, but those in `keep`: one that came in by accident would break a dump.
#[allow(unsafe_code)]
pub(crate) fn close_from(first: RawFd, keep: &[RawFd]) {
    let mut kept: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut from = first as libc::c_uint;
    for fd in kept.into_iter().map(|fd| fd as libc::c_uint).chain([libc::c_uint::MAX]) {
        if fd > from {
            let to = if fd == libc::c_uint::MAX { fd } else { fd - 1 };
            // SAFETY: callers own no descriptor in this range beyond those that they keep.
            unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
        }
        from = fd.saturating_add(1);
    }
}

/// Writes to a file below a directory that may be out of sight.
pub(crate) fn write_at(directory: &File, name: &str, content: &[u8]) -> io::Result<()> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, Path::new(&path))
}
