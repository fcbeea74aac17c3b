//! Any history: what is proposed by a record that is up to date is never refused by it, and never too early.

use super::desk::*;
use crate::cluster::command::Command;
use crate::cluster::record::{Life, Wanted};
use crate::cluster::steward::{Event, Health, Held};
use crate::id::HandoverId;

struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

const NODES: [&str; 4] = ["a", "b", "c", "d"];
const LOADS: [&str; 3] = ["x", "y", "z"];

/// Something happens that may happen by itself.
fn happens(desk: &mut Desk, dice: &mut Dice) {
    let (name, at) = (dice.of(&LOADS), dice.of(&NODES));
    let node_entry = desk.record.nodes[&node(at)].clone();
    let owner = desk.record.loads.get(&load(name)).and_then(|load| load.owner.clone());
    let speaks = owner.clone().filter(|owner| !desk.record.nodes[owner].fenced);
    match dice.below(14) {
        0 | 1 => desk.member(at, dice.of(&[Health::Alive, Health::Alive, Health::Suspect, Health::Down])),
        2 if node_entry.session > 0 => desk.lapsed(at, node_entry.session),
        3 => {
            let (mark, after) = (node_entry.mark, node_entry.session);
            desk.tell(Command::OpenSession { node: node(at), mark, after, finite: true });
        }
        4 if !desk.record.loads.contains_key(&load(name)) => {
            let owner = Some(at).filter(|at| desk.record.takes(&node(at)).is_ok() && dice.below(2) == 0);
            desk.declare(name, owner, |asked| asked.policy.afresh = dice.below(2) == 0);
        }
        5 | 6 => {
            let entry = desk.record.loads.get(&load(name)).cloned();
            if let (Some(entry), Some(owner)) = (entry, speaks) {
                let by = crate::cluster::Claim { session: desk.record.nodes[&owner].session, node: owner };
                let begins = matches!(entry.life, Life::Starting | Life::Recovering { .. } | Life::Lost(_));
                if begins {
                    desk.tell(Command::Began { load: load(name), epoch: entry.epoch, by });
                }
            }
        }
        7 | 8 => {
            let numbered = desk.record.loads.get(&load(name)).map(|load| load.numbered as u8);
            if let (Some(owner), Some(numbered)) = (speaks, numbered)
                && numbered < 200
            {
                desk.keep(name, owner.as_str(), numbered + 1, &[if owner == node(at) { "a" } else { at }, "b"]);
            }
        }
        9 if speaks.is_some() && !matches!(desk.entry(name).life, Life::Failed(_) | Life::Stopped(_)) => {
            desk.breaks(name);
        }
        10 if desk.record.loads.contains_key(&load(name)) => {
            let wish = dice.of(&[Wanted::Run, Wanted::Stop, Wanted::Stop, Wanted::Remove]);
            if desk.entry(name).wish != wish && desk.entry(name).wish != Wanted::Remove {
                desk.wish(name, wish);
            }
        }
        11 => {
            let epoch = desk.record.loads.get(&load(name)).map(|load| (load.epoch, load.numbered));
            if let Some((epoch, numbered)) = epoch {
                let held = Held { node: node(at), handover: HandoverId([1; 16]), epoch, numbered };
                desk.hear(Event::Holds { load: load(name), held });
            }
        }
        12 => desk.room(at, dice.below(5) * GIB),
        _ => desk.pass(dice.below(5_000)),
    }
}

#[test]
fn whatever_happens_nothing_is_proposed_in_vain_and_in_the_end_everything_runs() {
    let mut settled = [0_u32; 3];
    for number in 0..400 {
        let mut dice = Dice(number);
        let mut desk = Desk::new();
        for _ in 0..120 {
            happens(&mut desk, &mut dice);
            if dice.below(40) == 0 {
                desk.begin_to_lead();
            }
        }
        for at in NODES {
            let entry = desk.record.nodes[&node(at)].clone();
            if entry.fenced {
                let (mark, after) = (entry.mark, entry.session);
                desk.tell(Command::OpenSession { node: node(at), mark, after, finite: true });
            }
            desk.member(at, Health::Alive);
            desk.room(at, 8 * GIB);
        }
        desk.pass(10_000);
        for (name, load) in desk.record.loads.iter().filter(|(_, load)| load.wish == Wanted::Run) {
            let which = match (&load.life, &load.owner) {
                (Life::Failed(_), _) => 0,
                (Life::Stopped(_), _) => 1,
                (_, Some(owner)) if !desk.record.nodes[owner].fenced => 2,
                other => panic!("history {number}: {name} is left alone: {other:?}"),
            };
            settled[which] += 1;
        }
    }
    assert!(settled[0] > 0 && settled[2] > 100, "{settled:?}");
}
