//! The `migrate` command: what people and scripts type. It asks an agent over its local socket and shows the answer; it
//! holds no state and decides nothing. The lab (a cluster on one machine) lives here as well.

mod cli;
mod client;
mod command;
mod failure;
mod lab;
mod show;

use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use show::remark::Remarks;
use show::style::Style;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let is_asked_for_json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
        if is_asked_for_json && error.use_stderr() {
            failure::tell_misuse(&error);
        }
        error.exit()
    });
    let remarks = Remarks {
        quiet: cli.everywhere.quiet,
        verbose: cli.everywhere.verbose,
        style: Style::of_stderr(cli.everywhere.color),
    };
    let json = cli.everywhere.json;
    match command::run(cli, remarks) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell(&remarks, json);
            ExitCode::from(failure.exit_code())
        }
    }
}
