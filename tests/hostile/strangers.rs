//! Without the key: nothing that a stranger sends is read by anything but TLS, and waiting for it costs next to nothing.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use migrate_proto::api::RunRequest;
use migrate_proto::message::Message;
use migrate_transport::door::admission::MOST_STRANGERS;
use migrate_transport::door::outgoing;
use migrate_transport::keys;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::link::{PeerAddress, TransportError};
use migrate_transport::session::{Session, SessionId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::fake::{Fake, REQUEST, TIMING, Talk, address_of, node, offer, rand, soon};
use crate::field::{Field, HERE, PORT};
use crate::harness::eventually;
use crate::wire::zmtp_greeting;

/// What strangers may cost an agent, in MiB, beside the honest moves of the meantime.
const BOUND: u64 = 64;

const DOOR: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 77, 0, 2), PORT);

/// Believes every server, as somebody would who wants to get in.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    soon(socket.connect(DOOR.into())).await.unwrap()
}

/// What comes until the door closes.
async fn until_closed(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    soon(async {
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all.extend_from_slice(&buffer[..read]);
        }
    })
    .await;
    all
}

/// Says this through TLS with that configuration. What comes back in it: nothing, where the door does not let it in.
async fn say_in_tls(mut config: ClientConfig, words: &[u8]) -> Vec<u8> {
    config.dangerous().set_certificate_verifier(Arc::new(Gullible));
    let name = ServerName::try_from("x").unwrap();
    match soon(TlsConnector::from(Arc::new(config)).connect(name, connect(HERE).await)).await {
        Ok(mut tls) => {
            let _ = tls.write_all(words).await;
            until_closed(&mut tls).await
        }
        Err(_) => Vec::new(),
    }
}

#[test]
fn without_a_key_and_with_a_wrong_one() {
    let field = Field::open().with_honest_moves();
    field.hold("nothing: the honest moves alone", BOUND, async |hold| hold.here().await);
    field.hold("no key: garbage, plain ZMTP, TLS without a certificate", BOUND, async |hold| {
        for garbage in [b"GET /v1/workloads HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1 << 16], zmtp_greeting()] {
            let mut tcp = connect(HERE).await;
            let _ = tcp.write_all(&garbage).await;
            let answer = until_closed(&mut tcp).await;
            // A TLS alert at most: two numbers in a record of their own.
            assert!(answer.len() <= 7, "{answer:?}");
        }
        let nobody = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
            .with_no_client_auth();
        hold.begun();
        assert_eq!(say_in_tls(nobody, &zmtp_greeting()).await, b"");
        hold.over().await;
    });
    field.assert_logged("node2", "turned a connection away");
    field.hold("wrong key", BOUND, async |hold| {
        let other = NodeIdentity::issue(&[keys::generate().unwrap()], node("node3")).unwrap();
        let error = soon(outgoing::connect(&other, &address_of("node2"))).await.err().unwrap();
        assert!(matches!(&error, TransportError::Untrusted { .. }), "{error}");
        assert_eq!(error.problem().hint, "do both nodes have the same cluster key?");
        hold.begun();
        assert_eq!(say_in_tls(other.client_config(&node("node2")).unwrap(), &zmtp_greeting()).await, b"");
        hold.over().await;
    });
    field.lab.assert_clean();
}

/// Passes connections on to node2's door, and remembers what each client said.
async fn recorder(records: Arc<Mutex<Vec<Vec<u8>>>>, listener: TcpListener) {
    while let Ok((client, _)) = listener.accept().await {
        let record = {
            let mut records = records.lock().unwrap();
            records.push(Vec::new());
            records.len() - 1
        };
        let server = TcpStream::connect(DOOR).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let records = records.clone();
        tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                records.lock().unwrap()[record].extend_from_slice(&buffer[..read]);
                if to_server.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[test]
fn a_captured_session_replayed() {
    let field = Field::open().with_honest_moves();
    let lab = &field.lab;
    let request = RunRequest {
        spec: offer("captured", "node3", "node2", 1).spec,
        on: None,
        root: None,
        care: Default::default(),
        queue: false,
        priority: 0,
        replicas: None,
    };
    let body = serde_json::to_vec(&request).unwrap();
    let records: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    field.attack(async || {
        // An honest node starts a workload on node2, and somebody on the way listens.
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(recorder(records.clone(), listener));
        let fake = Fake::start(&field, "node3").await;
        let there = PeerAddress { node: node("node2"), address };
        let session =
            soon(Session::open(fake.transport.clone(), there, SessionId(rand()), REQUEST, TIMING)).await.unwrap();
        let mut talk = Talk::of(session);
        talk.greet(migrate_proto::version::SPOKEN, fake.facts()).await;
        talk.say(&Message::Request { method: "POST".into(), path: "/v1/workloads".into() }).await;
        talk.say(&Message::RequestBody(body)).await;
        talk.say(&Message::RequestEnd).await;
        let answer = talk.hear().await.unwrap().0;
        assert_eq!(answer, Message::ResponseHead { status: 201 }, "{:?}", talk.hear().await);
    });
    lab.assert_runs_only_on("captured", "node2");
    lab.done(["rm", "-f", "captured"]);

    let captured = records.lock().unwrap().iter().max_by_key(|record| record.len()).unwrap().clone();
    assert!(captured.len() > 1000, "{} bytes were captured", captured.len());
    field.hold("a captured session, its TLS bytes replayed", BOUND, async |hold| {
        for replay in 0..20 {
            let mut tcp = connect(HERE).await;
            let _ = tcp.write_all(&captured).await;
            until_closed(&mut tcp).await;
            if replay == 5 {
                hold.begun();
            }
        }
        hold.over().await;
    });
    assert!(lab.ps().iter().all(|view| view.name.as_str() != "captured"), "it was started again");
    field.lab.assert_clean();
}

#[test]
fn a_thousand_connections_that_say_nothing() {
    let field = Field::open().with_honest_moves();
    let others: Vec<Ipv4Addr> = (100..120).map(|last| Ipv4Addr::new(10, 77, 0, last)).collect();
    others.iter().for_each(|address| field.take_address(*address));
    field.hold("1,000 connections that say nothing, from 21 addresses", BOUND, async |hold| {
        let mut silent = Vec::new();
        for number in 0..1000 {
            silent.push(connect(*others.get(number % 21).unwrap_or(&HERE)).await);
        }
        hold.begun();
        // All but as many as there are places had to go at once, and those when their time is up.
        for stream in &mut silent[..1000 - MOST_STRANGERS] {
            until_closed(stream).await;
        }
        hold.over().await;
        for stream in &mut silent {
            until_closed(stream).await;
        }
    });
    field.lab.assert_clean();
}

/// Says the bytes one a second until the door closes.
async fn dawdle(mut stream: TcpStream, bytes: &[u8]) -> usize {
    let mut said = 0;
    for byte in bytes.iter().cycle() {
        // Attackers have clocks: this is the attack, not a wait for something.
        let heard = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
        if matches!(heard, Ok(Ok(0) | Err(_))) || stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        said += 1;
    }
    said
}

#[test]
fn slow_bytes_and_long_lengths() {
    let field = Field::open().with_honest_moves();
    field.hold("slow: one byte a second of a handshake, 16 at once", BOUND, async |hold| {
        // A record of a handshake of some length.
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        let mut slow = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let stream = connect(HERE).await;
            slow.spawn(async move { dawdle(stream, &hello).await });
        }
        hold.begun();
        for said in slow.join_all().await {
            assert!(said < 60, "{said} bytes in as many seconds");
        }
        hold.over().await;
    });
    field.hold("long: a TLS record and a handshake as long as their fields can say", BOUND, async |hold| {
        // Records say at most 64 KiB, handshake messages 16 MiB; there is no field for a tebibyte.
        let record = [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 1 << 16]].concat();
        let message = [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; (1 << 14) - 4]].concat();
        let more = [&[0x16, 3, 1, 0x40, 0][..], &[0; 1 << 14]].concat().repeat(1 << 10);
        hold.begun();
        for long in [record, [message, more].concat()] {
            for _ in 0..8 {
                let mut tcp = connect(HERE).await;
                // As much of it as the door takes.
                let _ = tcp.write_all(&long).await;
                until_closed(&mut tcp).await;
            }
        }
        hold.over().await;
    });
    // In the end nobody stands at the door, and whoever has the key comes in at once.
    let let_in = || field.attack(async || Fake::start(&field, "node3").await.open("node2", REQUEST).await.is_ok());
    assert!(eventually(let_in));
    field.lab.assert_clean();
}
