//! `migrate key rotate`: replaces the cluster's key without a break, one step at a time.
//!
//! Each step changes the key file of this machine and nothing else; keys never cross the network. Before a step that could cut
//! a node off, every node is asked whether it is ready.

use std::path::{Path, PathBuf};

use migrate_proto::api::{NodeState, NodeView};
use migrate_proto::key::{Fingerprint, KeyRing, listed};
use migrate_proto::name::NodeName;
use serde::Serialize;
use thiserror::Error;

use super::{KeyError, new_key, read, replace};
use crate::cli::key::{RotateOptions, Step};
use crate::command::Session;
use crate::failure::Failure;
use crate::show::{answer, table};

/// Why a step was not taken.
#[derive(Debug, Error)]
pub(crate) enum RotationError {
    #[error("these nodes do not answer: {}; nothing was changed", joined(nodes))]
    Silent { nodes: Vec<NodeName> },
    #[error("these nodes do not trust the key {key} yet: {}; nothing was changed", joined(nodes))]
    NotTrusted { key: Fingerprint, nodes: Vec<NodeName>, file: PathBuf },
    #[error("these nodes still prove themselves with the key {key}: {}; nothing was changed", joined(nodes))]
    InUse { key: Fingerprint, nodes: Vec<NodeName>, next: String },
    #[error("{} was changed, but the agent of {node} has other keys: {}", file.display(), listed(keys))]
    OtherFile { file: PathBuf, node: NodeName, keys: Vec<Fingerprint> },
}

fn joined(nodes: &[NodeName]) -> String {
    nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", ")
}

impl RotationError {
    /// What to do.
    pub(crate) fn hint(&self) -> String {
        match self {
            RotationError::Silent { .. } => {
                "bring them back first; a node that is gone for good: go on with --unchecked".to_owned()
            }
            RotationError::NotTrusted { file, .. } => {
                format!("copy {} to each of them, with mode 0600; their agents read it within seconds", file.display())
            }
            RotationError::InUse { key, next, .. } => {
                format!("on each of them, promote the key that is to replace {key}: {next}")
            }
            RotationError::OtherFile { .. } => {
                "is this the file that it reads (its setting `key`), and does it run here?".to_owned()
            }
        }
    }
}

/// The answer in JSON.
#[derive(Serialize)]
struct Standing<'a> {
    file: &'a Path,
    keys: Vec<Fingerprint>,
    nodes: Vec<NodeKeys>,
    next: Option<String>,
}

#[derive(Serialize)]
struct NodeKeys {
    name: NodeName,
    state: NodeState,
    keys: Vec<Fingerprint>,
}

/// Takes a step, or says where the rotation stands.
pub(crate) async fn rotate(session: &Session, options: &RotateOptions) -> Result<u8, Failure> {
    let file = &options.file;
    let mut ring = read(file)?;
    let step = options.step();
    if !options.unchecked && step != Step::Look {
        may_go(&step, file, &ring, &nodes(session).await?)?;
    }
    let next = take(&step, file, &mut ring)?;
    let views = match options.unchecked {
        true => Vec::new(),
        false => {
            if step != Step::Look {
                tell_agent(session, file, &ring).await?;
            }
            nodes(session).await?
        }
    };
    show(session, file, &ring, &views, next)?;
    Ok(0)
}

async fn nodes(session: &Session) -> Result<Vec<NodeView>, Failure> {
    Ok(session.agent().await?.get("/v1/nodes").await?)
}

/// Whether every node is ready for it.
fn may_go(step: &Step, file: &Path, ring: &KeyRing, views: &[NodeView]) -> Result<(), RotationError> {
    let those = |unready: &dyn Fn(&NodeView) -> bool| -> Vec<NodeName> {
        views.iter().filter(|view| unready(view)).map(|view| view.name.clone()).collect()
    };
    let silent = those(&|view| view.state != NodeState::Alive);
    if !silent.is_empty() && *step != Step::Add {
        return Err(RotationError::Silent { nodes: silent });
    }
    match step {
        Step::Look | Step::Add => Ok(()),
        Step::Promote(key) => match those(&|view| !view.keys.contains(key)) {
            // A key that is not even here is said to be so.
            nodes if nodes.is_empty() || !ring.fingerprints().contains(key) => Ok(()),
            nodes => Err(RotationError::NotTrusted { key: key.clone(), nodes, file: file.to_owned() }),
        },
        Step::Retire(key) => match those(&|view| view.keys.first() == Some(key)) {
            nodes if nodes.is_empty() => Ok(()),
            nodes => {
                let next = ring.fingerprints().into_iter().find(|other| other != key);
                let next = next.map(|other| format!("migrate key rotate --promote {other}")).unwrap_or_default();
                Err(RotationError::InUse { key: key.clone(), nodes, next })
            }
        },
    }
}

/// Changes the file; what comes next.
fn take(step: &Step, file: &Path, ring: &mut KeyRing) -> Result<Option<String>, KeyError> {
    let refused = |source| KeyError::Ring { path: file.to_owned(), source };
    let shown = file.display();
    let next = match step {
        Step::Look => return Ok(None),
        Step::Add => {
            let key = new_key()?;
            let name = key.fingerprint();
            ring.add(key).map_err(refused)?;
            format!(
                "copy {shown} to every other node, with mode 0600; when all trust {name}, run on each: \
                 migrate key rotate --promote {name}"
            )
        }
        Step::Promote(key) => {
            let before = ring.first().fingerprint();
            let changed = ring.promote(key).map_err(refused)?;
            let old = if changed { before.to_string() } else { "OLD".to_owned() };
            format!(
                "promote {key} on every other node too; when all prove themselves with it, run on each: \
                 migrate key rotate --retire {old}"
            )
        }
        Step::Retire(key) => {
            ring.retire(key).map_err(refused)?;
            format!("retire {key} on every other node too, and destroy what copies of it there are")
        }
    };
    replace(file, ring)?;
    Ok(Some(next))
}

/// The agent would find out by itself; so it is known that it has.
async fn tell_agent(session: &Session, file: &Path, ring: &KeyRing) -> Result<(), Failure> {
    let view: NodeView = session.agent().await?.order("/v1/keys/reload").await?;
    if view.keys != ring.fingerprints() {
        let (file, node) = (file.to_owned(), view.name);
        return Err(RotationError::OtherFile { file, node, keys: view.keys }.into());
    }
    Ok(())
}

fn show(
    session: &Session,
    file: &Path,
    ring: &KeyRing,
    views: &[NodeView],
    next: Option<String>,
) -> Result<(), Failure> {
    let keys = ring.fingerprints();
    if session.everywhere.json {
        let of = |view: &NodeView| NodeKeys { name: view.name.clone(), state: view.state, keys: view.keys.clone() };
        let nodes = views.iter().map(of).collect();
        return Ok(answer::json_document(&Standing { file, keys, nodes, next })?);
    }
    if views.is_empty() {
        answer::line(&listed(&keys))?;
    } else {
        answer::line(&table::keys(session.style, views))?;
    }
    let others: Vec<NodeName> = views
        .iter()
        .filter(|view| view.state == NodeState::Alive && view.keys != keys)
        .map(|view| view.name.clone())
        .collect();
    if !others.is_empty() {
        let has = format!("{} has {}", file.display(), listed(&keys));
        session.remarks.say(format_args!("{has}; other keys are in force on {}", joined(&others)));
    }
    if let Some(next) = next {
        session.remarks.say(format_args!("next: {next}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use migrate_proto::key::{ClusterKey, KEY_BYTES};

    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::copied(&[byte; KEY_BYTES])
    }

    fn ring(bytes: &[u8]) -> KeyRing {
        let mut ring = KeyRing::of(key(bytes[0]));
        bytes[1..].iter().for_each(|byte| ring.add(key(*byte)).unwrap());
        ring
    }

    fn node(name: &str, state: &str, keys: &[u8]) -> NodeView {
        let keys: Vec<_> = keys.iter().map(|byte| key(*byte).fingerprint()).collect();
        let (leader, voter) = (false, false);
        serde_json::from_value(serde_json::json!({
            "name": name, "address": "", "state": state, "leader": leader, "voter": voter, "keys": keys,
        }))
        .unwrap()
    }

    fn refusal(step: Step, views: &[NodeView]) -> String {
        let refused = may_go(&step, Path::new("/k"), &ring(&[1, 2]), views).unwrap_err();
        format!("{refused} hint: {}", refused.hint())
    }

    #[test]
    fn a_step_that_would_cut_a_node_off_is_not_taken() {
        let (old, new) = (key(1).fingerprint(), key(2).fingerprint());
        let views = [node("a", "alive", &[1, 2]), node("b", "alive", &[1])];
        let refused = refusal(Step::Promote(new.clone()), &views);
        assert!(
            refused.contains("do not trust") && refused.contains(" b;") && refused.contains("copy /k"),
            "{refused}"
        );
        let views = [node("a", "alive", &[2, 1]), node("b", "alive", &[1, 2])];
        let refused = refusal(Step::Retire(old.clone()), &views);
        assert!(refused.contains(" b;") && refused.contains(&format!("--promote {new}")), "{refused}");
        let views = [node("a", "alive", &[1, 2]), node("b", "suspect", &[])];
        for step in [Step::Promote(new.clone()), Step::Retire(new.clone())] {
            let refused = refusal(step, &views);
            assert!(refused.contains("do not answer: b;") && refused.contains("--unchecked"), "{refused}");
        }
        let ready = [node("a", "alive", &[2, 1]), node("b", "alive", &[2])];
        for step in [Step::Promote(new), Step::Retire(old), Step::Add] {
            may_go(&step, Path::new("/k"), &ring(&[2, 1]), &ready).unwrap();
        }
    }

    #[test]
    fn a_rotation_is_four_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        super::super::make(&file).unwrap();
        let old = read(&file).unwrap().first().fingerprint();
        let step = |step: Step| {
            let mut ring = read(&file).unwrap();
            let next = take(&step, &file, &mut ring);
            assert_eq!(read(&file).unwrap(), ring);
            (next.map(Option::unwrap_or_default), ring.fingerprints())
        };
        let (next, keys) = step(Step::Add);
        let [first, new] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!(*first, old);
        assert!(next.unwrap().contains(&format!("--promote {new}")));
        let (next, keys) = step(Step::Promote(new.clone()));
        assert_eq!(keys, [new.clone(), old.clone()]);
        assert!(next.unwrap().contains(&format!("--retire {old}")));
        assert_eq!(step(Step::Promote(new.clone())).1, keys, "to say it twice does no harm");
        assert_eq!(step(Step::Retire(old.clone())).1, vec![new.clone()]);
    }

    #[test]
    fn a_key_that_is_in_use_or_not_there_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        super::super::make(&file).unwrap();
        let mut ring = read(&file).unwrap();
        let own = ring.first().fingerprint();
        for step in [Step::Retire(own.clone()), Step::Promote(key(7).fingerprint())] {
            assert!(matches!(take(&step, &file, &mut ring), Err(KeyError::Ring { .. })));
        }
        assert_eq!(read(&file).unwrap().fingerprints(), [own]);
    }
}
