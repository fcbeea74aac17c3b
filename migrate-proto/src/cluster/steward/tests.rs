//! The leader: each decision alone, at a desk where every proposal is carried out at once.
#![allow(clippy::unwrap_used)]

mod desk;
mod electorate;
mod fences;
mod histories;
mod queue;
mod recovery;
mod upkeep;
mod vigil;
