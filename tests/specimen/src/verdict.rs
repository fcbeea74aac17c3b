//! What a check says: nothing, or the one thing that is not as it was left.

use std::fmt::{Debug, Display};

/// State that a check found changed, lost or doubled; printed as `BAD …`.
#[derive(Debug, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub(crate) struct Violation {
    what: String,
    expected: String,
    found: String,
}

/// The outcome of a check.
pub(crate) type Verdict<T = ()> = Result<T, Violation>;

impl Violation {
    /// Something other than expected was found.
    pub(crate) fn new(what: impl Display, expected: impl Display, found: impl Display) -> Self {
        Self { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }
}

/// Both values must be equal.
pub(crate) fn same<T: PartialEq + Debug>(what: impl Display, expected: T, found: T) -> Verdict {
    if expected == found {
        return Ok(());
    }
    Err(Violation::new(what, format_args!("{expected:?}"), format_args!("{found:?}")))
}

/// `condition` must hold; `expected` says what it means, `found` what is there instead.
pub(crate) fn holds(what: impl Display, condition: bool, expected: impl Display, found: impl Display) -> Verdict {
    if condition { Ok(()) } else { Err(Violation::new(what, expected, found)) }
}

/// Turns the failure of a call that must succeed into a violation.
pub(crate) trait MustSucceed<T> {
    /// The value, or a violation that names `what` failed.
    fn must(self, what: impl Display) -> Verdict<T>;
}

impl<T, E: Display> MustSucceed<T> for Result<T, E> {
    fn must(self, what: impl Display) -> Verdict<T> {
        self.map_err(|error| Violation::new(what, "success", error))
    }
}

/// A call that must be refused with one of `errors`.
pub(crate) fn refused<T>(what: impl Display, outcome: nix::Result<T>, errors: &[nix::errno::Errno]) -> Verdict {
    match outcome {
        Err(error) if errors.contains(&error) => Ok(()),
        Err(error) => Err(Violation::new(what, format_args!("{errors:?}"), error)),
        Ok(_) => Err(Violation::new(what, format_args!("{errors:?}"), "success")),
    }
}
