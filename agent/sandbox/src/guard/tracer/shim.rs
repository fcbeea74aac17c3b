//! The shim: preloaded into CRIU, it has `ptrace` and `wait4` carried out by the tracer, and holds a dump back until the pages
//! of a task have been read ([`drained`]).
//!
//! A shared object of its own, made by the build script, without a standard library and without any library at all: it has
//! to load into whatever CRIU there is. Where it finds no tracer it makes the calls itself.

#![no_std]

#[path = "calls.rs"]
#[allow(dead_code)]
mod calls;
#[path = "drained.rs"]
mod drained;

use core::arch::asm;
use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};

use calls::{Answer, DUMPS, HELLO, INTERRUPTED, LINE_VARIABLE, PTRACE, Question, Shape, WAIT, YOURS, request};

mod number {
    pub const IOCTL: usize = 16;
    pub const SENDMSG: usize = 46;
    pub const RECVMSG: usize = 47;
    pub const WAIT4: usize = 61;
    pub const FCNTL: usize = 72;
    pub const PTRACE: usize = 101;
    pub const CLOSE: usize = 3;
    pub const PPOLL: usize = 271;
    pub const SPLICE: usize = 275;
    pub const GET_PID: usize = 39;
}

const EINTR: isize = 4;
const EIO: isize = 5;
const NO_SIGNAL: usize = 0x4000;
const SET_DESCRIPTOR_FLAGS: usize = 2;
const CLOSE_ON_EXEC: usize = 1;
/// `__WALL`: who waits with it waits for a tracee.
const WAITS_FOR_TRACEES: c_int = 0x4000_0000;
/// `WNOHANG`, alone: CRIU's handler of `SIGCHLD` wants to know what happened, to whomever.
const WANTS_NEWS: c_int = 1;
/// The largest PID that Linux gives.
const PIDS: usize = 4 << 20;

/// The line to the tracer; negative where there is none.
static LINE: AtomicI32 = AtomicI32::new(-1);
/// The process that has said hello. What it forks has the line as well, and would take its answers.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// A question is on its way. A signal's handler that interrupts it asks nothing itself.
static ASKING: AtomicBool = AtomicBool::new(false);
/// Which tasks the tracer holds for CRIU, a bit for each PID.
static HELD: [AtomicU64; PIDS / 64] = [const { AtomicU64::new(0) }; PIDS / 64];
static HOLDS_ANY: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[repr(C)]
struct Piece {
    base: *mut c_void,
    length: usize,
}

#[repr(C)]
struct Datagram {
    name: *mut c_void,
    name_length: u32,
    pieces: *mut Piece,
    piece_count: usize,
    control: *mut c_void,
    control_length: usize,
    flags: c_int,
}

unsafe fn system_call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    // SAFETY: see there.
    unsafe { long_system_call(number, [a, b, c, d, 0, 0]) }
}

unsafe fn long_system_call(number: usize, [a, b, c, d, e, f]: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the convention of x86-64 Linux; the callers answer for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// As the C library returns it.
unsafe fn returned(result: isize) -> c_long {
    if result < 0 {
        // SAFETY: the C library's place for this thread's error.
        unsafe { *__errno_location() = -result as c_int };
        return -1;
    }
    result as c_long
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: unsafe extern "C" fn(c_int, *const *const c_char, *mut *const c_char) = start;

/// Runs before CRIU does: finds the line, and takes away from what CRIU starts what only this process should have.
unsafe extern "C" fn start(_count: c_int, _arguments: *const *const c_char, mut environment: *mut *const c_char) {
    // SAFETY: the loader gives the environment, a list of C strings that ends with null; the list is writable.
    unsafe {
        let mut kept = environment;
        while !(*environment).is_null() {
            let text = CStr::from_ptr(*environment).to_bytes();
            if let Some(value) = value_of(text, LINE_VARIABLE.as_bytes()) {
                LINE.store(decimal(value), Relaxed);
            } else if let Some(value) = value_of(text, b"LD_PRELOAD") {
                // "/proc/self/fd/N": loaded is loaded.
                let descriptor = value.rsplit(|byte| *byte == b'/').next().map_or(-1, decimal);
                system_call(number::CLOSE, descriptor as usize, 0, 0, 0);
            } else {
                *kept = *environment;
                kept = kept.add(1);
            }
            environment = environment.add(1);
        }
        *kept = null();
        let line = LINE.load(Relaxed);
        if line < 0 {
            return;
        }
        OWNER.store(process(), Relaxed);
        system_call(number::FCNTL, line as usize, SET_DESCRIPTOR_FLAGS, CLOSE_ON_EXEC, 0);
        let hello = question(HELLO, 0, 0, 0, 0, NOTHING);
        let answer = ask(&hello, null(), null(), null_mut());
        if answer.result != 0 {
            LINE.store(-1, Relaxed);
        } else if answer.status == DUMPS {
            drained::watch();
        }
    }
}

const NOTHING: Shape = Shape { form: calls::VALUES, addr_in: 0, data_in: 0, out: 0 };

fn question(call: u32, pid: c_int, request: u64, addr: u64, data: u64, shape: Shape) -> Question {
    Question { call, pid, request, addr, data, shape }
}

fn value_of<'a>(entry: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(name)?.strip_prefix(b"=")
}

fn decimal(text: &[u8]) -> i32 {
    let mut number = 0i32;
    for byte in text {
        if !byte.is_ascii_digit() {
            return -1;
        }
        number = number.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
    }
    number
}

fn process() -> c_int {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { system_call(number::GET_PID, 0, 0, 0, 0) as c_int }
}

/// Whether this process may ask now.
fn may_ask() -> bool {
    LINE.load(Relaxed) >= 0 && !ASKING.load(Relaxed) && OWNER.load(Relaxed) == process()
}

fn place(pid: c_int) -> Option<(&'static AtomicU64, u64)> {
    let pid = usize::try_from(pid).ok()?;
    Some((HELD.get(pid / 64)?, 1 << (pid % 64)))
}

fn is_held(pid: c_int) -> bool {
    place(pid).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
}

fn note(pid: c_int, held: bool) {
    let Some((word, bit)) = place(pid) else { return };
    if held {
        word.fetch_or(bit, Relaxed);
        HOLDS_ANY.store(true, Relaxed);
    } else {
        word.fetch_and(!bit, Relaxed);
    }
}

/// Asks, with what is at `addr` and `data`; the answer's bytes go to `out`. A tracer that is gone is an I/O error.
unsafe fn ask(question: &Question, addr: *const c_void, data: *const c_void, out: *mut c_void) -> Answer {
    ASKING.store(true, Relaxed);
    // SAFETY: as here.
    let answer = unsafe { exchange(question, addr, data, out) };
    ASKING.store(false, Relaxed);
    answer
}

unsafe fn exchange(question: &Question, addr: *const c_void, data: *const c_void, out: *mut c_void) -> Answer {
    let line = LINE.load(Relaxed) as usize;
    let shape = question.shape;
    // The kernel looks at addresses also where nothing is; here these may be words of CRIU's.
    let piece = |base: *const c_void, length: usize| match length {
        0 => Piece { base: null_mut(), length },
        _ => Piece { base: base.cast_mut(), length },
    };
    let head = core::ptr::from_ref(question).cast();
    let mut says =
        [piece(head, size_of::<Question>()), piece(addr, shape.addr_in as usize), piece(data, shape.data_in as usize)];
    let mut answer = Answer { result: -(EIO as i64), status: 0, written: 0 };
    let failed = answer;
    let head = core::ptr::from_mut(&mut answer).cast();
    let mut hears = [piece(head, size_of::<Answer>()), piece(out, shape.out as usize)];
    let datagram = |pieces: &mut [Piece]| Datagram {
        name: null_mut(),
        name_length: 0,
        pieces: pieces.as_mut_ptr(),
        piece_count: pieces.len(),
        control: null_mut(),
        control_length: 0,
        flags: 0,
    };
    let (says, mut hears) = (datagram(&mut says), datagram(&mut hears));
    let send = |says: &Datagram| loop {
        // SAFETY: the pieces outlive the call, and their lengths are those that CRIU's arguments have by their kind.
        let sent = unsafe { system_call(number::SENDMSG, line, core::ptr::from_ref(says) as usize, NO_SIGNAL, 0) };
        if sent != -EINTR {
            return sent;
        }
    };
    if send(&says) < 0 {
        return failed;
    }
    loop {
        // SAFETY: as above.
        let heard = unsafe { system_call(number::RECVMSG, line, core::ptr::from_mut(&mut hears) as usize, 0, 0) };
        match heard {
            heard if heard >= size_of::<Answer>() as isize => return answer,
            heard if heard == -EINTR => {
                if question.call == WAIT {
                    let interrupted = Question { call: INTERRUPTED, ..*question };
                    let mut says = [piece(core::ptr::from_ref(&interrupted).cast(), size_of::<Question>())];
                    send(&datagram(&mut says));
                }
            }
            _ => return failed,
        }
    }
}

/// Stands in for the C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptrace(kind: u32, pid: c_int, addr: *mut c_void, data: *mut c_void) -> c_long {
    let kind = u64::from(kind);
    let peeks = (request::PEEK_TEXT..=request::PEEK_USER).contains(&kind);
    let mut word = 0u64;
    let data = if peeks { core::ptr::from_mut(&mut word).cast() } else { data };
    let traced = (kind == request::SEIZE || is_held(pid)) && may_ask();
    // SAFETY: the caller's arguments, as the kind of request demands.
    let result = unsafe {
        match traced.then(|| ask_tracer(kind, pid, addr, data)).flatten() {
            Some(result) => result,
            None => system_call(number::PTRACE, kind as usize, pid as usize, addr as usize, data as usize),
        }
    };
    // SAFETY: see there.
    let returned = unsafe { returned(result) };
    if peeks && returned >= 0 {
        // SAFETY: a word of -1 is told from an error by this.
        unsafe { *__errno_location() = 0 };
        return word as c_long;
    }
    returned
}

/// `None`: CRIU is to make the call itself.
unsafe fn ask_tracer(kind: u64, pid: c_int, addr: *mut c_void, data: *mut c_void) -> Option<isize> {
    // SAFETY: the kernel would read these.
    let length = unsafe {
        match kind {
            request::GET_REG_SET | request::SET_REG_SET => (*data.cast::<Piece>()).length as u64,
            request::PEEK_SIGINFO => u64::from((*addr.cast::<[u32; 4]>())[3]),
            _ => 0,
        }
    };
    let Some(shape) = calls::shape(kind, addr as u64, data as u64, length) else { return Some(-EIO) };
    let pointed = match shape.form {
        // SAFETY: as above.
        calls::AT_IOVEC => unsafe { (*data.cast::<Piece>()).base },
        calls::AT_ADDR => addr,
        _ => data,
    };
    let question = question(PTRACE, pid, kind, addr as u64, data as u64, shape);
    // SAFETY: the shape says how much is there.
    let answer = unsafe { ask(&question, addr, pointed, pointed) };
    if answer.result == YOURS {
        return None;
    }
    if answer.result >= 0 {
        match kind {
            request::SEIZE => note(pid, true),
            request::DETACH => note(pid, false),
            // SAFETY: as above.
            request::GET_REG_SET => unsafe { (*data.cast::<Piece>()).length = answer.written as usize },
            _ => {}
        }
    }
    Some(answer.result as isize)
}

unsafe fn ask_for_stop(pid: c_int, status: *mut c_int, options: c_int) -> isize {
    let question = question(WAIT, pid, options as u64, 0, 0, NOTHING);
    // SAFETY: nothing travels beside it.
    let answer = unsafe { ask(&question, null(), null(), null_mut()) };
    if answer.result > 0 && !status.is_null() {
        // SAFETY: the caller's place for it.
        unsafe { *status = answer.status };
    }
    answer.result as isize
}

/// Stands in for the C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut c_void) -> c_int {
    let any = pid == -1 && HOLDS_ANY.load(Relaxed);
    let news = any && options == WANTS_NEWS;
    let tracees = news || options & WAITS_FOR_TRACEES != 0 && (any || is_held(pid));
    // SAFETY: the caller's arguments.
    let result = unsafe {
        match (tracees && usage.is_null() && may_ask()).then(|| ask_for_stop(pid, status, options)) {
            Some(result) if !news || result > 0 => result,
            _ => system_call(number::WAIT4, pid as usize, status as usize, options as usize, usage as usize),
        }
    };
    // SAFETY: see there.
    unsafe { returned(result) as c_int }
}

/// Stands in for the C library's.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int {
    // SAFETY: the caller's arguments.
    unsafe { wait4(pid, status, options, null_mut()) }
}
