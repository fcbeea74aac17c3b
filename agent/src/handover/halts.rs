//! Rehearsals: a move that waits in a phase until somebody has done it harm.
//!
//! When a directory is configured (`halts`), a side that enters a phase looks there for a FIFO of the name `source-PHASE` or
//! `target-PHASE`, and after the phase's first commands for `…-begun`. Where there is one it waits until somebody has opened
//! it for writing, which proves that the agent is there, and has closed it again. Without the setting nothing is looked for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use migrate_proto::phase::Phase;

/// Where in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Before its first command.
    Entered,
    /// After its first commands were given: what they started is under way.
    Begun,
}

/// The halts of one side of one handover.
#[derive(Debug)]
pub(super) struct Halts {
    dir: Option<PathBuf>,
    side: &'static str,
}

impl Halts {
    /// Those of `side`, below the configured directory.
    pub(super) fn new(dir: Option<&Path>, side: &'static str) -> Halts {
        Halts { dir: dir.map(Path::to_owned), side }
    }

    /// Waits, where somebody wants that.
    pub(super) async fn at(&self, phase: Phase, point: Point) {
        let Some(dir) = &self.dir else { return };
        let suffix = if point == Point::Begun { "-begun" } else { "" };
        let path = dir.join(format!("{}-{phase}{suffix}", self.side));
        if !std::fs::metadata(&path).is_ok_and(|found| found.file_type().is_fifo()) {
            return;
        }
        tracing::warn!(path = %path.display(), "a rehearsal: the move waits here");
        let (opened, gone) = tokio::sync::oneshot::channel();
        // A thread of its own: nobody may come, and the runtime would wait for its own threads when the agent ends.
        let wait = std::thread::Builder::new().name("halt".into()).spawn(move || opened.send(wait_for_writer(&path)));
        match (wait, gone.await) {
            (Ok(_), Ok(Ok(()))) => tracing::warn!("a rehearsal: the move goes on"),
            (wait, waited) => tracing::error!(?wait, ?waited, "a rehearsal: the halt failed, the move goes on"),
        }
    }
}

/// Until somebody has opened the FIFO for writing, and nobody has it open any more.
fn wait_for_writer(path: &Path) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut io::sink()).map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::OpenOptions;
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_move_waits_until_the_writer_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("source-freeze-begun");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let halts = Halts::new(Some(dir.path()), "source");
        halts.at(Phase::Freeze, Point::Entered).await;
        halts.at(Phase::Transfer, Point::Begun).await;
        Halts::new(Some(dir.path()), "target").at(Phase::Freeze, Point::Begun).await;
        let mut waiting = Box::pin(halts.at(Phase::Freeze, Point::Begun));
        let still = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(still, "nobody has come");
        let writer =
            tokio::task::spawn_blocking(move || OpenOptions::new().write(true).open(path)).await.unwrap().unwrap();
        let still = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(still, "it is being looked at");
        drop(writer);
        waiting.await;
    }

    #[tokio::test]
    async fn without_a_directory_or_a_fifo_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("target-commit"), "no FIFO").unwrap();
        Halts::new(Some(dir.path()), "target").at(Phase::Commit, Point::Entered).await;
        Halts::new(None, "target").at(Phase::Commit, Point::Entered).await;
    }
}
