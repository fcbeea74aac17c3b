//! Membership. The codec: what is understood is written again in the same bytes. A member: whatever is said to it, in whatever order
//! and however late, what it tells can be followed, what it sends can be read, and time goes on.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bytes::Buf;
use foca::Codec;
use migrate_members::{Health, MAX_DATAGRAM_BYTES, Member, Out, Settings, Swim, Words};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;

use crate::script::Script;

const ME: &str = "n0";

pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    if script.byte() & 1 == 0 {
        codec(script.rest());
    } else {
        member(script);
    }
}

fn codec(input: &[u8]) {
    let mut rest = input;
    if let Ok(header) = Words.decode_header(&mut rest) {
        let mut again = Vec::new();
        Words.encode_header(&header, &mut again).expect("it was read");
        assert_eq!(again, input[..input.len() - rest.len()]);
        assert_eq!(Words::header(input), Ok(header.clone()));
        if let Ok((same, said)) = Words::datagram(input) {
            assert_eq!(same, header);
            // Foca's way: a number, then as many members.
            if rest.len() >= 2 {
                assert_eq!(usize::from(rest.get_u16()), said.len());
                let read = said.iter().map(|_| Words.decode_member(&mut rest).expect("the same bytes"));
                assert_eq!(read.collect::<Vec<_>>(), said);
            }
        }
    }
    let mut rest = input;
    if let Ok(said) = Words.decode_member(&mut rest) {
        let mut again = Vec::new();
        Words.encode_member(&said, &mut again).expect("it was read");
        assert_eq!(again, input[..input.len() - rest.len()]);
    }
}

/// A member, and what somebody knows who listens to it.
struct Listener {
    swim: Swim,
    now: Duration,
    generation: u64,
    slowness: u8,
    told: BTreeMap<NodeName, (Member, Health)>,
}

fn member(mut script: Script<'_>) {
    let me = Member::new(name(0), StateMark([0; 8]), 1, "n0:1".to_owned()).expect("a member");
    let swim = Swim::new(me, Settings::default(), [script.byte(); 32], Duration::ZERO).expect("settings");
    let mut listener = Listener { swim, now: Duration::ZERO, generation: 1, slowness: 0, told: BTreeMap::new() };
    for _ in 0..200 {
        if script.is_over() {
            return;
        }
        let now = listener.now;
        let outs = match script.byte() % 8 {
            0..4 => listener.swim.datagram(now, &datagram(&mut script)),
            4 => {
                listener.now += Duration::from_millis(script.half().into());
                listener.swim.due(listener.now)
            }
            5 => {
                let most = script.byte() % 32;
                listener.on_time(most);
                continue;
            }
            6 => match script.byte() % 4 {
                0 => listener.swim.datagram(now, script.long_piece()),
                1 => listener.swim.announce(now, some_members(&mut script)),
                _ => listener.swim.know(now, some_members(&mut script)),
            },
            _ if script.byte() == 1 => {
                listener.leaves();
                return;
            }
            // A clock that goes back is not believed.
            _ => listener.swim.due(now.saturating_sub(Duration::from_millis(script.half().into()))),
        };
        listener.hears(outs);
    }
}

impl Listener {
    /// Serves so many timers, each when it is due.
    fn on_time(&mut self, most: u8) {
        for _ in 0..most {
            let deadline = self.swim.deadline().expect("it has not left");
            self.now = self.now.max(deadline);
            let outs = self.swim.due(self.now);
            assert!(self.swim.deadline().is_some_and(|next| next > self.now), "it turns round on the spot");
            self.hears(outs);
        }
    }

    fn leaves(&mut self) {
        let outs = self.swim.leave(self.now);
        for out in &outs {
            if let Out::Send { bytes, .. } = out {
                assert!(Words::header(bytes).expect("readable").src.is_leaving());
            }
        }
        assert_eq!(self.swim.deadline(), None);
        assert!(self.swim.due(self.now + Duration::from_secs(9)).is_empty());
    }

    fn hears(&mut self, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send { to, bytes } => {
                    assert!(bytes.len() <= MAX_DATAGRAM_BYTES, "{} bytes", bytes.len());
                    let (header, _) = Words::datagram(&bytes).expect("it can be read");
                    assert!(header.src.name().as_str() == ME && header.dst == to);
                    assert!(header.src.generation() >= self.generation);
                }
                Out::Up(member) => {
                    let before = self.told.insert(member.name().clone(), (member.clone(), Health::Alive));
                    assert!(
                        before.is_none_or(|(before, _)| before != member),
                        "{member:?} is said to be up twice, or again without a higher life"
                    );
                }
                Out::Suspect(member) => self.changes(member, Health::Alive, Health::Suspect),
                Out::Refuted(member) => self.changes(member, Health::Suspect, Health::Alive),
                Out::Down(member) => drop(self.told.insert(member.name().clone(), (member, Health::Down))),
                Out::Left(member) => drop(self.told.insert(member.name().clone(), (member, Health::Left))),
                Out::SameName { marks: [one, other], .. } => assert!(one != other),
                Out::IAmSlow(score) => {
                    assert!(score <= 8 && score != self.slowness);
                    self.slowness = score;
                }
                Out::CameBack(generation) => {
                    assert!(generation > self.generation);
                    self.generation = generation;
                }
                Out::Trouble(_) => {}
            }
        }
        let seen = self.swim.members().map(|view| (view.member.name().clone(), (view.member.clone(), view.health)));
        assert_eq!(seen.collect::<BTreeMap<_, _>>(), self.told);
        assert!(!self.told.contains_key(&name(0)), "it is no member of itself");
        assert_eq!((self.swim.me().generation(), self.swim.slowness()), (self.generation, self.slowness));
    }

    fn changes(&mut self, member: Member, from: Health, to: Health) {
        let before = self.told.insert(member.name().clone(), (member.clone(), to));
        assert_eq!(before, Some((member, from)));
    }
}

/// One that can mostly be read, from and about few nodes, so that they meet.
fn datagram(script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(life(script));
    bytes.extend([script.byte() % 4, 0]);
    bytes.extend(if script.byte() & 0xf0 == 0 { life(script) } else { written(0, 0, 1, false) });
    let kind = script.byte() % 11;
    bytes.push(kind);
    match kind {
        1 | 2 => bytes.push(script.byte() % 8),
        3..7 => {
            bytes.extend(life(script));
            bytes.push(script.byte() % 8);
        }
        _ => {}
    }
    let count = if kind == 7 { 0 } else { script.byte() % 8 };
    if count > 0 {
        bytes.extend([0, count]);
    }
    for _ in 0..count {
        bytes.extend(life(script));
        bytes.extend([script.byte() % 4, 0, 1 + script.byte() % 3]);
    }
    bytes
}

/// A life of one of few nodes.
fn life(script: &mut Script<'_>) -> Vec<u8> {
    let (who, how) = (script.byte(), script.byte());
    written(who % 5, (who >> 5) & 1, u64::from(how % 8), how & 0xe0 == 0xe0)
}

fn written(who: u8, mark: u8, generation: u64, leaving: bool) -> Vec<u8> {
    let mut bytes = vec![2, b'n', b'0' + who];
    bytes.extend([mark; 8]);
    bytes.extend(generation.to_le_bytes());
    bytes.extend([u8::from(leaving), 4, b'n', b'0' + who, b':', b'1']);
    bytes
}

fn some_members(script: &mut Script<'_>) -> Vec<Member> {
    let member = |(who, generation): (u8, u8)| {
        let name = name(who % 5);
        let address = format!("{name}:1");
        Member::new(name, StateMark([0; 8]), u64::from(generation % 8), address).ok()
    };
    (0..script.byte() % 4).map(|_| (script.byte(), script.byte())).filter_map(member).collect()
}

fn name(number: u8) -> NodeName {
    format!("n{number}").parse().expect("a name")
}
