//! The guard holds one CRIU call, so that neither the agent's death nor CRIU's can end in two running copies or in none.
//!
//! It starts CRIU inside the sandbox, hears of CRIU's hooks through the gate, and asks the agent what to do:
//!
//! ```text
//! agent ── guard.sock (JSON lines) ── guard ── gate.sock ── gate ── criu (hook)
//!                                       └── criu (child)
//! ```
//!
//! | call | hook | the agent says | and when it is gone |
//! |---|---|---|---|
//! | dump | `pre-dump`: nothing is frozen yet | continue · refuse | refuse |
//! | dump | `post-dump`: frozen, image complete | continue (only after the decision `commit`) · refuse | decide `abort`, refuse |
//! | restore | `post-restore`: rebuilt, not one instruction run | continue · refuse | wait for an agent |
//!
//! An agent that has not called within 10 s of a dump's hook is gone, too.
//!
//! From `post-dump` on the guard also holds the workload by its cgroup's freezer, so that CRIU's death cannot set it free
//! before the decision, and every command beside it, whose writes would come too late for the layer. `refuse` lets CRIU resume its tasks, `continue` lets it kill them.
//!
//! What an agent that comes late has to know stands in the guard's directory ([`released`], [`result`]).

pub mod decision;
mod gate;
mod notes;
mod server;
mod tracer;

use std::path::PathBuf;

use migrate_proto::api::Exit;
use migrate_proto::text::Text;
use serde::{Deserialize, Serialize};

use crate::process::Identity;

pub use gate::gate;
pub use notes::{released, result};
pub use server::serve;
pub(crate) use server::{read_hook, read_order};
pub use tracer::criu_mappings;

/// The guard's socket, in its own directory.
pub const GUARD_SOCKET: &str = "guard.sock";
/// CRIU's last words on stdout and stderr, in the guard's directory.
pub const OUTPUT: &str = "output";
/// The gate's socket, in CRIU's images directory.
const GATE_SOCKET: &str = "gate.sock";

/// One CRIU call to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Dump or restore.
    pub kind: Kind,
    /// The sandbox's PID 1, as the guard's namespace numbers it.
    pub init: Identity,
    /// CRIU and its arguments.
    pub argv: Vec<Text>,
    /// The guard's directory on the node: socket, output, result and decision are there.
    pub dir: PathBuf,
    /// CRIU's images directory as the node sees it.
    pub images: PathBuf,
    /// `cgroup.procs` files that the guard joins, so that whoever ends the agent's group does not end a dump.
    pub side: Vec<PathBuf>,
    /// `cgroup.procs` files that CRIU joins; restored processes inherit them.
    pub groups: Vec<PathBuf>,
    /// The workload's `cgroup.freeze`.
    pub freezer: Option<PathBuf>,
    /// The `cgroup.freeze` of the commands beside the workload.
    pub beside: Option<PathBuf>,
    /// The PID that CRIU gets inside, far from the workload's.
    pub criu_pid: i32,
}

/// What CRIU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Takes a workload apart.
    Dump,
    /// Puts one together.
    Restore,
}

/// The hooks that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Before anything is frozen.
    PreDump,
    /// Frozen, and every image is written.
    PostDump,
    /// Restored, and held before the first instruction.
    PostRestore,
}

impl Hook {
    fn parse(name: &str) -> Option<Hook> {
        match name {
            "pre-dump" => Some(Hook::PreDump),
            "post-dump" => Some(Hook::PostDump),
            "post-restore" => Some(Hook::PostRestore),
            _ => None,
        }
    }
}

/// What the guard tells the agent; one JSON object a line. A newly connected agent is told at once what is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// CRIU waits at this hook.
    Hook(Hook),
    /// CRIU has ended; the guard ends too.
    Exited(Exit),
}

/// What the agent orders; one JSON object a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Go on.
    Continue,
    /// Do not go on: the dump's tasks resume, the restore's are killed.
    Refuse,
    /// Kill CRIU: it hangs.
    Kill,
}
