//! Why CRIU failed: the cause from its log, in plain words.
//!
//! CRIU logs an `Error` line at every level on its way out, so the first one names the cause and the rest are its echo. A
//! few come before it and mean nothing; they are known and skipped. [`causes`] knows the usual ones by their words.

use std::fmt;

use migrate_proto::api::Exit;

mod causes;
#[cfg(test)]
mod tests;

/// The longest line that is shown.
const MAX_LINE: usize = 400;
/// How much of the log's end is kept.
const MAX_TAIL_LINES: usize = 30;

/// A failed call of CRIU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriuFailure {
    /// What kind of cause.
    pub kind: FailureKind,
    /// CRIU's own words for it; empty where it had none.
    pub first_error: String,
    /// How it ended.
    pub exit: Exit,
    /// The end of the log, for a person who wants to know more.
    pub tail: String,
}

/// What keeps a workload from being dumped or restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A Unix socket is connected to a process outside.
    ExternalUnixSocket,
    /// It uses io_uring.
    IoUring,
    /// A descriptor of a kind that CRIU does not know.
    UnsupportedDescriptor,
    /// A TCP connection that could not be dealt with.
    TcpConnection,
    /// Its address or port is taken on the target.
    AddressInUse,
    /// The target does not have the address that it listens on.
    AddressMissing,
    /// Something about the network could not be dumped or restored.
    Network,
    /// A deleted file that is still linked somewhere could not be kept.
    LinkRemap,
    /// A deleted file is too large.
    GhostTooBig,
    /// A file that it uses is not the same on the target.
    FileChanged,
    /// A file that it uses is not there on the target.
    FileMissing,
    /// An open file belongs to a mount that CRIU cannot see.
    UnknownMount,
    /// A process ID that it needs is taken in the sandbox.
    PidInUse,
    /// A process of another user, on a node that lacks a capability.
    OtherUser,
    /// The main process leads no session.
    NotSessionLeader,
    /// A terminal outside the sandbox.
    Terminal,
    /// Namespaces of its own that CRIU cannot handle.
    NestedNamespace,
    /// A debugger is attached.
    Traced,
    /// It ended before it could be stopped.
    ProcessGone,
    /// It could not be stopped in time.
    FreezeTimeout,
    /// The target's CPU lacks what the source's has.
    Cpu,
    /// A device or a directory is full.
    NoSpace,
    /// Out of memory.
    NoMemory,
    /// The kernel lacks something.
    FeatureMissing,
    /// CRIU and the kernel disagree about rights.
    NotPermitted,
    /// The agent's hook said no: the move was called off.
    HookRefused,
    /// The stream of images broke.
    Stream,
    /// The images are damaged or incomplete.
    BadImage,
    /// None of these.
    Unknown,
}

/// Reads a failed call's `log` and `stderr`, either of which may be empty, cut or full of nonsense.
pub fn explain(log: &str, stderr: &str, exit: Exit) -> CriuFailure {
    // What CRIU says before it has opened its log goes to stderr.
    let errors = match error_lines(log) {
        errors if errors.is_empty() => error_lines(stderr),
        errors => errors,
    };
    let kind = errors.iter().find_map(|line| causes::kind_of(line)).unwrap_or(FailureKind::Unknown);
    let first_error = errors.first().map(|line| shown(line)).unwrap_or_default();
    let source = if log.trim().is_empty() { stderr } else { log };
    CriuFailure { kind, first_error, exit, tail: tail(source) }
}

/// The texts of the `Error` lines that mean something, in order.
fn error_lines(text: &str) -> Vec<&str> {
    text.lines().filter_map(error_text).filter(|line| !causes::is_harmless(line)).collect()
}

/// What a line says after `Error (file:line): `. Before it may stand a time, a PID or the part of CRIU that speaks.
fn error_text(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("Error (")?;
    let is_prefix = |c: char| c.is_ascii_digit() || matches!(c, '(' | ')' | '.' | ':' | ' ' | '\t');
    let before = before.trim_start_matches(is_prefix);
    if !before.strip_prefix("pie:").unwrap_or(before).chars().all(is_prefix) {
        return None;
    }
    let (_, text) = rest.split_once("): ")?;
    Some(text.trim())
}

/// On one line and not too long. Names in a log are the workload's to choose, control characters included.
fn shown(line: &str) -> String {
    let mut shown: String = line.chars().flat_map(printable).take(MAX_LINE).collect();
    if shown.chars().count() == MAX_LINE {
        shown.push('…');
    }
    shown
}

fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

fn tail(text: &str) -> String {
    let lines: Vec<String> = text.lines().rev().take(MAX_TAIL_LINES).map(shown).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

impl CriuFailure {
    /// What to do about it; empty where nobody knows.
    pub fn hint(&self) -> &'static str {
        causes::hint(self.kind)
    }
}

impl fmt::Display for CriuFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (causes::sentence(self.kind), self.first_error.as_str()) {
            ("", "") => match self.exit {
                Exit::Code(code) => write!(f, "criu exited with {code} and named no cause"),
                Exit::Signal(signal) => write!(f, "criu was killed by signal {signal}"),
            },
            ("", error) => write!(f, "criu: {error}"),
            (sentence, error) => write!(f, "{sentence} (criu: {error})"),
        }
    }
}

impl std::error::Error for CriuFailure {}
