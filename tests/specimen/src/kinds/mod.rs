//! The kinds of specimen, one module each: every module's documentation says what a move is proven to keep.

pub(crate) mod clocks;
pub(crate) mod counter;
pub(crate) mod demo;
pub(crate) mod files;
pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod shm;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod surroundings;
pub(crate) mod threads;
pub(crate) mod tree;
pub(crate) mod tree_of_files;

use crate::part::Part;

/// What a kind consists of.
pub(crate) type Parts = Vec<Box<dyn Part>>;
