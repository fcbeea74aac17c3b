//! The door over loopback: who gets through, who does not, and what that costs.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bytes::Bytes;
use cluster::{Cluster, at, closed, soon, works};
use migrate_proto::error::Code;
use migrate_transport::door::{admission::MOST_OF_AN_ADDRESS, outgoing};
use migrate_transport::link::{PeerAddress, Transport, TransportError};
use migrate_transport::zmq::ZmqTransport;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_the_same_key_talk() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
    let link = soon(b.connect(&at("a", a.local_addr()))).await.unwrap();
    works(link, &a, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_is_refused() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (a, b) = (ours.start("a").await, theirs.start("b").await);
    let error = soon(a.connect(&at("b", b.local_addr()))).await.err().unwrap();
    assert!(matches!(&error, TransportError::Untrusted { reason, .. } if reason.contains("cluster key")), "{error}");
    assert_eq!(error.code(), Code::PeerUntrusted);
}

/// Believes every server, as somebody would who wants to get in.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Comes to the door with this configuration and introduces itself to ZeroMQ as `identity`.
async fn intrude(mut config: ClientConfig, door: &ZmqTransport, identity: &str) {
    config.dangerous().set_certificate_verifier(Arc::new(Gullible));
    let tcp = TcpStream::connect(door.local_addr()).await.unwrap();
    // A client may think that the handshake is done before the server has looked at its certificate.
    let connected = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("x").unwrap(), tcp).await;
    if let Ok(mut tls) = connected {
        let _ = tls.write_all(&introduction(identity)).await;
        let _ = tls.write_all(b"\0\x02hi").await;
        closed(&mut tls).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_stranger_reaches_zeromq() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (a, b) = (ours.start("a").await, ours.start("b").await);
    let no_certificate = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    soon(intrude(no_certificate, &b, "m/1")).await;
    soon(intrude(theirs.identity("m").client_config(b.node()).unwrap(), &b, "m/1")).await;
    // The one that is let in is the first to arrive: a member, by the same way.
    soon(async {
        // It stays until its message is there: with it the link would go.
        let mut member = std::pin::pin!(intrude(ours.identity("m").client_config(b.node()).unwrap(), &b, "m/1"));
        let mut arrived = tokio::select! {
            () = &mut member => panic!("a member was shown the door"),
            arrived = b.accept() => arrived.unwrap(),
        };
        assert_eq!(arrived.peer.as_str(), "m");
        tokio::select! {
            () = &mut member => panic!("a member was shown the door"),
            received = arrived.receiver.recv() => assert_eq!(received.unwrap(), [&b"hi"[..]]),
        }
    })
    .await;
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_does_not_introduce_itself_is_shown_the_door() {
    let cluster = Cluster::new();
    let b = cluster.start("b").await;
    let mut tls = soon(outgoing::connect(&cluster.identity("m"), &at("b", b.local_addr()))).await.unwrap();
    tls.write_all(&introduction("m/1")[..70]).await.unwrap();
    closed(&mut tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_looked_up() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let address = format!("localhost:{}", b.local_addr().port());
    let link = soon(a.connect(&PeerAddress { node: "b".parse().unwrap(), address })).await.unwrap();
    works(link, &b, "a").await;
    let nowhere = PeerAddress { node: "b".parse().unwrap(), address: "nowhere.invalid:1".to_owned() };
    assert_eq!(soon(a.connect(&nowhere)).await.err().unwrap().code(), Code::PeerDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_than_the_one_dialled_is_refused() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let error = soon(a.connect(&at("c", b.local_addr()))).await.err().unwrap();
    assert!(matches!(&error, TransportError::WrongNode { node, .. } if node.as_str() == "c"), "{error}");
    assert_eq!(error.code(), Code::PeerUntrusted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_said_so() {
    let a = Cluster::new().start("a").await;
    // Bound, so that nobody else gets the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = soon(a.connect(&at("b", socket.local_addr().unwrap()))).await.err().unwrap();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert_eq!(error.code(), Code::PeerDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_answers_is_told_from_one_that_is_not_there() {
    let a = Cluster::new().start("a").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = soon(a.connect(&at("b", silent.local_addr().unwrap()))).await.err().unwrap();
    assert!(matches!(error, TransportError::TimedOut { .. }), "{error}");
    assert_eq!(error.code(), Code::PeerDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_shown_the_door() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let zmtp_in_the_clear =
        [&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, b'N', b'U', b'L', b'L'][..], &[0; 48]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1 << 16], zmtp_in_the_clear] {
        let mut tcp = TcpStream::connect(b.local_addr()).await.unwrap();
        let _ = tcp.write_all(&garbage).await;
        closed(&mut tcp).await;
    }
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
}

/// The greeting of ZMTP 3.0, and a READY command with an identity.
fn introduction(identity: &str) -> Vec<u8> {
    let mut greeting = vec![0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0".to_vec();
    ready.push(identity.len() as u8);
    ready.extend_from_slice(identity.as_bytes());
    [greeting, vec![4, ready.len() as u8], ready].concat()
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_announces_a_tebibyte_is_dropped_and_costs_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let before = resident_bytes();
    for identity in ["m/1", "m/2", "m/3", "m/4"] {
        let mut tls = soon(outgoing::connect(&cluster.identity("m"), &at("b", b.local_addr()))).await.unwrap();
        tls.write_all(&introduction(identity)).await.unwrap();
        tls.write_all(&[2, 0, 0, 1, 0, 0, 0, 0, 0]).await.unwrap();
        // As much of it as the door takes.
        let mebibyte = vec![0; 1 << 20];
        while tls.write_all(&mebibyte).await.is_ok() {}
        closed(&mut tls).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "resident memory grew by {grown} bytes");
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_without_being_read_is_dropped() {
    let cluster = Cluster::new();
    let b = cluster.start("b").await;
    let mut tls = soon(outgoing::connect(&cluster.identity("m"), &at("b", b.local_addr()))).await.unwrap();
    tls.write_all(&introduction("m/1")).await.unwrap();
    let mut link = soon(b.accept()).await.unwrap();
    let message = [&[2, 0, 0, 0, 0, 0, 0x10, 0, 0][..], &vec![0; 1 << 20]].concat();
    let flood = async { while tls.write_all(&message).await.is_ok() {} };
    soon(flood).await;
    let mut waited = 0;
    while let Ok(frames) = soon(link.receiver.recv()).await {
        waited += frames[0].len();
    }
    assert!(waited <= 32 << 20, "{waited} bytes were kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_anothers_identity() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    link.sender.send(vec![Bytes::from_static(b"one")]).await.unwrap();
    let mut arrived = soon(b.accept()).await.unwrap();
    assert_eq!(soon(arrived.receiver.recv()).await.unwrap(), [&b"one"[..]]);
    // Somebody else under a's name, and a itself under an identity that is in use.
    let mut own = soon(outgoing::connect(&cluster.identity("a"), &at("b", b.local_addr()))).await.unwrap();
    own.write_all(&introduction("a/x")).await.unwrap();
    let _arrived = soon(b.accept()).await.unwrap();
    for (node, identity) in [("m", "a/y"), ("m", "m"), ("a", "a/x")] {
        let mut tls = soon(outgoing::connect(&cluster.identity(node), &at("b", b.local_addr()))).await.unwrap();
        tls.write_all(&introduction(identity)).await.unwrap();
        closed(&mut tls).await;
    }
    arrived.sender.send(vec![Bytes::from_static(b"two")]).await.unwrap();
    assert_eq!(soon(link.receiver.recv()).await.unwrap(), [&b"two"[..]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_keep_an_honest_one_out() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(b.local_addr()).await.unwrap());
    }
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
    // All but one address's share had to make room before their time was up, the oldest first.
    for stream in &mut silent[..200 - MOST_OF_AN_ADDRESS] {
        closed(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_are_private_and_leave_nothing_behind() {
    let cluster = Cluster::new();
    let directory = cluster.directory.path().join("a").join("zmq");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("out-7.sock"), "left over").unwrap();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let _link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].to_string_lossy().starts_with("router-"), "{names:?}");
}
