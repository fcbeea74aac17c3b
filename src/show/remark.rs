//! What is said beside the answer, on stderr: remarks, and how a failure is told.

use std::fmt;
use std::io::Write;

use super::style::Style;
use super::{harmless, harmless_lines};

/// How much is said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remarks {
    /// `-q`.
    pub(crate) quiet: bool,
    /// `-v`.
    pub(crate) verbose: bool,
    /// Of stderr.
    pub(crate) style: Style,
}

impl Remarks {
    /// A remark, unless `-q`. That stderr is closed is no reason to fail.
    pub(crate) fn say(&self, remark: fmt::Arguments<'_>) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{}", harmless(&remark.to_string()));
        }
    }

    /// What failed, where the workload is now, and what to do.
    pub(crate) fn tell_failure(&self, what: &str, now: Option<&str>, hint: &str) {
        let mut told = format!("{} {}\n", self.style.red("error:"), harmless_lines(what));
        if let Some(now) = now {
            told.push_str(&format!("  {}\n", harmless_lines(now)));
        }
        if !hint.is_empty() {
            told.push_str(&format!("  {} {}\n", self.style.bold("hint:"), harmless_lines(hint)));
        }
        let _ = std::io::stderr().write_all(told.as_bytes());
    }
}
