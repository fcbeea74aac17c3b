//! Real sockets, on loopback.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::datagram::*;
use crate::keys::{ClusterKey, generate};

const AT_MOST: Duration = Duration::from_secs(20);

fn keys(ring: &[&ClusterKey]) -> DatagramKeys {
    DatagramKeys::of(&ring.iter().map(|key| ClusterKey::copied(key.bytes())).collect::<Vec<_>>())
}

fn socket(name: &str, address: &str, keys: DatagramKeys) -> (SealedSocket, watch::Sender<DatagramKeys>) {
    let (sender, receiver) = watch::channel(keys);
    let boot = BootId::random().unwrap();
    (SealedSocket::bind(address.parse().unwrap(), name.parse().unwrap(), boot, receiver).unwrap(), sender)
}

async fn received(socket: &SealedSocket) -> Incoming {
    timeout(AT_MOST, socket.recv()).await.expect("nothing comes").unwrap()
}

#[tokio::test]
async fn two_nodes_talk_and_a_stranger_is_not_heard() {
    let key = generate().unwrap();
    let (one, _one) = socket("one", "127.0.0.1:0", keys(&[&key]));
    let (two, _two) = socket("two", "127.0.0.1:0", keys(&[&key]));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[0; 3000], two.local_addr().unwrap()).unwrap();
    stranger.send_to(b"MGRD\x01", two.local_addr().unwrap()).unwrap();
    one.send(two.local_addr().unwrap(), 1, b"there?").unwrap();
    let asked = received(&two).await;
    assert_eq!((asked.node.as_str(), asked.kind, &asked.body[..]), ("one", 1, &b"there?"[..]));
    assert_eq!((asked.peer, asked.from), (one.boot(), one.local_addr().unwrap()));
    two.send(asked.from, 2, b"here").unwrap();
    let answer = received(&one).await;
    assert_eq!((answer.node.as_str(), answer.kind, &answer.body[..]), ("two", 2, &b"here"[..]));
    assert!(answer.at >= asked.at);
    assert_eq!((two.drops().of(Dropped::Alien), two.drops().total()), (2, 2));
}

#[tokio::test]
async fn what_came_while_nobody_read_is_there_without_the_runtime_knowing() {
    let key = generate().unwrap();
    let (one, _one) = socket("one", "127.0.0.1:0", keys(&[&key]));
    let (two, _two) = socket("two", "127.0.0.1:0", keys(&[&key]));
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..20 {
        one.send(two.local_addr().unwrap(), 1, &[number]).unwrap();
        stranger.send_to(b"rubbish", two.local_addr().unwrap()).unwrap();
    }
    // No await up to here: the runtime has not looked at any socket.
    let first: Vec<u8> = two.waiting(10).unwrap().iter().map(|came| came.body[0]).collect();
    assert_eq!(first, [0, 1, 2, 3, 4], "half of what was looked at is rubbish");
    let rest: Vec<u8> = two.waiting(1000).unwrap().iter().map(|came| came.body[0]).collect();
    assert_eq!(rest, (5..20).collect::<Vec<u8>>());
    assert!(two.waiting(1000).unwrap().is_empty());
    assert_eq!(two.drops().of(Dropped::Alien), 20);
}

#[tokio::test]
async fn who_waits_is_woken_again_and_again() {
    let key = generate().unwrap();
    let (one, _one) = socket("one", "127.0.0.1:0", keys(&[&key]));
    let (two, _two) = socket("two", "127.0.0.1:0", keys(&[&key]));
    for number in 0..50 {
        // Given up once, with nothing there; then it is there, or comes while it is waited for.
        assert!(timeout(Duration::from_micros(1), two.recv()).await.is_err());
        let (came, sent) = tokio::join!(received(&two), async { one.send(two.local_addr().unwrap(), 1, &[number]) });
        sent.unwrap();
        assert_eq!(came.body[..], [number]);
    }
}

#[tokio::test]
async fn keys_change_while_the_sockets_live() {
    let (old, new) = (generate().unwrap(), generate().unwrap());
    let (one, keys_of_one) = socket("one", "127.0.0.1:0", keys(&[&old]));
    let (two, keys_of_two) = socket("two", "127.0.0.1:0", keys(&[&old]));
    let steps = [keys(&[&old]), keys(&[&old, &new]), keys(&[&new, &old]), keys(&[&new])];
    for step in steps {
        for change in [&keys_of_one, &keys_of_two] {
            change.send_replace(step.clone());
            one.send(two.local_addr().unwrap(), 1, b"x").unwrap();
            received(&two).await;
            two.send(one.local_addr().unwrap(), 1, b"x").unwrap();
            received(&one).await;
        }
    }
    assert_eq!((one.drops().total(), two.drops().total()), (0, 0));
    keys_of_one.send_replace(keys(&[&old]));
    one.send(two.local_addr().unwrap(), 1, b"x").unwrap();
    keys_of_one.send_replace(keys(&[&new]));
    one.send(two.local_addr().unwrap(), 1, b"y").unwrap();
    assert_eq!(received(&two).await.body[..], *b"y");
    let foreign = two.take_foreign();
    assert_eq!(foreign.addresses.into_iter().collect::<Vec<_>>(), [(one.local_addr().unwrap().ip(), 1)]);
}

#[tokio::test]
async fn an_ipv6_socket_talks_to_ipv4() {
    let key = generate().unwrap();
    let (one, _one) = socket("one", "127.0.0.1:0", keys(&[&key]));
    let (sender, receiver) = watch::channel(keys(&[&key]));
    let any = SocketAddr::from(([0_u16; 8], 0));
    // A machine without IPv6 has nothing to show here.
    let two = match SealedSocket::bind(any, "two".parse().unwrap(), BootId::random().unwrap(), receiver) {
        Ok(socket) => socket,
        Err(error) => return eprintln!("skipped: {error}"),
    };
    two.send(one.local_addr().unwrap(), 1, b"x").unwrap();
    let came = received(&one).await;
    assert!(came.from.is_ipv4());
    one.send(came.from, 1, b"y").unwrap();
    assert_eq!(received(&two).await.from, one.local_addr().unwrap());
    drop(sender);
}

#[tokio::test]
async fn what_cannot_be_sent_or_bound_is_said() {
    let key = generate().unwrap();
    let (one, _one) = socket("one", "127.0.0.1:0", keys(&[&key]));
    let error = one.send("127.0.0.1:9".parse().unwrap(), 1, &[0; MAX_BODY_BYTES + 1]).unwrap_err();
    assert!(error.to_string().contains("at most 1300"), "{error}");
    let (_, receiver) = watch::channel(keys(&[&key]));
    let again = SealedSocket::bind(one.local_addr().unwrap(), "two".parse().unwrap(), one.boot(), receiver);
    let said = again.err().unwrap().to_string();
    assert!(said.starts_with(&format!("cannot bind UDP on {}", one.local_addr().unwrap())), "{said}");
}
