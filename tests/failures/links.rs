//! Links that are cut in the middle: healed in time the move goes on, else the workload does where it was.

use migrate_proto::api::Outcome;
use migrate_proto::error::Code;
use migrate_proto::phase::Phase;

use crate::harness::{Lab, eventually};
use crate::stage::{BULKY, Watched};

fn under_way(phase: Phase) -> (Lab, Watched) {
    let lab = Lab::up(2);
    lab.specimen("bulk", "node1", BULKY);
    lab.wait_for_more_ok("bulk", 2);
    if phase == Phase::Prepare {
        lab.give_files("bulk");
    }
    lab.narrow("node2");
    let mut watched = Watched::begin(&lab, "node1", "bulk", "node2");
    watched.until(phase);
    watched.until_sent(1 << 20);
    lab.done(["lab", "cut", "node1:node2"]);
    (lab, watched)
}

fn healed(phase: Phase) {
    let (lab, watched) = under_way(phase);
    lab.done(["lab", "heal"]);
    let report = watched.report().expect("a report");
    assert_eq!(report.outcome, Outcome::Moved, "{report:?}");
    lab.assert_goes_on("bulk", "node2");
    lab.assert_clean();
}

fn not_healed(phase: Phase) {
    let (lab, watched) = under_way(phase);
    let before = lab.migrate(["--node", "node1", "--json", "ps"]);
    let report = watched.report().expect("a report");
    let error = report.error.clone().expect("an error");
    assert_eq!((report.outcome, error.code), (Outcome::Stayed, Code::LinkLost), "{report:?}");
    assert!(error.message.contains(&format!("during {phase}; bulk stays on node1")), "{error:?}");
    assert!(error.message.contains("node2") && !error.hint.is_empty(), "{error:?}");
    lab.wait_for_more_ok("bulk", 3);
    let pid = before.json()[0]["pid"].clone();
    assert_eq!(lab.done(["--node", "node1", "--json", "ps"]).json()[0]["pid"], pid);
    lab.done(["lab", "heal"]);
    assert!(eventually(|| lab.migrate(["--force", "bulk", "--to", "node2"]).status.success()), "it does not move");
    lab.assert_goes_on("bulk", "node2");
    lab.assert_clean();
}

#[test]
fn cut_and_healed_in_prepare() {
    healed(Phase::Prepare);
}

#[test]
fn cut_and_healed_in_transfer() {
    healed(Phase::Transfer);
}

#[test]
fn cut_for_good_in_prepare() {
    not_healed(Phase::Prepare);
}

#[test]
fn cut_for_good_in_transfer() {
    not_healed(Phase::Transfer);
}
