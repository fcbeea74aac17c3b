//! The agent: one per node, runs workloads and hands them over.

pub mod api;
pub mod config;
pub mod control;
pub mod events;
pub mod logging;
