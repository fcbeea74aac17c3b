//! For how long a workload may run: what its init is armed with, and why it stands still where it does.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use migrate_proto::cluster::lease::NEVER;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Epoch;
use migrate_sandbox::Sandbox;
use migrate_sandbox::control::Leash;

use super::{PATIENCE, Workload};
use crate::host::Host;

/// How soon it is looked again whether a lease is in force.
const LOOK: Duration = Duration::from_millis(10);

/// In what a workload sees as [`RUN`](migrate_sandbox::plan::RUN): its epoch, a token for storage that is shared.
pub(super) const EPOCH: &str = "epoch";

/// Writes an epoch where the workload of this sandbox can read it: a token that rises, for storage that refuses whoever comes with an older one.
/// Always of one length, in place: CRIU refuses an open file whose length is another, and no reader sees half of it. Blocks.
pub(crate) fn tell_epoch(sandbox: &Sandbox, epoch: Epoch) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(sandbox.work().join(EPOCH))?;
    file.write_all_at(format!("{:020}\n", epoch.0).as_bytes(), 0)
}

impl Workload {
    /// Lets it run for as long as this node's lease lasts. Waits for a lease, and until it is in force. Blocks.
    ///
    /// Whoever starts or restores it does this before, and whoever lets it go again where it was [disarmed](Workload::disarm).
    pub fn arm(&self, host: &Host) -> Result<(), Problem> {
        if let Some(sandbox) = self.sandbox() {
            self.tell_epoch(&sandbox)?;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lease = host.tenure.some_lease()?;
            match self.arm_with(lease.session(), host.tenure.margin())? {
                Leash::Frozen { .. } if Instant::now() >= deadline => {
                    let what = format!("{} is held: the lease of {} is not in force", self.name, host.node());
                    return Err(Problem::new(Code::Busy, what).hint("`migrate nodes` shows who votes and who answers"));
                }
                Leash::Frozen { .. } => std::thread::sleep(LOOK),
                Leash::Unlimited | Leash::Running { .. } => {
                    self.set_held(None);
                    return Ok(());
                }
            }
        }
    }

    /// Lets it run, if that is still this node's to do. Whoever begins it had the right when it began to; but the lease that it was armed with may be
    /// another one by now, and in between the workload may have been given away. A node that has a lease knows all that was decided before that lease. Blocks.
    pub fn arm_if_ours(&self, host: &Host) -> Result<(), Problem> {
        self.arm(host)?;
        let epoch = self.record().epoch;
        let Some(entry) = host.tenure.entry(&self.name).filter(|entry| entry.epoch >= epoch) else { return Ok(()) };
        if entry.epoch == epoch && entry.owner.as_ref() == Some(host.node()) {
            return Ok(());
        }
        self.disarm()?;
        let what = format!("{} is not {}'s any more: it was given away while it began", self.name, host.node());
        Err(Problem::new(Code::WrongState, what).hint("`migrate ps` shows where it is"))
    }

    /// Writes its epoch where it can read it. Blocks.
    pub(super) fn tell_epoch(&self, sandbox: &Sandbox) -> Result<(), Problem> {
        let told = tell_epoch(sandbox, self.record().epoch);
        told.map_err(|error| Problem::internal(format!("cannot tell {} its epoch: {error}", self.name)))
    }

    /// Not one more instruction of it is begun until it is armed again. Blocks.
    pub fn disarm(&self) -> Result<(), Problem> {
        self.arm_with(NEVER, Duration::ZERO).map(drop)
    }

    /// From now on it runs in this session only. Blocks.
    pub fn arm_with(&self, session: u64, margin: Duration) -> Result<Leash, Problem> {
        let Some(sandbox) = self.sandbox() else {
            return Err(Problem::internal(format!("{} has no sandbox that could be armed", self.name)));
        };
        // What it obeys is not known until it has answered.
        self.live().armed = None;
        let leash = sandbox.arm(session, margin).map_err(|error| self.problem("say for how long to run to", &error))?;
        self.live().armed = Some(session);
        Ok(leash)
    }

    /// The session that its init was last armed with, as far as this agent knows.
    pub fn armed(&self) -> Option<u64> {
        self.live().armed
    }

    /// Says why its lease holds it, or that it does not. True where that is news.
    pub fn set_held(&self, reason: Option<String>) -> bool {
        let mut live = self.live();
        let is_news = live.held.is_some() != reason.is_some();
        live.held = reason;
        is_news
    }

    /// Why its lease holds it, where it does.
    pub fn held(&self) -> Option<String> {
        self.live().held.clone()
    }

    /// The same as a problem.
    pub fn hold_by_lease(&self) -> Option<Problem> {
        let message = format!("{} is frozen: {}", self.name, self.held()?);
        let hint = "it goes on by itself when its node has a lease again, unless another node has it by then; `migrate nodes` shows who votes and answers";
        Some(Problem::new(Code::Busy, message).hint(hint))
    }

    /// Its init cannot be armed. True where that is news. It runs on, and counts as armed with whatever is wanted.
    pub fn note_unleashed(&self) -> bool {
        !std::mem::replace(&mut self.live().unleashed, true)
    }

    /// Whether its init cannot be armed.
    pub fn is_unleashed(&self) -> bool {
        self.live().unleashed
    }
}
