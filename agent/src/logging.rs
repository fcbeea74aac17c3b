//! The agent's own log, on stderr: lines for people, or JSON objects for programs.
//!
//! The level is that of the project's own crates. Libraries are heard from `warn` on, or from `info` on where the level
//! is below that: at `debug` they would drown everything.

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The process already has a log.
#[derive(Debug, Error)]
#[error("cannot set up the log: {0}")]
pub struct LoggingError(#[from] tracing_subscriber::util::TryInitError);

/// Sets up the log of this process; once.
pub fn init(level: Level, format: Format) -> Result<(), LoggingError> {
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        Format::Human => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            fmt::layer().with_writer(io::stderr).with_ansi(colour).boxed()
        }
        Format::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter(level))).try_init()?;
    Ok(())
}

fn filter(level: Level) -> Targets {
    let libraries = if level > Level::INFO { Level::INFO } else { level.min(Level::WARN) };
    // Raft calls everything an error that it has to expect, several times a second; what matters is said by who drives it.
    let raft = if level > Level::INFO { LevelFilter::WARN } else { LevelFilter::OFF };
    // A prefix: all crates of the project begin with it.
    Targets::new().with_default(libraries).with_target("openraft", raft).with_target("migrate", level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_ours_and_libraries_are_quieter() {
        let heard = |level, target, at| filter(level).would_enable(target, &at);
        assert!(heard(Level::DEBUG, "migrate_criu::stream", Level::DEBUG));
        assert!(!heard(Level::DEBUG, "rustls::conn", Level::DEBUG));
        assert!(heard(Level::DEBUG, "rustls::conn", Level::INFO));
        assert!(heard(Level::INFO, "migrate_agent", Level::INFO));
        assert!(!heard(Level::INFO, "migrate_agent", Level::DEBUG));
        assert!(!heard(Level::INFO, "hyper", Level::INFO));
        assert!(heard(Level::INFO, "hyper", Level::WARN));
        assert!(!heard(Level::ERROR, "hyper", Level::WARN));
        assert!(!heard(Level::INFO, "openraft::replication", Level::ERROR));
        assert!(heard(Level::DEBUG, "openraft::replication", Level::ERROR));
    }
}
