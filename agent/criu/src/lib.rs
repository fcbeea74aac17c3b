//! Drives the `criu` command line: what it can do, how it is called, what it streams, why it failed.
//!
//! - [`probe`] finds a CRIU and asks it what it and the kernel can do.
//! - [`command`] builds its arguments. Who runs it, and inside which namespaces, is the sandbox's business.
//! - [`stream`] is the other end of its `--stream` option: images come and go through pipes, never through files.
//! - [`mend`] corrects images on their way into CRIU, where CRIU would restore something else.
//! - [`ghosts`] knows which names it makes for files that were deleted.
//! - [`failure`] reads its log and says in plain words why it failed.
//! - [`stats`] reads the figures that it leaves behind.

pub mod command;
pub mod failure;
pub mod ghosts;
pub mod mend;
pub mod probe;
pub mod stats;
pub mod stream;
