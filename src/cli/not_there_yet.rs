//! Parts of the contract that come later. They are known by name and refused, so that a script learns the truth.

use std::ffi::OsString;

use clap::Args;

/// Swallows whatever follows a command that is not there yet.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct NotThereYet {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}
