//! Five nodes on a net that loses, delays, doubles and parts, killed and started again, while clients move workloads about.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::Refusal;
use migrate_proto::id::HandoverId;
use migrate_proto::name::WorkloadName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::history::{Told, What, check};
use super::*;
use crate::ownership::ProposeError;
use crate::suite::{confirmed, declare, done, session_of};

const NODES: usize = 5;
const LOADS: usize = 3;
const CLIENTS: u64 = 4;
const STEPS: usize = 60;
const TROUBLES: usize = 8;

/// What clients share with whoever makes trouble: who runs, and what was told.
struct Book {
    nodes: Mutex<Vec<Option<Arc<Raft>>>>,
    told: Mutex<Vec<(usize, Told)>>,
    steps: AtomicU32,
    begun: Instant,
    /// Whether what a node has is taken for what all have: a mistake that must be found.
    trusting: bool,
}

impl Book {
    fn now(&self) -> u128 {
        self.begun.elapsed().as_micros()
    }

    fn one_of(&self, chance: &mut StdRng) -> Option<Arc<Raft>> {
        self.nodes.lock().unwrap()[chance.random_range(0..NODES)].clone()
    }

    async fn read(&self, reader: &Raft) -> Result<Arc<Record>, ProposeError> {
        if self.trusting { Ok(reader.record().borrow().clone()) } else { reader.confirm().await }
    }

    fn tell(&self, load: usize, asked: u128, what: What) {
        let told = Told { asked, answered: self.now(), what };
        self.told.lock().unwrap().push((load, told));
    }
}

fn load(number: usize) -> WorkloadName {
    format!("load{number}").parse().unwrap()
}

/// Moves workloads from wherever they are to wherever it likes, through any node.
async fn client(book: Arc<Book>, seed: u64) {
    let mut chance = StdRng::seed_from_u64(seed);
    for step in 0..STEPS {
        book.steps.fetch_add(1, Ordering::Relaxed);
        let number = chance.random_range(0..LOADS);
        let (Some(reader), Some(writer)) = (book.one_of(&mut chance), book.one_of(&mut chance)) else {
            continue;
        };
        let asked = book.now();
        // Half of them go by what may be old, so that they compare in vain.
        let record = if chance.random_bool(0.5) {
            let Ok(record) = book.read(&reader).await else { continue };
            let Ok(entry) = record.load(&load(number)) else { continue };
            book.tell(number, asked, What::Seen { epoch: entry.epoch.0, via: entry.via });
            record
        } else {
            reader.record().borrow().clone()
        };
        let Ok(entry) = record.load(&load(number)) else { continue };
        let (epoch, owner) = (entry.epoch, entry.owner.clone().unwrap());
        let mut via = [u8::try_from(seed % 251).unwrap(); 16];
        via[..8].copy_from_slice(&(step as u64).to_be_bytes());
        let via = HandoverId(via);
        let transfer = Command::Transfer {
            load: load(number),
            epoch,
            from: Claim { session: record.nodes[&owner].session, node: owner },
            to: name(chance.random_range(0..NODES)),
            handover: via,
        };
        let asked = book.now();
        let what = match writer.propose(transfer).await {
            Ok(_) => What::Swapped { epoch: epoch.0, via },
            Err(ProposeError::Refused(Refusal::OtherEpoch { epoch, via, .. })) => What::Refused { epoch: epoch.0, via },
            Err(ProposeError::Refused(other)) => panic!("{other}"),
            Err(ProposeError::Unknown) => What::Unknown { epoch: epoch.0, via },
            // Nothing was done, they say. If they are wrong, nobody has asked for what is seen then.
            Err(_) => continue,
        };
        book.tell(number, asked, what);
    }
}

/// Copies go forward, and all say the same about the same number.
async fn watcher(node: Arc<Raft>, seen: Arc<Mutex<std::collections::BTreeMap<u64, Arc<Record>>>>) {
    let mut records = node.record();
    drop(node);
    let mut last = 0;
    loop {
        let record = records.borrow_and_update().clone();
        assert!(record.revision >= last, "{} after {last}", record.revision);
        last = record.revision;
        if record.revision > 0 {
            let mut seen = seen.lock().unwrap();
            let same = seen.entry(record.revision).or_insert_with(|| record.clone());
            assert_eq!(*same, record, "two records of one number");
        }
        if records.changed().await.is_err() {
            return;
        }
    }
}

/// One trouble after the other, each for as long as it takes the clients to notice.
async fn make_trouble(cluster: &mut Cluster, book: &Book, chance: &mut StdRng) {
    let mut dead: Option<usize> = None;
    for _ in 0..TROUBLES {
        if let Some(number) = dead.take() {
            cluster.start(number).await;
            book.nodes.lock().unwrap()[number] = Some(Arc::clone(cluster.node(number)));
        }
        cluster.net.heal();
        match chance.random_range(0..5) {
            0 => {
                let number = chance.random_range(0..NODES);
                book.nodes.lock().unwrap()[number] = None;
                cluster.kill(number).await;
                dead = Some(number);
            }
            1 => {
                if let Some((leader, _)) = cluster.running().find(|(_, node)| node.standing().borrow().leads) {
                    let others: Vec<String> = (0..NODES).filter(|number| *number != leader).map(address).collect();
                    cluster.net.part(&[address(leader)], &others);
                }
            }
            2 => {
                let alone = chance.random_range(0..NODES);
                let other = (alone + 1) % NODES;
                let rest: Vec<String> =
                    (0..NODES).filter(|number| ![alone, other].contains(number)).map(address).collect();
                cluster.net.part(&[address(alone), address(other)], &rest);
            }
            3 => {
                for _ in 0..4 {
                    let (from, to) = (chance.random_range(0..NODES), chance.random_range(0..NODES));
                    cluster.net.part_one_way(&address(from), &address(to));
                }
            }
            _ => {
                let voters: BTreeSet<VoterId> = if chance.random_bool(0.5) { 0..3 } else { 0..NODES }.map(id).collect();
                if let Some((_, node)) = cluster.running().next() {
                    // It may fail, halfway or altogether.
                    let _ = node.set_voters(voters).await;
                }
            }
        }
        let (steps, since) = (book.steps.load(Ordering::Relaxed), Instant::now());
        while book.steps.load(Ordering::Relaxed) < steps + 25 && since.elapsed() < Duration::from_secs(2) {
            sleep(Duration::from_millis(10)).await;
        }
    }
    if let Some(number) = dead {
        cluster.start(number).await;
    }
    cluster.net.heal();
    cluster.net.trouble(0, 0, Duration::ZERO);
}

/// What is wrong with what the clients were told.
async fn chaos(seed: u64, trusting: bool) -> Result<(), String> {
    let mut cluster = Cluster::of(NODES, NODES).await;
    let first = Arc::clone(cluster.node(0));
    for number in 0..LOADS {
        let owner = name(number);
        session_of(&*first, &owner).await;
        done(&*first, declare(&format!("load{number}"), 1, 0)).await.unwrap();
        let epoch = confirmed(&*first).await.load(&load(number)).unwrap().epoch;
        done(&*first, Command::Assign { load: load(number), epoch, to: owner }).await.unwrap();
    }
    for number in LOADS..NODES {
        session_of(&*first, &name(number)).await;
    }
    let began = confirmed(&*first).await;
    drop(first);

    let seen = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let nodes = cluster.nodes.clone();
    let watchers: Vec<_> =
        nodes.iter().flatten().map(|node| tokio::spawn(watcher(Arc::clone(node), Arc::clone(&seen)))).collect();
    let (told, steps) = (Mutex::default(), AtomicU32::new(0));
    let book = Arc::new(Book { nodes: Mutex::new(nodes), told, steps, begun: Instant::now(), trusting });
    cluster.net.trouble(5, 5, Duration::from_millis(10));
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(Arc::clone(&book), seed * CLIENTS + number))).collect();
    make_trouble(&mut cluster, &book, &mut StdRng::seed_from_u64(seed)).await;
    for client in clients {
        client.await.unwrap();
    }

    for (number, node) in cluster.running() {
        let asked = book.now();
        let last = confirmed(&**node).await;
        for load_number in 0..LOADS {
            let entry = last.load(&load(load_number)).unwrap();
            book.tell(load_number, asked, What::Seen { epoch: entry.epoch.0, via: entry.via });
        }
        assert!(last.revision >= began.revision, "node {number}");
    }
    drop(cluster);
    book.nodes.lock().unwrap().clear();
    for watcher in watchers {
        soon(watcher).await.unwrap();
    }
    let told = book.told.lock().unwrap();
    for number in 0..LOADS {
        let of_load: Vec<Told> = told.iter().filter(|(of, _)| *of == number).map(|(_, told)| told.clone()).collect();
        let first = began.load(&load(number)).unwrap().epoch.0;
        check(first, &of_load).map_err(|wrong| format!("seed {seed}, {}: {wrong}", load(number)))?;
    }
    let swapped = told.iter().filter(|(_, told)| matches!(told.what, What::Swapped { .. })).count();
    assert!(swapped >= 20, "seed {seed}: only {swapped} of {} did anything", told.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_agree_whatever_happens_1() {
    assert_eq!(chaos(1, false).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_agree_whatever_happens_2() {
    assert_eq!(chaos(2, false).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_agree_whatever_happens_3() {
    assert_eq!(chaos(3, false).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_its_own_copy_for_confirmed_is_found_out() {
    assert!(chaos(4, true).await.is_err());
}
