//! What a stranger says to the door before it is known who it is: TLS, and in it a certificate. Nobody gets in by bytes that were
//! made up, and a name is read only where the certificate has it.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use migrate_proto::key::{ClusterKey, KEY_BYTES};
use migrate_transport::keys::authority::{NodeIdentity, name_in};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection};

static DOOR: OnceLock<(NodeIdentity, Arc<ServerConfig>)> = OnceLock::new();

fn door() -> &'static (NodeIdentity, Arc<ServerConfig>) {
    DOOR.get_or_init(|| {
        let key = ClusterKey::copied(&[7; KEY_BYTES]);
        let identity = NodeIdentity::issue(&key, "a".parse().expect("a name")).expect("a certificate");
        let config = identity.server_config();
        (identity, config)
    })
}

/// The first byte says whether it is a certificate, a whole record, or a stream.
pub(crate) fn run(input: &[u8], _: &Path) {
    let Some((which, rest)) = input.split_first() else { return };
    match which % 3 {
        0 => certificate(rest),
        1 => stranger(&[&[22, 3, 1][..], &(rest.len() as u16).to_be_bytes(), rest].concat()),
        _ => stranger(rest),
    }
}

fn certificate(der: &[u8]) {
    let certificate = CertificateDer::from(der);
    if let Some(name) = name_in(&certificate) {
        let there = format!("{name}.migrate");
        assert!(der.windows(there.len()).any(|part| part == there.as_bytes()), "{name} is not in it");
    }
    let _ = door().0.retirement(Some(&[certificate]));
}

fn stranger(stream: &[u8]) {
    let mut connection = ServerConnection::new(door().1.clone()).expect("a connection");
    let mut stream = Cursor::new(stream);
    while connection.read_tls(&mut stream).is_ok_and(|read| read > 0) {
        let Ok(state) = connection.process_new_packets() else { return };
        assert_eq!(state.plaintext_bytes_to_read(), 0);
        assert!(connection.is_handshaking() && connection.peer_certificates().is_none(), "a stranger got in");
    }
}
