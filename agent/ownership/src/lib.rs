//! Who owns which workload: the record of the cluster, and how the nodes agree about it.
//!
//! Everybody else sees [`Ownership`]: propose a command, watch the record, know who leads. Behind it is one of
//!
//! - [`Local`]: a node by itself. Nobody has to agree; the record is a file.
//! - [`Raft`]: several nodes. openraft, over whatever [`Carrier`] the agent gives it, with its log in redb.
//! - [`Etcd`]: several nodes of a site that runs an etcd already, which agrees for them.
//!
//! What a command does, and when it is refused, is not decided here but by the pure
//! [`Record`](migrate_proto::cluster::record::Record); this crate gives commands an order that survives crashes, lost messages and partitions,
//! and carries them out on every node in that order. It knows nothing of workloads, sandboxes and leases. What it promises:
//!
//! - A command that was answered with `Ok` is in the record for ever, and in every record that [`Ownership::confirm`] gives from then on.
//! - One that was refused was refused by a record that had everything confirmed before. One whose answer was lost is `Unknown`: it may
//!   yet be carried out; proposing it again is safe, since all commands are compare-and-swap.
//! - Each node's copy goes through the same states in the same order, never back.
//! - A node that has lost its state directory is another node: it cannot vote twice.
//!
//! ```text
//! ownership  the trait, its errors, Standing      carrier  how questions reach other nodes     wire   what they look like
//! local      one node                             raft     several nodes                       store  log and record on the disk
//! etcd       several nodes, whose record is in an etcd
//! backup     the record as a file that people keep; the way back when a majority is lost
//! ```

mod backup;
mod carrier;
mod etcd;
mod local;
mod ownership;
mod raft;
mod store;
#[cfg(test)]
mod suite;
mod types;
pub mod wire;

pub use backup::{Backup, BackupError, NotABackup, REBUILT_EPOCHS};
pub use carrier::{CallError, Carrier, Whom};
pub use etcd::{BadAddress, BeatError, Etcd, EtcdAddress, EtcdSetup};
pub use local::{Local, LocalError};
pub use ownership::{BadVoter, Joiner, Ownership, ProposeError, Shown, Standing, State};
pub use raft::{BadRoots, BadTiming, Raft, RebuildError, Roots, Setup, StartError, Timing, from_here, rebuild};
pub use store::StoreError;
pub use types::{Place, Types};
