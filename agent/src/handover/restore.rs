//! CRIU on the target: started early, it waits for its first image; then it rebuilds the processes and holds them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use migrate_criu::mend;
use migrate_criu::stream::serve::{Serve, Serving};
use migrate_image::serve::Image;
use migrate_proto::api::Exit;
use migrate_proto::error::{Code, Problem};
use migrate_sandbox::Sandbox;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::guard::{self, Hook, Kind, Order};
use migrate_sandbox::plan::MAIN_PID;
use tokio::sync::{oneshot, watch};

use super::dump::{CriuCall, Places};
use crate::guardline::Standing;
use crate::host::Host;

/// After this time CRIU, which should be letting go of what it restored, is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// A restore that is under way.
pub(crate) struct Restore {
    call: Arc<CriuCall>,
    image: Mutex<Option<oneshot::Sender<Arc<dyn Image>>>>,
    asked: watch::Receiver<bool>,
    serving: tokio::task::AbortHandle,
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Restore {
    /// Starts CRIU in the sandbox; what it restores will be in these groups.
    pub(crate) async fn start(host: &Arc<Host>, cgroup: &Cgroup, sandbox: &Sandbox) -> Result<Restore, Problem> {
        let name = "restore".to_owned();
        let images = sandbox.work().join(&name);
        std::fs::create_dir_all(&images).map_err(Problem::internal)?;
        let serve = Serve::bind(&images).map_err(Problem::internal)?;
        let guard = guard_dir(sandbox.dir());
        let places = Places { guard, images: name, groups: cgroup.load_procs() };
        let call = Arc::new(CriuCall::start(host, cgroup, sandbox, None, Kind::Restore, places).await?);
        let (image, arriving) = oneshot::channel();
        let (tell_asked, asked) = watch::channel(false);
        let is_criu = call.is_criu();
        let serving = tokio::spawn(async move {
            let served = match serve.accept(is_criu).await {
                Ok(serving) => serve_all(serving, tell_asked, arriving).await,
                Err(error) => Err(Problem::internal(error)),
            };
            if let Err(problem) = served {
                tracing::warn!(%problem, "CRIU was not served to its end");
            }
        });
        Ok(Restore { call, image: Mutex::new(Some(image)), asked, serving: serving.abort_handle() })
    }

    /// Takes over a restore that an earlier agent began: held, or over.
    pub(crate) async fn take_over(sandbox: &Sandbox) -> Option<Restore> {
        let call = Arc::new(CriuCall::take_over(&guard_dir(sandbox.dir())).await?);
        let serving = tokio::spawn(std::future::ready(())).abort_handle();
        Some(Restore { call, image: Mutex::default(), asked: watch::channel(true).1, serving })
    }

    /// Waits until CRIU wants its first image.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        let mut asked = self.asked.clone();
        tokio::select! {
            Ok(_) = asked.wait_for(|asked| *asked) => Ok(()),
            // Also where it has let go of its socket without a question: then it is about to end.
            ended = self.call.guard.past(None) => Err(self.failure(ended)),
        }
    }

    /// Gives CRIU its images and waits until it holds the processes. Returns the main process, inside.
    pub(crate) async fn restore(&self, image: Arc<dyn Image>) -> Result<i32, Problem> {
        if let Some(give) = self.image.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = give.send(image);
        }
        self.held().await
    }

    /// Waits until CRIU holds the processes.
    pub(crate) async fn held(&self) -> Result<i32, Problem> {
        match self.call.guard.past(None).await {
            Standing::At(Hook::PostRestore) => Ok(MAIN_PID),
            other => Err(self.failure(other)),
        }
    }

    /// Whether CRIU holds the processes; waits until it is past its work.
    pub(crate) async fn is_held(&self) -> bool {
        self.call.guard.past(None).await == Standing::At(Hook::PostRestore)
    }

    /// Lets the processes go where they are held, and waits until they are out of CRIU's hands. Fails only where none of them
    /// has run an instruction.
    pub(crate) async fn resume(&self) -> Result<Free, Problem> {
        let standing = match self.past(None).await {
            Standing::At(Hook::PostRestore) => {
                self.call.guard.order(Order::Continue).await;
                self.past(Some(Hook::PostRestore)).await
            }
            // An earlier agent has let them go, or CRIU is gone.
            other => other,
        };
        let exit = match standing {
            Standing::Ended(exit) => Some(exit),
            _ => None,
        };
        freed(&self.call.guard_dir, exit).ok_or_else(|| self.failure(standing))
    }

    /// Waits for CRIU, which holds the processes or is letting them go. Who is told to go on is woken where somebody has stopped it.
    async fn past(&self, beyond: Option<Hook>) -> Standing {
        loop {
            match tokio::time::timeout(TOLD_AGAIN, self.call.guard.past(beyond)).await {
                Ok(standing) => return standing,
                Err(_) => self.call.guard.order(Order::Continue).await,
            }
        }
    }

    /// Fires when CRIU ends, however.
    pub(crate) fn watch_end(&self) -> impl Future<Output = Problem> + use<> {
        let call = self.call.clone();
        async move {
            call.guard.end().await;
            call.failure(Code::RestoreFailed, call.guard.standing())
        }
    }

    fn failure(&self, standing: Standing) -> Problem {
        self.call.failure(Code::RestoreFailed, standing)
    }
}

/// Where a sandbox's restore has its guard.
pub(crate) fn guard_dir(sandbox: &Path) -> PathBuf {
    sandbox.join("guard")
}

/// That restored processes are out of CRIU's hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Free {
    /// CRIU says so.
    Surely,
    /// CRIU, or its guard, was killed after it was told to let them go: they run, or have run, or hang for ever.
    Perhaps,
}

/// What became of restored processes whose CRIU is gone; `exit` is how it ended, as far as that is known. `None` means that none
/// of them has run an instruction: they may be restored again, and nothing else may ever be.
///
/// CRIU that fails by itself has killed them before their first instruction. CRIU that was killed leaves them as they are, and
/// the guard's note says whether that is held.
pub(crate) fn freed(guard_dir: &Path, exit: Option<Exit>) -> Option<Free> {
    match exit {
        Some(Exit::Code(0)) => Some(Free::Surely),
        Some(Exit::Code(_)) => None,
        // What cannot be seen counts as told.
        Some(Exit::Signal(_)) | None => guard::released(guard_dir).unwrap_or(true).then_some(Free::Perhaps),
    }
}

/// The same where the guard is gone, too.
pub(crate) fn freed_without_guard(guard_dir: &Path) -> Option<Free> {
    freed(guard_dir, guard::result(guard_dir).unwrap_or_default())
}

/// Answers CRIU's requests: the first one only when there is an image.
async fn serve_all(
    mut serving: Serving,
    tell_asked: watch::Sender<bool>,
    arriving: oneshot::Receiver<Arc<dyn Image>>,
) -> Result<(), Problem> {
    let mut arriving = Some(arriving);
    let mut image: Option<Arc<dyn Image>> = None;
    while let Some(request) = serving.next().await.map_err(Problem::internal)? {
        if let Some(arriving) = arriving.take() {
            tell_asked.send_replace(true);
            image = Some(arriving.await.map_err(Problem::internal)?);
        }
        let name = request.name().to_owned();
        match &image {
            Some(image) if image.contains(&name) => {
                let pipe = request.present().await.map_err(Problem::internal)?;
                let image = image.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = give(&*image, &name, pipe) {
                        tracing::warn!(%error, image = name, "an image was not served");
                    }
                });
            }
            _ => request.absent().await.map_err(Problem::internal)?,
        }
    }
    Ok(())
}

/// Writes an image into CRIU's pipe, mended where CRIU would restore something else than what was dumped. Blocks.
fn give(image: &dyn Image, name: &str, pipe: OwnedFd) -> Result<(), Problem> {
    if !mend::knows(name) {
        return image.serve(name, pipe).map(drop).map_err(Problem::internal);
    }
    let bytes = match image.read(name, mend::MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, image = name, "passed on as it is");
            return image.serve(name, pipe).map(drop).map_err(Problem::internal);
        }
    };
    match File::from(pipe).write_all(&mended(name, bytes)) {
        // CRIU may close its end early.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Problem::internal(error)),
        _ => Ok(()),
    }
}

/// The image as CRIU should get it; what was mended goes to the log.
fn mended(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    let (bytes, mended) = mend::mend(name, bytes);
    match mended {
        Ok(mended) => {
            if let Some(first) = mended.first() {
                tracing::info!(image = name, count = mended.len(), %first, "mended for CRIU");
            }
        }
        Err(why) => tracing::warn!(%why, image = name, "passed on as it is"),
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_has_not_run_is_restored_again() {
        let dir = tempfile::tempdir().unwrap();
        let of = |exit| freed(dir.path(), exit);
        let killed = Some(Exit::Signal(9));
        assert_eq!([of(Some(Exit::Code(0))), of(Some(Exit::Code(1)))], [Some(Free::Surely), None]);
        assert_eq!([of(killed), of(None), freed_without_guard(dir.path())], [None; 3], "CRIU died in the hold");
        std::fs::write(dir.path().join("released"), "").unwrap();
        assert_eq!([of(killed), of(None), freed_without_guard(dir.path())], [Some(Free::Perhaps); 3]);
        assert_eq!([of(Some(Exit::Code(0))), of(Some(Exit::Code(1)))], [Some(Free::Surely), None]);
        std::fs::write(dir.path().join("result.json"), serde_json::to_vec(&Exit::Code(0)).unwrap()).unwrap();
        assert_eq!(freed_without_guard(dir.path()), Some(Free::Surely), "it has run, and may have ended");
        assert_eq!(freed_without_guard(&dir.path().join("no-sandbox")), None);
    }
}
