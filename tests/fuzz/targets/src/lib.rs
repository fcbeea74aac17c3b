//! Every decoder of outside bytes, and for each what must hold whatever the bytes are.
//!
//! A [`Target`] runs one input. It panics where something is wrong, which is a finding; also where the input made it hold
//! more than [`memory::LIMIT`]. Two programs use the targets:
//!
//! - the test `replay` of this package, part of the ordinary tests: the kept inputs, and mutations of them at random;
//! - `tests/fuzz/guided`, by `scripts/fuzz`: libFuzzer, guided by coverage.
//!
//! Kept inputs lie in `tests/fuzz/corpus/TARGET/`.

pub mod memory;
mod script;

mod api;
mod archive;
mod certificate;
mod config;
mod criu_files;
mod criu_stream;
mod datagram;
mod elf;
mod image_index;
mod journal;
mod key;
mod layer;
mod manifest;
mod message;
mod sandbox;
mod session;
mod store;
mod swim;
mod vault;
mod zmtp;

use std::path::{Path, PathBuf};

/// A decoder of outside bytes.
pub struct Target {
    /// What it is called on the command line, and in the corpus.
    pub name: &'static str,
    /// What it decodes, and from whom.
    pub decodes: &'static str,
    run: fn(&[u8], &Path),
}

impl Target {
    /// Decodes an input. `scratch` is an empty directory for files, and is left empty.
    pub fn run(&self, input: &[u8], scratch: &Path) {
        let most = memory::most_during(|| (self.run)(input, scratch));
        assert!(most <= memory::LIMIT, "{} bytes of input made {} hold {most} bytes", input.len(), self.name);
    }

    /// Where its kept inputs are.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(self.name)
    }
}

const fn target(name: &'static str, decodes: &'static str, run: fn(&[u8], &Path)) -> Target {
    Target { name, decodes, run }
}

/// All of them.
pub static TARGETS: &[Target] = &[
    target("zmtp", "what a peer sends to ZeroMQ, at the door", zmtp::run),
    target("certificate", "TLS and certificates of strangers", certificate::run),
    target("session", "headers of sessions, with their parcels", session::header),
    target("peer", "what an authenticated peer says in a session", session::peer),
    target("datagram", "sealed datagrams of strangers and of members", datagram::run),
    target("swim", "what members say about members", swim::run),
    target("message", "frames and messages between agents", message::run),
    target("manifest", "an image's manifest", manifest::run),
    target("store", "chunks of an image, references included", store::run),
    target("layer", "chunks of a layer", layer::run),
    target("image-index", "the index of a stored image", image_index::run),
    target("checkpoint", "the file of a checkpoint from another node", vault::outline),
    target("segment", "a segment of a checkpoint from another node", vault::segment),
    target("criu-stream", "CRIU's image socket, both directions", criu_stream::run),
    target("criu-files", "CRIU's files.img, figures and log", criu_files::run),
    target("archive", "tar archives of root file systems", archive::run),
    target("elf", "build-ids of files that a workload has mapped", elf::run),
    target("journal", "journals, records and decisions on disk", journal::run),
    target("sandbox", "requests to a sandbox's PID 1 and to guards", sandbox::run),
    target("api", "requests to the agent's API, and answers of others", api::run),
    target("key", "the cluster key's file", key::run),
    target("config", "the agent's configuration", config::run),
];

/// The target of that name.
pub fn by_name(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
