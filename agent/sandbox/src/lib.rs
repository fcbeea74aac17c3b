//! Where a workload lives on a node: namespaces, root, layer, cgroup, and the init that holds them.
//!
//! A [`Sandbox`] is built on any node before it is needed, and does not depend on the agent that built it: its PID 1
//! (`migrate-init`, see [`init`]) holds the namespaces, starts the workload, reaps, and answers on a socket in the
//! sandbox's directory, so that an agent that was restarted can [`Sandbox::adopt`] it.
//!
//! ```text
//! <dir>/                   the sandbox's directory on the node
//!   sandbox.json           who PID 1 is (pid, start time)
//!   control.sock           PID 1 answers here            → control
//!   exit.json              how the workload ended, once it has
//!   work/                  visible inside as /.migrate/run: what CRIU and its hooks need
//!   guard-<what>/          one CRIU call                 → guard
//!
//! inside:
//!   /                      a small tmpfs with the node's top-level directories bound read-only, or an own root
//!   /work /tmp /var/tmp /run /dev/shm    from the layer, writable
//!   /.migrate/layer        the layer itself (log/stdout, log/stderr are the workload's output)
//!   /.migrate/run /.migrate/bin/gate     for CRIU
//! ```
//!
//! Everything here blocks; async callers use blocking threads.

mod beneath;
pub mod cgroup;
pub mod control;
pub mod descriptors;
pub mod enter;
pub mod errand;
pub mod error;
pub mod guard;
pub mod init;
pub mod layer;
pub mod lease;
mod loopdev;
pub mod nearby;
#[doc(hidden)]
pub mod outside;
pub mod plan;
pub mod process;
pub mod pulse;
mod reap;
pub mod sandbox;
mod wire;

pub use error::SandboxError;
pub use plan::{Plan, Root};
pub use sandbox::Sandbox;
