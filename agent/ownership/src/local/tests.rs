#![allow(clippy::unwrap_used)]

use migrate_proto::cluster::Claim;
use migrate_proto::id::HandoverId;
use migrate_proto::version::SPOKEN;

use super::*;
use crate::suite::{self, Ground, confirmed, declare, done, mark, node, session_of};
use crate::types::Place;

struct Alone {
    dir: tempfile::TempDir,
    local: Option<Arc<Local>>,
}

fn me() -> Joiner {
    Joiner { mark: mark(1), place: Place { name: node("a"), address: "a:1".to_owned() }, versions: SPOKEN }
}

impl Alone {
    async fn new() -> Alone {
        let mut alone = Alone { dir: tempfile::tempdir().unwrap(), local: None };
        alone.local = Some(alone.open(7).await.unwrap());
        alone
    }

    async fn open(&self, fresh: u8) -> Result<Arc<Local>, LocalError> {
        Local::open(self.file(), me(), ClusterId([fresh; 16])).await.map(Arc::new)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("record.json")
    }

    fn local(&self) -> &Local {
        self.local.as_ref().unwrap()
    }
}

#[async_trait]
impl Ground for Alone {
    fn all(&self) -> Vec<Arc<dyn Ownership>> {
        self.local.iter().map(|local| Arc::clone(local) as Arc<dyn Ownership>).collect()
    }

    async fn restart(&mut self) {
        self.local = None;
        self.local = Some(self.open(8).await.unwrap());
    }
}

#[tokio::test]
async fn a_record_in_a_file_keeps_the_contract() {
    suite::all(Alone::new).await;
}

#[tokio::test]
async fn a_move_to_a_peer_is_granted_whoever_that_is() {
    let alone = Alone::new().await;
    let session = session_of(alone.local(), &node("a")).await;
    let from = Claim { node: node("a"), session };
    for (number, load) in ["one", "two"].iter().enumerate() {
        let mut command = declare(load, 1, 0);
        if let Command::Declare { owner, .. } = &mut command {
            *owner = Some(from.clone());
        }
        done(alone.local(), command).await.unwrap();
        let load = load.parse().unwrap();
        let epoch = confirmed(alone.local()).await.load(&load).unwrap().epoch;
        let handover = HandoverId([number as u8; 16]);
        let transfer = Command::Transfer { load, epoch, from: from.clone(), to: node("b"), handover };
        assert_eq!(done(alone.local(), transfer.clone()).await, Ok(Applied::Changed));
        assert_eq!(done(alone.local(), transfer).await, Ok(Applied::AlreadySo));
    }
    assert_eq!(confirmed(alone.local()).await.nodes[&node("b")].owns, 2);
}

#[tokio::test]
async fn what_cannot_be_written_was_not_done() {
    let alone = Alone::new().await;
    let before = confirmed(alone.local()).await;
    // A directory is where the new file would be written.
    std::fs::create_dir(alone.file().with_extension("new")).unwrap();
    let answer = alone.local().propose(declare("web", 1, 0)).await;
    assert!(matches!(&answer, Err(ProposeError::Stopped(why)) if why.contains("record.new")), "{answer:?}");
    assert_eq!(confirmed(alone.local()).await, before);
    std::fs::remove_dir(alone.file().with_extension("new")).unwrap();
    assert_eq!(done(alone.local(), declare("web", 1, 0)).await, Ok(Applied::Changed));
}

#[tokio::test]
async fn the_file_of_another_machine_is_refused() {
    let alone = Alone::new().await;
    let other = Joiner { mark: mark(2), ..me() };
    let opened = Local::open(alone.file(), other, ClusterId([9; 16])).await;
    assert!(matches!(opened, Err(LocalError::Refused { .. })));
}
