//! Colour, where it is wanted. It only repeats what the words say.

use std::io::IsTerminal;

use crate::cli::Color;

/// Paints or does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    enabled: bool,
}

impl Style {
    /// For a stream that `is_terminal`.
    fn new(when: Color, is_terminal: bool) -> Style {
        let unwanted = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let dumb = || std::env::var_os("TERM").is_none_or(|v| v == "dumb");
        let enabled = match when {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && !unwanted() && !dumb(),
        };
        Style { enabled }
    }

    /// For stdout.
    pub(crate) fn of_stdout(when: Color) -> Style {
        Style::new(when, std::io::stdout().is_terminal())
    }

    /// For stderr.
    pub(crate) fn of_stderr(when: Color) -> Style {
        Style::new(when, std::io::stderr().is_terminal())
    }

    /// Whether it paints.
    pub(crate) fn enabled(self) -> bool {
        self.enabled
    }

    /// For `error:`.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// For `hint:` and headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
