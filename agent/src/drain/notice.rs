//! Notices that the machine is about to be taken away: a file that appears, an address that answers with success, a command that ends with 0.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use migrate_proto::care::Page;
use migrate_proto::error::Problem;
use tokio::process::Command;

use crate::care::probe;
use crate::events::Kind;
use crate::handover::Ground;

/// How often it is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long an address or a command may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a notice comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This file is there.
    File(PathBuf),
    /// This page answers, with success.
    Page(Page),
    /// This command, given to `sh -c`, ends with 0.
    Command(String),
}

impl FromStr for Notice {
    type Err = String;

    fn from_str(text: &str) -> Result<Notice, String> {
        match text.split_once(':') {
            Some(("file", path)) if path.starts_with('/') => Ok(Notice::File(path.into())),
            Some(("command", command)) if !command.trim().is_empty() => Ok(Notice::Command(command.to_owned())),
            Some(("http", _)) => Page::parse(text).map(Notice::Page).map_err(|problem| problem.message),
            _ => Err("has to be file:/PATH, http://ADDRESS or command:COMMAND".to_owned()),
        }
    }
}

impl Notice {
    async fn has_come(&self) -> bool {
        match self {
            Notice::File(path) => tokio::fs::try_exists(path).await.unwrap_or(false),
            Notice::Page(page) => {
                let page = page.clone();
                let asked = tokio::task::spawn_blocking(move || probe::page_answers(page, PATIENCE));
                matches!(asked.await, Ok(Ok(())))
            }
            Notice::Command(command) => {
                let mut child = Command::new("sh");
                child.arg("-c").arg(command).kill_on_drop(true);
                child.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
                child.stderr(std::process::Stdio::null());
                let ended = tokio::time::timeout(PATIENCE, child.status()).await;
                matches!(ended, Ok(Ok(status)) if status.success())
            }
        }
    }
}

/// Waits for any of them, and drains then; once for each time that one comes.
pub async fn watch(ground: Ground, notices: Vec<Notice>, deadline: Duration) -> Result<(), Problem> {
    let mut before = false;
    loop {
        let mut come = false;
        for notice in &notices {
            come |= notice.has_come().await;
        }
        if come && !before {
            let what = format!("this machine is about to be taken away: {} drains", ground.host.node());
            ground.host.events.record(Kind::Warning, None, None, what);
            super::drain(&ground, Some(deadline)).await?;
        }
        before = come;
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn notices_are_written_as_what_they_are() {
        assert_eq!("file:/run/gone".parse(), Ok(Notice::File("/run/gone".into())));
        assert_eq!("command:test -e /x".parse(), Ok(Notice::Command("test -e /x".to_owned())));
        for wrong in ["", "file:relative", "command: ", "/run/gone", "ftp://x"] {
            assert!(wrong.parse::<Notice>().unwrap_err().starts_with("has to be"), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_file_that_appears_and_a_command_that_succeeds_are_notices() {
        let dir = tempfile::tempdir().unwrap();
        let file = Notice::File(dir.path().join("gone"));
        assert!(!file.has_come().await);
        std::fs::write(dir.path().join("gone"), "").unwrap();
        assert!(file.has_come().await);
        assert!(Notice::Command("true".to_owned()).has_come().await);
        assert!(!Notice::Command("false".to_owned()).has_come().await);
    }
}
