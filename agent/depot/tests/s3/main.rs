//! Depots in a directory and in a real S3 server: what is put there is there; what is damaged is noticed; what is killed in between leaves nothing that
//! looks whole; what hangs is waited for only so long.

#![allow(clippy::unwrap_used)]

mod server;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use migrate_depot::{Depot, DepotError, LIMIT, Shelf, Stored};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::{Digest, Epoch};
use migrate_proto::name::WorkloadName;
use server::{Server, credentials};

fn workload() -> WorkloadName {
    "w".parse().unwrap()
}

fn shelf(epoch: u64) -> Shelf {
    Shelf { epoch: Epoch(epoch), node: "node1".parse().unwrap() }
}

fn segment(number: u8) -> (Digest, Bytes) {
    let file = Bytes::from(vec![number; 100_000]);
    (Digest::of(&file), file)
}

fn generation(epoch: u64, number: u64) -> (Stored, Bytes) {
    let file = Bytes::from(format!("{{\"number\":{number}}}"));
    (Stored { shelf: shelf(epoch), number, id: CheckpointId::from(Digest::of(&file)) }, file)
}

async fn put(depot: &Depot, epoch: u64, number: u64, segments: &[u8]) -> Stored {
    for (digest, file) in segments.iter().map(|segment_number| segment(*segment_number)) {
        depot.put_segment(&workload(), &shelf(epoch), digest, file).await.unwrap();
    }
    let (which, file) = generation(epoch, number);
    depot.put_generation(&workload(), &which, file).await.unwrap();
    which
}

fn digests(numbers: &[u8]) -> HashSet<Digest> {
    numbers.iter().map(|number| segment(*number).0).collect()
}

async fn segments(depot: &Depot, epoch: u64) -> HashSet<Digest> {
    depot.contents(&workload()).await.unwrap().segments_on(&shelf(epoch))
}

async fn is_a_depot(depot: &Depot) {
    let name = workload();
    assert_eq!(depot.contents(&name).await.unwrap(), migrate_depot::Contents::default());
    assert!(depot.generations(&name).await.unwrap().is_empty());
    let first = put(depot, 1, 1, &[1, 2]).await;
    let tenth = put(depot, 1, 10, &[2, 3]).await;
    // Again is no harm.
    put(depot, 1, 10, &[3]).await;
    assert_eq!(depot.generations(&name).await.unwrap(), [first.clone(), tenth.clone()]);
    assert_eq!(depot.generation(&name, &tenth).await.unwrap(), generation(1, 10).1);
    assert_eq!(segments(depot, 1).await, digests(&[1, 2, 3]));
    assert_eq!(depot.segment(&name, &shelf(1), segment(3).0).await.unwrap(), segment(3).1);
    let missing = depot.segment(&name, &shelf(1), segment(9).0).await.unwrap_err();
    assert!(matches!(missing, DepotError::Missing { .. }), "{missing}");

    // What one of them alone needed goes.
    depot.drop_generation(&name, &first).await.unwrap();
    depot.drop_generation(&name, &first).await.unwrap();
    depot.drop_segments(&name, &shelf(1), digests(&[1])).await.unwrap();
    assert_eq!(segments(depot, 1).await, digests(&[2, 3]));

    // The next owner goes on with it, and has its own when the one before it is cleared away.
    depot.copy_segment(&name, &shelf(1), &shelf(2), segment(2).0).await.unwrap();
    let missing = depot.copy_segment(&name, &shelf(1), &shelf(2), segment(9).0).await.unwrap_err();
    assert!(matches!(missing, DepotError::Missing { .. }), "{missing}");
    let next = put(depot, 2, 11, &[4]).await;
    let contents = depot.contents(&name).await.unwrap();
    assert_eq!(contents.elsewhere(segment(3).0, &shelf(2)), Some(&shelf(1)));
    assert_eq!(contents.elsewhere(segment(3).0, &shelf(1)), None);
    depot.clear(&name, &contents, &shelf(1)).await.unwrap();
    assert_eq!(depot.generations(&name).await.unwrap(), [next]);
    assert!(segments(depot, 1).await.is_empty());
    assert_eq!(segments(depot, 2).await, digests(&[2, 4]));
    assert_eq!(depot.segment(&name, &shelf(2), segment(2).0).await.unwrap(), segment(2).1);

    let other: WorkloadName = "w2".parse().unwrap();
    depot.put_segment(&other, &shelf(1), segment(1).0, segment(1).1).await.unwrap();
    depot.forget(&name, Epoch(1)).await.unwrap();
    assert_eq!(segments(depot, 2).await, digests(&[2, 4]), "a later one of that name");
    depot.forget(&name, Epoch(2)).await.unwrap();
    assert_eq!(depot.contents(&name).await.unwrap(), migrate_depot::Contents::default());
    assert_eq!(depot.contents(&other).await.unwrap().segments_on(&shelf(1)), digests(&[1]), "another's stay");
}

fn in_s3(server: &Server, credentials: &tempfile::NamedTempFile) -> Depot {
    Depot::at(server.url().parse().unwrap(), Some(credentials.path().to_owned()))
}

#[tokio::test]
async fn a_directory_is_a_depot() {
    let place = tempfile::tempdir().unwrap();
    let address: migrate_depot::Address = format!("dir:{}", place.path().display()).parse().unwrap();
    let depot = Depot::at(address.clone(), None);
    is_a_depot(&depot).await;
    let which = put(&depot, 1, 1, &[1]).await;
    // What another node reads is the same.
    let again = Depot::at(address, None);
    assert_eq!(again.generations(&workload()).await.unwrap(), [which]);
    depot.forget(&workload(), Epoch(1)).await.unwrap();
    depot.forget(&"w2".parse().unwrap(), Epoch(1)).await.unwrap();
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn s3_is_a_depot() {
    let server = Server::start().await;
    let secrets = server.credentials();
    // By name: binaries are static, and still have to find it.
    let url = server.url().replace("127.0.0.1", "localhost");
    let depot = Depot::at(url.parse().unwrap(), Some(secrets.path().to_owned()));
    is_a_depot(&depot).await;
    assert!(!depot.name().contains(server::SECRET));
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_not_told_and_others_are_taken_up() {
    let server = Server::start().await;
    let secrets = credentials(server::KEY, "another-secret");
    let depot = in_s3(&server, &secrets);
    let refused = depot.put_segment(&workload(), &shelf(1), segment(1).0, segment(1).1).await.unwrap_err();
    assert!(matches!(refused, DepotError::Refused { .. }), "{refused}");
    assert!(!refused.to_string().contains("another-secret") && !refused.to_string().contains(server::KEY), "{refused}");
    server::write_credentials(secrets.path(), server::KEY, server::SECRET);
    put(&depot, 1, 1, &[1]).await;
}

#[tokio::test]
async fn what_is_damaged_is_noticed() {
    let server = Server::start().await;
    let secrets = server.credentials();
    let depot = in_s3(&server, &secrets);
    let which = put(&depot, 1, 1, &[1]).await;
    let object = server.object(&format!("w/gen/0000000001-node1/{:010}-{}.json", which.number, which.id));
    let mut bytes = std::fs::read(&object).unwrap();
    bytes[2] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let damaged = depot.generation(&workload(), &which).await.unwrap_err();
    assert!(matches!(damaged, DepotError::Damaged { .. }), "{damaged}");
}

#[tokio::test]
async fn what_is_far_too_large_is_not_read() {
    let place = tempfile::tempdir().unwrap();
    let depot = Depot::at(format!("dir:{}", place.path().display()).parse().unwrap(), None);
    put(&depot, 1, 1, &[1]).await;
    let file = place.path().join(format!("w/seg/0000000001-node1/{}", segment(1).0));
    std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(1 << 40).unwrap();
    let damaged = depot.segment(&workload(), &shelf(1), segment(1).0).await.unwrap_err();
    assert!(matches!(damaged, DepotError::Damaged { .. }), "{damaged}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_in_between_leaves_nothing_that_looks_whole() {
    let mut server = Server::start().await;
    let secrets = server.credentials();
    let depot = in_s3(&server, &secrets);
    depot.put_segment(&workload(), &shelf(1), segment(1).0, segment(1).1).await.unwrap();
    // One is under way when it dies.
    server.answer(false);
    let (under_way, (digest, file)) = (depot.clone(), segment(2));
    let putting = tokio::spawn(async move { under_way.put_segment(&workload(), &shelf(1), digest, file).await });
    server.wait_for_requests(1).await;
    server.kill();
    let failed = putting.await.unwrap().unwrap_err();
    assert!(matches!(failed, DepotError::Unusable { .. }), "{failed}");
    server.answer(true);
    server.start_again().await;
    assert!(depot.generations(&workload()).await.unwrap().is_empty());
    assert_eq!(segments(&depot, 1).await, digests(&[1]), "what had come is there");
    let which = put(&depot, 1, 1, &[2]).await;
    assert_eq!(depot.generations(&workload()).await.unwrap(), [which]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_is_waited_for_and_one_that_hangs_is_not() {
    let server = Server::start().await;
    let secrets = server.credentials();
    let depot = in_s3(&server, &secrets);
    server.answer(false);
    let (slow, (digest, file)) = (depot.clone(), segment(1));
    let putting = tokio::spawn(async move { slow.put_segment(&workload(), &shelf(1), digest, file).await });
    server.wait_for_requests(1).await;
    assert!(!putting.is_finished());
    server.answer(true);
    putting.await.unwrap().unwrap();
    assert_eq!(segments(&depot, 1).await, digests(&[1]));

    server.answer(false);
    let late = tokio::time::timeout(LIMIT + Duration::from_secs(30), depot.generations(&workload())).await;
    let late = late.expect("it ends by itself").unwrap_err();
    assert!(matches!(late, DepotError::Unusable { .. }), "{late}");
    server.answer(true);
    assert!(depot.generations(&workload()).await.unwrap().is_empty());
}

/// A pipe that nobody writes to stands for a file on a server that is away: opening it takes for ever, in a thread that nothing can end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_hangs_is_given_up() {
    let place = tempfile::tempdir().unwrap();
    let depot = Depot::at(format!("dir:{}", place.path().display()).parse().unwrap(), None);
    put(&depot, 1, 1, &[1]).await;
    let file = place.path().join(format!("w/seg/0000000001-node1/{}", segment(1).0));
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (name, digest) = (workload(), segment(1).0);
    let hung = shelf(1);
    let asked = (0..migrate_depot::AT_ONCE + 2).map(|_| depot.segment(&name, &hung, digest));
    for answer in futures_util::future::join_all(asked).await {
        let late = answer.unwrap_err();
        assert!(late.to_string().contains("has not answered for"), "{late}");
    }
    // Somebody writes: those that hang end, and it is a depot again.
    let writing = tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(file));
    drop(writing.await.unwrap().unwrap());
    assert_eq!(depot.generations(&workload()).await.unwrap().len(), 1);
}
