//! The agent: one per node, runs workloads and hands them over.
//!
//! - [`daemon`] starts everything. [`config`], [`logging`], [`host`]: what it is given and what it finds.
//! - [`api`] turns HTTP into calls of [`control`], which [`node`] implements; [`proxy`] and [`elsewhere`] reach other agents.
//! - [`registry`] and [`workload`]: what this node has. [`handover`]: how it comes and goes. [`offer`], [`preflight`]: may it?
//! - [`cluster`]: this node among the others. [`drain`]: everything is given away.
//! - [`tenure`]: by which right workloads run here. [`ledger`]: what is said about them in the cluster's record.
//! - [`care`]: workloads that end, hang or are ill; and the agent itself, should it hang.
//! - [`conduct`]: in a cluster, has the workloads here be as the record says, and run for as long as the lease lasts.
//! - [`checkpoint`]: what is kept of workloads, and what is brought back from it.
//! - [`keyring`]: the cluster's keys, which can change while it runs. [`hygiene`]: what the agent does without.
//! - [`talk`] and [`peers`]: conversations with other agents. [`guardline`]: with the guards of CRIU.

pub mod aftermath;
pub mod api;
pub mod care;
pub mod channel;
pub mod check;
pub mod checkpoint;
pub mod clock;
pub mod cluster;
pub mod conduct;
pub mod config;
pub mod control;
pub mod daemon;
pub mod drain;
pub mod durable;
pub mod elsewhere;
pub mod events;
pub mod figures;
pub mod guardline;
pub mod handover;
pub mod host;
pub mod hygiene;
pub mod keyring;
pub mod ledger;
pub mod logging;
pub mod node;
pub mod offer;
pub mod output;
pub mod peers;
pub mod predict;
pub mod preflight;
pub mod proxy;
pub mod random;
pub mod registry;
pub mod rootfs;
pub mod talk;
pub mod tenure;
pub mod why;
pub mod workload;
