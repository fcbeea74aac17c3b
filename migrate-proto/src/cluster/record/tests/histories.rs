//! Random histories: what must hold after every command, whatever came before.
//!
//! A history is a number. Most commands drawn are sensible where they are drawn, some are a little wrong, and some are old ones
//! that come once more, as they do where an answer was lost.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::fixtures::*;
use crate::cluster::Claim;
use crate::cluster::command::{Begin, Command};
use crate::cluster::record::{Applied, Life, Proof, Record, Standing, Wanted};
use crate::id::{Epoch, HandoverId, StateMark};
use crate::name::NodeName;

const NODES: [&str; 4] = ["a", "b", "c", "d"];

/// Numbers that follow from one number.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn often(&mut self) -> bool {
        self.below(8) > 0
    }

    fn node(&mut self) -> &'static str {
        NODES[usize::try_from(self.below(4)).unwrap()]
    }

    /// Mostly `so`, else something near it.
    fn near(&mut self, so: u64) -> u64 {
        if self.often() { so } else { (so + self.below(4)).saturating_sub(2) }
    }

    /// A node in its present session, mostly.
    fn claim(&mut self, record: &Record, name: &str) -> Claim {
        let session = record.nodes.get(&node(name)).map_or(0, |node| node.session);
        claim(name, self.near(session))
    }

    fn about_nodes(&mut self, book: &Book) -> Command {
        let name = self.node();
        let entry = book.record.nodes.get(&node(name));
        let (since, session) = entry.map_or((0, 0), |node| (node.since, node.session));
        let since = self.near(since).min(book.at);
        match self.below(10) {
            0 => admit(name, if self.often() { mark(name) } else { mark("z") }, since),
            1..=3 => match open(name, self.near(session)) {
                Command::OpenSession { node, after, mark: first, .. } => {
                    let (mark, finite) = (entry.map_or(first, |entry| entry.mark), self.often());
                    Command::OpenSession { node, mark, after, finite }
                }
                other => other,
            },
            4..=6 => Command::Fence { lapsed: self.claim(&book.record, name), voters: VOTERS },
            7 => Command::Leave(self.claim(&book.record, name)),
            8 if self.below(4) == 0 => Command::Forget { node: node(name), mark: entry.map_or(mark(name), |e| e.mark) },
            _ => Command::Drain { node: node(name), since, draining: self.below(3) == 0 },
        }
    }

    fn about_the_workload(&mut self, book: &Book) -> Command {
        let Some(entry) = book.record.loads.get(&web()) else {
            let name = self.node();
            let owner = self.often().then(|| self.claim(&book.record, name));
            return declare(self.below(1 << 20), self.near(book.record.cluster.removed).min(book.at), owner);
        };
        let epoch = self.near(entry.epoch.0);
        let (to, any) = (self.node(), self.node());
        let owner = entry.owner.as_ref().map_or(any, |owner| NODES.into_iter().find(|n| *n == owner.as_str()).unwrap());
        let by = if self.often() { self.claim(&book.record, owner) } else { self.claim(&book.record, any) };
        let number = u8::try_from(self.below(6)).unwrap();
        let newest = u8::try_from(entry.numbered.min(250)).unwrap();
        let checkpoint = checkpoint_id(newest.saturating_sub(number / 2));
        let since = entry.checkpoint(checkpoint).map_or(0, |checkpoint| checkpoint.since);
        match self.below(22) {
            0..=2 => transfer(epoch, by, to, number),
            3 => refuse(epoch, number),
            4..=5 => revive(epoch, by, self.often().then_some(newest)),
            6..=7 => {
                let begin = match self.below(3) {
                    0 => Begin::Afresh,
                    1 => Begin::Checkpoint(checkpoint),
                    _ => Begin::Image(handover(number)),
                };
                reassign(epoch, owner, self.often().then_some(to), begin)
            }
            8 => assign(epoch, to),
            9..=11 => began(epoch, by),
            12 => ended(epoch, by),
            13 if number < 3 => broke(epoch, by),
            13 => broke_down(epoch, by),
            14 => lose(epoch, by),
            15 => {
                wish(epoch, self.near(entry.wished).min(book.at), [Wanted::Run, Wanted::Stop][usize::from(number % 2)])
            }
            16 => wish(entry.epoch.0, entry.wished, if number == 0 { Wanted::Remove } else { Wanted::Run }),
            17 => gone(epoch, owner, self.often().then_some(by.session)),
            18..=19 => kept(epoch, by, newest.saturating_add(1)),
            20 => book.dropped(newest.saturating_sub(number)),
            _ => Command::Proved { load: web(), checkpoint, since, proof: Proof::Damaged },
        }
    }

    fn command(&mut self, book: &Book) -> Command {
        match self.below(12) {
            0..=3 => self.about_nodes(book),
            4 => {
                // What a leader does when a node is gone, at once or not at all.
                let fence = self.about_nodes(book);
                Command::Many(vec![fence, self.about_the_workload(book)])
            }
            _ => self.about_the_workload(book),
        }
    }
}

fn parts(command: &Command) -> Vec<&Command> {
    match command {
        Command::Many(commands) => commands.iter().flat_map(parts).collect(),
        one => vec![one],
    }
}

/// As whom a command speaks, if it speaks as somebody with a lease.
fn speaker(command: &Command) -> Option<Claim> {
    match command {
        Command::Leave(by) => Some(by.clone()),
        Command::Declare { owner, .. } => owner.clone(),
        Command::Transfer { from: by, .. }
        | Command::Revive { by, .. }
        | Command::Began { by, .. }
        | Command::Ended { by, .. }
        | Command::Broke { by, .. }
        | Command::Kept { by, .. } => Some(by.clone()),
        Command::Gone { owner, session, .. } => session.map(|session| Claim { node: owner.clone(), session }),
        _ => None,
    }
}

fn may_begin_an_epoch(command: &Command) -> bool {
    matches!(
        command,
        Command::Declare { .. }
            | Command::Transfer { .. }
            | Command::Revive { .. }
            | Command::Reassign(_)
            | Command::Assign { .. }
    )
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    owners: BTreeMap<Epoch, Option<NodeName>>,
    highest: u64,
    fenced: BTreeSet<Claim>,
    machines: BTreeMap<Claim, StateMark>,
    refused: BTreeSet<HandoverId>,
    changed: Vec<Command>,
}

impl Seen {
    fn check(&mut self, before: &Record, command: &Command, after: &Record) {
        self.check_speakers(before, command);
        self.check_nodes(before, after);
        self.check_owner(before, command, after);
        assert!(after.revision > before.revision && after.cluster.floor >= before.cluster.floor);
    }

    /// One after the other: of several, one may be there for the second time.
    fn check_speakers(&self, before: &Record, command: &Command) {
        let mut book = Book { record: before.clone(), at: before.revision };
        for part in parts(command) {
            if book.apply(part) == Ok(Applied::Changed)
                && let Some(by) = speaker(part)
            {
                assert!(!self.fenced.contains(&by), "{by} is fenced and has said {part:?}");
            }
        }
    }

    fn check_nodes(&mut self, before: &Record, after: &Record) {
        for (name, entry) in &after.nodes {
            let now = Claim { node: name.clone(), session: entry.session };
            let session = before.nodes.get(name).map_or(0, |node| node.session);
            assert!(entry.session == session || entry.session == session + 1);
            assert!(entry.fenced || !self.fenced.contains(&now), "{now} is fenced no more");
            if entry.fenced {
                self.fenced.insert(now);
            } else if entry.session > 0 {
                let machine = *self.machines.entry(now.clone()).or_insert(entry.mark);
                assert_eq!(machine, entry.mark, "two machines as {now}");
            }
            if matches!(entry.standing, Standing::Left | Standing::Forgotten) {
                assert!(entry.fenced, "{name} has gone and is not fenced");
            }
            let owned = after.loads.values().filter(|load| load.owner.as_ref() == Some(name)).count();
            assert_eq!(u32::try_from(owned).unwrap(), entry.owns, "what {name} owns");
        }
    }

    fn check_owner(&mut self, before: &Record, command: &Command, after: &Record) {
        let Some(entry) = after.loads.get(&web()) else { return };
        let owner = self.owners.entry(entry.epoch).or_insert_with(|| entry.owner.clone());
        assert_eq!(*owner, entry.owner, "two owners in epoch {}", entry.epoch);
        assert!(entry.epoch.0 >= self.highest, "epoch {} after {}", entry.epoch, self.highest);
        if entry.epoch.0 > self.highest {
            let begins = parts(command).into_iter().filter(|part| may_begin_an_epoch(part)).count();
            assert!(begins > 0, "{command:?} has begun epoch {}", entry.epoch);
            self.highest = entry.epoch.0;
            assert!(!entry.via.is_some_and(|via| self.refused.contains(&via)), "{command:?} was refused");
            self.refused.clear();
            let fenced = |name: &NodeName| after.nodes[name].fenced;
            assert!(!entry.owner.as_ref().is_some_and(fenced), "{command:?} has given it to a fenced node");
        }
        self.refused.extend(&entry.refused);
        // Nobody loses a workload who could still run it: it gives it away itself, has failed, or is fenced.
        if let Some(old) = before.loads.get(&web())
            && let Some(owner) = &old.owner
            && entry.owner != old.owner
        {
            let itself = parts(command).iter().any(|part| speaker(part).is_some_and(|by| by.node == *owner));
            let failed = matches!(old.life, Life::Failed(_));
            assert!(itself || failed || after.nodes[owner].fenced, "{command:?} has taken it from {owner}");
        }
    }
}

fn history(number: u64, length: usize) -> (Vec<Command>, Record) {
    let mut dice = Dice(number);
    let mut book = Book::company();
    let mut seen = Seen::default();
    let mut told = Vec::new();
    for _ in 0..length {
        let late = dice.below(6) == 0 && !told.is_empty();
        let command = if late {
            let which = usize::try_from(dice.below(told.len() as u64)).unwrap();
            Command::clone(&told[which])
        } else {
            dice.command(&book)
        };
        let before = book.record.clone();
        if book.apply(&command) == Ok(Applied::Changed) {
            assert!(!seen.changed.contains(&command), "a second effect of {command:?}");
            seen.check(&before, &command, &book.record);
            seen.changed.push(command.clone());
        }
        told.push(command);
    }
    (told, book.record)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everything_holds_in_every_history(number: u64) {
        history(number, 250);
    }

    /// One copy gets every command, one only those that took effect, one is stored and read again in between.
    #[test]
    fn the_same_commands_make_the_same_bytes(number: u64, stored_every in 1_u64..40) {
        let (commands, _) = history(number, 120);
        let mut copies = [Book::company().record, Book::company().record, Book::company().record];
        let first = copies[0].revision;
        for (revision, command) in (first + 1..).zip(&commands) {
            let answer = copies[0].apply(revision, command);
            if answer == Ok(Applied::Changed) {
                prop_assert_eq!(copies[1].apply(revision, command), answer.clone());
            }
            if revision % stored_every == 0 {
                copies[2] = Record::from_json(&copies[2].to_json().unwrap()).unwrap();
            }
            prop_assert_eq!(copies[2].apply(revision, command), answer);
        }
        let bytes = copies.map(|copy| copy.to_json().unwrap());
        prop_assert!(bytes[0] == bytes[1] && bytes[1] == bytes[2]);
    }

    /// One refusal at any place, and nothing of the others is left: `apply` of the book compares.
    #[test]
    fn many_is_all_or_nothing(number: u64, at in 0_usize..4) {
        let mut dice = Dice(number);
        let mut book = Book::running();
        let mut commands: Vec<Command> = Vec::new();
        let mut ahead = book.clone();
        while commands.len() < 3 {
            let command = dice.command(&ahead);
            if ahead.apply(&command) == Ok(Applied::Changed) {
                commands.push(command);
            }
        }
        let whole = Command::Many(commands.clone());
        let mut other = book.clone();
        other.at += 1;
        // Not where one compares what another of them has set: that has the number of the whole by then.
        prop_assume!(other.record.apply(other.at, &whole) == Ok(Applied::Changed));

        commands.insert(at, fence("unknown", 1));
        let refused = book.apply(&Command::Many(commands)).unwrap_err().to_string();
        prop_assert_eq!(refused, format!("command {at} of several: there is no node 'unknown'"));
    }
}

/// The dice are fair enough to reach everything that the rules are about.
#[test]
fn histories_reach_what_matters() {
    let mut reached: BTreeMap<&'static str, u32> = BTreeMap::new();
    for number in 0..150 {
        let mut dice = Dice(number);
        let mut book = Book::company();
        for _ in 0..250 {
            let command = dice.command(&book);
            if book.apply(&command) != Ok(Applied::Changed) {
                continue;
            }
            for part in parts(&command) {
                let what = match part {
                    Command::Transfer { .. } => "transfer",
                    Command::Refuse { .. } => "refuse",
                    Command::Revive { .. } => "revive",
                    Command::Reassign(r) if r.to.is_none() => "set down",
                    Command::Reassign(r) if matches!(r.begin, Begin::Checkpoint(_)) => "recover",
                    Command::Reassign(_) => "reassign",
                    Command::Assign { .. } => "assign",
                    Command::Lose { .. } => "lose",
                    Command::Gone { .. } => "gone",
                    Command::Forget { .. } => "forget",
                    Command::Leave(_) => "leave",
                    Command::Admit { mark: other, .. } if *other == mark("z") => "name taken over",
                    Command::Dropped { .. } => "dropped",
                    _ => continue,
                };
                *reached.entry(what).or_default() += 1;
            }
        }
    }
    println!("{reached:?}");
    assert_eq!(reached.len(), 13, "{reached:?}");
    assert!(reached.values().all(|times| *times >= 5), "{reached:?}");
}
