//! Children of a specimen: forked, asked over a pair of pipes, gone when their parent goes.
//!
//! Every question and answer carries a number that rises by one, checked at both ends: a pipe that loses, repeats or
//! reorders bytes in a move is noticed.

use std::io::{PipeReader, PipeWriter, Read, Write};

use nix::sys::signal::Signal;
use nix::unistd::{ForkResult, Pid, getpid, getppid};

use crate::part::say;
use crate::verdict::{MustSucceed, Verdict, Violation, same};

/// A child process that answers questions.
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: Pid,
    name: &'static str,
    questions: PipeWriter,
    answers: PipeReader,
    number: u64,
}

/// The child's end of the pipes.
pub(crate) struct Parent {
    questions: PipeReader,
    answers: PipeWriter,
    number: u64,
}

type Message = [u8; 16];

fn message(number: u64, content: u64) -> Message {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&content.to_le_bytes());
    bytes
}

fn parse(bytes: &Message) -> (u64, u64) {
    let (number, content) = bytes.split_at(8);
    let word = |half: &[u8]| half.iter().rev().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
    (word(number), word(content))
}

impl Child {
    /// Forks a child that runs `body`, which ends when its parent no longer asks. A violation in it is printed there,
    /// and ends it; the parent then finds the pipe closed.
    ///
    /// The calling process must have one thread only.
    pub(crate) fn fork(name: &'static str, body: impl FnOnce(Parent) -> Verdict) -> Verdict<Self> {
        let (child_questions, questions) = std::io::pipe().must("making a pipe")?;
        let (answers, child_answers) = std::io::pipe().must("making a pipe")?;
        let Some(pid) = fork()? else {
            drop((questions, answers));
            finish(body(Parent { questions: child_questions, answers: child_answers, number: 0 }));
        };
        Ok(Self { pid, name, questions, answers, number: 0 })
    }

    /// Asks `question` and waits for the answer.
    pub(crate) fn ask(&mut self, question: u64) -> Verdict<u64> {
        self.number += 1;
        self.questions.write_all(&message(self.number, question)).must(format_args!("asking {}", self.name))?;
        let mut bytes = Message::default();
        self.answers.read_exact(&mut bytes).must(format_args!("hearing from {}", self.name))?;
        let (number, answer) = parse(&bytes);
        same(format_args!("number of the answer of {}", self.name), self.number, number)?;
        Ok(answer)
    }
}

impl Parent {
    /// Answers every question with `answer(question)` until the parent ends or `answer` finds a violation.
    pub(crate) fn serve(mut self, mut answer: impl FnMut(u64) -> Verdict<u64>) -> Verdict {
        let mut bytes = Message::default();
        loop {
            match self.questions.read_exact(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                outcome => outcome.must("hearing the parent's question")?,
            }
            let (number, question) = parse(&bytes);
            self.number += 1;
            same("number of the parent's question", self.number, number)?;
            let content = answer(question)?;
            self.answers.write_all(&message(number, content)).must("answering the parent")?;
        }
    }
}

/// Forks; `None` in the child, which dies with its parent.
pub(crate) fn fork() -> Verdict<Option<Pid>> {
    let parent = getpid();
    // SAFETY: every caller forks while its process has one thread, so the child may use everything.
    #[allow(unsafe_code)]
    let outcome = unsafe { nix::unistd::fork() };
    match outcome.must("fork")? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).must("prctl(PR_SET_PDEATHSIG)")?;
            if getppid() != parent {
                std::process::exit(0);
            }
            Ok(None)
        }
    }
}

/// Ends a child with its verdict.
pub(crate) fn finish(verdict: Verdict) -> ! {
    match verdict {
        Ok(()) => std::process::exit(0),
        Err(violation) => {
            report(&violation);
            std::process::exit(1)
        }
    }
}

/// Prints the `BAD` line.
pub(crate) fn report(violation: &Violation) {
    let line = format!("BAD {violation} (pid {})", getpid()).replace('\n', "\\n");
    if let Err(unsaid) = say(&line) {
        eprintln!("{line}; {unsaid}");
    }
}
