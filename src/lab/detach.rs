//! Starting a process that outlives the command: it says when it is up, may be told to go on, and then keeps nothing of us.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::LabError;
use super::log_tail::LogTail;

/// What a started process says on its stdout once it holds its namespaces.
const HELD: &str = "held";

/// What it is told when it may go on.
const GO: &str = "go";

/// How long it may take to hold its namespaces.
const PATIENCE: Duration = Duration::from_secs(60);

/// A started process that has not been told to go on. Dropping this makes it end.
pub(crate) struct Starting {
    stdin: ChildStdin,
}

impl Starting {
    /// Starts this program again with `args`; its stderr goes to `log`. Returns when it holds its namespaces.
    pub(crate) fn start(args: &[&std::ffi::OsStr], log: &Path) -> Result<Starting, LabError> {
        let failed = |source| LabError::Start { log: LogTail::of(log), source };
        let log_file = OpenOptions::new().append(true).create(true).open(log).map_err(failed)?;
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .map_err(failed)?;
        match heard_from(&mut child) {
            Ok(stdin) => Ok(Starting { stdin }),
            Err(source) => {
                // It may be gone already.
                let _ = child.kill();
                let _ = child.wait();
                Err(failed(source))
            }
        }
    }

    /// Tells it to go on.
    pub(crate) fn go(mut self) -> io::Result<()> {
        writeln!(self.stdin, "{GO}")
    }
}

fn heard_from(child: &mut Child) -> io::Result<ChildStdin> {
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.trim_end() != HELD {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended; the log says why"));
    }
    Ok(stdin)
}

/// In the started process: says that the namespaces are held, and waits until it may go on.
pub(crate) fn report_held() -> io::Result<()> {
    writeln!(io::stdout(), "{HELD}")?;
    nix::unistd::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let mut told = String::new();
    io::stdin().read_to_string(&mut told)?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    if told.trim_end() == GO { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
}

/// Marks every descriptor above 2 so that no started program gets it.
#[allow(unsafe_code)]
pub(crate) fn keep_descriptors_to_ourselves() -> io::Result<()> {
    // SAFETY: close_range takes no pointers, and with this flag it closes nothing now.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the started program begin with no signal blocked; a process that waits for signals blocks them.
#[allow(unsafe_code)]
pub(crate) fn unblock_signals(command: &mut Command) -> &mut Command {
    // SAFETY: sigprocmask is async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
                .map_err(io::Error::from)
        })
    }
}
