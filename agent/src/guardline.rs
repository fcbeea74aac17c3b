//! The agent's line to a guard: hears CRIU's hooks, and gives orders.

use std::io;
use std::path::{Path, PathBuf};

use migrate_proto::api::Exit;
use migrate_sandbox::guard::{self, GUARD_SOCKET, Hook, Order, Told};
use migrate_sandbox::{nearby, process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};

/// Where a CRIU call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// CRIU works.
    Working,
    /// CRIU waits at a hook.
    At(Hook),
    /// CRIU has ended.
    Ended(Exit),
    /// The guard itself is gone without a word.
    Lost,
}

/// A line to one guard. Dropping it tells the guard that this agent is gone.
pub struct GuardLine {
    orders: Mutex<OwnedWriteHalf>,
    /// The guard's PID.
    guard: Option<i32>,
    standing: watch::Receiver<Standing>,
    reader: tokio::task::AbortHandle,
}

impl Drop for GuardLine {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl GuardLine {
    /// Calls the guard of `dir`.
    pub async fn call(dir: &Path) -> io::Result<GuardLine> {
        let stream = nearby::connect(dir, GUARD_SOCKET)?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let guard = stream.peer_cred().ok().and_then(|guard| guard.pid());
        let (read, write) = stream.into_split();
        let (tell, standing) = watch::channel(Standing::Working);
        let reader = tokio::spawn(listen(read, tell, dir.to_owned())).abort_handle();
        Ok(GuardLine { orders: Mutex::new(write), guard, standing, reader })
    }

    /// Gives an order. A guard that is gone has nothing left to be ordered.
    pub async fn order(&self, order: Order) {
        if let Ok(mut line) = serde_json::to_vec(&order) {
            line.push(b'\n');
            let _ = self.orders.lock().await.write_all(&line).await;
        }
    }

    /// The processes of the call: CRIU and what it started.
    pub fn processes(&self) -> Vec<i32> {
        self.guard.map(process::tree).into_iter().flatten().skip(1).collect()
    }

    /// Where the call stands now.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Waits until the call is past `Working`, and past the hook `beyond`.
    pub async fn past(&self, beyond: Option<Hook>) -> Standing {
        let mut standing = self.standing.clone();
        let passed = |now: &Standing| match now {
            Standing::Working => false,
            Standing::At(hook) => Some(*hook) != beyond,
            Standing::Ended(_) | Standing::Lost => true,
        };
        standing.wait_for(passed).await.map_or(Standing::Lost, |now| *now)
    }

    /// Waits for the end of the call.
    pub async fn end(&self) -> Option<Exit> {
        let mut standing = self.standing.clone();
        let ended = standing.wait_for(|now| matches!(now, Standing::Ended(_) | Standing::Lost)).await;
        match ended.map(|now| *now) {
            Ok(Standing::Ended(exit)) => Some(exit),
            _ => None,
        }
    }
}

async fn listen(read: OwnedReadHalf, tell: watch::Sender<Standing>, dir: PathBuf) {
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(Told::Hook(hook)) => {
                tell.send_replace(Standing::At(hook));
            }
            Ok(Told::Exited(exit)) => {
                tell.send_replace(Standing::Ended(exit));
                return;
            }
            Err(error) => tracing::warn!(%error, "the guard said something odd"),
        }
    }
    let last = guard::result(&dir).inspect_err(|error| tracing::error!(%error, "how CRIU ended cannot be read"));
    tell.send_replace(last.ok().flatten().map_or(Standing::Lost, Standing::Ended));
}
