//! How a node comes into its cluster: it asks those it was told of, in rounds, until they have nothing against it.
//!
//! Before that it says nothing as a member and hears nothing: a second node of a name must not disturb the first. A name is taken while
//! another machine lives under it; so whoever lost its state waits until its old self is taken for dead. A machine, no I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_members::Member;
use migrate_proto::cluster::ClusterId;
use migrate_proto::datagram::{Here, Who};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use migrate_proto::version::SPOKEN;

/// How long answers of a round may take.
const ROUND: Duration = Duration::from_millis(300);
/// So many rounds without any answer, and a person is told.
const SILENT_ROUNDS: u32 = 10;
/// Members that were listed begin without the others after so many.
const ROUNDS_ALONE: u32 = 3;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Ask there.
    Ask(String, Who),
    /// This node may join, through these.
    Join(Vec<Member>),
    /// Nobody answers at any of these; said once.
    Nobody(Vec<String>),
    /// It belongs to another cluster than whoever answered; said once.
    Stranger(Problem),
    /// It must not join, now or later.
    GiveUp(Problem),
}

/// One node's way in.
pub struct Joining {
    who: Who,
    targets: BTreeSet<String>,
    /// Whether it was listed: then it goes on without those that do not answer.
    listed: bool,
    /// How long a name may be taken by what is perhaps this node's dead self.
    patience: Duration,
    /// When the round ends.
    until: Option<Duration>,
    answers: Vec<(NodeName, Here)>,
    rounds: u32,
    silent_rounds: u32,
    refused_since: Option<Duration>,
    said: bool,
}

impl Joining {
    /// Through any of these addresses.
    pub fn new(who: Who, targets: BTreeSet<String>, listed: bool, patience: Duration) -> Joining {
        Joining {
            who,
            targets,
            listed,
            patience,
            until: None,
            answers: Vec::new(),
            rounds: 0,
            silent_rounds: 0,
            refused_since: None,
            said: false,
        }
    }

    /// When [`Joining::due`] has something to do.
    pub fn deadline(&self) -> Duration {
        self.until.unwrap_or_default()
    }

    /// Someone answers.
    pub fn heard(&mut self, node: NodeName, here: Here) {
        let known = self.answers.iter().any(|(other, _)| *other == node);
        if here.question == self.who.question && !known {
            self.answers.push((node, here));
        }
    }

    /// Ends a round, and begins the next one where that is needed.
    pub fn due(&mut self, now: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.until.is_some() {
            self.rounds += 1;
            let answers = std::mem::take(&mut self.answers);
            match self.verdict(now, answers) {
                Some(step @ (Step::Join(_) | Step::GiveUp(_))) => return vec![step],
                Some(step) if !self.said => {
                    self.said = true;
                    steps.push(step);
                }
                Some(_) | None => {}
            }
        }
        self.until = Some(now + ROUND);
        self.who.question += 1;
        steps.extend(self.targets.iter().map(|target| Step::Ask(target.clone(), self.who.clone())));
        steps
    }

    fn verdict(&mut self, now: Duration, answers: Vec<(NodeName, Here)>) -> Option<Step> {
        if answers.is_empty() {
            self.silent_rounds += 1;
            if self.listed && self.rounds >= ROUNDS_ALONE {
                return Some(Step::Join(Vec::new()));
            }
            let silent = self.silent_rounds >= SILENT_ROUNDS;
            return silent.then(|| Step::Nobody(self.targets.iter().cloned().collect()));
        }
        self.silent_rounds = 0;
        if let Some(problem) = answers.iter().find_map(|(_, here)| SPOKEN.choose(here.versions).err()) {
            return Some(Step::GiveUp(problem));
        }
        if let Some((node, theirs)) = answers.iter().find_map(|(node, here)| Some((node, here.cluster?)))
            && let Some(ours) = self.who.cluster.filter(|ours| *ours != theirs)
        {
            return Some(Step::Stranger(two_clusters(ours, node, theirs)));
        }
        if let Some(problem) = answers.iter().find_map(|(_, here)| here.refused.clone()) {
            let since = *self.refused_since.get_or_insert(now);
            let for_good = problem.code != Code::NameTaken || now.saturating_sub(since) >= self.patience;
            return for_good.then_some(Step::GiveUp(problem));
        }
        let member = |(node, here): (NodeName, Here)| Member::unheard(node, here.address).ok();
        let seeds: Vec<Member> = answers.into_iter().filter_map(member).collect();
        (!seeds.is_empty()).then_some(Step::Join(seeds))
    }
}

fn two_clusters(ours: ClusterId, node: &NodeName, theirs: ClusterId) -> Problem {
    let what = format!("this node belongs to the cluster {ours}, and {node} to the cluster {theirs}: it stays out");
    Problem::new(Code::WrongState, what).hint("one of them has to be begun anew, with an empty state directory")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use migrate_proto::id::StateMark;
    use migrate_proto::version::Versions;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn who() -> Who {
        Who { question: 40, mark: StateMark([1; 8]), versions: SPOKEN, cluster: None }
    }

    fn joining(listed: bool, targets: &[&str]) -> Joining {
        Joining::new(who(), targets.iter().map(|target| target.to_string()).collect(), listed, MS(2000))
    }

    fn here(question: u64) -> Here {
        let address = "h:1".to_owned();
        Here { question, mark: StateMark([2; 8]), versions: SPOKEN, cluster: None, address, refused: None }
    }

    fn asked(steps: &[Step]) -> u64 {
        match steps {
            [Step::Ask(_, who), ..] => who.question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_is_answered_joins_through_those_who_answered() {
        let mut joining = joining(false, &["a:1", "b:1"]);
        let question = asked(&joining.due(MS(0)));
        joining.heard("a".parse().unwrap(), here(question - 1));
        joining.heard("a".parse().unwrap(), here(question));
        joining.heard("a".parse().unwrap(), here(question));
        assert_eq!(joining.deadline(), ROUND);
        let seed = Member::unheard("a".parse().unwrap(), "h:1".to_owned()).unwrap();
        assert_eq!(joining.due(ROUND), [Step::Join(vec![seed])]);
    }

    #[test]
    fn who_was_listed_begins_alone_and_who_joins_waits() {
        let mut listed = joining(true, &["a:1"]);
        for round in 0..ROUNDS_ALONE {
            asked(&listed.due(ROUND * round));
        }
        assert_eq!(listed.due(ROUND * ROUNDS_ALONE), [Step::Join(Vec::new())]);
        let mut waits = joining(false, &["a:1"]);
        let steps: Vec<Step> = (0..20).flat_map(|round| waits.due(ROUND * round)).collect();
        let told = steps.iter().filter(|step| **step == Step::Nobody(vec!["a:1".to_owned()])).count();
        assert_eq!((told, steps.len()), (1, 21));
    }

    #[test]
    fn a_name_may_be_taken_for_a_while_and_not_for_ever() {
        let taken = |question| Here { refused: Some(Problem::new(Code::NameTaken, "taken")), ..here(question) };
        let mut joining = joining(false, &["a:1", "b:1"]);
        let mut steps = joining.due(MS(0));
        for round in 1..=8 {
            let question = asked(&steps);
            // One that has not heard of the other yet does not help.
            joining.heard("a".parse().unwrap(), here(question));
            joining.heard("b".parse().unwrap(), taken(question));
            steps = joining.due(ROUND * round);
        }
        assert!(matches!(&steps[..], [Step::GiveUp(problem)] if problem.code == Code::NameTaken), "{steps:?}");
    }

    #[test]
    fn other_versions_are_final_and_another_cluster_is_said() {
        let mut joining = joining(false, &["a:1"]);
        let question = asked(&joining.due(MS(0)));
        joining.heard("a".parse().unwrap(), Here { versions: Versions { min: 9, max: 9 }, ..here(question) });
        assert!(matches!(&joining.due(ROUND)[..], [Step::GiveUp(problem)] if problem.code == Code::PeerVersion));

        let mine = Who { cluster: Some(ClusterId([1; 16])), ..who() };
        let mut joining = Joining::new(mine, ["a:1".to_owned()].into(), true, MS(1));
        let question = asked(&joining.due(MS(0)));
        joining.heard("a".parse().unwrap(), Here { cluster: Some(ClusterId([2; 16])), ..here(question) });
        assert!(matches!(&joining.due(ROUND)[..], [Step::Stranger(_), Step::Ask(..)]));
    }
}
