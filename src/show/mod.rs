//! What people see: answers on stdout, everything else on stderr; legible without colour.

pub(crate) mod answer;
pub(crate) mod checking;
pub(crate) mod checkpoints;
pub(crate) mod moving;
pub(crate) mod remark;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod units;

/// Text from elsewhere without anything that a terminal would obey.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown
}

/// The same, for text that may have several lines.
pub(crate) fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_as_a_command() {
        assert_eq!(harmless("a\x1b[31mb\n\u{9b}c ä"), "a\\u{1b}[31mb\\n\\u{9b}c ä");
        assert_eq!(harmless_lines("one\ntwo\x07"), "one\ntwo\\u{7}");
    }
}
