//! The kernel's `ptrace` and `wait4`, raw: as CRIU calls them, and a few of our own.

use std::fs;
use std::io;
use std::path::Path;

use super::calls::{self, Question, ROOM, Shape, request};

/// What a task did that was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waited {
    pub(super) pid: i32,
    pub(super) status: i32,
}

impl Waited {
    pub(super) fn stopped(self) -> bool {
        libc::WIFSTOPPED(self.status)
    }
}

/// Makes the call that `question` describes. `bytes` are those that came with it; what the kernel writes replaces them.
pub(super) fn call(question: &Question, bytes: &mut Vec<u8>) -> io::Result<i64> {
    let Shape { form, addr_in, data_in, out } = question.shape;
    let (addr_in, data_in, out) = (addr_in as usize, data_in as usize, out as usize);
    if bytes.len() != addr_in + data_in || out > ROOM {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut first = bytes.clone();
    let mut second = first.split_off(addr_in);
    second.resize(data_in.max(out), 0);
    let mut iovec = libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() };
    let (addr, data) = match form {
        calls::AT_DATA => (question.addr, second.as_mut_ptr() as u64),
        calls::AT_IOVEC => (question.addr, &raw mut iovec as u64),
        calls::AT_ADDR => (second.as_mut_ptr() as u64, question.data),
        calls::AT_BOTH => (first.as_mut_ptr() as u64, second.as_mut_ptr() as u64),
        _ => (question.addr, question.data),
    };
    let result = raw(question.request, question.pid, addr, data)?;
    second.truncate(if form == calls::AT_IOVEC { iovec.iov_len.min(out) } else { out });
    *bytes = second;
    Ok(result)
}

#[allow(unsafe_code)]
fn raw(request: u64, pid: i32, addr: u64, data: u64) -> io::Result<i64> {
    // SAFETY: what the kernel writes goes to buffers of the callers here, as long as the request's kind demands.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, i64::from(pid), addr, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A request of our own whose arguments are values.
pub(super) fn plain(request: u64, pid: i32, addr: u64, data: u64) -> io::Result<()> {
    raw(request, pid, addr, data).map(drop)
}

/// Reads what a request without an `iovec` tells.
pub(super) fn read(request: u64, pid: i32, addr: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    raw(request, pid, addr, bytes.as_mut_ptr() as u64)?;
    Ok(bytes)
}

/// Sets what a request without an `iovec` takes.
pub(super) fn write(request: u64, pid: i32, addr: u64, bytes: &[u8]) -> io::Result<()> {
    raw(request, pid, addr, bytes.as_ptr() as u64).map(drop)
}

/// A word of memory or of the user area.
pub(super) fn peek(request: u64, pid: i32, addr: u64) -> io::Result<u64> {
    let mut word = 0u64;
    raw(request, pid, addr, &raw mut word as u64)?;
    Ok(word)
}

/// A set of registers.
pub(super) fn registers(pid: i32, set: u64) -> io::Result<Vec<u8>> {
    let mut bytes = [0u8; ROOM];
    let mut iovec = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    raw(request::GET_REG_SET, pid, set, &raw mut iovec as u64)?;
    // No more than it takes: of every thread there is one.
    Ok(bytes.get(..iovec.iov_len).unwrap_or_default().to_vec())
}

/// Sets a set of registers.
pub(super) fn set_registers(pid: i32, set: u64, bytes: &[u8]) -> io::Result<()> {
    let mut iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    raw(request::SET_REG_SET, pid, set, &raw mut iovec as u64).map(drop)
}

/// `wait4` that does not block; `None` where nothing has happened.
#[allow(unsafe_code)]
pub(super) fn wait(pid: i32, options: i32) -> io::Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: the kernel writes an int to the pointer, which outlives the call.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, options | libc::WNOHANG) };
    match waited {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Waited { pid, status })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether anything has happened to a tracee that was not waited for. It still can be.
#[allow(unsafe_code)]
pub(super) fn has_news() -> bool {
    let flags = libc::WNOWAIT | libc::WNOHANG | libc::WSTOPPED | libc::WEXITED | libc::__WALL;
    // SAFETY: all zeroes is a siginfo; the kernel writes to it, and it outlives the call.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut info, flags) == 0 && info.si_pid() != 0
    }
}

/// A number that `status` tells of a task, of which this is the directory below a `/proc`.
pub(super) fn status(task: &Path, name: &str) -> Option<i32> {
    let status = fs::read(task.join("status")).ok()?;
    // The task's name may be any bytes.
    String::from_utf8_lossy(&status).lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
