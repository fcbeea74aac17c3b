//! `migrate-agent`: the daemon of a node.

use std::process::ExitCode;

use migrate_agent::config::Config;
use migrate_agent::{daemon, logging};

fn main() -> ExitCode {
    if let Err(error) = migrate_agent::hygiene::begin() {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    migrate_transport::allocation::keep_frames();
    let config = Config::load().unwrap_or_else(|error| error.exit());
    if let Err(error) = logging::init(config.log_level, config.log_format) {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(daemon::run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            if !problem.hint.is_empty() {
                eprintln!("hint: {}", problem.hint);
            }
            ExitCode::from(problem.code.exit_code())
        }
    }
}
