//! One cell: a witness, a move, harm in the middle of it, and a verdict from outside.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use migrate_proto::api::State;
use migrate_proto::phase::Phase;

use crate::halt::{Halt, Held};
use crate::harm::{self, Harm};
use crate::journal::{Pause, Proof};
use crate::matrix::{Cell, Fault, Moment, Side};
use crate::report::{Row, Settled};
use crate::stage::{Ordered, Process, Stage, soon};
use crate::wire::{End, Wire};

const SOURCE: &str = "node1";
const TARGET: &str = "node2";
/// Lines after which a witness has checked all of its memory.
const WHOLE: u64 = 20;
/// How long a move may take to come to the halt.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long everything may take to settle after the fault is over.
const SETTLING: Duration = Duration::from_secs(90);
/// The longest that a source may stand still once its failure is known.
pub const RESUMED_WITHIN: Duration = Duration::from_secs(2);

fn node(side: Side) -> &'static str {
    if side == Side::Source { SOURCE } else { TARGET }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// How far a cell came.
enum Fired {
    /// The harm was done in the phase, at this time.
    Yes(Box<Harm>, u128),
    /// Such a cell cannot be, for this reason.
    Never(String),
    /// The move did not come there.
    No(String),
}

/// How often a cell is tried whose move ended, in good order, without the harm: before it came to the phase, or too quickly.
const ATTEMPTS: usize = 3;

/// Runs a cell on a stage of two nodes, where nothing else runs. A source must not stand still for longer than `resumed_within`
/// once its failure is known.
pub fn run(stage: &mut Stage, cell: Cell, resumed_within: Duration) -> Row {
    let mut attempt = 1;
    loop {
        let mut row = try_once(stage, cell, resumed_within);
        let is_whole = matches!(row.settled, Settled::Stayed | Settled::Moved) && !row.dirty;
        let is_early = row.fired == Ok(false) && is_whole && row.wrong.len() == 1;
        if !is_early || attempt == ATTEMPTS {
            if attempt > 1 {
                row.note = Some(format!("attempt {attempt}"));
            }
            return row;
        }
        println!("{}\n    tried again", row.line());
        attempt += 1;
    }
}

fn try_once(stage: &mut Stage, cell: Cell, resumed_within: Duration) -> Row {
    let mut row = Row::of(cell);
    let wire = (cell.fault == Fault::CorruptBytes).then(|| lay_wire(stage));
    let name = stage.begin_witness(SOURCE, cell.fault == Fault::DiskFull);
    let log = stage.log_of(SOURCE);
    let said_before = std::fs::metadata(&log).map_or(0, |found| found.len());
    let halt = Halt::place(&stage.halts(), cell.side, cell.phase, cell.moment).expect("a FIFO can be made");
    let mut ordered = stage.order_move(&name, TARGET);
    let mut fired = fire(stage, cell, &mut ordered, &halt, wire.as_ref());
    drop(halt);
    wait_for_end(stage, &mut ordered, &mut fired);
    let said = ordered.end();
    if let Fired::Yes(harm, _) = &mut fired {
        harm.end(stage);
    }
    row.report = outcome_in(&said);
    settle(stage, &name, &mut row, &fired);
    let unread = wire.as_ref().is_some_and(|wire| wire.damaged() == 0);
    row.fired = match &fired {
        Fired::Yes(..) if unread => Ok(false),
        Fired::Yes(..) => Ok(true),
        Fired::Never(why) => Err(why.clone()),
        Fired::No(_) if row.settled == Settled::Moved && cell.may_be_missing() => {
            Err(format!("the whole move went by, the {} did not wait there", cell.side.as_str()))
        }
        Fired::No(why) => {
            row.wrong.push(why.clone());
            Ok(false)
        }
    };
    if unread && row.fired == Ok(false) {
        row.fired = Err("no byte crosses the link any more".into());
    }
    let harmed_at = if let Fired::Yes(_, at) = &fired { *at } else { 0 };
    judge_journal(stage.journal(&name).prove(), harmed_at, known_at(&log, said_before), resumed_within, &mut row);
    drop(wire);
    if row.passed() && row.settled != Settled::Lost {
        move_once_more(stage, &name, &mut row);
    }
    clear_away(stage, &name, &mut row);
    row
}

// ---- firing ------------------------------------------------------------------------------------------------------

fn fire(stage: &Stage, cell: Cell, ordered: &mut Ordered, halt: &Halt, wire: Option<&Wire>) -> Fired {
    let over = std::cell::RefCell::new(ordered);
    let held = halt.wait(|| over.borrow_mut().is_over(), PATIENCE);
    let ordered = over.into_inner();
    let Ok(Some(held)) = held else {
        return Fired::No(format!("the move did not come to {} of the {}", cell.phase, cell.side.as_str()));
    };
    let criu = cell.fault.needs_criu().then(|| stage.criu(node(cell.side)));
    if criu == Some(None) {
        return fire_at_criu(stage, cell, ordered, held);
    }
    let fired = strike(stage, cell, criu.flatten(), wire);
    drop(held);
    fired
}

fn strike(stage: &Stage, cell: Cell, criu: Option<Process>, wire: Option<&Wire>) -> Fired {
    let at = now();
    let whom = (node(cell.side), criu.map(|criu| criu.pid));
    match harm::strike(stage, cell.fault, whom, TARGET, wire) {
        Some(harm) => Fired::Yes(Box::new(harm), at),
        None => Fired::No(format!("there was nothing to harm in {} of the {}", cell.phase, cell.side.as_str())),
    }
}

/// No CRIU is there as the phase begins: it may come before the phase is over, which the next phase's halt says.
fn fire_at_criu(stage: &Stage, cell: Cell, ordered: &mut Ordered, held: Held) -> Fired {
    let next = Phase::ALL.into_iter().find(|phase| *phase > cell.phase);
    let next = next.and_then(|next| Halt::place(&stage.halts(), cell.side, next, Moment::Entered).ok());
    drop(held);
    loop {
        let is_over = ordered.is_over();
        let gone_on = next.as_ref().and_then(|next| next.take().ok().flatten());
        // In this order: what is there after the phase may have come in it, unseen.
        match (stage.criu(node(cell.side)), gone_on) {
            (criu @ Some(_), None) => return strike(stage, cell, criu, None),
            (Some(_), Some(_held)) => return Fired::No(format!("CRIU came, and {} was over", cell.phase)),
            (None, None) if !is_over => {}
            (None, _) => {
                let who = cell.side.as_str();
                return Fired::Never(format!("looked from begin to end: the {who} has no CRIU in {}", cell.phase));
            }
        }
    }
}

fn lay_wire(stage: &Stage) -> Wire {
    let end = |node: &str, last| End {
        pid: stage.pid(node, "pid").expect("the node runs"),
        address: Ipv4Addr::new(10, 77, 0, last),
    };
    Wire::between(end(SOURCE, 1), end(TARGET, 2)).expect("a wire can be laid")
}

// ---- afterwards --------------------------------------------------------------------------------------------------

/// Until whoever ordered the move has an answer, and the fault is over.
fn wait_for_end(stage: &Stage, ordered: &mut Ordered, fired: &mut Fired) {
    let Fired::Yes(harm, _) = fired else { return };
    soon(SETTLING, || {
        harm.pass(stage, ordered.is_over());
        harm.is_over() && ordered.is_over()
    });
}

fn outcome_in(said: &str) -> String {
    let report: serde_json::Value = serde_json::from_str(said).unwrap_or_default();
    let error = report["error"]["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
    format!("{}{error}", report["outcome"].as_str().unwrap_or("no report"))
}

/// Waits until all nodes say the same, the witness goes on, and nothing is left over.
fn settle(stage: &Stage, name: &str, row: &mut Row, fired: &Fired) {
    let mut home = None;
    let mut last = Vec::new();
    let settled = soon(SETTLING, || {
        let Some(views) = stage.views(name) else { return false };
        last = views;
        home = match &last[..] {
            [view] if matches!(view.state, State::Running | State::Lost) => Some((view.node.to_string(), view.state)),
            _ => None,
        };
        home.is_some()
    });
    let Some((node, state)) = home.filter(|_| settled) else {
        row.wrong.push(format!("it does not settle: {}", stage.ps(name).trim()));
        row.copies = stage.copies(name).len();
        return;
    };
    row.settled = match (state, &*node) {
        (State::Lost, _) => Settled::Lost,
        (_, SOURCE) => Settled::Stayed,
        _ => Settled::Moved,
    };
    if state == State::Running && !stage.goes_on(name, WHOLE) {
        row.wrong.push(format!("it is said to run on {node}, and writes nothing"));
    }
    let copies = || stage.copies(name);
    let expected = usize::from(state == State::Running);
    soon(SETTLING, || copies().len() == expected && copies().iter().all(|copy| copy.node == node));
    row.copies = copies().len();
    let elsewhere: Vec<_> = copies().into_iter().filter(|copy| copy.node != node).collect();
    if row.copies != expected || !elsewhere.is_empty() {
        row.wrong.push(format!("{} copies, where {expected} should be on {node}: {:?}", row.copies, copies()));
    }
    let mut remains = Vec::new();
    soon(SETTLING, || {
        remains = stage.remains(&[(name, &node)]);
        remains.is_empty()
    });
    row.wrong.extend(remains.into_iter().map(|what| format!("left behind: {what}")));
    if state == State::Lost {
        judge_loss(stage, name, &node, row, fired);
    }
}

/// What was only in the memory of a node without power is gone. Nothing else may be, and the record must say so.
fn judge_loss(stage: &Stage, name: &str, node: &str, row: &mut Row, fired: &Fired) {
    let cell = row.cell;
    let by_nature = cell.fault == Fault::PowerLoss && self::node(cell.side) == node && matches!(fired, Fired::Yes(..));
    if !by_nature {
        row.wrong.push(format!("it is lost on {node}, which kept its power"));
    }
    let said = stage.ps(name);
    // What was said to run may be lost afterwards.
    let has_run = (cell.side, cell.phase, cell.moment) == (Side::Target, Phase::CleanUp, Moment::Begun);
    if !has_run && !row.report.contains("lost") {
        row.wrong.push(format!("the report does not say that it is lost: {}", row.report));
    }
    if !said.contains("migrate start") {
        row.wrong.push(format!("ps does not say what to do: {}", said.trim()));
    }
}

/// When the source's agent knew that the move fails: it says so as it decides. In nanoseconds, like the witness's times.
fn known_at(log: &std::path::Path, from: u64) -> Option<u128> {
    let text = String::from_utf8_lossy(&std::fs::read(log).ok()?[from as usize..]).into_owned();
    let line = text.lines().find(|line| line.contains("the move is taken back"))?;
    let stamp = line.split_whitespace().next()?;
    let parsed = std::process::Command::new("date").args(["-d", stamp, "+%s%N"]).output().ok()?;
    String::from_utf8_lossy(&parsed.stdout).trim().parse().ok()
}

fn judge_journal(proof: Proof, harmed: u128, known: Option<u128>, resumed_within: Duration, row: &mut Row) {
    row.wrong.extend(proof.faults.iter().cloned());
    row.intact = proof.faults.is_empty();
    let pause = proof.longest_pause(harmed.saturating_sub(10_000_000_000));
    row.pause_ms = pause.map(|pause| pause.milliseconds());
    let expected = if row.settled == Settled::Moved { 2 } else { 1 };
    let is_known = matches!(row.settled, Settled::Moved | Settled::Stayed);
    if is_known && proof.sandboxes() != expected {
        row.wrong.push(format!("{} sandboxes wrote, {expected} should have", proof.sandboxes()));
    }
    if row.settled != Settled::Stayed || harmed == 0 {
        return;
    }
    // A killed agent's guard knows at once. Otherwise it is known when the source decides.
    let at_once = row.cell.fault == Fault::AgentKilled && row.cell.side == Side::Source;
    let known = if at_once { harmed } else { known.unwrap_or(harmed).max(harmed) };
    // Where it stood still, and that was during the move.
    let stood = pause.filter(|Pause { from, to }| *from < known && known < *to);
    let Some(Pause { to, .. }) = stood else { return };
    let late = (to.saturating_sub(known) / 1_000_000) as u64;
    row.resumed_ms = Some(late);
    if u128::from(late) > resumed_within.as_millis() {
        row.wrong.push(format!("the source went on {late} ms after its failure was known"));
    }
}

/// What was left of the attempt must not be in anybody's way.
fn move_once_more(stage: &Stage, name: &str, row: &mut Row) {
    let to = if row.settled == Settled::Moved { SOURCE } else { TARGET };
    let mut said = String::new();
    let moved = soon(SETTLING, || {
        let mut ordered = stage.order_move(name, to);
        soon(SETTLING, || ordered.is_over());
        said = outcome_in(&ordered.end());
        said == "moved" || said.contains("Read-only file system")
    });
    // Files of its own are not allocated in advance: what CRIU writes beside them on a full disk fails, and the kernel then lets
    // nobody write to the layer until the workload is started again. Its processes are whole.
    let is_sealed = said.contains("Read-only file system");
    if is_sealed && row.cell.fault == Fault::DiskFull && row.cell.side == Side::Source {
        row.note = Some("its layer is read-only now".into());
    } else if !moved || !stage.goes_on(name, WHOLE) {
        row.wrong.push(format!("it cannot be moved afterwards: {said}"));
    }
    row.wrong
        .extend(stage.journal(name).prove().faults.into_iter().map(|fault| format!("after the next move: {fault}")));
}

/// Removes the witness; whatever is left then is one too many.
fn clear_away(stage: &mut Stage, name: &str, row: &mut Row) {
    let mut remains = Vec::new();
    let clean = soon(SETTLING, || {
        stage.remove(name);
        remains = stage.remains(&[]);
        remains.is_empty()
    });
    if !clean {
        row.wrong.extend(remains.into_iter().map(|what| format!("left after its removal: {what}")));
        row.dirty = true;
    }
    row.dirty |= stage.nodes().values().any(|node| node["state"] != "running");
}
