//! Every command in every state that matters, as tables of single words: `+` has taken effect, `=` was so already, the others are
//! the kinds of refusals.

use super::fixtures::*;
use crate::cluster::command::{Begin, Command};
use crate::cluster::record::{Applied, Refusal, Wanted};
use crate::id::Epoch;

type State = (&'static str, Book);

fn word(answer: &Answer) -> String {
    match answer {
        Ok(Applied::Changed) => "+".to_owned(),
        Ok(Applied::AlreadySo) => "=".to_owned(),
        Err(Refusal::OneOfMany { refusal, .. }) => word(&Err((**refusal).clone())),
        Err(refusal) => {
            let json = serde_json::to_value(refusal).unwrap();
            json.as_object().unwrap().keys().next().unwrap().clone()
        }
    }
}

/// One row a command, one column a state. `commands` get the state, for numbers that commands compare.
fn table<Name: ToString>(states: &[State], commands: impl Fn(&Book) -> Vec<(Name, Command)>) -> String {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(states.iter().map(|(name, _)| (*name).to_owned()));
    for (at, (name, _)) in commands(&states[0].1).iter().enumerate() {
        let mut row = vec![name.to_string()];
        for (_, book) in states {
            let command = commands(book).swap_remove(at).1;
            row.push(word(&book.clone().apply(&command)));
        }
        rows.push(row);
    }
    let widths: Vec<usize> =
        (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join(" ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn assert_table(made: &str, expected: &str) {
    assert!(made == expected, "is:\n{made}\nshould be:\n{expected}");
}

fn after(mut book: Book, commands: Vec<Command>) -> Book {
    for command in commands {
        book.must(command);
    }
    book
}

/// What the word of the owner, of the leader and of a person does to a workload in every life. Everything speaks of the epoch
/// that is; `a` is the owner where there is one, in session 1.
#[test]
fn a_workload_in_every_life() {
    let a = || claim("a", 1);
    let queued = after(Book::company(), vec![declare(1, 0, None)]);
    let starting = after(Book::company(), vec![declare(1, 0, Some(a()))]);
    let running = Book::running();
    let recovering = after(running.clone(), vec![revive(1, a(), Some(2))]);
    let stopped = after(running.clone(), vec![ended(1, a())]);
    let failed = after(running.clone(), vec![broke_down(1, a())]);
    let fenced = after(running.clone(), vec![fence("a", 1)]);
    let lost = after(fenced.clone(), vec![lose(1, a())]);
    let back = after(lost.clone(), vec![open("a", 1)]);
    let waiting = after(fenced.clone(), vec![reassign(1, "a", None, Begin::Checkpoint(checkpoint_id(2)))]);
    let wished = running.web().wished;
    let removing = after(running.clone(), vec![wish(1, wished, Wanted::Remove)]);
    let states = [
        ("absent", Book::company()),
        ("queued", queued),
        ("starting", starting),
        ("running", running),
        ("recover", recovering),
        ("stopped", stopped),
        ("failed", failed),
        ("fenced", fenced),
        ("lost", lost),
        ("back", back),
        ("waiting", waiting),
        ("removing", removing),
    ];
    let made = table(&states, |book| {
        let entry = book.record.loads.get(&web());
        let (epoch, since) = entry.map_or((1, 0), |entry| (entry.epoch.0, entry.wished));
        let again = |session| began(epoch, claim("a", session));
        vec![
            ("declare", declare(2, 0, None)),
            ("transfer", transfer(epoch, a(), "b", 1)),
            ("refuse", refuse(epoch, 1)),
            ("revive", revive(epoch, a(), None)),
            ("reassign", reassign(epoch, "a", Some("b"), Begin::Checkpoint(checkpoint_id(2)))),
            ("set down", reassign(epoch, "a", None, Begin::Afresh)),
            ("assign", assign(epoch, "b")),
            ("began", again(1)),
            ("began (2)", again(2)),
            ("ended", ended(epoch, a())),
            ("broke", broke(epoch, a())),
            ("broke down", broke_down(epoch, a())),
            ("lose", lose(epoch, a())),
            ("kept", kept(epoch, a(), 3)),
            ("drop old", book.dropped(1)),
            ("drop new", book.dropped(2)),
            ("run", wish(epoch, since, Wanted::Run)),
            ("stop", wish(epoch, since, Wanted::Stop)),
            ("remove", wish(epoch, since, Wanted::Remove)),
            ("gone", gone(epoch, "a", Some(1))),
            ("gone (led)", gone(epoch, "a", None)),
        ]
    });
    assert_table(&made, include_str!("lives.txt"));
}

/// Who may speak for a workload: `web` runs on `a`, in epoch 1.
#[test]
fn who_speaks_for_a_workload() {
    let running = Book::running();
    let moved = after(running.clone(), vec![transfer(1, claim("a", 1), "b", 9)]);
    let taken = after(running.clone(), vec![fence("a", 1), reassign(1, "a", Some("b"), Begin::Afresh)]);
    let back = after(running.clone(), vec![fence("a", 1), open("a", 1)]);
    let states = [
        ("runs", running.clone()),
        ("fenced", after(running.clone(), vec![fence("a", 1)])),
        ("back", back),
        ("moved", moved),
        ("taken", taken.clone()),
        ("taken, back", after(taken, vec![open("a", 1)])),
    ];
    let made = table(&states, |_| {
        let mut rows = Vec::new();
        for (who, by) in [("a", claim("a", 1)), ("a (2)", claim("a", 2)), ("b", claim("b", 1)), ("x", claim("x", 1))] {
            rows.push((format!("{who}: transfer"), transfer(1, by.clone(), "c", 1)));
            rows.push((format!("{who}: revive"), revive(1, by.clone(), None)));
            rows.push((format!("{who}: ended"), ended(1, by.clone())));
            rows.push((format!("{who}: broke"), broke_down(1, by.clone())));
            rows.push((format!("{who}: kept"), kept(1, by, 3)));
        }
        rows.push(("a: ended (2)".to_owned(), ended(2, claim("a", 1))));
        rows.push(("b: ended (2)".to_owned(), ended(2, claim("b", 1))));
        rows
    });
    assert_table(&made, include_str!("speakers.txt"));
}

fn nodes_of_every_kind() -> Vec<State> {
    let running = Book::running();
    let member = after(running.clone(), vec![admit("d", mark("d"), 0)]);
    let open_d = after(member.clone(), vec![open("d", 0)]);
    let drain = |book: &Book| Command::Drain { node: node("d"), since: book.since("d"), draining: true };
    let fenced = after(open_d.clone(), vec![fence("d", 1)]);
    let again = after(fenced.clone(), vec![open("d", 1)]);
    let endless = Command::OpenSession { node: node("d"), mark: mark("d"), after: 0, finite: false };
    let draining = drain(&open_d);
    vec![
        ("unknown", running),
        ("no session", member.clone()),
        ("endless", after(member, vec![endless])),
        ("member", open_d.clone()),
        ("draining", after(open_d.clone(), vec![draining])),
        ("fenced", fenced.clone()),
        ("again", again),
        ("left", after(open_d, vec![leave("d", 1)])),
        ("forgotten", after(fenced, vec![forget("d")])),
    ]
}

/// Who may be given a workload: `d`.
#[test]
fn who_takes_a_workload() {
    let made = table(&nodes_of_every_kind(), |book| {
        let mut fenced = book.clone();
        fenced.must(fence("a", 1));
        let other = |command: Command| match command {
            Command::Declare { ticket, since, mut spec, policy, owner, priority } => {
                spec.name = "other".parse().unwrap();
                Command::Declare { ticket, since, spec, policy, owner, priority }
            }
            other => other,
        };
        let Command::Assign { to, .. } = assign(1, "d") else { unreachable!() };
        let queued = other(declare(3, 0, None));
        let assign = Command::Assign { load: "other".parse().unwrap(), epoch: Epoch(1), to };
        vec![
            ("declare", other(declare(2, 0, Some(claim("d", 1))))),
            ("transfer", transfer(1, claim("a", 1), "d", 1)),
            ("reassign", Command::Many(vec![fence("a", 1), reassign(1, "a", Some("d"), Begin::Afresh)])),
            ("assign", Command::Many(vec![queued, assign])),
        ]
    });
    assert_table(&made, include_str!("takers.txt"));
}

/// Commands about nodes, for `d` of every kind.
#[test]
fn a_node_of_every_kind() {
    let made = table(&nodes_of_every_kind(), |book| {
        let since = book.since("d");
        let other = mark("z");
        let drain = |draining| Command::Drain { node: node("d"), since, draining };
        vec![
            ("admit", admit("d", mark("d"), since)),
            ("admit late", admit("d", mark("d"), 1)),
            ("admit other", admit("d", other, since)),
            ("open 0", open("d", 0)),
            ("open 1", open("d", 1)),
            ("open 2", open("d", 2)),
            ("open other", Command::OpenSession { node: node("d"), mark: other, after: 1, finite: true }),
            ("leave", leave("d", 1)),
            ("fence", fence("d", 1)),
            ("forget", forget("d")),
            ("forget other", Command::Forget { node: node("d"), mark: other }),
            ("drain", drain(true)),
            ("undrain", drain(false)),
        ]
    });
    assert_table(&made, include_str!("nodes.txt"));
}
