//! After CRIU's death in the middle of a dump: every thread becomes what it was, and nothing of CRIU stays in it.
//!
//! CRIU's code in a thread, where it runs, is let run to its end first: it sees that its CRIU is gone, puts back what it changed
//! itself, and returns. Then registers, signal mask and changed words are put back, CRIU's mappings and descriptors go, and
//! only then is anybody let go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::calls::request;
use super::kernel::{self, Waited};
use super::service::Stops;
use super::tracee::{
    ARGUMENTS, CALL, Doing, GENERAL, INSTRUCTION, RESULT, Tracee, doing, set_word, stands_at, was_interrupted, word,
};

/// The name of CRIU's memory (compel's `MEMFD_FNAME`).
const FOREIGN: &str = "/memfd:CRIUMFD";
/// How long all of this may take; a workload that is held by its cgroup, say, does not run.
const TIME: Duration = Duration::from_secs(2);
/// How long a thread may take to stop that did not do in time what it should.
const LAST_WORD: Duration = Duration::from_millis(100);
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
const TRACE_SYSTEM_CALLS: u64 = libc::PTRACE_O_TRACESYSGOOD as u64;

/// Mends everything, and lets everybody go. `proc` is the `/proc` in which the tracees have their PIDs. What cannot be mended is
/// said.
pub(super) fn mend(tracees: &BTreeMap<i32, Tracee>, proc: &Path, stops: &Stops) -> Vec<String> {
    let until = Instant::now() + TIME;
    let mut complaints = Vec::new();
    let mut complain = |pid: i32, doing: &str, outcome: io::Result<()>| {
        if let Err(error) = outcome
            // It has ended.
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            complaints.push(format!("thread {pid}: cannot {doing}: {error}"));
        }
    };
    let mut changed = BTreeMap::new();
    for (pid, tracee) in tracees.iter().filter(|(_, tracee)| tracee.is_changed()) {
        let finished = finish(*pid, tracee, proc, stops, until);
        changed.insert(*pid, finished.as_ref().copied().unwrap_or_default());
        complain(*pid, "let CRIU's code in it come to its end", finished.map(drop));
    }
    changed.retain(|pid, _| proc.join(pid.to_string()).exists());
    for (pid, finished) in &changed {
        if let Some(tracee) = tracees.get(pid) {
            complain(*pid, "put back what it was", tracee.put_back(*pid, !finished.went_on));
        }
    }
    let mut cleaned = BTreeSet::new();
    for pid in changed.keys() {
        let process = kernel::status(&proc.join(pid.to_string()), "Tgid:").unwrap_or(*pid);
        if cleaned.insert(process) {
            complain(*pid, "remove what is CRIU's", remove_foreign(*pid, process, proc, stops, until));
        }
    }
    for (pid, tracee) in tracees {
        let let_go = match changed.get(pid) {
            Some(finished) => let_go_changed(*pid, tracee, *finished),
            None => let_go(*pid, tracee),
        };
        complain(*pid, "let it go", let_go);
    }
    complaints
}

/// Lets go of a thread that CRIU has not changed; what it was about to do it does.
fn let_go(pid: i32, tracee: &Tracee) -> io::Result<()> {
    let signal = match tracee.doing {
        // Who has not stopped goes with this process.
        Doing::Runs => return Ok(()),
        Doing::Stands => 0,
        Doing::Trapped => libc::SIGTRAP,
        Doing::Signalled(signal) => signal,
    };
    kernel::plain(request::DETACH, pid, 0, signal as u64)
}

/// Lets go of a thread that is again what it was.
fn let_go_changed(pid: i32, tracee: &Tracee, finished: Finished) -> io::Result<()> {
    if !finished.went_on {
        tracee.put_back_sequence(pid)?;
    }
    if let Some(signal) = finished.halt.or(tracee.withheld).and_then(|signal| Signal::try_from(signal).ok()) {
        kill(Pid::from_raw(pid), signal)?;
    }
    kernel::plain(request::DETACH, pid, 0, finished.signal as u64)
}

/// How CRIU's code in a thread came to its end.
#[derive(Debug, Default, Clone, Copy)]
struct Finished {
    /// It had seen that CRIU is gone, and returned, before the thread could be stopped: the thread has done things of its own since.
    /// What it was before is past.
    went_on: bool,
    /// A signal that was to stop its process meanwhile.
    halt: Option<i32>,
    /// A signal that it has to get, or 0.
    signal: i32,
}

/// Has a thread stand where no code of CRIU is under way in it.
fn finish(pid: i32, tracee: &Tracee, proc: &Path, stops: &Stops, until: Instant) -> io::Result<Finished> {
    let ran = tracee.doing == Doing::Runs;
    let mut doing = if ran { stop(pid, stops, until)? } else { tracee.doing };
    let mut finished = Finished::default();
    if doing == Doing::Trapped {
        return Ok(finished);
    }
    // Its filters, suspended for CRIU, stay so until it is let go.
    kernel::plain(request::SET_OPTIONS, pid, 0, tracee.options | TRACE_SYSTEM_CALLS)?;
    let foreign = criu_mappings(&proc.join(pid.to_string()));
    let is_foreign =
        |at: u64| foreign.iter().any(|range| range.contains(&at)) || ran && tracee.has_changed_code(pid, at);
    if ran && !is_foreign(stands_at(pid)?.0) {
        let signal = if let Doing::Signalled(signal) = doing { signal } else { 0 };
        return Ok(Finished { went_on: true, signal, ..finished });
    }
    let mut returning = false;
    loop {
        match doing {
            Doing::Stands | Doing::Runs => {}
            // No other signal reaches it in CRIU's code.
            Doing::Signalled(libc::SIGSTOP) => finished.halt = Some(libc::SIGSTOP),
            // A breakpoint; or it went wrong, and a signal of that is nobody's affair.
            Doing::Trapped | Doing::Signalled(_) => return Ok(finished),
        }
        let (at, call) = stands_at(pid)?;
        // Its last system call returns to where the thread was.
        if returning || !is_foreign(at) {
            return Ok(finished);
        }
        let last = call == libc::SYS_rt_sigreturn;
        kernel::plain(request::SYSCALL, pid, 0, 0)?;
        let Some(waited) = await_stop(pid, stops, until)? else {
            stop(pid, stops, Instant::now() + LAST_WORD)?;
            return Err(io::ErrorKind::TimedOut.into());
        };
        doing = doing_of(waited)?;
        returning = last && doing == Doing::Stands && !was_interrupted(waited);
    }
}

/// Stops a thread that may run.
fn stop(pid: i32, stops: &Stops, until: Instant) -> io::Result<Doing> {
    kernel::plain(request::INTERRUPT, pid, 0, 0)?;
    await_stop(pid, stops, until)?.map_or_else(|| Err(io::ErrorKind::TimedOut.into()), doing_of)
}

/// An error where it has ended.
fn doing_of(waited: Waited) -> io::Result<Doing> {
    if waited.stopped() { Ok(doing(waited)) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

fn await_stop(pid: i32, stops: &Stops, until: Instant) -> io::Result<Option<Waited>> {
    loop {
        if let Some(waited) = kernel::wait(pid, libc::__WALL)? {
            return Ok(Some(waited));
        }
        if !stops.await_any(until) {
            return Ok(None);
        }
    }
}

/// Where CRIU's code lies in a process, of which this is the directory below a `/proc`.
pub fn criu_mappings(process: &Path) -> Vec<Range<u64>> {
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    mappings(&String::from_utf8_lossy(&maps))
}

fn mappings(maps: &str) -> Vec<Range<u64>> {
    let number = |text| u64::from_str_radix(text, 16).ok();
    maps.lines()
        .filter(|line| line.contains(FOREIGN))
        .filter_map(|line| line.split_once(' ')?.0.split_once('-'))
        .filter_map(|(from, to)| Some(number(from)?..number(to)?))
        .collect()
}

/// The descriptors of a process that are CRIU's.
fn foreign_descriptors(process: &Path) -> Vec<u64> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let is_foreign = |path: PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with(FOREIGN));
    entries
        .filter(|entry| is_foreign(entry.path()))
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// Has a process close and unmap what CRIU left in it, by a thread of it that stands.
fn remove_foreign(pid: i32, process: i32, proc: &Path, stops: &Stops, until: Instant) -> io::Result<()> {
    let process = proc.join(process.to_string());
    let closes = foreign_descriptors(&process).into_iter().map(|descriptor| (libc::SYS_close, [descriptor, 0]));
    let mappings = criu_mappings(&process).into_iter();
    let unmaps = mappings.map(|range| (libc::SYS_munmap, [range.start, range.end - range.start]));
    let calls: Vec<_> = closes.chain(unmaps).collect();
    calls.into_iter().try_for_each(|(call, arguments)| have_called(pid, call, arguments, stops, until))
}

/// Has a thread that stands make a system call; afterwards it is as it was.
fn have_called(pid: i32, call: libc::c_long, arguments: [u64; 2], stops: &Stops, until: Instant) -> io::Result<()> {
    let before = kernel::registers(pid, GENERAL)?;
    let mask = kernel::read(request::GET_SIG_MASK, pid, 8, 8)?;
    // A word that lies in one page.
    let place = word(&before, INSTRUCTION) & !7;
    let code = kernel::peek(request::PEEK_TEXT, pid, place)?;
    let mut with_call = code.to_ne_bytes();
    with_call[..2].copy_from_slice(&SYSTEM_CALL);
    let mut registers = before.clone();
    set_word(&mut registers, INSTRUCTION, place);
    set_word(&mut registers, RESULT, call as u64);
    // It is in no system call that would have to be made again.
    set_word(&mut registers, CALL, u64::MAX);
    arguments.into_iter().zip(ARGUMENTS).for_each(|(value, register)| set_word(&mut registers, register, value));

    kernel::plain(request::POKE_TEXT, pid, place, u64::from_ne_bytes(with_call))?;
    // No handler of the workload runs in between.
    let all_but_trap = !(1u64 << (libc::SIGTRAP - 1));
    let made = kernel::write(request::SET_SIG_MASK, pid, 8, &all_but_trap.to_ne_bytes())
        .and_then(|()| kernel::set_registers(pid, GENERAL, &registers))
        .and_then(|()| step(pid, stops, until))
        .and_then(|()| kernel::registers(pid, GENERAL));
    kernel::plain(request::POKE_TEXT, pid, place, code)?;
    kernel::set_registers(pid, GENERAL, &before)?;
    kernel::write(request::SET_SIG_MASK, pid, 8, &mask)?;
    match word(&made?, RESULT) as i64 {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

/// One instruction.
fn step(pid: i32, stops: &Stops, until: Instant) -> io::Result<()> {
    loop {
        kernel::plain(request::SINGLE_STEP, pid, 0, 0)?;
        match await_stop(pid, stops, until)? {
            // An interruption from before, which it has met only now.
            Some(waited) if was_interrupted(waited) => {}
            Some(waited) if waited.stopped() => return Ok(()),
            Some(_) => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
            None => {
                stop(pid, stops, Instant::now() + LAST_WORD)?;
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_criu_s_is_found() {
        let maps =
            "7f00-7f10 r-xp 00000000 00:01 7 /lib/x\n7f2000-7f3000 rwxs 00000000 00:01 8 /memfd:CRIUMFD (deleted)\n";
        assert!(matches!(&mappings(maps)[..], [only] if *only == (0x7f2000..0x7f3000)));
    }
}
