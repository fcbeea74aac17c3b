//! What there is in the beginning: workloads that run, what will be asked for, and the limits of time.

use migrate_proto::handover::{Budget, Budgets};
use migrate_proto::message::{Needs, Offer};
use migrate_proto::spec::WorkloadSpec;

use crate::disk::{Doing, Record};
use crate::ledger::Fate;
use crate::node::Body;
use crate::world::{Happening, World};

impl World {
    pub(crate) fn begin_workload(&mut self, load: usize) {
        let (node, epoch) = (self.random.index(self.nodes.len()), 1);
        self.nodes[node].bodies[load] = Body::Running { epoch, work: 0 };
        self.nodes[node].places[load].record.write(Record { owned: true, epoch, doing: Doing::Running });
        self.nodes[node].places[load].layer.write(());
        self.ledger.fates.push(Fate {
            holder: node,
            epoch,
            work: 0,
            ended: false,
            lost: false,
            seen: vec![0; self.nodes.len()],
        });
        self.offers.push(offer(load));
        for _ in 0..self.random.between(1, 4) {
            let to = self.random.index(self.nodes.len());
            self.later(0, 6_000, Happening::Ask { load, to });
            if self.random.one_in(3) {
                // Another one wants it as well.
                let to = self.random.index(self.nodes.len());
                self.later(0, 6_000, Happening::Ask { load, to });
            }
        }
    }
}

/// Much shorter than the real ones, so that a history in which everything waits is not longer than others.
pub(crate) fn budgets() -> Budgets {
    let both = |total, stall| Budget { total, stall };
    Budgets {
        talk: both(3_000, 2_000),
        prepare: both(12_000, 5_000),
        freeze: both(4_000, 3_000),
        transfer: both(8_000, 4_000),
        verify: both(6_000, 6_000),
        restore: both(6_000, 6_000),
        decision: both(2_000, 2_000),
        again: both(2_000, 2_000),
    }
}

/// What is offered of a workload; names, epoch and handover are filled in.
#[allow(clippy::expect_used)]
fn offer(load: usize) -> Offer {
    let name = format!("load{}", load + 1);
    let spec = WorkloadSpec {
        name: name.parse().expect("a name"),
        argv: vec!["x".into()],
        env: Vec::new(),
        dir: None,
        user: None,
        volumes: Vec::new(),
        own_root: false,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: 1 << 20,
    };
    let needs = Needs {
        criu_version: String::new(),
        kernel: String::new(),
        arch: String::new(),
        cpu_flags: Vec::new(),
        mapped_files: Vec::new(),
    };
    Offer {
        handover: migrate_proto::id::HandoverId([0; 16]),
        spec,
        epoch: migrate_proto::id::Epoch::FIRST,
        from: "node1".parse().expect("a name"),
        to: "node2".parse().expect("a name"),
        memory_bytes: 1,
        layer_bytes: 1 << 20,
        layer_used_bytes: 1,
        layer_block_bytes: 1 << 16,
        needs,
        last_pid: 100,
        started: None,
    }
}
