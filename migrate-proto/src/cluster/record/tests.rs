//! The record: exact tables of what each command does in each state, and what holds in every history.
#![allow(clippy::unwrap_used)]

mod fixtures;
mod histories;
mod loads;
mod nodes;
mod stored;
mod tables;
