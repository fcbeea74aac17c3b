//! One thread that CRIU holds, and how it was before CRIU changed it.

use std::io;

use super::calls::request;
use super::kernel::{self, Waited};

/// `NT_PRSTATUS`: the general registers.
pub(super) const GENERAL: u64 = 1;
/// `NT_X86_XSTATE`: all others but the next.
const EXTENDED: u64 = 0x202;
/// `NT_X86_SHSTK`: where the shadow stack is, for whom there is one.
const SHADOW_STACK: u64 = 0x204;
/// The kernel's signal mask.
const MASK_BYTES: u64 = 8;
/// Where a thread has its `struct rseq`, and three numbers more.
const RSEQ_BYTES: u64 = 24;
/// Where in that stands which sequence it is in.
const RSEQ_SEQUENCE: u64 = 8;

/// What a thread does, as far as CRIU was told.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It runs, or is about to stop.
    #[default]
    Runs,
    /// It stands because it was asked to, or at a system call.
    Stands,
    /// It stands at a breakpoint: what it had to do for CRIU is done.
    Trapped,
    /// It stands because of a signal, which it gets only from its tracer once that has been told.
    Signalled(i32),
}

/// A thread that is traced.
#[derive(Debug, Default)]
pub(super) struct Tracee {
    /// What it does.
    pub(super) doing: Doing,
    /// What CRIU has set by `PTRACE_SETOPTIONS`: that no filter of its own concerns it meanwhile, say.
    pub(super) options: u64,
    /// A signal that was to stop the process, and that CRIU has kept for the time of its work.
    pub(super) withheld: Option<i32>,
    before: Option<Before>,
    /// Words that CRIU changed, in order.
    pokes: Vec<Poke>,
}

#[derive(Debug)]
struct Before {
    general: Vec<u8>,
    extended: Vec<u8>,
    shadow_stack: Option<Vec<u8>>,
    mask: Vec<u8>,
    /// The restartable sequence that it is in: where that is noted, and what stands there.
    sequence: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Poke {
    peek: u64,
    poke: u64,
    addr: u64,
    before: u64,
}

impl Poke {
    fn is_there(self, pid: i32) -> bool {
        kernel::peek(self.peek, pid, self.addr).is_ok_and(|now| now != self.before)
    }
}

impl Tracee {
    /// Whether anything in it may not be as it was.
    pub(super) fn is_changed(&self) -> bool {
        self.before.is_some()
    }

    /// CRIU is about to make this call: notes what it is going to change.
    pub(super) fn about_to(&mut self, pid: i32, kind: u64, addr: u64) -> io::Result<()> {
        use request::{POKE_DATA, POKE_TEXT, POKE_USER, SET_FP_REGS, SET_REG_SET, SET_REGS, SET_SIG_MASK};
        if !matches!(kind, POKE_TEXT | POKE_DATA | POKE_USER | SET_REGS | SET_FP_REGS | SET_REG_SET | SET_SIG_MASK) {
            return Ok(());
        }
        if self.before.is_none() {
            self.before = Some(Before {
                general: kernel::registers(pid, GENERAL)?,
                extended: kernel::registers(pid, EXTENDED)?,
                shadow_stack: kernel::registers(pid, SHADOW_STACK).ok(),
                mask: kernel::read(request::GET_SIG_MASK, pid, MASK_BYTES, MASK_BYTES as usize)?,
                sequence: sequence(pid),
            });
        }
        if matches!(kind, POKE_TEXT | POKE_DATA | POKE_USER) {
            // A peek has the number of its poke, less three.
            let peek = kind - 3;
            if !self.pokes.iter().any(|poke| (poke.poke, poke.addr) == (kind, addr)) {
                self.pokes.push(Poke { peek, poke: kind, addr, before: kernel::peek(peek, pid, addr)? });
            }
        }
        Ok(())
    }

    /// CRIU has made a call that may let it run.
    pub(super) fn did(&mut self, kind: u64, data: u64) {
        match kind {
            request::CONT | request::SYSCALL | request::SINGLE_STEP => {
                if let Doing::Signalled(signal @ (libc::SIGSTOP | libc::SIGTSTP)) = self.doing
                    && data == 0
                {
                    self.withheld = Some(signal);
                }
                self.doing = Doing::Runs;
            }
            request::SET_OPTIONS => self.options = data,
            _ => {}
        }
    }

    /// CRIU is told that it stopped.
    pub(super) fn stopped(&mut self, waited: Waited) {
        self.doing = doing(waited);
    }

    /// Whether a thread that is about to execute what is at `at` executes what CRIU has put there.
    pub(super) fn has_changed_code(&self, pid: i32, at: u64) -> bool {
        let mut words = self.pokes.iter().filter(|poke| poke.poke != request::POKE_USER);
        // Also where it is just past that.
        words.any(|poke| (0..=8).contains(&at.wrapping_sub(poke.addr)) && poke.is_there(pid))
    }

    /// Puts back what was noted, and with `all` of it what it was about to do. It must stand.
    pub(super) fn put_back(&self, pid: i32, all: bool) -> io::Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let mut outcome = Ok(());
        for poke in self.pokes.iter().rev() {
            // Memory that CRIU had mapped may be gone again.
            if poke.is_there(pid) {
                outcome = outcome.and(kernel::plain(poke.poke, pid, poke.addr, poke.before));
            }
        }
        if !all {
            return outcome;
        }
        if let Some((place, _)) = before.sequence {
            // What it has yet to do for us is not in it.
            outcome = outcome.and(kernel::plain(request::POKE_DATA, pid, place, 0));
        }
        if let Some(shadow_stack) = &before.shadow_stack {
            outcome = outcome.and(kernel::set_registers(pid, SHADOW_STACK, shadow_stack));
        }
        outcome
            .and(kernel::set_registers(pid, EXTENDED, &before.extended))
            .and(kernel::set_registers(pid, GENERAL, &before.general))
            .and(kernel::write(request::SET_SIG_MASK, pid, MASK_BYTES, &before.mask))
    }

    /// The last thing before it runs: the kernel, which has seen it elsewhere meanwhile, is to see to the sequence that it was in.
    pub(super) fn put_back_sequence(&self, pid: i32) -> io::Result<()> {
        match self.before.as_ref().and_then(|before| before.sequence) {
            Some((place, sequence)) => kernel::plain(request::POKE_DATA, pid, place, sequence),
            None => Ok(()),
        }
    }
}

/// The restartable sequence that a thread is in, which the kernel forgets as soon as the thread runs elsewhere.
fn sequence(pid: i32) -> Option<(u64, u64)> {
    let configuration = kernel::read(request::GET_RSEQ, pid, RSEQ_BYTES, RSEQ_BYTES as usize).ok()?;
    // An older kernel cannot tell; most threads are in none.
    let place = word(&configuration, 0).checked_add(RSEQ_SEQUENCE).filter(|place| *place != RSEQ_SEQUENCE)?;
    let sequence = kernel::peek(request::PEEK_DATA, pid, place).ok().filter(|sequence| *sequence != 0)?;
    Some((place, sequence))
}

/// Why a thread has stopped.
pub(super) fn doing(waited: Waited) -> Doing {
    match waited.status >> 8 {
        libc::SIGTRAP => Doing::Trapped,
        signal @ 1..=64 if waited.stopped() => Doing::Signalled(signal),
        _ => Doing::Stands,
    }
}

/// Where a thread that stands is about to go on, and which system call it is in.
pub(super) fn stands_at(pid: i32) -> io::Result<(u64, i64)> {
    let general = kernel::registers(pid, GENERAL)?;
    Ok((word(&general, INSTRUCTION), word(&general, CALL) as i64))
}

/// Indices of `struct user_regs_struct`, in words.
pub(super) const RESULT: usize = 10;
pub(super) const CALL: usize = 15;
pub(super) const INSTRUCTION: usize = 16;
/// Where the arguments of a system call stand.
pub(super) const ARGUMENTS: [usize; 6] = [14, 13, 12, 7, 9, 8];

/// A register.
pub(super) fn word(general: &[u8], index: usize) -> u64 {
    let bytes = general.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Sets a register.
pub(super) fn set_word(general: &mut [u8], index: usize, value: u64) {
    if let Some(bytes) = general.get_mut(index * 8..).and_then(|rest| rest.first_chunk_mut::<8>()) {
        *bytes = value.to_ne_bytes();
    }
}

/// Whether a thread stopped because somebody asked for it, and not by what it did.
pub(super) fn was_interrupted(waited: Waited) -> bool {
    waited.stopped() && waited.status >> 16 == libc::PTRACE_EVENT_STOP
}
