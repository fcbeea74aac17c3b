//! The agent: one per node, runs workloads and hands them over.
//!
//! - [`daemon`] starts everything. [`config`], [`logging`], [`host`]: what it is given and what it finds.
//! - [`api`] turns HTTP into calls of [`control`], which [`node`] implements; [`proxy`] and [`elsewhere`] reach other agents.
//! - [`registry`] and [`workload`]: what this node has. [`handover`]: how it comes and goes. [`offer`], [`preflight`]: may it?
//! - [`talk`] and [`peers`]: conversations with other agents. [`guardline`]: with the guards of CRIU.

pub mod api;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod durable;
pub mod elsewhere;
pub mod events;
/// TEMP
pub mod figures { #![allow(missing_docs)] pub struct Figures; pub struct HostFigures{pub cpu_percent:f64,pub memory_used_bytes:u64,pub memory_total_bytes:u64,pub memory_available_bytes:u64,pub disk_free_bytes:u64}
 impl Figures { pub fn new()->Figures{Figures} pub fn look(&mut self,_p:&std::path::Path)->HostFigures{HostFigures{cpu_percent:0.0,memory_used_bytes:1<<30,memory_total_bytes:24<<30,memory_available_bytes:20<<30,disk_free_bytes:50<<30}}}}
pub mod guardline;
pub mod handover;
pub mod host;
pub mod logging;
pub mod node;
pub mod offer;
pub mod output;
pub mod peers;
pub mod preflight;
pub mod proxy;
pub mod registry;
/// TEMP
pub mod rootfs { #![allow(missing_docs)] pub fn fill(_a:&std::path::Path,_b:&std::path::Path)->Result<(),migrate_proto::error::Problem>{Ok(())} }
pub mod talk;
pub mod workload;
