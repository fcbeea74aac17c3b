//! How CRIU's calls of `ptrace` and `wait4` travel to the tracer: one datagram each way.
//!
//! Compiled into the shim as well, which has no standard library.

/// CRIU's environment names its end of the line here.
pub(super) const LINE_VARIABLE: &str = "MIGRATE_TRACER";

/// What the shim asks.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// One of [`HELLO`], [`PTRACE`], [`WAIT`], [`INTERRUPTED`].
    pub(super) call: u32,
    /// The task's.
    pub(super) pid: i32,
    /// The kind of `ptrace`, or the options of `wait4`.
    pub(super) request: u64,
    /// As CRIU gave it.
    pub(super) addr: u64,
    /// As CRIU gave it.
    pub(super) data: u64,
    /// What the two stand for.
    pub(super) shape: Shape,
}

/// A question as it came, of the bytes before those that it points to.
#[allow(unsafe_code)]
pub(super) fn question_of(bytes: &[u8]) -> Option<Question> {
    // SAFETY: every pattern of bits is a question; the length is right.
    (bytes.len() == size_of::<Question>()).then(|| unsafe { bytes.as_ptr().cast::<Question>().read_unaligned() })
}

/// An answer as it goes.
#[allow(unsafe_code)]
pub(super) fn answer_bytes(answer: &Answer) -> &[u8] {
    // SAFETY: an answer has no padding: 8, 4 and 4 bytes.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(answer).cast(), size_of::<Answer>()) }
}

/// The shim is there. Not answered before the tracer can follow CRIU's life.
pub(super) const HELLO: u32 = 0;
/// The status in the answer to [`HELLO`], where CRIU is to dump.
pub(super) const DUMPS: i32 = 1;
/// `ptrace`.
pub(super) const PTRACE: u32 = 1;
/// `wait4`.
pub(super) const WAIT: u32 = 2;
/// A signal came while `wait4` waited. Not answered; the wait is.
pub(super) const INTERRUPTED: u32 = 3;

/// What the tracer answers; what the kernel wrote follows.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// What the call returned, or a negative error number; [`YOURS`].
    pub(super) result: i64,
    /// Of `wait4`; [`DUMPS`] or 0.
    pub(super) status: i32,
    /// How many bytes the kernel wrote.
    pub(super) written: u32,
}

/// CRIU tries something on a child of its own: it makes the call itself.
pub(super) const YOURS: i64 = i64::MIN;

/// The most that travels beside a question or an answer.
pub(super) const ROOM: usize = 64 << 10;

/// Which arguments of a call are addresses, and of how many bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// How the arguments are to be understood.
    pub(super) form: u32,
    /// How many bytes at `addr` are read.
    pub(super) addr_in: u32,
    /// How many bytes at `data` are read.
    pub(super) data_in: u32,
    /// How many bytes are written, at `addr` or `data`.
    pub(super) out: u32,
}

/// Both are values.
pub(super) const VALUES: u32 = 0;
/// `data` is an address.
pub(super) const AT_DATA: u32 = 1;
/// `data` is the address of an `iovec`.
pub(super) const AT_IOVEC: u32 = 2;
/// `addr` is an address that is written to.
pub(super) const AT_ADDR: u32 = 3;
/// `addr` is an address that is read from, and `data` one that is written to.
pub(super) const AT_BOTH: u32 = 4;

/// The requests of `ptrace` that are treated specially.
pub(super) mod request {
    pub(crate) const PEEK_TEXT: u64 = 1;
    pub(crate) const PEEK_DATA: u64 = 2;
    pub(crate) const PEEK_USER: u64 = 3;
    pub(crate) const POKE_TEXT: u64 = 4;
    pub(crate) const POKE_DATA: u64 = 5;
    pub(crate) const POKE_USER: u64 = 6;
    pub(crate) const CONT: u64 = 7;
    pub(crate) const SINGLE_STEP: u64 = 9;
    pub(crate) const SET_REGS: u64 = 13;
    pub(crate) const SET_FP_REGS: u64 = 15;
    pub(crate) const DETACH: u64 = 17;
    pub(crate) const SYSCALL: u64 = 24;
    pub(crate) const SET_OPTIONS: u64 = 0x4200;
    pub(crate) const GET_REG_SET: u64 = 0x4204;
    pub(crate) const SET_REG_SET: u64 = 0x4205;
    pub(crate) const SEIZE: u64 = 0x4206;
    pub(crate) const INTERRUPT: u64 = 0x4207;
    pub(crate) const PEEK_SIGINFO: u64 = 0x4209;
    pub(crate) const GET_SIG_MASK: u64 = 0x420a;
    pub(crate) const SET_SIG_MASK: u64 = 0x420b;
    pub(crate) const GET_RSEQ: u64 = 0x420f;
}

const SIGINFO: u64 = 128;
/// `ARCH_GET_FS`, `ARCH_GET_GS`, `ARCH_SHSTK_STATUS` write where `addr` points to.
const ARCH_WRITES: [u64; 3] = [0x1003, 0x1004, 0x5005];
/// The longest filter, in bytes.
const FILTER: u64 = 4096 * 8;

/// The shape of a call of `ptrace`. `length` is that of the `iovec`, or the number of signals to be peeked at. `None` for what CRIU never asks
/// for.
pub(super) fn shape(request: u64, addr: u64, data: u64, length: u64) -> Option<Shape> {
    let (form, addr_in, data_in, out) = match request {
        // Words of memory or of the user area: the kernel writes what it found, the C library returns it.
        1..=3 => (AT_DATA, 0, 0, 8),
        4..=9 | 16 | 17 | 24 | 0x4200 | 0x4206..=0x4208 => (VALUES, 0, 0, 0),
        12 => (AT_DATA, 0, 0, 216),
        13 => (AT_DATA, 0, 216, 0),
        14 => (AT_DATA, 0, 0, 512),
        15 => (AT_DATA, 0, 512, 0),
        25 => (AT_DATA, 0, 0, 16),
        26 => (AT_DATA, 0, 16, 0),
        30 if ARCH_WRITES.contains(&data) => (AT_ADDR, 0, 0, 8),
        30 => (VALUES, 0, 0, 0),
        0x4201 => (AT_DATA, 0, 0, 8),
        0x4202 => (AT_DATA, 0, 0, SIGINFO),
        0x4203 => (AT_DATA, 0, SIGINFO, 0),
        0x4204 => (AT_IOVEC, 0, 0, length),
        0x4205 => (AT_IOVEC, 0, length, 0),
        0x4209 => (AT_BOTH, 16, 0, length.checked_mul(SIGINFO)?),
        // Their `addr` is the size.
        0x420a | 0x420e | 0x420f | 0x4211 => (AT_DATA, 0, 0, addr),
        0x420b | 0x4210 => (AT_DATA, 0, addr, 0),
        0x420d => (AT_DATA, 0, addr, addr),
        0x420c if data == 0 => (VALUES, 0, 0, 0),
        0x420c => (AT_DATA, 0, 0, FILTER),
        _ => return None,
    };
    let fits = addr_in + data_in <= ROOM as u64 && out <= ROOM as u64;
    fits.then_some(Shape { form, addr_in: addr_in as u32, data_in: data_in as u32, out: out as u32 })
}
