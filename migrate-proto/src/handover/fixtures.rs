//! What the machines' tests share: one offer, one manifest, one problem, and numbers that only look random.
#![allow(clippy::unwrap_used)]

use super::Terms;
use crate::error::{Code, Problem};
use crate::id::{Digest, Epoch, HandoverId};
use crate::manifest::{Manifest, Stream, StreamName};
use crate::message::{Needs, Offer};
use crate::spec::WorkloadSpec;

pub(super) const HANDOVER: HandoverId = HandoverId([7; 16]);
pub(super) const OTHER: HandoverId = HandoverId([8; 16]);
pub(super) const EPOCH: Epoch = Epoch(4);

pub(super) fn offer() -> Box<Offer> {
    let spec = WorkloadSpec {
        name: "web".parse().unwrap(),
        argv: vec!["sleep".into(), "9".into()],
        env: vec![],
        dir: None,
        user: None,
        volumes: vec![],
        own_root: false,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: 1 << 30,
    };
    Box::new(Offer {
        handover: HANDOVER,
        spec,
        epoch: EPOCH,
        from: "node1".parse().unwrap(),
        to: "node2".parse().unwrap(),
        memory_bytes: 1 << 20,
        layer_bytes: 1 << 30,
        layer_used_bytes: 1 << 20,
        layer_block_bytes: 1 << 16,
        needs: Needs {
            criu_version: "4.2.1".to_owned(),
            kernel: "6.18".to_owned(),
            arch: "x86_64".to_owned(),
            cpu_flags: vec![],
            mapped_files: vec![],
        },
        last_pid: 100,
        started: None,
    })
}

pub(super) fn terms() -> Terms {
    offer().terms()
}

pub(super) fn manifest() -> Manifest {
    let streams = vec![Stream { name: StreamName::layer(), length: 3, digest: Digest::of(b"abc") }];
    Manifest::new("4.2.1".to_owned(), "node1".parse().unwrap(), EPOCH, streams)
}

pub(super) fn problem() -> Problem {
    Problem::new(Code::NoMemory, "too little memory")
}

/// A linear congruential generator: the same numbers for the same seed, everywhere.
pub(super) struct Lcg(pub(super) u64);

impl Lcg {
    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }

    /// As many small numbers as asked for.
    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}
